//! vxlan between namespaces, with peers of our own and with one set up by plain `ip` commands as upstream flannel does.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::{net::Ipv4Addr, time::Duration};

use backend_common::{Node, config, lease, subnet, uplink};
use flannel_agent::{backend::Change, state::PeerWay};
use flannel_tests::{
    netns::Netns,
    require,
    skip::Feature,
    topology::{Host, Topology},
    wait::wait_until,
};

const VXLAN: &str = r#"{"Type":"vxlan"}"#;

fn topology(counts: &[u8]) -> Topology {
    let mut topology = Topology::build(counts, 1500).unwrap();
    for (host, n) in topology.hosts.iter_mut().zip(1..) {
        host.give_subnet(subnet(n).v4, 1450).unwrap();
        host.add_container().unwrap();
    }
    topology
}

fn ping(from: &Host, to: &Host) {
    from.containers[0].ns.run(&format!("ping -c1 -W2 {}", to.containers[0].address)).unwrap();
}

fn mac(ns: &Netns, device: &str) -> String {
    let text = ns.run(&format!("ip -o link show {device}")).unwrap();
    text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
}

fn data(mac: &str) -> String {
    format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)
}

#[test]
fn three_hosts_reach_one_another_across_a_router() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2, 1]);
    let mut nodes: Vec<Node> =
        topology.hosts.iter().zip(1..).map(|(host, n)| Node::start(host, VXLAN, n).unwrap()).collect();
    let leases: Vec<_> = nodes.iter().zip(&topology.hosts).map(|(node, host)| node.lease(host.address)).collect();
    for (index, node) in nodes.iter_mut().enumerate() {
        let peers: Vec<_> = leases.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, lease)| lease).collect();
        let pass = node.settle(&peers);
        assert!(pass.desired.peers.values().all(|peer| peer.way == PeerWay::Tunnel && peer.problem.is_none()));
        assert_eq!(node.backend.mtu(), 1450);
    }
    for from in &topology.hosts {
        for to in topology.hosts.iter().filter(|to| to.address != from.address) {
            ping(from, to);
        }
    }
}

#[test]
fn the_device_is_as_upstream_makes_it() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let node = Node::start(host, VXLAN, 1).unwrap();
    let text = host.ns.run("ip -d link show flannel.1").unwrap();
    for part in ["mtu 1450", "vxlan id 1 local 192.0.2.11 dev eth0", "dstport 8472", "nolearning", ",UP"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("gbp"), "{text}");
    let address = host.ns.run("ip -4 -o addr show flannel.1").unwrap();
    assert!(address.contains("inet 10.5.1.0/32"), "{address}");
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra").unwrap().trim(), "0");
    let mac = mac(&host.ns, "flannel.1");
    let advert = node.backend.advert();
    assert_eq!(advert.backend_type, "vxlan");
    assert_eq!(advert.backend_data, Some(data(&mac)));
    let first = u8::from_str_radix(&mac[..2], 16).unwrap();
    assert_eq!(first & 3, 2, "{mac} is not a locally administered unicast address");
}

#[test]
fn every_option_reaches_the_device() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let options = r#"{"Type":"vxlan","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#;
    let node = Node::start(host, options, 1).unwrap();
    assert_eq!(node.backend.mtu(), 1350);
    let text = host.ns.run("ip -d link show flannel.7").unwrap();
    for part in ["mtu 1350", "vxlan id 7", "dstport 4789", " gbp"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("nolearning"), "{text}");
    // An MTU above the interface's cannot be: the device would send what the link does not take.
    let node = Node::start(host, r#"{"Type":"vxlan","VNI":8,"MTU":9000}"#, 1).unwrap();
    assert_eq!(node.backend.mtu(), 1450);
    assert_eq!(host.link_mtu("flannel.8").unwrap(), 1450);
}

