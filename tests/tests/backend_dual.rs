//! Dual-stack networks: IPv6 routes of host-gw, and the IPv6 device of vxlan.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::net::Ipv6Addr;

use backend_common::{NETWORK, Node, choose, subnet};
use flannel_agent::{
    backend::Backend,
    config::NetworkConfig,
    kernel::{
        iface::{IfaceSpec, Stack},
        netlink::Netlink,
    },
    lease::{Attrs, Lease, Subnet},
    state::PeerWay,
};
use flannel_tests::{require, skip::Feature, topology::Topology};

fn config(backend: &str) -> NetworkConfig {
    let text = format!(
        r#"{{"Network":"{NETWORK}","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{{"Type":"{backend}"}}}}"#
    );
    NetworkConfig::parse(&text).unwrap()
}

fn dual(n: u8) -> Subnet {
    Subnet { v4: subnet(n).v4, v6: Some(format!("fd00:5:0:{n}::/64").parse().unwrap()) }
}

fn host_v6(n: u8) -> Ipv6Addr {
    format!("2001:db8::{n}").parse().unwrap()
}

/// Two hosts with IPv6 on eth0, and a container each with an IPv6 address.
fn topology() -> Topology {
    let mut topology = Topology::flat(2).unwrap();
    for (host, n) in topology.hosts.iter_mut().zip(1..) {
        host.give_subnet(subnet(n).v4, 1400).unwrap();
        host.add_container().unwrap();
        host.ns
            .sh(&format!(
                "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                 ip addr add {}/64 dev eth0 nodad; ip addr add fd00:5:0:{n}::1/64 dev docker0 nodad",
                host_v6(n)
            ))
            .unwrap();
        let container = &host.containers[0].ns;
        container
            .sh(&format!("ip addr add fd00:5:0:{n}::2/64 dev eth0 nodad; ip route add default via fd00:5:0:{n}::1"))
            .unwrap();
    }
    topology
}

fn start(topology: &Topology, index: usize, backend: &str) -> Node {
    let ns = &topology.hosts[index].ns;
    let spec = IfaceSpec { iface: vec!["eth0".into()], ..IfaceSpec::default() };
    let uplink = choose(ns, &spec, Stack::Dual).unwrap();
    let number = index as u8 + 1;
    assert_eq!(uplink.public_ipv6, Some(host_v6(number)));
    let backend = ns.block_on(|| async {
        let netlink = Netlink::connect().unwrap();
        let mut backend = Backend::prepare(&config(backend), &uplink, &netlink).await.unwrap();
        backend.lease_acquired(dual(number), &netlink).await.unwrap();
        backend
    });
    Node { ns: ns.clone(), backend: backend.unwrap(), number }
}

fn lease(topology: &Topology, node: &Node) -> Lease {
    let advert = node.backend.advert();
    let attrs = Attrs {
        public_ipv6: Some(host_v6(node.number)),
        backend_data: advert.backend_data,
        backend_v6_data: advert.backend_v6_data,
        ..Attrs::new(topology.hosts[usize::from(node.number) - 1].address, &advert.backend_type)
    };
    Lease { subnet: dual(node.number), attrs, ttl_id: None, revision: 1 }
}

fn both_families_work(backend: &str) -> (Topology, [Node; 2], [Lease; 2]) {
    let topology = topology();
    let mut nodes = [0, 1].map(|index| start(&topology, index, backend));
    let leases = [lease(&topology, &nodes[0]), lease(&topology, &nodes[1])];
    for (node, peer) in nodes.iter_mut().zip(leases.iter().rev()) {
        let networks = ["fd00:5::/48".parse().unwrap(), NETWORK.parse().unwrap()];
        let pass = node.settle_in(&[peer], &networks);
        let reached = &pass.desired.peers[&peer.subnet];
        assert_eq!(reached.problem, None);
        assert_ne!(reached.way, PeerWay::Unreachable);
    }
    let target = &topology.hosts[1].containers[0];
    topology.hosts[0].containers[0].ns.run(&format!("ping -c1 -W3 {}", target.address)).unwrap();
    topology.hosts[0].containers[0].ns.run("ping -6 -c1 -W3 fd00:5:0:2::2").unwrap();
    (topology, nodes, leases)
}

#[test]
fn host_gw() {
    require!(Feature::Root);
    let (topology, mut nodes, mut leases) = both_families_work("host-gw");
    let ns = &topology.hosts[0].ns;
    let route = ns.run("ip -6 route show fd00:5:0:2::/64").unwrap();
    assert!(route.contains("via 2001:db8::2 dev eth0 proto 241"), "{route}");
    let networks = ["fd00:5::/48".parse().unwrap(), NETWORK.parse().unwrap()];
    // Upstream's route is taken over; one of somebody else stays.
    for (owner, protocol) in [("boot", "proto 241"), ("static", "proto static")] {
        ns.run("ip -6 route del fd00:5:0:2::/64").unwrap();
        ns.run(&format!("ip -6 route add fd00:5:0:2::/64 via 2001:db8::9 dev eth0 proto {owner}")).unwrap();
        nodes[0].settle_in(&[&leases[1]], &networks);
        let route = ns.run("ip -6 route show fd00:5:0:2::/64").unwrap();
        assert!(route.contains(protocol) && route.lines().count() == 1, "{route}");
    }
    ns.run("ip -6 route del fd00:5:0:2::/64").unwrap();
    // A peer without an IPv6 address crashes upstream; here it costs its own IPv6 and nothing else.
    leases[1].attrs.public_ipv6 = None;
    let pass = nodes[0].settle_in(&[&leases[1]], &networks);
    let reached = &pass.desired.peers[&leases[1].subnet];
    assert_eq!(reached.way, PeerWay::Direct);
    assert!(reached.problem.as_deref().unwrap().contains("no IPv6 address to reach it by"), "{reached:?}");
    assert_eq!(ns.run("ip -6 route show fd00:5:0:2::/64").unwrap(), "");
    nodes[0].settle_in(&[], &networks);
    assert!(!ns.sh("ip route; ip -6 route").unwrap().contains("proto 241"));
}

#[test]
fn vxlan() {
    require!(Feature::Root, Feature::Link("vxlan"));
    let (topology, mut nodes, leases) = both_families_work("vxlan");
    let ns = &topology.hosts[0].ns;
    let device = ns.run("ip -d link show flannel-v6.1").unwrap();
    assert!(device.contains("local 2001:db8::1") && device.contains("mtu 1430"), "{device}");
    assert!(ns.run("ip -6 -o addr show flannel-v6.1").unwrap().contains("fd00:5:0:1::/128"));
    let networks = ["fd00:5::/48".parse().unwrap(), NETWORK.parse().unwrap()];
    ns.run("ip link del flannel-v6.1").unwrap();
    nodes[0].settle_in(&[&leases[1]], &networks);
    topology.hosts[0].containers[0].ns.run("ping -6 -c1 -W3 fd00:5:0:2::2").unwrap();
    nodes[0].settle_in(&[], &networks);
    assert_eq!(ns.run("bridge fdb show dev flannel-v6.1").unwrap(), "");
}
