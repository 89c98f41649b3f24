//! Whole clusters of real flannelds on a real etcd: the main job, and what must not disturb it.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::Duration,
};

use flannel_tests::{
    cluster::{Cluster, READY},
    flanneld::HOST_GW,
    require,
    skip::Feature,
    topology::Topology,
    traffic::{Iperf, Meter, detach_everything},
    wait::wait_until,
};

#[path = "cluster/latency.rs"]
mod latency;
#[path = "cluster/trouble.rs"]
mod trouble;

/// How long something may take that needs one event and no timer.
const SOON: Duration = Duration::from_secs(5);

/// Tests that measure time hold it for writing, all others for reading.
static MACHINE: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn containers_of_three_hosts_reach_one_another_by_bpf() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iperf3"));
    let _machine = shared();
    let cluster = Cluster::running(3, 2, HOST_GW).unwrap();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        cluster.wait_ping(from, cluster.container(to, 1).address, SOON).unwrap();
    }
    let meter = Meter::new(&cluster.topology.hosts[0].ns, &cluster.nodes[0].state().unwrap()).unwrap();
    let before = meter.read().unwrap();
    let run = Iperf::serve(cluster.container(1, 0)).unwrap().run(cluster.container(0, 0), 2).unwrap();
    let carried = meter.read().unwrap().since(before);
    assert!(run.gbit_per_s > 0.0);
    assert!(carried.bpf_percent() >= 95, "{carried:?}: a transfer of 2 s is established almost all the time");
    assert!(carried.kernel > 0, "{carried:?}: the handshake goes by the kernel");
}

#[test]
fn a_transfer_outlives_flanneld_and_every_bpf_program() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iperf3"), Feature::Tool("bpftool"));
    let _machine = shared();
    let mut cluster = Cluster::running(2, 1, HOST_GW).unwrap();
    let meter = Meter::new(&cluster.topology.hosts[0].ns, &cluster.nodes[0].state().unwrap()).unwrap();
    let server = Iperf::serve(cluster.container(1, 0)).unwrap();
    let Cluster { nodes, topology, .. } = &mut cluster;
    let client = &topology.hosts[0].containers[0];
    let (run, after) = thread::scope(|scope| {
        let run = scope.spawn(|| server.run(client, 4).unwrap());
        wait_until("the fast path to carry the transfer", SOON, || meter.read().unwrap().bpf > 1000).unwrap();
        for (node, host) in nodes.iter_mut().zip(&topology.hosts) {
            // Dead, it cannot attach them again.
            node.kill().unwrap();
            assert!(detach_everything(&host.ns).unwrap() > 0, "nothing was attached on {}", host.name);
        }
        let after = meter.read().unwrap();
        (run.join().unwrap(), after)
    });
    assert!(run.longest_pause() <= Duration::from_millis(500), "{run:?}");
    let since = meter.read().unwrap().since(after);
    assert_eq!(since.bpf, 0, "programs still ran after they were detached");
    assert!(run.tenths.last().is_some_and(|rate| *rate > 0.0), "{run:?}");
}

#[test]
fn a_restarted_flanneld_keeps_its_lease_and_its_traffic() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = Cluster::running(2, 1, HOST_GW).unwrap();
    let subnet = cluster.nodes[0].subnet().unwrap();
    let leases = cluster.etcd.keys("/flannel/network/subnets").unwrap();
    for how in ["kill", "stop"] {
        if how == "kill" {
            cluster.nodes[0].kill().unwrap();
        } else {
            cluster.nodes[0].stop().unwrap();
        }
        cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
        std::fs::remove_file(cluster.nodes[0].subnet_file()).unwrap();
        assert_eq!(cluster.nodes[0].start_ready(READY).unwrap(), subnet, "after {how}");
    }
    assert_eq!(cluster.etcd.keys("/flannel/network/subnets").unwrap(), leases);
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
}

#[test]
fn routes_are_mended_and_foreign_ones_left_alone() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = alone();
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let ns = cluster.topology.hosts[0].ns.clone();
    ns.run("ip route add 172.16.250.0/24 via 192.0.2.99 dev eth0").unwrap();
    ns.run("ip route add 10.9.0.0/16 via 192.0.2.99 dev eth0").unwrap();
    cluster.start_all().unwrap();
    let peer = cluster.nodes[1].subnet().unwrap();
    let has = |net: &str| ns.run(&format!("ip route show {net}")).unwrap().contains("via");
    wait_until("the peer's route", SOON, || has(&peer.to_string())).unwrap();
    // A machine that is busy with something else gets three tries.
    let took = (0..3).map(|_| {
        ns.run(&format!("ip route del {peer}")).unwrap();
        wait_until("the peer's route to be back", SOON, || has(&peer.to_string())).unwrap()
    });
    let took = took.min().unwrap();
    assert!(took <= Duration::from_millis(100), "a route deleted by hand was back after {took:?}");
    cluster.nodes[1].kill().unwrap();
    let [key] = &cluster.etcd.keys(&flannel_tests::flanneld::lease_key(peer)).unwrap()[..] else { panic!("no lease") };
    cluster.etcd.delete(key).unwrap();
    wait_until("the vanished peer's route to go", SOON, || !has(&peer.to_string())).unwrap();
    assert!(has("172.16.250.0/24") && has("10.9.0.0/16"), "foreign routes were touched");
}

#[test]
fn a_peer_behind_a_router_gets_an_error_and_no_route() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = Cluster::new(Topology::build(&[1, 1], 1500).unwrap(), HOST_GW).unwrap();
    cluster.start_all().unwrap();
    let (peer, address) = (cluster.nodes[1].subnet().unwrap(), cluster.topology.hosts[1].address);
    let problem = || {
        let state = cluster.nodes[0].state().ok()?;
        state.peers.into_iter().find(|other| other.subnet.trunc() == peer)?.problem
    };
    wait_until("the peer's problem", SOON, || problem().is_some()).unwrap();
    let ns = &cluster.topology.hosts[0].ns;
    assert_eq!(ns.run(&format!("ip route show {peer}")).unwrap(), "", "{:?}", problem());
    assert!(cluster.nodes[0].log().contains(&address.to_string()), "{}", cluster.nodes[0].log());
}

#[test]
fn a_bridge_that_comes_later_and_ports_that_go_are_followed() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iperf3"));
    let _machine = shared();
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    for host in &cluster.topology.hosts {
        host.ns.run("ip link del docker0").unwrap();
    }
    cluster.start_all().unwrap();
    for host in &cluster.topology.hosts {
        host.ns.run("ip link add docker0 up type bridge forward_delay 0 stp_state 0").unwrap();
    }
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    let hooks = |node: usize| cluster.nodes[node].state().unwrap().fastpath.hooks;
    let is_hooked = || hooks(0).iter().any(|hook| hook.interface == "veth2" && hook.rung != "none");
    wait_until("programs on the new port", SOON, is_hooked).unwrap();
    cluster.topology.hosts[0].ns.run("ip link del veth2").unwrap();
    wait_until("the port to be forgotten", SOON, || hooks(0).iter().all(|hook| hook.interface != "veth2")).unwrap();
}
