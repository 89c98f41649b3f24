//! host-gw against a real kernel: whose routes are whose, what is repaired, and what is left alone.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use backend_common::{Node, lease, subnet, uplink};
use flannel_agent::{
    backend::{Change, Error, Slot},
    kernel::netlink::{Kind, Netlink},
    state::PeerWay,
};
use flannel_tests::{
    netns::Netns,
    require,
    skip::Feature,
    topology::{Host, Topology},
    wait::wait_until,
};

const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

fn route(host: &Host, n: u8) -> String {
    host.ns.run(&format!("ip route show {}", subnet(n).v4)).unwrap().trim().to_owned()
}

fn two_hosts() -> (Topology, Node) {
    let topology = Topology::flat(2).unwrap();
    let node = Node::start(&topology.hosts[0], HOST_GW, 1).unwrap();
    (topology, node)
}

#[test]
fn a_peer_gets_a_route_of_our_protocol_and_loses_it_with_its_lease() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let peer = lease(2, topology.hosts[1].address, "host-gw", None);
    let pass = node.settle(&[&peer]);
    assert_eq!(route(host, 2), format!("10.5.2.0/24 via {} dev eth0 proto 241", topology.hosts[1].address));
    let reached = &pass.desired.peers[&subnet(2)];
    assert_eq!((reached.way, reached.problem.as_deref()), (PeerWay::Direct, None));
    assert_eq!(reached.via.unwrap().next_hop, topology.hosts[1].address);
    node.settle(&[]);
    assert_eq!(route(host, 2), "");
}

#[test]
fn containers_of_two_hosts_reach_one_another() {
    require!(Feature::Root);
    let mut topology = Topology::flat(2).unwrap();
    for (host, n) in topology.hosts.iter_mut().zip(1..) {
        host.give_subnet(subnet(n).v4, 1500).unwrap();
        host.add_container().unwrap();
    }
    let [a, b] = [0, 1].map(|i| &topology.hosts[i]);
    let mut nodes = [Node::start(a, HOST_GW, 1).unwrap(), Node::start(b, HOST_GW, 2).unwrap()];
    let leases = [nodes[0].lease(a.address), nodes[1].lease(b.address)];
    nodes[0].settle(&[&leases[1]]);
    nodes[1].settle(&[&leases[0]]);
    a.containers[0].ns.run(&format!("ping -c1 -W2 {}", b.containers[0].address)).unwrap();
}

#[test]
fn a_route_deleted_by_hand_is_back_within_100_ms() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let peer = lease(2, topology.hosts[1].address, "host-gw", None);
    node.while_watching(&[&peer], || {
        let there = || !route(host, 2).is_empty();
        wait_until("the first route", Duration::from_secs(5), there).unwrap();
        let back = || {
            host.ns.run("ip route del 10.5.2.0/24").unwrap();
            let gone = Instant::now();
            wait_until("the route again", Duration::from_secs(5), there).unwrap();
            gone.elapsed()
        };
        let mut took: Vec<Duration> = (0..7).map(|_| back()).collect();
        took.sort();
        println!("route back after {took:?}, the time of `ip` included");
        // The middle one: other tests share the machine.
        assert!(took[3] < Duration::from_millis(100), "{took:?}");
    });
}

#[test]
fn upstream_1070_routes_return_when_the_link_does() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let peer = lease(2, topology.hosts[1].address, "host-gw", None);
    node.while_watching(&[&peer], || {
        let there = || !route(host, 2).is_empty();
        wait_until("the first route", Duration::from_secs(5), there).unwrap();
        host.ns.run("ip link set eth0 down").unwrap();
        assert_eq!(route(host, 2), "", "the kernel takes routes with the link");
        host.ns.run("ip link set eth0 up").unwrap();
        wait_until("the route after the link", Duration::from_secs(5), there).unwrap();
        host.ns.run("ip addr flush dev eth0").unwrap();
        host.ns.run(&format!("ip addr add {}/24 dev eth0", host.address)).unwrap();
        wait_until("the route after the address", Duration::from_secs(5), there).unwrap();
    });
}

#[test]
fn foreign_routes_stay_and_are_reported() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let other = topology.segments[0].address(99);
    let cases = [
        ("static", format!("{{}} via {other} dev eth0 proto static"), true),
        ("boot with a metric", format!("{{}} via {other} dev eth0 metric 7"), false),
        ("boot without a gateway", "{} dev eth0 scope link".to_owned(), true),
        ("boot onlink of another device", format!("{{}} via {other} dev docker0 onlink"), true),
        ("blackhole", "blackhole {}".to_owned(), true),
        ("several next hops", format!("{{}} nexthop via {other} dev eth0 nexthop via {} dev eth0", host.address), true),
    ];
    let peer = lease(2, topology.hosts[1].address, "host-gw", None);
    for (name, template, blocks) in cases {
        let words = template.replace("{}", "10.5.2.0/24");
        if host.ns.run(&format!("ip route add {words}")).is_err() {
            println!("this kernel does not take the case {name:?}: {words}");
            continue;
        }
        let before = route(host, 2);
        let pass = node.pass(&[&peer]);
        assert_eq!(pass.plan.conflicts.len(), 1, "{name}: {:?}", pass.plan);
        assert_eq!(pass.plan.conflicts[0].blocks, blocks, "{name}");
        assert_eq!(pass.plan.changes.is_empty(), blocks, "{name}: {:?}", pass.plan.changes);
        assert!(pass.failures.is_empty(), "{name}: {:?}", pass.failures);
        assert!(route(host, 2).contains(&before), "{name}: {before} became {}", route(host, 2));
        node.pass(&[]);
        assert_eq!(route(host, 2), before, "{name}: after the peer went");
        host.ns.run("ip route flush 10.5.2.0/24").unwrap();
    }
}