#[test]
fn the_mac_is_kept_over_restarts_changes_and_deletion() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2]);
    let (host, other) = (&topology.hosts[0], &topology.hosts[1]);
    let mut node = Node::start(host, VXLAN, 1).unwrap();
    let first = mac(&host.ns, "flannel.1");
    let peer = lease(2, other.address, "vxlan", Some(&data("02:00:00:00:00:02")));
    node.settle(&[&peer]);

    host.ns.run("ip link del flannel.1").unwrap();
    let before = node.backend.uplinks();
    node.settle(&[&peer]);
    assert_eq!(mac(&host.ns, "flannel.1"), first, "after it was removed by hand");
    assert_ne!(node.backend.uplinks(), before, "the index is another one");
    assert!(host.ns.run("bridge fdb show dev flannel.1").unwrap().contains("02:00:00:00:00:02"));

    host.ns.sh("ip link set flannel.1 down; ip link set flannel.1 address 02:aa:aa:aa:aa:aa mtu 1300").unwrap();
    node.settle(&[&peer]);
    assert_eq!(mac(&host.ns, "flannel.1"), first, "after it was changed by hand");
    assert_eq!(host.link_mtu("flannel.1").unwrap(), 1450, "upstream keeps the old MTU");

    drop(node);
    drop(Node::start(host, VXLAN, 1).unwrap());
    assert_eq!(mac(&host.ns, "flannel.1"), first, "after a restart");
    drop(Node::start(host, r#"{"Type":"vxlan","Port":4789}"#, 1).unwrap());
    assert_eq!(mac(&host.ns, "flannel.1"), first, "after a change that needs a new device");
    assert!(host.ns.run("ip -d link show flannel.1").unwrap().contains("dstport 4789"));
}

#[test]
fn upstream_1759_a_device_deleted_by_hand_comes_back_by_itself() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2]);
    let mut nodes: Vec<Node> =
        topology.hosts.iter().zip(1..).map(|(host, n)| Node::start(host, VXLAN, n).unwrap()).collect();
    let leases: Vec<_> = nodes.iter().zip(&topology.hosts).map(|(node, host)| node.lease(host.address)).collect();
    nodes[1].settle(&[&leases[0]]);
    let host = &topology.hosts[0];
    nodes[0].while_watching(&[&leases[1]], || {
        let route = || !host.ns.run("ip route show 10.5.2.0/24").unwrap().is_empty();
        wait_until("the route", Duration::from_secs(5), route).unwrap();
        host.ns.run("ip link del flannel.1").unwrap();
        wait_until("device and route", Duration::from_secs(5), route).unwrap();
        ping(host, &topology.hosts[1]);
        host.ns.run("ip neigh flush dev flannel.1 nud permanent").unwrap();
        let neighbour = || host.ns.run("ip neigh show dev flannel.1 nud permanent").unwrap().contains("10.5.2.0");
        wait_until("the neighbour", Duration::from_secs(5), neighbour).unwrap();
        let peer_mac = mac(&topology.hosts[1].ns, "flannel.1");
        host.ns.run(&format!("bridge fdb del {peer_mac} dev flannel.1 dst {}", topology.hosts[1].address)).unwrap();
        let entry = || host.ns.run("bridge fdb show dev flannel.1").unwrap().contains(&peer_mac);
        wait_until("the forwarding entry", Duration::from_secs(5), entry).unwrap();
        ping(host, &topology.hosts[1]);
    });
}

/// What upstream flannel does on its host, with `ip` and `bridge`.
fn play_upstream(host: &Host, own: &str, peer: &str, peer_ip: Ipv4Addr, peer_mac: &str) {
    host.ns
        .sh(&format!(
            "ip link add flannel.1 type vxlan id 1 dev eth0 local {ip} dstport 8472 nolearning
             ip link set flannel.1 mtu 1450 up
             ip addr add {own}/32 dev flannel.1
             ip neigh replace {peer} lladdr {peer_mac} dev flannel.1 nud permanent
             bridge fdb append {peer_mac} dev flannel.1 dst {peer_ip} self permanent
             ip route replace {peer}/24 via {peer} dev flannel.1 onlink",
            ip = host.address
        ))
        .unwrap();
}

#[test]
fn an_upstream_peer_and_we_reach_one_another() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1, 1]);
    let [ours, upstream] = [0, 1].map(|i| &topology.hosts[i]);
    let mut node = Node::start(ours, VXLAN, 1).unwrap();
    play_upstream(upstream, "10.5.2.0", "10.5.1.0", ours.address, &mac(&ours.ns, "flannel.1"));
    let peer = lease(2, upstream.address, "vxlan", Some(&data(&mac(&upstream.ns, "flannel.1"))));
    node.settle(&[&peer]);
    ping(ours, upstream);
    ping(upstream, ours);
    ours.ns.run(&format!("ping -c1 -W2 {}", upstream.containers[0].address)).unwrap();
    let source = ours.ns.run(&format!("ip route get {}", upstream.containers[0].address)).unwrap();
    assert!(source.contains("src 10.5.1.0"), "host to container is from the device's address: {source}");
}

