//! A thousand packets a second from one container to another, and when they arrived.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flannel_tests::topology::Container;

const TICK: Duration = Duration::from_millis(1);
/// Traffic is well again once nothing was missing for this long.
const CALM: Duration = Duration::from_millis(500);
/// What counts as missing: far more than a busy machine delays a packet.
const GAP: Duration = Duration::from_millis(60);

/// A stream that runs until it is dropped.
pub(crate) struct Stream {
    arrivals: Arc<Mutex<Vec<Instant>>>,
    done: Arc<AtomicBool>,
}

impl Stream {
    pub(crate) fn start(from: &Container, to: &Container, port: u16) -> Self {
        let (arrivals, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let receiver = to.ns.bind(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        receiver.set_read_timeout(Some(GAP)).unwrap();
        let sender = from.ns.bind(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port + 1000))).unwrap();
        let target = SocketAddr::from((to.address, port));
        let stop = Arc::clone(&done);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // Without a route there is an error, and that is the point.
                sender.send_to(&[0; 18], target).ok();
                thread::sleep(TICK);
            }
        });
        let (log, stop) = (Arc::clone(&arrivals), Arc::clone(&done));
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    log.lock().unwrap().push(Instant::now());
                }
            }
        });
        Self { arrivals, done }
    }

    /// Waits until the stream is well again, `patience` at most, and gives the longest time without a packet since the time `mark`.
    pub(crate) fn outage(&self, mark: Instant, patience: Duration) -> Duration {
        loop {
            let now = Instant::now();
            let mut times = vec![mark];
            times.extend(self.arrivals.lock().unwrap().iter().copied().filter(|time| *time > mark));
            times.push(now);
            let gaps = || times.windows(2).map(|pair| (pair[1], pair[1] - pair[0]));
            let calm = gaps().filter(|(_, gap)| *gap > GAP).all(|(end, _)| now - end > CALM);
            if (calm && now - mark > CALM) || now - mark > patience {
                return gaps().map(|(_, gap)| gap).max().unwrap_or_default();
            }
            thread::sleep(GAP);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}
