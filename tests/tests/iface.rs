//! The choice of the uplink, by upstream's rules and with upstream's own test values.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::net::{IpAddr, Ipv4Addr};

use backend_common::choose;
use flannel_agent::kernel::{
    iface::{IfaceSpec, Stack},
    netlink::Netlink,
};
use flannel_tests::{netns::Netns, require, skip::Feature, topology::Topology};

/// Upstream's test host: one interface with five addresses. Dummy links may be missing, so it is a bridge.
fn upstream_host() -> Netns {
    let ns = Netns::new("iface").unwrap();
    ns.sh("ip link add dummy0 type bridge; ip link set dummy0 up
           for a in 1.10.100.1 192.168.200.128 172.16.30.18 172.16.31.200 172.16.32.100; do
             ip addr add $a/24 dev dummy0; done
           ip addr add 2001:db8::1/64 dev dummy0 nodad")
        .unwrap();
    ns
}

/// A host with two NICs, a default route, and addresses that do not count.
fn two_nics() -> Netns {
    let ns = Netns::new("nics").unwrap();
    ns.sh("ip link add eth0 mtu 1400 type veth peer name eth1 mtu 9000
           ip link set eth0 up; ip link set eth1 up
           ip addr add 169.254.7.7/16 dev eth0
           ip addr add 192.0.2.5/24 dev eth0
           ip addr add 192.0.2.6/24 dev eth0
           ip addr add 198.51.100.5/24 dev eth1
           ip addr add 203.0.113.5/24 dev eth1 preferred_lft 0
           ip addr add 2001:db8:1::5/64 dev eth1 nodad
           ip addr add 2001:db8::5/64 dev eth0 nodad
           ip route add default via 198.51.100.1 dev eth1 metric 200
           ip route add default via 192.0.2.1 dev eth0 metric 100
           ip route add 10.9.0.0/16 via 198.51.100.1 dev eth1
           ip -6 route add default via 2001:db8::1 dev eth0
           ip link add empty type bridge; ip link set empty up")
        .unwrap();
    ns
}

#[derive(Clone, Copy, Default)]
struct Flags {
    iface: &'static [&'static str],
    regex: &'static [&'static str],
    reach: Option<&'static str>,
    public: Option<&'static str>,
}

impl Flags {
    fn spec(self) -> IfaceSpec {
        IfaceSpec {
            iface: self.iface.iter().map(ToString::to_string).collect(),
            iface_regex: self.regex.iter().map(ToString::to_string).collect(),
            iface_can_reach: self.reach.map(|ip| ip.parse().unwrap()),
            public_ip: self.public.map(|ip| ip.parse().unwrap()),
            public_ipv6: None,
        }
    }
}

const NONE: Flags = Flags { iface: &[], regex: &[], reach: None, public: None };