#[test]
fn an_upstream_node_migrates_without_a_new_mac() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2]);
    let [host, other] = [0, 1].map(|i| &topology.hosts[i]);
    let peer_mac = "02:00:00:00:00:02";
    play_upstream(host, "10.5.1.0", "10.5.2.0", other.address, peer_mac);
    host.ns.run("ip addr add 10.5.99.0/32 dev flannel.1").unwrap();
    host.ns.run("ip addr add 192.168.77.1/32 dev flannel.1").unwrap();
    // A peer that vanished while upstream was down.
    host.ns.run("ip neigh replace 10.5.8.0 lladdr 02:00:00:00:00:08 dev flannel.1 nud permanent").unwrap();
    host.ns.run("bridge fdb append 02:00:00:00:00:08 dev flannel.1 dst 192.0.2.88 self permanent").unwrap();
    let first = mac(&host.ns, "flannel.1");
    let mut node = Node::start(host, VXLAN, 1).unwrap();
    assert_eq!(mac(&host.ns, "flannel.1"), first);
    let pass = node.settle(&[&lease(2, other.address, "vxlan", Some(&data(peer_mac)))]);
    assert!(pass.plan.changes.iter().any(|change| matches!(change, Change::Replace { .. })), "{:?}", pass.plan);
    let route = host.ns.run("ip route show 10.5.2.0/24").unwrap();
    assert_eq!(route.trim(), "10.5.2.0/24 via 10.5.2.0 dev flannel.1 proto 241 onlink");
    let addresses = host.ns.run("ip -4 addr show flannel.1").unwrap();
    assert!(!addresses.contains("10.5.99.0"), "a leftover inside the network: {addresses}");
    assert!(addresses.contains("192.168.77.1"), "an address for other purposes: {addresses}");
    assert!(!host.ns.run("ip neigh show dev flannel.1").unwrap().contains("10.5.8.0"));
    assert!(!host.ns.run("bridge fdb show dev flannel.1").unwrap().contains("02:00:00:00:00:08"));
}

#[test]
fn a_changed_vtep_mac_leaves_no_old_forwarding_entry() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let mut node = Node::start(host, VXLAN, 1).unwrap();
    let peer = |ip: u8, mac: &str| lease(2, Ipv4Addr::new(192, 0, 2, ip), "vxlan", Some(&data(mac)));
    node.settle(&[&peer(77, "02:00:00:00:00:02")]);
    node.settle(&[&peer(77, "02:00:00:00:00:03")]);
    let fdb = host.ns.run("bridge fdb show dev flannel.1").unwrap();
    assert!(fdb.contains("02:00:00:00:00:03 dst 192.0.2.77 self permanent"), "{fdb}");
    assert!(!fdb.contains("02:00:00:00:00:02"), "{fdb}");
    node.settle(&[&peer(78, "02:00:00:00:00:03")]);
    let fdb = host.ns.run("bridge fdb show dev flannel.1").unwrap();
    assert!(fdb.contains("02:00:00:00:00:03 dst 192.0.2.78 self permanent") && !fdb.contains("192.0.2.77"), "{fdb}");
    node.settle(&[]);
    assert_eq!(host.ns.run("bridge fdb show dev flannel.1").unwrap(), "");
    assert_eq!(host.ns.run("ip neigh show dev flannel.1 nud permanent").unwrap(), "");
}

#[test]
fn peers_whose_data_cannot_be_have_a_problem() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let mut node = Node::start(&topology.hosts[0], VXLAN, 1).unwrap();
    let own = data(&mac(&topology.hosts[0].ns, "flannel.1"));
    let at = |n: u8, data: Option<&str>| lease(n, Ipv4Addr::new(192, 0, 2, 100 + n), "vxlan", data);
    let same = data("02:00:00:00:00:07");
    let peers = [at(2, None), at(3, Some("{}")), at(4, Some(&own)), at(5, Some(&same)), at(6, Some(&same))];
    let pass = node.settle(&peers.iter().collect::<Vec<_>>());
    let problems = ["no BackendData", "VtepMAC \"\"", "our own device's", "", "is also that of 192.0.2.105"];
    for (n, expected) in (2..).zip(problems) {
        assert!(pass.problem(n).contains(expected), "{n}: {}", pass.problem(n));
        let way = if expected.is_empty() { PeerWay::Tunnel } else { PeerWay::Unreachable };
        assert_eq!(pass.desired.peers[&subnet(n)].way, way);
    }
}