#[test]
fn upstream_routes_are_taken_over_without_a_gap() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let (right, wrong) = (topology.hosts[1].address, topology.segments[0].address(99));
    let peer = lease(2, right, "host-gw", None);
    for gateway in [right, wrong] {
        host.ns.run(&format!("ip route add 10.5.2.0/24 via {gateway} dev eth0 proto boot")).unwrap();
        let pass = node.settle(&[&peer]);
        assert!(matches!(pass.plan.changes[..], [Change::Replace { slot: Slot::Route(_), .. }]), "{:?}", pass.plan);
        assert_eq!(route(host, 2), format!("10.5.2.0/24 via {right} dev eth0 proto 241"));
        node.settle(&[]);
        assert_eq!(route(host, 2), "", "then it is ours to remove");
    }
    // One whose subnet nobody holds is not provably upstream's.
    host.ns.run(&format!("ip route add 10.5.9.0/24 via {right} dev eth0 proto boot")).unwrap();
    node.settle(&[&peer]);
    assert_ne!(route(host, 9), "");
}

#[test]
fn upstream_2554_stale_routes_of_an_earlier_run_go() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let gateway = topology.hosts[1].address;
    host.ns.run(&format!("ip route add 10.5.7.0/24 via {gateway} dev eth0 proto 241")).unwrap();
    // Of another daemon on this host, with a network of its own.
    host.ns.run(&format!("ip route add 10.6.7.0/24 via {gateway} dev eth0 proto 241")).unwrap();
    node.settle(&[]);
    assert_eq!(route(host, 7), "");
    assert_ne!(host.ns.run("ip route show 10.6.7.0/24").unwrap(), "");
}

#[test]
fn upstream_996_a_peer_beyond_a_router_is_a_problem_and_no_route() {
    require!(Feature::Root);
    let topology = Topology::build(&[2, 1], 1500).unwrap();
    let host = &topology.hosts[0];
    let mut node = Node::start(host, HOST_GW, 1).unwrap();
    let near = lease(2, topology.hosts[1].address, "host-gw", None);
    let far = lease(3, topology.hosts[2].address, "host-gw", None);
    let pass = node.settle(&[&near, &far]);
    assert_eq!(route(host, 3), "");
    assert_ne!(route(host, 2), "");
    assert_eq!(pass.desired.peers[&subnet(3)].way, PeerWay::Unreachable);
    assert!(pass.problem(3).contains("not on the link of eth0"), "{}", pass.problem(3));
}

#[test]
fn peers_that_cannot_be_have_a_problem_each() {
    require!(Feature::Root);
    let (topology, mut node) = two_hosts();
    let host = &topology.hosts[0];
    let peer = topology.hosts[1].address;
    let overlapping = {
        let mut lease = lease(1, peer, "host-gw", None);
        lease.subnet.v4 = "10.5.1.128/25".parse().unwrap();
        lease
    };
    let cases = [
        (lease(2, host.address, "host-gw", None), PeerWay::Unreachable, "is our own"),
        (lease(3, Ipv4Addr::UNSPECIFIED, "host-gw", None), PeerWay::Unreachable, "cannot be that of another host"),
        (lease(4, Ipv4Addr::new(224, 0, 0, 5), "host-gw", None), PeerWay::Unreachable, "cannot be"),
        (lease(5, peer, "vxlan", None), PeerWay::Ignored, "its backend is \"vxlan\""),
        (lease(6, peer, "Host-GW", None), PeerWay::Ignored, "its backend is \"Host-GW\""),
        (lease(7, peer, "", None), PeerWay::Ignored, "its backend is \"\""),
        (overlapping, PeerWay::Unreachable, "overlaps our own"),
    ];
    for (lease, way, expected) in &cases {
        let pass = node.settle(&[lease]);
        let reached = &pass.desired.peers[&lease.subnet];
        assert_eq!(reached.way, *way, "{lease:?}");
        assert!(reached.problem.as_deref().unwrap_or_default().contains(expected), "{:?}", reached.problem);
        assert!(pass.plan.changes.is_empty(), "{:?}", pass.plan);
    }
    let (one, two) = (lease(8, peer, "host-gw", None), lease(9, peer, "host-gw", None));
    let pass = node.settle(&[&one, &two]);
    assert!(pass.problem(8).contains("also in the lease of 10.5.9.0/24"), "{}", pass.problem(8));
    assert_ne!(route(host, 8), "", "both work all the same");
}

