//! What becomes of a cluster while its store is in trouble: members killed one after the other, all of them away,
//! history compacted behind the agents' backs, data restored from a backup. A ping that never pauses counts every loss.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "seed/mod.rs"]
#[expect(dead_code, reason = "only the store of it is used here")]
mod seed;

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use flannel_tests::{
    flanneld::{Flanneld, HOST_GW, PREFIX, lease_json, lease_key},
    process::Process,
    require,
    scratch::Scratch,
    skip::Feature,
    topology::Topology,
    wait::wait_until,
};
use ipnet::Ipv4Net;
use nix::sys::signal::Signal;

use crate::seed::Store;

const PATIENCE: Duration = Duration::from_mins(1);
/// How long the cluster goes without any member of its store.
const OUTAGE: Duration = Duration::from_mins(1);

/// Two hosts, three etcd members, and a ping between containers that goes on until it is asked what it lost.
struct Field {
    ping: Process,
    nodes: Vec<Flanneld>,
    store: Store,
    topology: Topology,
    dir: Scratch,
}

impl Field {
    fn start() -> Self {
        let mut topology = Topology::flat(2).unwrap();
        let store = Store::start(&topology).unwrap();
        store.etcd.put(&format!("{PREFIX}/config"), HOST_GW).unwrap();
        let mut nodes = Vec::new();
        for host in &mut topology.hosts {
            let mut node = Flanneld::new(&host.ns, &store.etcd.endpoints()).unwrap();
            host.give_subnet(node.start_ready(PATIENCE).unwrap(), 1500).unwrap();
            host.add_container().unwrap();
            nodes.push(node);
        }
        let to = topology.hosts[1].containers[0].address;
        let from = topology.hosts[0].containers[0].ns.clone();
        wait_until("the first answer", PATIENCE, || from.run(&format!("ping -c1 -W1 {to}")).is_ok()).unwrap();
        let dir = Scratch::new("ping").unwrap();
        let ping = from.spawn(&format!("ping -i 0.01 -W 1 {to}"), &dir.join("log")).unwrap();
        Self { ping, nodes, store, topology, dir }
    }

    /// A lease of a third node, made now, becomes a route on both hosts: they hear of changes again.
    fn hears_of(&self, subnet: &str) {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        let owner = Ipv4Addr::from(u32::from(self.topology.hosts[0].address) + 100);
        // Until the remaining members have chosen a leader, they take nothing.
        let put = || self.store.etcd.put(&lease_key(subnet), &lease_json(owner)).is_ok();
        wait_until("the store to take a lease", PATIENCE, put).unwrap();
        self.routes(subnet, true);
    }

    fn routes(&self, subnet: Ipv4Net, there: bool) {
        for host in &self.topology.hosts {
            let shown = || !host.ns.run(&format!("ip route show {subnet}")).unwrap().trim().is_empty();
            let what = format!("the route to {subnet} to be there ({there}) on {}", host.name);
            wait_until(&what, PATIENCE, || shown() == there).unwrap();
        }
    }

    /// Ends the ping and says how many answers were missing.
    fn lost(mut self) -> u64 {
        self.ping.signal(Signal::SIGINT).unwrap();
        self.ping.wait_exit(PATIENCE).unwrap();
        let log = fs::read_to_string(self.dir.join("log")).unwrap();
        let summary = log.lines().find(|line| line.contains("packets transmitted")).expect("ping's summary");
        println!("{summary}");
        let mut numbers = summary.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
        let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert!(sent > 20, "{summary}");
        for node in &mut self.nodes {
            assert!(node.is_running(), "{}", node.log());
        }
        // The one that was under way when the ping was ended does not count.
        (sent - received).saturating_sub(1)
    }
}

#[test]
fn members_die_and_all_are_away_for_a_minute_and_no_packet_is_lost() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("ping"));
    let mut field = Field::start();
    // Whichever of them leads: each is killed once.
    for member in 0..3 {
        field.store.etcd.kill(member).unwrap();
        field.hears_of(&format!("172.16.{}.0/24", 240 + member));
        field.store.etcd.start(member).unwrap();
    }
    for member in 0..3 {
        field.store.etcd.kill(member).unwrap();
    }
    let dark = Instant::now();
    for node in &field.nodes {
        let gone = || node.state().is_ok_and(|state| !state.store.connected);
        wait_until("the agent to notice that the store is away", PATIENCE, gone).unwrap();
    }
    thread::sleep(OUTAGE.saturating_sub(dark.elapsed()));
    for node in &field.nodes {
        let state = node.state().unwrap();
        assert!(state.ready && !state.store.connected, "{state:?}");
    }
    for member in 0..3 {
        field.routes(format!("172.16.{}.0/24", 240 + member).parse().unwrap(), true);
    }
    field.store.etcd.start_all().unwrap();
    field.hears_of("172.16.243.0/24");
    assert_eq!(field.lost(), 0, "answers lost");
}

#[test]
fn compaction_and_a_restored_backup_lose_no_packet() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("ping"), Feature::Tool("iptables"));
    let mut field = Field::start();
    let gone: Ipv4Net = "172.16.240.0/24".parse().unwrap();
    field.hears_of(&gone.to_string());
    // Cut off from the store, the hosts miss a change, and the history of it is compacted away.
    for host in &field.topology.hosts {
        host.ns.run("iptables -A OUTPUT -p tcp --dport 2379 -j DROP").unwrap();
    }
    field.store.etcd.delete(&lease_key(gone)).unwrap();
    field.store.etcd.put(&lease_key("172.16.241.0/24".parse().unwrap()), &lease_json([192, 0, 2, 200].into())).unwrap();
    field.store.etcd.compact().unwrap();
    for host in &field.topology.hosts {
        host.ns.run("iptables -D OUTPUT -p tcp --dport 2379 -j DROP").unwrap();
    }
    field.routes(gone, false);
    field.store.etcd.backup("before").unwrap();
    field.hears_of("172.16.242.0/24");
    field.store.etcd.restore("before").unwrap();
    field.hears_of("172.16.243.0/24");
    assert_eq!(field.lost(), 0, "answers lost");
}
