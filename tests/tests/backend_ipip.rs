//! ipip, where the kernel has it; alloc, which needs nothing.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use backend_common::{Node, lease, subnet};
use flannel_agent::state::PeerWay;
use flannel_tests::{require, skip::Feature, topology::Topology};

const IPIP: &str = r#"{"Type":"ipip"}"#;

#[test]
fn three_hosts_reach_one_another_across_a_router() {
    require!(Feature::Root, Feature::Link("ipip"));
    let mut topology = Topology::build(&[2, 1], 1500).unwrap();
    for (host, n) in topology.hosts.iter_mut().zip(1..) {
        host.give_subnet(subnet(n).v4, 1480).unwrap();
        host.add_container().unwrap();
    }
    let direct = r#"{"Type":"ipip","DirectRouting":true}"#;
    let leases: Vec<_> = topology.hosts.iter().zip(1..).map(|(host, n)| lease(n, host.address, "ipip", None)).collect();
    for backend in [IPIP, direct] {
        let mut nodes: Vec<Node> =
            topology.hosts.iter().zip(1..).map(|(host, n)| Node::start(host, backend, n).unwrap()).collect();
        for (index, node) in nodes.iter_mut().enumerate() {
            let peers: Vec<_> =
                leases.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, lease)| lease).collect();
            node.settle(&peers);
            assert_eq!(node.backend.mtu(), 1480);
        }
        for to in [1, 2] {
            let target = topology.hosts[to].containers[0].address;
            topology.hosts[0].containers[0].ns.run(&format!("ping -c1 -W2 {target}")).unwrap();
        }
    }
}

#[test]
fn a_kernel_without_ipip_is_told() {
    require!(Feature::Root);
    let topology = Topology::flat(1).unwrap();
    let host = &topology.hosts[0];
    if host.ns.run("ip link add probe type ipip local 192.0.2.11").is_ok() {
        flannel_tests::skip::skip("this kernel has ipip devices");
        return;
    }
    let error = Node::start(host, IPIP, 1).unwrap_err().to_string();
    assert!(error.contains("this kernel has no ipip devices") && error.contains("modprobe ipip"), "{error}");
}

#[test]
fn a_foreign_interface_of_our_name_is_named() {
    require!(Feature::Root);
    let topology = Topology::flat(1).unwrap();
    let host = &topology.hosts[0];
    host.ns.run("ip link add flannel.ipip type bridge").unwrap();
    let error = Node::start(host, IPIP, 1).unwrap_err().to_string();
    assert!(error.contains("an interface flannel.ipip of kind \"bridge\""), "{error}");
}

#[test]
fn alloc_touches_nothing_but_stale_routes() {
    require!(Feature::Root);
    let topology = Topology::flat(2).unwrap();
    let host = &topology.hosts[0];
    let mut node = Node::start(host, r#"{"Type":"alloc"}"#, 1).unwrap();
    let before = host.ns.run("ip route").unwrap();
    host.ns.run(&format!("ip route add 10.5.7.0/24 via {} proto 241", topology.hosts[1].address)).unwrap();
    let pass = node.settle(&[&lease(2, topology.hosts[1].address, "", None)]);
    assert_eq!(pass.desired.peers[&subnet(2)].way, PeerWay::Ignored);
    assert_eq!(host.ns.run("ip route").unwrap(), before);
    assert_eq!((node.backend.mtu(), node.backend.advert().backend_type.as_str()), (1500, ""));
}

#[test]
fn ipv4_backends_refuse_a_dual_stack_network() {
    require!(Feature::Root);
    let topology = Topology::flat(1).unwrap();
    let host = &topology.hosts[0];
    for backend in ["udp", "ipip"] {
        let text = format!(
            r#"{{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{{"Type":"{backend}"}}}}"#
        );
        let config = flannel_agent::config::NetworkConfig::parse(&text).unwrap();
        let error = Node::start_in(&host.ns, &config, &backend_common::uplink(&host.ns), 1).unwrap_err().to_string();
        assert!(error.contains(&format!("backend {backend}: it carries IPv4 alone")), "{error}");
    }
}
