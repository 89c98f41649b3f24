//! No packet is lost while agents die, come back, are upgraded and downgraded.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastpath_common::{PinRoot, inputs, options, two_hosts};
use flannel_agent::fastpath::{FastPath, Inputs, Mode, Object, Options};
use flannel_common::{abi::ABI_VERSION, reason::Reason};
use flannel_tests::{netns::Netns, require, skip::Feature, topology::Topology};
use nix::sys::socket::{setsockopt, sockopt};

/// Packets in each direction.
const PACKETS: u32 = 1_000_000;
/// Sent in one go, once a millisecond: 50,000 packets/s.
const BURST: u32 = 50;
const TICK: Duration = Duration::from_millis(1);
/// The same again, an upgrade, a downgrade.
const VERSIONS: [(Mode, u32); 4] = [
    (Mode::Verified, ABI_VERSION),
    (Mode::Verified, ABI_VERSION),
    (Mode::Verified, ABI_VERSION + 1),
    (Mode::Verified, ABI_VERSION),
];
/// One mode after another.
const MODES: [(Mode, u32); 4] = [
    (Mode::Verified, ABI_VERSION),
    (Mode::Trusted, ABI_VERSION),
    (Mode::Verified, ABI_VERSION),
    (Mode::Off, ABI_VERSION),
];
/// Ports, so that there is more than one flow.
const FLOWS: u16 = 16;

#[test]
fn no_packet_is_lost_out_of_a_container() {
    require!(Feature::Bpf);
    let topology = two_hosts();
    check(&topology, [0, 1], &VERSIONS, Reason::FastOut);
}

#[test]
fn no_packet_is_lost_into_a_container() {
    require!(Feature::Bpf);
    let topology = two_hosts();
    check(&topology, [1, 0], &VERSIONS, Reason::FastIn);
}

#[test]
fn no_packet_is_lost_when_the_mode_changes() {
    require!(Feature::Bpf);
    let topology = two_hosts();
    check(&topology, [0, 1], &MODES, Reason::FastOut);
}

/// Sends from the first container of one host to that of another, while agents come and go on host 0.
fn check(topology: &Topology, [from, to]: [usize; 2], steps: &[(Mode, u32)], fast: Reason) {
    let pins = PinRoot::new();
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(topology, 0);
    let (sender, receiver) = (&topology.hosts[from].containers[0], &topology.hosts[to].containers[0]);
    let done = AtomicBool::new(false);
    // Neighbours are resolved before the first packet counts.
    sender.ns.run(&format!("ping -c 1 -W 5 {}", receiver.address)).unwrap();
    let sockets = bind(&receiver.ns);
    let (received, agents, carried) = thread::scope(|scope| {
        let counting = scope.spawn(|| receive(&sockets, &done));
        let working = scope.spawn(|| agents_come_and_go(ns, &options(&pins), &inputs, &done, steps, fast));
        send(&sender.ns, receiver.address);
        thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let (agents, carried) = working.join().unwrap();
        (counting.join().unwrap(), agents, carried)
    });
    println!("{received} of {PACKETS} arrived over {agents} agents, {carried} of them by the fast path");
    assert_eq!(received, PACKETS);
    assert!(agents >= 8, "{agents} agents only");
    assert!(carried > u64::from(PACKETS) / 10, "{carried} packets only went fast");
}

/// One agent after another, each killed (nothing of it is told to end). Gives their number, and the packets that went
/// fast while they looked; those in between are not counted.
fn agents_come_and_go(
    ns: &Netns,
    options: &Options,
    inputs: &Inputs,
    done: &AtomicBool,
    steps: &[(Mode, u32)],
    fast: Reason,
) -> (u32, u64) {
    let (mut agents, mut carried) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        for (mode, abi) in steps {
            let counted = ns.enter(|| {
                let object = Object { abi: *abi, ..Object::built_in() };
                let options = Options { mode: *mode, ..options.clone() };
                let mut fastpath = FastPath::start_object(&options, &object).unwrap();
                let count = |fastpath: &FastPath| -> u64 {
                    let counters = fastpath.reader().counters().unwrap();
                    counters.iter().filter(|((_, reason), _)| *reason == fast).map(|(_, tally)| tally.packets).sum()
                };
                let before = count(&fastpath);
                assert_eq!(fastpath.sync(inputs), []);
                thread::sleep(Duration::from_millis(300));
                count(&fastpath) - before
            });
            carried += counted.unwrap();
            agents += 1;
        }
    }
    (agents, carried)
}

fn port(flow: u16) -> u16 {
    7000 + flow
}

fn bind(ns: &Netns) -> Vec<UdpSocket> {
    ns.enter(|| {
        let socket = |flow| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port(flow))).unwrap();
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        (0..FLOWS).map(socket).collect()
    })
    .unwrap()
}

fn send(ns: &Netns, to: Ipv4Addr) {
    ns.enter(|| {
        let sockets: Vec<UdpSocket> = (0..FLOWS)
            .map(|flow| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(SocketAddr::from((to, port(flow)))).unwrap();
                socket
            })
            .collect();
        let mut next = Instant::now();
        for burst in 0..PACKETS / BURST {
            for index in 0..BURST {
                let flow = (burst + index) as usize % sockets.len();
                sockets[flow].send(&[0; 18]).unwrap();
            }
            next += TICK;
            // Late ticks are not made up for: a burst larger than the others would test queues, not us.
            match next.checked_duration_since(Instant::now()) {
                Some(pause) => thread::sleep(pause),
                None => next = Instant::now(),
            }
        }
    })
    .unwrap();
}

fn receive(sockets: &[UdpSocket], done: &AtomicBool) -> u32 {
    let (mut received, mut buffer) = (0, [0; 64]);
    loop {
        let finished = done.load(Ordering::Relaxed);
        let before = received;
        for socket in sockets {
            while socket.recv(&mut buffer).is_ok() {
                received += 1;
            }
        }
        if received == before {
            if finished {
                return received;
            }
            thread::sleep(TICK);
        }
    }
}
