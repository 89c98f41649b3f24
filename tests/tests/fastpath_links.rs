//! Interfaces that go, come back and change under traffic: it recovers by itself, goes fast again, and for how long it
//! stood is printed. Real flannelds; host 1 is the one things happen to.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_stream;

use std::{
    thread,
    time::{Duration, Instant},
};

use fastpath_stream::Stream;
use flannel_tests::{
    cluster::Cluster, flanneld::HOST_GW, require, skip::Feature, topology::Topology, traffic::Meter, wait::wait_until,
};

/// How long the traffic may stand after the last step of an event.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster of two hosts with one container each, and traffic both ways.
struct Scene {
    cluster: Cluster,
    out: Stream,
    back: Stream,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::running(2, 1, HOST_GW).unwrap();
        let (here, there) = (cluster.container(0, 0), cluster.container(1, 0));
        cluster.wait_ping(0, there.address, PATIENCE).unwrap();
        let (out, back) = (Stream::start(here, there, 7001), Stream::start(there, here, 7002));
        let scene = Self { cluster, out, back };
        scene.wait_fast();
        scene
    }

    /// Waits until nearly all packets of the moment go by BPF.
    fn wait_fast(&self) -> Duration {
        let state = self.cluster.nodes[0].state().unwrap();
        let meter = Meter::new(&self.cluster.topology.hosts[0].ns, &state).unwrap();
        wait_until("traffic to go fast", PATIENCE, || {
            let before = meter.read().unwrap();
            thread::sleep(Duration::from_millis(100));
            let carried = meter.read().unwrap().since(before);
            carried.bpf > 100 && carried.bpf_percent() > 90
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.cluster.nodes[0].log()))
    }

    /// Runs a script on host 1, waits until traffic is what it was before, and checks for how long it stood.
    fn event(&self, what: &str, script: &str) {
        self.event_on(0, what, script, PATIENCE);
    }

    fn event_on(&self, host: usize, what: &str, script: &str, limit: Duration) {
        let (out, back) = (Instant::now(), Instant::now());
        self.cluster.topology.hosts[host].ns.sh(script).unwrap();
        let out = self.out.outage(out, PATIENCE);
        let back = self.back.outage(back, PATIENCE);
        let fast = self.wait_fast();
        println!(
            "{what}: stood {} ms out, {} ms in; fast {} ms later",
            out.as_millis(),
            back.as_millis(),
            fast.as_millis()
        );
        assert!(out.max(back) < limit, "{what}: {out:?} out, {back:?} in");
    }
}

#[test]
fn the_uplink_goes_down_and_up_and_changes_its_mtu() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    scene.event("uplink down for 0.2 s", "ip link set eth0 down; sleep 0.2; ip link set eth0 up");
    scene.event("uplink MTU 1400", "ip link set eth0 mtu 1400");
    scene.event("uplink MTU 1500", "ip link set eth0 mtu 1500");
}

#[test]
fn the_bridge_is_made_again() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    let host = &scene.cluster.topology.hosts[0];
    let (subnet, port) = (host.subnet.unwrap(), &host.containers[0].port);
    let gateway = flannel_tests::topology::nth(subnet, 1);
    let script = format!(
        "ip link del docker0; ip link add docker0 up type bridge forward_delay 0; \
         ip addr add {gateway}/{} dev docker0; ip link set {port} master docker0",
        subnet.prefix_len()
    );
    scene.event("bridge deleted and made again", &script);
    scene.event(
        "port out of the bridge and back",
        &format!("ip link set {port} nomaster; ip link set {port} master docker0"),
    );
}

#[test]
fn a_container_comes_back_with_its_address() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    let container = scene.cluster.container(0, 0);
    let subnet = scene.cluster.topology.hosts[0].subnet.unwrap();
    let gateway = flannel_tests::topology::nth(subnet, 1);
    let (name, port) = (container.ns.name(), &container.port);
    let script = format!(
        "ip link del {port}; ip link add {port} type veth peer name eth0 netns {name}; ip link set {port} master docker0 up; \
         ip -n {name} addr add {}/{} dev eth0; ip -n {name} link set eth0 up; ip -n {name} route add default via {gateway}",
        container.address,
        subnet.prefix_len()
    );
    scene.event("container restarted with the same address", &script);
}

#[test]
fn a_neighbour_changes_its_mac() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    let hosts = &scene.cluster.topology.hosts;
    // As network cards are replaced: whoever has a new address announces it.
    hosts[1].ns.sysctl("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
    let limit = Duration::from_millis(1500);
    scene.event_on(1, "next hop with another MAC", "ip link set eth0 address 02:00:00:00:00:99", limit);
    let container = hosts[0].containers[0].ns.name();
    hosts[0].containers[0].ns.sysctl("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
    let script = format!("ip -n {container} link set eth0 address 02:00:00:00:00:98");
    scene.event_on(0, "container with another MAC", &script, limit);
}

#[test]
fn the_uplink_is_renamed() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    scene.event("uplink renamed", "ip link set eth0 down; ip link set eth0 name uplink0; ip link set uplink0 up");
}

#[test]
fn the_uplink_gets_another_address() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let scene = Scene::new();
    scene.event("uplink address changed", "ip addr flush dev eth0; ip addr add 192.0.2.61/24 dev eth0");
}

#[test]
fn xdp_leaves_an_uplink_that_gets_vlans() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Link("vlan"));
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    cluster.nodes = cluster.nodes.into_iter().map(|node| node.arg("-xdp=on")).collect();
    cluster.start_all().unwrap();
    let rung = || {
        let hooks = cluster.nodes[0].state().unwrap().fastpath.hooks;
        hooks.into_iter().find(|hook| hook.program == "transit").unwrap()
    };
    let ns = &cluster.topology.hosts[0].ns;
    wait_until("XDP", PATIENCE, || rung().rung == "xdp").unwrap();
    ns.run("ip link add link eth0 name eth0.100 type vlan id 100").unwrap();
    wait_until("XDP to go", PATIENCE, || rung().reason.is_some_and(|reason| reason.contains("VLANs"))).unwrap();
    assert!(!ns.run("ip link show dev eth0").unwrap().contains("xdp"));
    ns.run("ip link del eth0.100").unwrap();
    wait_until("XDP to come back", PATIENCE, || rung().rung == "xdp").unwrap();
}