#[test]
fn host_gw_refuses_a_public_address_that_is_not_the_interfaces() {
    require!(Feature::Root);
    let topology = Topology::flat(1).unwrap();
    let host = &topology.hosts[0];
    let mut nat = uplink(&host.ns);
    nat.public_ip = Ipv4Addr::new(203, 0, 113, 7);
    let error = Node::start_in(&host.ns, &backend_common::config(HOST_GW), &nat, 1).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Unfit { .. }) && text.contains("203.0.113.7") && text.contains("192.0.2.11"),
        "{text}"
    );
}

#[test]
fn a_refusal_carries_the_kernels_words_and_stops_nothing() {
    require!(Feature::Root);
    let (topology, node) = two_hosts();
    let host = &topology.hosts[0];
    let object = |gateway: Ipv4Addr| flannel_agent::backend::Object::Route {
        gateway: Some(gateway.into()),
        ifindex: uplink(&host.ns).ifindex,
        onlink: false,
    };
    let bad = Change::Put(Slot::Route("10.5.2.0/24".parse().unwrap()), object(Ipv4Addr::new(203, 0, 113, 1)));
    let good = Change::Put(Slot::Route("10.5.3.0/24".parse().unwrap()), object(topology.hosts[1].address));
    let gone = Change::Remove(Slot::Route("10.5.4.0/24".parse().unwrap()), object(topology.hosts[1].address));
    let changes = [bad, good, gone];
    let failures = host.ns.block_on(|| async { Netlink::connect().unwrap().apply(&changes).await }).unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].0, bad);
    let text = failures[0].1.to_string();
    println!("{text}");
    assert!(text.starts_with("put route 10.5.2.0/24 via 203.0.113.1") && text.contains("invalid gateway"), "{text}");
    assert_ne!(route(host, 3), "");
    // A route that appeared between the look and the change is not overwritten.
    host.ns.run("ip route add blackhole 10.5.5.0/24").unwrap();
    let put = [Change::Put(Slot::Route("10.5.5.0/24".parse().unwrap()), object(topology.hosts[1].address))];
    let failures = host.ns.block_on(|| async { Netlink::connect().unwrap().apply(&put).await }).unwrap();
    assert_eq!(failures[0].1.errno(), 17, "{failures:?}");
    assert!(route(host, 5).starts_with("blackhole"));
    drop(node);
}

#[test]
fn five_thousand_peers() {
    require!(Feature::Root);
    let ns = Netns::new("scale").unwrap();
    ns.sh("ip link add eth0 type veth peer name x; ip link set x up; ip addr add 198.18.0.1/15 dev eth0; \
           ip link set eth0 up")
        .unwrap();
    let mut node = Node::start_in(&ns, &backend_common::config(HOST_GW), &uplink(&ns), 0).unwrap();
    let peers: Vec<_> = (0..5000_u32)
        .map(|n| {
            let mut lease = lease(1, Ipv4Addr::from(0xc612_0100 + n), "host-gw", None);
            lease.subnet.v4 = format!("10.5.{}.{}/29", 1 + n / 32, n % 32 * 8).parse().unwrap();
            lease
        })
        .collect();
    let peers: Vec<_> = peers.iter().collect();
    let timed = |node: &mut Node, peers: &[&flannel_agent::lease::Lease], what: &str| {
        let start = Instant::now();
        let pass = node.pass(peers);
        println!("{what}: {} changes in {:?}", pass.plan.changes.len(), start.elapsed());
        assert!(pass.failures.is_empty(), "{:?}", pass.failures.first());
        pass.plan.changes.len()
    };
    assert_eq!(timed(&mut node, &peers, "5000 new peers"), 5000);
    assert_eq!(timed(&mut node, &peers, "the same again"), 0);
    assert_eq!(timed(&mut node, &peers[1..], "one gone"), 1);
    assert_eq!(timed(&mut node, &[], "all gone"), 4999);
}

#[test]
fn lost_events_are_noticed() {
    require!(Feature::Root);
    let ns = Netns::new("overrun").unwrap();
    ns.sh("ip link add eth0 type veth peer name x; ip link set x up; ip addr add 198.18.0.1/15 dev eth0; \
           ip link set eth0 up")
        .unwrap();
    let mut flood = String::new();
    for n in 0..30_000_u32 {
        let (a, b, c) = (n >> 14, (n >> 6) & 0xff, (n << 2) & 0xff);
        writeln!(flood, "route add 10.{a}.{b}.{c}/30 via 198.18.0.9").unwrap();
    }
    let scratch = flannel_tests::scratch::Scratch::new("flood").unwrap();
    let batch = scratch.path().join("batch");
    std::fs::write(&batch, flood).unwrap();
    let lost = ns.block_on(|| async {
        let mut events = Netlink::events().unwrap();
        // Nobody reads meanwhile: the buffers fill.
        ns.run(&format!("ip -batch {}", batch.display())).unwrap();
        let read = async {
            while let Some(event) = events.recv().await {
                if event.kind == Kind::LookAgain {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(Duration::from_secs(20), read).await
    });
    assert_eq!(lost.unwrap().ok(), Some(true), "no event said that events were lost");
}
