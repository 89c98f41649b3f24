//! Two hosts with flanneld in its default mode, and TCP transfers between their containers that can be watched.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flannel_tests::{
    cluster::Cluster,
    flanneld::HOST_GW,
    topology::{Container, Topology},
    traffic::{Carried, Meter},
    wait::wait_until,
};

/// How long a flow stays fast without the kernel's word, in these tests.
pub(crate) const REVALIDATE: Duration = Duration::from_secs(1);
/// For whatever should happen at once but on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK: usize = 16 << 10;

/// Two hosts with two containers each.
pub(crate) fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let nodes = std::mem::take(&mut cluster.nodes).into_iter();
    cluster.nodes =
        nodes.map(|node| flags.iter().fold(node.arg("-revalidate=1s"), |node, flag| node.arg(*flag))).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(2).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, PATIENCE).unwrap();
    cluster
}

/// Counts who carried what on a host.
pub(crate) fn meter(cluster: &Cluster, host: usize) -> Meter {
    Meter::new(&cluster.topology.hosts[host].ns, &cluster.nodes[host].state().unwrap()).unwrap()
}

/// A connection over which one container sends to another until told to stop. What arrives is checked.
pub(crate) struct Transfer {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
    receiver: Option<JoinHandle<u64>>,
}

impl Transfer {
    /// From `client` to `address`, where `server` is reached at `port`; it listens on `own_port`.
    pub(crate) fn start(client: &Container, server: &Container, address: Ipv4Addr, port: u16, own_port: u16) -> Self {
        let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let listener = server.ns.bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, own_port))).unwrap();
        let count = Arc::clone(&arrived);
        let receiver = thread::spawn(move || receive(listener.accept().unwrap().0, &count));
        let to = SocketAddr::from((address, port));
        let stream = client.ns.enter(move || TcpStream::connect_timeout(&to, PATIENCE).unwrap()).unwrap();
        let flag = Arc::clone(&stop);
        let sender = thread::spawn(move || send(stream, &flag));
        Self { arrived, stop, sender: Some(sender), receiver: Some(receiver) }
    }

    /// Bytes that have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits until so many more bytes have arrived.
    pub(crate) fn wait_for(&self, bytes: u64) -> Duration {
        let goal = self.arrived() + bytes;
        wait_until("more bytes to arrive", PATIENCE, || self.arrived() >= goal).unwrap()
    }

    /// Waits until nothing has arrived for `quiet`, and says how long it took until the last byte came.
    pub(crate) fn wait_stalled(&self, quiet: Duration) -> Duration {
        let start = Instant::now();
        let (mut last, mut at) = (self.arrived(), start);
        while at.elapsed() < quiet {
            assert!(start.elapsed() < PATIENCE, "bytes go on arriving");
            thread::sleep(Duration::from_millis(5));
            if self.arrived() != last {
                (last, at) = (self.arrived(), Instant::now());
            }
        }
        at - start
    }

    /// Ends it: all that was sent has arrived, in order and unharmed.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().unwrap().join().unwrap();
        let received = self.receiver.take().unwrap().join().unwrap();
        assert_eq!(received, sent);
        received
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// About 8 MB/s: enough to see it stall at once, and little enough to leave the machine to others.
fn send(mut stream: TcpStream, stop: &AtomicBool) -> u64 {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let chunk: Vec<u8> = (0..CHUNK as u64).map(|i| pattern(sent + i)).collect();
        stream.write_all(&chunk).unwrap();
        sent += CHUNK as u64;
        thread::sleep(Duration::from_millis(2));
    }
    sent
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) -> u64 {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0_u64;
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            return received;
        }
        for (i, byte) in buffer[..n].iter().enumerate() {
            assert_eq!(*byte, pattern(received + i as u64), "byte {} is another", received + i as u64);
        }
        received += n as u64;
        arrived.store(received, Ordering::Relaxed);
    }
}

const fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

/// What a host carries while `work` runs.
pub(crate) fn carried(meter: &Meter, work: impl FnOnce()) -> Carried {
    let before = meter.read().unwrap();
    work();
    meter.read().unwrap().since(before)
}