#[test]
fn direct_routing_takes_the_link_where_there_is_one() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2, 1]);
    let direct = r#"{"Type":"vxlan","DirectRouting":true}"#;
    let mut nodes: Vec<Node> =
        topology.hosts.iter().zip(1..).map(|(host, n)| Node::start(host, direct, n).unwrap()).collect();
    let leases: Vec<_> = nodes.iter().zip(&topology.hosts).map(|(node, host)| node.lease(host.address)).collect();
    for (index, node) in nodes.iter_mut().enumerate() {
        let peers: Vec<_> = leases.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, lease)| lease).collect();
        let pass = node.settle(&peers);
        if index == 0 {
            assert_eq!(pass.desired.peers[&subnet(2)].way, PeerWay::Direct);
            assert_eq!(pass.desired.peers[&subnet(3)].way, PeerWay::Tunnel);
            assert_eq!(node.backend.uplinks().len(), 2);
        }
    }
    let host = &topology.hosts[0];
    let near = host.ns.run("ip route show 10.5.2.0/24").unwrap();
    assert_eq!(near.trim(), format!("10.5.2.0/24 via {} dev eth0 proto 241", topology.hosts[1].address));
    assert!(!host.ns.run("ip neigh show dev flannel.1").unwrap().contains("10.5.2.0"));
    ping(host, &topology.hosts[1]);
    ping(host, &topology.hosts[2]);
    // Switching modes leaves nothing behind.
    let mut node = Node::start(host, VXLAN, 1).unwrap();
    node.settle(&[&leases[1]]);
    assert!(host.ns.run("ip route show 10.5.2.0/24").unwrap().contains("dev flannel.1"));
}

#[test]
fn the_outer_source_is_the_interfaces_address_behind_nat() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let mut nat = uplink(&host.ns);
    nat.public_ip = Ipv4Addr::new(203, 0, 113, 7);
    Node::start_in(&host.ns, &config(VXLAN), &nat, 1).unwrap();
    assert!(host.ns.run("ip -d link show flannel.1").unwrap().contains("local 192.0.2.11"));
}

#[test]
fn a_foreign_interface_of_our_name_is_named() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    host.ns.run("ip link add flannel.1 type bridge").unwrap();
    let error = Node::start(host, VXLAN, 1).unwrap_err().to_string();
    assert!(error.contains("use flannel.1 as vxlan device") && error.contains("it is a bridge"), "{error}");
}

#[test]
fn an_mtu_that_the_kernel_refuses_costs_no_route() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let mut node = Node::start(host, VXLAN, 1).unwrap();
    let peer = lease(2, Ipv4Addr::new(192, 0, 2, 77), "vxlan", Some(&data("02:00:00:00:00:02")));
    node.settle(&[&peer]);
    host.ns.run("ip link set eth0 mtu 1300").unwrap();
    host.ns.run("ip link del flannel.1").unwrap();
    node.settle(&[&peer]);
    assert_eq!(host.link_mtu("flannel.1").unwrap(), 1250, "the kernel's own limit");
    assert_ne!(host.ns.run("ip route show 10.5.2.0/24").unwrap(), "");
    host.ns.run("ip link set eth0 mtu 1500").unwrap();
    node.settle(&[&peer]);
    assert_eq!(host.link_mtu("flannel.1").unwrap(), 1450);
}

#[test]
fn one_node_changes_its_backend_and_back() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let topology = topology(&[2]);
    let [host, other] = [0, 1].map(|i| &topology.hosts[i]);
    let tunnel = lease(2, other.address, "vxlan", Some(&data("02:00:00:00:00:02")));
    let direct = lease(2, other.address, "host-gw", None);
    Node::start(host, VXLAN, 1).unwrap().settle(&[&tunnel]);
    let mut node = Node::start(host, r#"{"Type":"host-gw"}"#, 1).unwrap();
    let pass = node.settle(&[&direct]);
    assert!(matches!(pass.plan.changes[..], [Change::Replace { .. }]), "{:?}", pass.plan.changes);
    assert!(host.ns.run("ip route show 10.5.2.0/24").unwrap().contains("dev eth0"));
    Node::start(host, VXLAN, 1).unwrap().settle(&[&tunnel]);
    assert!(host.ns.run("ip route show 10.5.2.0/24").unwrap().contains("dev flannel.1"));
}
