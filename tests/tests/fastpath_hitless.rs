//! No packet is lost while agents die, come back, are upgraded and downgraded; nor while real flannelds get SIGKILL.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;
mod fastpath_flood;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use fastpath_common::{PinRoot, inputs, options, two_hosts};
use fastpath_flood::{BURST, flood};
use flannel_agent::fastpath::{FastPath, Inputs, Mode, Object, Options};
use flannel_common::{abi::ABI_VERSION, reason::Reason};
use flannel_tests::{
    cluster::Cluster, flanneld::HOST_GW, netns::Netns, require, skip::Feature, topology::Topology, traffic::Meter,
};

/// Packets in each direction.
const PACKETS: u32 = 1_000_000;
/// The same again, an upgrade, a downgrade.
const VERSIONS: [(Mode, u32); 4] = [
    (Mode::Verified, ABI_VERSION),
    (Mode::Verified, ABI_VERSION),
    (Mode::Verified, ABI_VERSION + 1),
    (Mode::Verified, ABI_VERSION),
];
/// How long a killed flanneld stays away.
const DEAD: Duration = Duration::from_millis(200);
/// How long one may take to come back.
const READY: Duration = Duration::from_secs(30);
/// One mode after another.
const MODES: [(Mode, u32); 4] = [
    (Mode::Verified, ABI_VERSION),
    (Mode::Trusted, ABI_VERSION),
    (Mode::Verified, ABI_VERSION),
    (Mode::Off, ABI_VERSION),
];

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

#[test]
fn no_packet_is_lost_while_flannelds_are_killed() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    for ends in [[0, 1], [1, 0]] {
        kill_flannelds(ends);
    }
}

/// Sends from one host's container to the other's while real flannelds of both hosts get SIGKILL and are started again.
fn kill_flannelds([from, to]: [usize; 2]) {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    cluster.nodes = cluster.nodes.into_iter().map(|node| node.arg("-ip-masq")).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, READY).unwrap();
    let meter = Meter::new(&cluster.topology.hosts[0].ns, &cluster.nodes[0].state().unwrap()).unwrap();
    let before = meter.read().unwrap();
    let Cluster { nodes, topology, .. } = &mut cluster;
    let ends = [from, to].map(|host| &topology.hosts[host].containers[0]);
    let kill = |done: &AtomicBool| {
        let mut killed = 0;
        while !done.load(Ordering::Relaxed) {
            for node in &mut *nodes {
                node.kill().unwrap();
                thread::sleep(DEAD);
                node.start_ready(READY).unwrap();
                killed += 1;
            }
        }
        killed
    };
    let (_, received, killed) = flood(ends, BURST, |sent| sent < PACKETS, kill);
    let share = meter.read().unwrap().since(before).bpf_percent();
    println!("{received} of {PACKETS} arrived over {killed} kills of flanneld, {share} % of them by the fast path");
    assert_eq!(received, PACKETS);
    assert!(killed >= 8, "{killed} kills only");
    assert!(share > 90, "only {share} % went fast");
}

/// Sends from the first container of one host to that of another, while agents come and go on host 0.
fn check(topology: &Topology, [from, to]: [usize; 2], steps: &[(Mode, u32)], fast: Reason) {
    let pins = PinRoot::new();
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(topology, 0);
    let ends = [from, to].map(|host| &topology.hosts[host].containers[0]);
    let (_, received, (agents, carried)) = flood(
        ends,
        BURST,
        |sent| sent < PACKETS,
        |done| agents_come_and_go(ns, &options(&pins), &inputs, done, steps, fast),
    );
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
