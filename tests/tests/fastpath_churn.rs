//! Containers that come and go beside a stream, some with the address of one that has just gone.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;
mod fastpath_flood;

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use fastpath_common::attached;
use fastpath_flood::flood;
use flannel_agent::fastpath::{PIN_ROOT, Reader};
use flannel_common::abi::FlowKey;
use flannel_common::flow::reversed;
use flannel_tests::{
    cluster::Cluster,
    flanneld::HOST_GW,
    netns::Netns,
    require,
    skip::Feature,
    topology::{Host, Topology, nth},
    wait::wait_until,
};

/// Containers that come and go, one after another.
const ROUNDS: u32 = 50;
/// Packets of the stream in a millisecond.
const BURST: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(100);
/// The port of every container that comes and goes, and of whom it talks to: one with the same address has the same flows.
const PORT: u16 = 7200;
/// The host number of the first container that comes; each address is used twice running, and three in turn.
const FIRST: u32 = 50;

#[test]
fn the_stream_loses_nothing_and_newcomers_are_fast() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("ping"));
    let lost = ["-fastpath=off", "-fastpath=verified"].map(churn);
    assert!(lost[1] <= lost[0], "{} packets of the stream were lost, and {} without the fast path", lost[1], lost[0]);
}

/// Lets containers come and go, and gives how many packets of the stream beside them were lost.
fn churn(flag: &str) -> u32 {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    cluster.nodes = cluster.nodes.into_iter().map(|node| node.arg(flag)).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, PATIENCE).unwrap();
    let pid = cluster.nodes[0].process().unwrap().pid();
    let files = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let host = &cluster.topology.hosts[0];
    // As Docker does it: a bridge without an address of its own takes over that of a port, and loses it with the port.
    host.ns.run("ip link set docker0 address 02:42:00:00:00:01").unwrap();
    let reader = (flag == "-fastpath=verified")
        .then(|| host.ns.enter(|| Reader::open(PIN_ROOT.as_ref(), None)).unwrap().unwrap());
    let settled = |expected: &[String]| attached(&host.ns) == expected;
    let (before, open) = (attached(&host.ns), files());
    let over = AtomicBool::new(false);
    let (sent, received, slowest) = flood(
        [cluster.container(0, 0), cluster.container(1, 0)],
        BURST,
        |_| !over.load(Ordering::Relaxed),
        |_| {
            let _over = Over(&over);
            let far = &cluster.container(1, 0).ns;
            let far = far.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap()).unwrap();
            let visit = |round| visit(host, round, &far, cluster.container(1, 0).address, reader.as_ref());
            (0..ROUNDS).map(visit).max().unwrap()
        },
    );
    println!(
        "{flag}: {received} of {sent} arrived beside {ROUNDS} containers, each in touch {slowest:?} later at most"
    );
    wait_until("hooks of the last container to go", PATIENCE, || settled(&before)).unwrap();
    wait_until("files of the last container to be closed", PATIENCE, || files() <= open + 2).unwrap();
    if let Some(reader) = &reader {
        let ours = |key: &FlowKey| key.sport == PORT.to_be_bytes();
        let flows = reader.flows(100, |key, _| ours(key)).unwrap();
        assert!(flows.len() <= 6, "three addresses have six flows: {flows:#?}");
    }
    sent - received
}

/// One container comes, talks until both of its flows are fast, and goes. Gives how long it took to be answered.
fn visit(host: &Host, round: u32, far: &UdpSocket, far_address: Ipv4Addr, reader: Option<&Reader>) -> Duration {
    let subnet = host.subnet.unwrap();
    let address = nth(subnet, FIRST + round / 2 % 3);
    let (ns, port) = (Netns::new("visitor").unwrap(), format!("visit{round}"));
    let (name, gateway) = (ns.name(), nth(subnet, 1));
    host.ns.run(&format!("ip link add {port} type veth peer name eth0 netns {name}")).unwrap();
    host.ns.run(&format!("ip link set {port} master docker0 up")).unwrap();
    ns.sh(&format!(
        "ip addr add {address}/{} dev eth0; ip link set eth0 up; ip route add default via {gateway}",
        subnet.prefix_len()
    ))
    .unwrap();
    let begun = Instant::now();
    let near = ns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap()).unwrap();
    for socket in [&near, far] {
        socket.set_read_timeout(Some(ANSWER)).unwrap();
    }
    wait_until("the first answer", PATIENCE, || is_answered(&near, far, far_address)).unwrap();
    let took = begun.elapsed();
    if let Some(reader) = reader {
        let (sport, dport) = (PORT.to_be_bytes(), PORT.to_be_bytes());
        let (src, dst) = (address.octets(), far_address.octets());
        let out = FlowKey { src, dst, sport, dport, proto: 17, reserved: [0; 3] };
        let fast = || [out, reversed(&out)].map(|key| reader.flow(&key).unwrap().map_or(0, |flow| flow.packets));
        let before = fast();
        wait_until("both flows of a new container to be fast", PATIENCE, || {
            is_answered(&near, far, far_address);
            fast().iter().zip(before).all(|(now, before)| *now > before + 5)
        })
        .unwrap();
    }
    host.ns.run(&format!("ip link del {port}")).unwrap();
    took
}

/// Asks once, and says whether the answer came.
fn is_answered(near: &UdpSocket, far: &UdpSocket, far_address: Ipv4Addr) -> bool {
    let mut buffer = [0; 4];
    near.send_to(&[1; 4], (far_address, PORT)).ok();
    let Ok((_, asker)) = far.recv_from(&mut buffer) else { return false };
    far.send_to(&[2; 4], asker).ok();
    near.recv_from(&mut buffer).is_ok()
}

/// Ends the stream, whatever happens.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
