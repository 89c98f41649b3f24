//! Upstream flannel's functional scenarios with real flannelds: each backend on the leases that the one before left, and
//! two daemons with two networks on each host.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::time::Duration;

use flannel_tests::{
    cluster::{Cluster, READY},
    etcd::Etcd,
    flanneld::{Flanneld, PREFIX},
    netns::Netns,
    require,
    skip::Feature,
    topology::{Topology, nth},
    wait::wait_until,
};
use ipnet::Ipv4Net;

/// Puts the node's subnet on a bridge, as a container's stand-in: upstream uses a dummy link, which may be missing.
fn address(ns: &Netns, bridge: &str, subnet: Ipv4Net) {
    ns.sh(&format!(
        "ip link del {bridge} 2>/dev/null || true; ip link add {bridge} type bridge; ip link set {bridge} up
         ip addr add {}/{} dev {bridge}",
        nth(subnet, 1),
        subnet.prefix_len()
    ))
    .unwrap();
}

/// Upstream's probe: three packets from our address to the peer's; at least one must be answered.
fn ping(ns: &Netns, source: &str, from: Ipv4Net, to: Ipv4Net) -> bool {
    let source = if source.is_empty() { nth(from, 1).to_string() } else { source.to_owned() };
    ns.run(&format!("ping -I {source} -c 3 -W 1 {}", nth(to, 1))).is_ok()
}

fn log(node: &Flanneld) -> String {
    node.log().lines().rev().take(30).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_backend_works_on_the_leases_of_the_one_before() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Link("vxlan"), Feature::Tun);
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), "{}").unwrap();
    let direct = r#""vxlan","DirectRouting":true"#;
    let rounds = [
        ("10.10.0.0/16", r#""vxlan""#, 1450),
        ("10.10.0.0/16", r#""udp""#, 1472),
        ("10.10.0.0/16", r#""host-gw""#, 1500),
        ("10.50.0.0/16", r#""vxlan""#, 1450),
        ("10.50.0.0/16", direct, 1450),
        ("10.10.0.0/16", r#""host-gw""#, 1500),
    ];
    for (network, backend, mtu) in rounds {
        let config = format!(r#"{{"Network":"{network}","Backend":{{"Type":{backend}}}}}"#);
        cluster.etcd.put(&format!("{PREFIX}/config"), &config).unwrap();
        cluster.start_all().unwrap();
        let subnets = [0, 1].map(|i| cluster.nodes[i].subnet().unwrap());
        assert_eq!(cluster.nodes[0].mtu().unwrap(), mtu, "{config}");
        for (host, subnet) in cluster.topology.hosts.iter().zip(subnets) {
            address(&host.ns, "dummy0", subnet);
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let answered = ping(&cluster.topology.hosts[from].ns, "", subnets[from], subnets[to]);
            assert!(answered, "{config}, from host {from}: {}", log(&cluster.nodes[from]));
        }
        // As `docker rm -f`; the leases stay, and so do routes and devices.
        for node in &mut cluster.nodes {
            node.kill().unwrap();
        }
        cluster.etcd.delete(&format!("{PREFIX}/config")).unwrap();
    }
    // Nothing of the rounds before is left but what belongs to this one.
    let ns = &cluster.topology.hosts[0].ns;
    let routes = ns.run("ip route show proto 241").unwrap();
    assert_eq!(routes.lines().count(), 1, "{routes}");
    assert!(routes.contains("dev eth0"), "{routes}");
}

#[test]
fn alloc_gives_a_subnet_and_no_routes() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let config = r#"{"Network":"10.10.0.0/16","Backend":{"Type":"alloc"}}"#;
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), config).unwrap();
    cluster.start_all().unwrap();
    assert_eq!(cluster.nodes[0].mtu().unwrap(), 1500);
    let subnet = cluster.nodes[0].subnet().unwrap().to_string().replace('/', "-");
    let value = cluster.etcd.get(&format!("{PREFIX}/subnets/{subnet}")).unwrap();
    assert_eq!(value.trim(), r#"{"PublicIP":"192.0.2.11","PublicIPv6":null}"#);
    assert_eq!(cluster.topology.hosts[0].ns.run("ip route show proto 241").unwrap(), "");
}

/// Two daemons of one host.
struct Pair {
    vxlan: Flanneld,
    host_gw: Flanneld,
}

impl Pair {
    fn start(ns: &Netns, etcd: &Etcd) -> Self {
        let start = |prefix: &str| {
            let mut node = Flanneld::new(ns, &etcd.endpoints()).unwrap().arg(format!("-etcd-prefix={prefix}"));
            node.start_ready(READY).unwrap();
            node
        };
        Self { vxlan: start("/vxlan/network"), host_gw: start("/hostgw/network") }
    }
}

#[test]
fn two_daemons_with_two_networks_on_each_host() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Link("vxlan"));
    let mut topology = Topology::flat(2).unwrap();
    // With a default route, as every host has one: without, the kernel asks for any address on the link it is told.
    topology.add_router().unwrap();
    let cluster = Cluster::new(topology, "{}").unwrap();
    let etcd = &cluster.etcd;
    etcd.put("/vxlan/network/config", r#"{"Network":"10.11.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    etcd.put("/hostgw/network/config", r#"{"Network":"10.12.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    let hosts = &cluster.topology.hosts;
    let pairs: Vec<Pair> = hosts.iter().map(|host| Pair::start(&host.ns, etcd)).collect();
    for (host, pair) in hosts.iter().zip(&pairs) {
        address(&host.ns, "dummy0", pair.vxlan.subnet().unwrap());
        address(&host.ns, "dummy1", pair.host_gw.subnet().unwrap());
    }
    let [vxlan, host_gw] = [|pair: &Pair| pair.vxlan.subnet().unwrap(), |pair: &Pair| pair.host_gw.subnet().unwrap()]
        .map(|f| [f(&pairs[0]), f(&pairs[1])]);
    for (from, to) in [(0, 1), (1, 0)] {
        let ns = &hosts[from].ns;
        assert!(ping(ns, "", vxlan[from], vxlan[to]), "{}", log(&pairs[from].vxlan));
        assert!(ping(ns, "", host_gw[from], host_gw[to]), "{}", log(&pairs[from].host_gw));
        assert!(!ping(ns, "flannel.1", host_gw[from], host_gw[to]), "host-gw's network is not behind the vxlan device");
        assert!(!ping(ns, "eth0", vxlan[from], vxlan[to]), "vxlan's network is not behind eth0");
    }
    // Neither takes the other's routes away, however often they look.
    let ns = &hosts[0].ns;
    ns.run(&format!("ip route del {}", vxlan[1])).unwrap();
    ns.run(&format!("ip route del {}", host_gw[1])).unwrap();
    let count = || ns.run("ip route show proto 241").unwrap().lines().count();
    wait_until("both routes", Duration::from_secs(5), || count() == 2).unwrap();
}