/// Interface, its address, and the address in the lease; or a part of the error.
type Expected = Result<(&'static str, [u8; 4], [u8; 4]), &'static str>;

fn check(ns: &Netns, cases: &[(&str, Flags, Expected)]) {
    for (name, flags, expected) in cases {
        let chosen = choose(ns, &flags.spec(), Stack::V4);
        match (chosen, expected) {
            (Ok(uplink), Ok((ifname, address, public))) => {
                let found = (uplink.name.as_str(), uplink.address, uplink.public_ip);
                assert_eq!(found, (*ifname, Ipv4Addr::from(*address), Ipv4Addr::from(*public)), "{name}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
            (chosen, _) => panic!("{name}: {chosen:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn upstreams_table() {
    require!(Feature::Root);
    let same = |ip: [u8; 4]| Ok(("dummy0", ip, ip));
    check(
        &upstream_host(),
        &[
            ("address by pattern", Flags { regex: &[r"192\.168\.200\.\d+"], ..NONE }, same([192, 168, 200, 128])),
            ("name by pattern", Flags { regex: &[r"dummy\d+"], ..NONE }, same([1, 10, 100, 1])),
            ("name", Flags { iface: &["dummy0"], ..NONE }, same([1, 10, 100, 1])),
            ("address", Flags { iface: &["172.16.30.18"], ..NONE }, same([172, 16, 30, 18])),
            (
                "pattern and public address",
                Flags { regex: &["172.16.30"], public: Some("172.16.31.200"), ..NONE },
                Ok(("dummy0", [172, 16, 30, 18], [172, 16, 31, 200])),
            ),
            ("can reach", Flags { reach: Some("172.16.32.254"), ..NONE }, same([172, 16, 32, 100])),
        ],
    );
}

#[test]
fn order_defaults_and_errors() {
    require!(Feature::Root);
    let eth0 = Ok(("eth0", [192, 0, 2, 5], [192, 0, 2, 5]));
    let eth1 = Ok(("eth1", [198, 51, 100, 5], [198, 51, 100, 5]));
    check(
        &two_nics(),
        &[
            ("the default route of the lowest metric", NONE, eth0),
            ("a name wins over a pattern", Flags { iface: &["eth1"], regex: &["eth0"], ..NONE }, eth1),
            ("the first that fits", Flags { iface: &["eth9", "eth1", "eth0"], ..NONE }, eth1),
            ("patterns come before can-reach", Flags { regex: &["^eth1$"], reach: Some("192.0.2.9"), ..NONE }, eth1),
            ("addresses of all come before names", Flags { regex: &["198|eth0"], ..NONE }, eth1),
            ("patterns are not anchored", Flags { regex: &["th1"], ..NONE }, eth1),
            ("can reach through a gateway", Flags { reach: Some("10.9.1.1"), ..NONE }, eth1),
            ("global before link-local", Flags { iface: &["eth0"], ..NONE }, eth0),
            (
                "link-local if named",
                Flags { iface: &["169.254.7.7"], ..NONE },
                Ok(("eth0", [169, 254, 7, 7], [169, 254, 7, 7])),
            ),
            (
                "deprecated if named",
                Flags { iface: &["203.0.113.5"], ..NONE },
                Ok(("eth1", [203, 0, 113, 5], [203, 0, 113, 5])),
            ),
            (
                "loopback by address",
                Flags { iface: &["127.0.0.1"], ..NONE },
                Ok(("lo", [127, 0, 0, 1], [127, 0, 0, 1])),
            ),
            ("but not by name", Flags { iface: &["lo"], ..NONE }, Err("lo has no usable IPv4 address")),
            ("no address at all", Flags { iface: &["empty"], ..NONE }, Err("empty has no usable IPv4 address")),
            ("public address of this host", Flags { public: Some("198.51.100.5"), ..NONE }, eth1),
            (
                "public address of a NAT device",
                Flags { public: Some("8.8.8.8"), ..NONE },
                Err("-public-ip=8.8.8.8: no interface has this address; if it is that of a NAT device"),
            ),
            (
                "public address of a NAT device with -iface",
                Flags { iface: &["eth0"], public: Some("8.8.8.8"), ..NONE },
                Ok(("eth0", [192, 0, 2, 5], [8, 8, 8, 8])),
            ),
            (
                "no fallback to the default route",
                Flags { iface: &["eth9"], ..NONE },
                Err("-iface=eth9: there is no such interface (there are: lo, "),
            ),
            ("unknown address", Flags { iface: &["192.0.2.77"], ..NONE }, Err("no interface has this address")),
            ("IPv6 address in an IPv4 network", Flags { iface: &["2001:db8::5"], ..NONE }, Err("IPv4 alone")),
            (
                "pattern that matches nothing",
                Flags { regex: &["^wlan"], ..NONE },
                Err("matches no address and no name"),
            ),
            ("broken pattern", Flags { regex: &["("], ..NONE }, Err("-iface-regex=(: regex parse error")),
            ("every attempt is told", Flags { iface: &["eth9", "lo"], ..NONE }, Err("; lo has no usable")),
        ],
    );
}

#[test]
fn can_reach_without_a_route() {
    require!(Feature::Root);
    let ns = Netns::new("lonely").unwrap();
    let reach = Flags { reach: Some("192.0.2.1"), ..NONE };
    check(&ns, &[("no route", reach, Err("-iface-can-reach=192.0.2.1: look up the route to 192.0.2.1: "))]);
    check(&ns, &[("no default route", NONE, Err("there is no IPv4 default route"))]);
    ns.sh("ip link add eth0 type bridge; ip link set eth0 up; ip addr add 192.0.2.5/24 dev eth0
           ip route add default nexthop via 192.0.2.1 dev eth0 nexthop via 192.0.2.2 dev eth0")
        .unwrap();
    check(&ns, &[("multipath", NONE, Err("has several next hops"))]);
}

#[test]
fn what_is_known_of_the_uplink() {
    require!(Feature::Root);
    let ns = two_nics();
    let uplink = choose(&ns, &Flags { iface: &["eth1"], ..NONE }.spec(), Stack::V4).unwrap();
    assert_eq!(uplink.mtu, 9000);
    assert_eq!(uplink.v6, None);
    let mac: Vec<String> = uplink.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(ns.run("ip link show eth1").unwrap().contains(&mac.join(":")), "{mac:?}");
}

#[test]
fn dual_stack() {
    require!(Feature::Root);
    let ns = two_nics();
    let chosen = |flags: Flags| choose(&ns, &flags.spec(), Stack::Dual);
    let uplink = chosen(NONE).unwrap();
    assert_eq!((uplink.name.as_str(), uplink.v6), ("eth0", Some("2001:db8::5".parse().unwrap())));
    assert_eq!(uplink.public_ipv6, uplink.v6);
    let uplink = chosen(Flags { iface: &["2001:db8:1::5"], ..NONE }).unwrap();
    assert_eq!((uplink.name.as_str(), IpAddr::V4(uplink.address)), ("eth1", "198.51.100.5".parse().unwrap()));
    let elsewhere =
        IfaceSpec { public_ipv6: Some("2001:db8:1::5".parse().unwrap()), ..Flags { iface: &["eth0"], ..NONE }.spec() };
    let error = choose(&ns, &elsewhere, Stack::Dual).unwrap_err().to_string();
    assert!(error.contains("is not an address of eth0"), "{error}");
    let error = chosen(Flags { iface: &["empty"], ..NONE }).unwrap_err().to_string();
    assert!(error.contains("empty has no usable IPv4 address"), "{error}");
}

#[test]
fn the_tables_of_a_bridge_tell_who_is_behind_it() {
    require!(Feature::Root);
    let mut topology = Topology::flat(1).unwrap();
    let host = &mut topology.hosts[0];
    host.give_subnet("10.5.1.0/24".parse().unwrap(), 1500).unwrap();
    // Else the bridge's own MAC address follows its ports, and the kernel forgets its neighbours with it.
    host.ns.run("ip link set docker0 address 02:00:00:00:00:01").unwrap();
    host.add_container().unwrap();
    host.add_container().unwrap();
    let look = |ns: &Netns| {
        ns.block_on(|| async {
            let netlink = Netlink::connect().unwrap();
            assert_eq!(netlink.bridge("eth0").await.unwrap(), None, "a veth is no bridge");
            assert_eq!(netlink.bridge("nowhere").await.unwrap(), None);
            let bridge = netlink.bridge("docker0").await.unwrap().unwrap();
            let endpoints = netlink.endpoints(bridge.ifindex).await.unwrap();
            (bridge, endpoints)
        })
        .unwrap()
    };
    assert_eq!(look(&host.ns).1, [], "nobody has spoken yet");
    for container in &host.containers {
        container.ns.run("ping -c1 -W2 10.5.1.1").unwrap();
    }
    let (bridge, endpoints) = look(&host.ns);
    assert_eq!(bridge.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["veth2", "veth3"]);
    assert!(bridge.ports.iter().all(|port| port.kind == "veth" && port.up && port.mtu == 1500 && port.peer.is_some()));
    let expected: Vec<_> = host.containers.iter().map(|container| IpAddr::V4(container.address)).collect();
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.ip).collect::<Vec<_>>(), expected);
    for (endpoint, port) in endpoints.iter().zip(&bridge.ports) {
        assert_eq!(endpoint.port, Some(port.ifindex), "{endpoint:?}");
    }
    host.ns.run("ip link set veth2 nomaster").unwrap();
    let (bridge, endpoints) = look(&host.ns);
    assert_eq!((bridge.ports.len(), endpoints[0].port), (1, None), "a port that left is behind nothing");
}
