//! Who sees which source address: what leaves the network is masqueraded, but for what is exempt, and nothing at all once
//! the rules are switched off. With real packets, by iptables and by nftables.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "policy/mod.rs"]
#[expect(dead_code, reason = "only transfers and counters of it are used here")]
mod policy;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use flannel_tests::{
    cluster::Cluster,
    flanneld::{HOST_GW, lease_json, lease_key},
    netns::Netns,
    require,
    skip::Feature,
    topology::{Container, INTERNET, Topology},
};

use crate::policy::{PATIENCE, Transfer, carried, meter};

const NFTABLES: &str = r#"{"Network":"172.16.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#;
/// A server on the internet that is to see real addresses.
const PARTNER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// A machine beside the hosts that knows the container network by way of the first of them.
const OFFICE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 5);
const MEGABYTE: u64 = 1 << 20;

/// Two hosts with two containers each, the internet, and the office.
struct Site {
    cluster: Cluster,
    office: Container,
}

impl Site {
    fn start(config: &str) -> Self {
        let mut topology = Topology::flat(2).unwrap();
        topology.add_internet().unwrap();
        topology.internet.as_ref().unwrap().run(&format!("ip addr add {PARTNER}/24 dev eth0")).unwrap();
        let office = add_office(&topology);
        let mut cluster = Cluster::new(topology, config).unwrap();
        for (n, host) in (1..).zip(&cluster.topology.hosts) {
            let subnet = format!("172.16.{n}.0/24").parse().unwrap();
            cluster.etcd.put(&lease_key(subnet), &lease_json(host.address)).unwrap();
        }
        let exempt = |node: flannel_tests::flanneld::Flanneld| {
            let exempt = [format!("{PARTNER}/32"), "10.99.0.0/24".to_owned(), "172.16.1.3/32".to_owned()];
            exempt.iter().fold(node.arg("-ip-masq"), |node, net| node.arg(format!("-masq-exempt={net}")))
        };
        cluster.nodes = std::mem::take(&mut cluster.nodes).into_iter().map(exempt).collect();
        cluster.start_all().unwrap();
        cluster.add_containers(2).unwrap();
        cluster.wait_ping(0, cluster.container(1, 0).address, PATIENCE).unwrap();
        Self { cluster, office }
    }

    fn internet(&self) -> &Netns {
        self.cluster.topology.internet.as_ref().unwrap()
    }
}

fn add_office(topology: &Topology) -> Container {
    let ns = Netns::new("office").unwrap();
    let (segment, gateway) = (&topology.segments[0], &topology.hosts[0]);
    segment.plug(&ns, "eth0", 50).unwrap();
    ns.run(&format!("ip addr add {OFFICE}/24 dev eth0")).unwrap();
    ns.run(&format!("ip route add 172.16.0.0/16 via {} src {OFFICE}", gateway.address)).unwrap();
    gateway.ns.run("ip route add 10.99.0.0/24 dev eth0").unwrap();
    topology.hosts[1].ns.run(&format!("ip route add 10.99.0.0/24 via {}", gateway.address)).unwrap();
    // Otherwise both ends are told of the short way between them.
    for conf in ["all", "eth0"] {
        gateway.ns.sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0").unwrap();
    }
    Container { ns, address: OFFICE, port: String::new() }
}

/// Which source `server` sees on a datagram that `client` sends to `to`, from this address of its own.
fn source_seen(client: &Netns, from: Ipv4Addr, server: &Netns, to: Ipv4Addr) -> Ipv4Addr {
    let to = SocketAddr::from((to, 7001));
    let socket = server.bind(|| UdpSocket::bind(to)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    client.enter(|| UdpSocket::bind((from, 0)).unwrap().send_to(b"hello", to).unwrap()).unwrap();
    match socket.recv_from(&mut [0; 16]).unwrap().1 {
        SocketAddr::V4(source) => *source.ip(),
        SocketAddr::V6(source) => panic!("{source}"),
    }
}

fn exempt_sources_and_destinations(config: &str) {
    let site = Site::start(config);
    let (cluster, office) = (&site.cluster, &site.office);
    let host = cluster.topology.hosts[0].address;
    let (first, exempt) = (cluster.container(0, 0), cluster.container(0, 1));
    let remote = cluster.container(1, 0);

    let to_internet = |from: &Container, to| source_seen(&from.ns, from.address, site.internet(), to);
    assert_eq!(to_internet(first, INTERNET), host, "masqueraded");
    assert_eq!(to_internet(first, PARTNER), first.address, "exempt by its destination");
    assert_eq!(to_internet(exempt, INTERNET), exempt.address, "exempt by its source");

    let beside = cluster.topology.segments[0].address(50);
    let from_office = |from| source_seen(&office.ns, from, &remote.ns, remote.address);
    assert_eq!(from_office(beside), host, "from outside into another host's subnet: masqueraded");
    assert_eq!(from_office(OFFICE), OFFICE, "exempt by its source");
    assert_eq!(source_seen(&remote.ns, remote.address, &office.ns, OFFICE), remote.address, "and the way back");
}

#[test]
fn exempt_networks_see_and_show_real_addresses_by_iptables() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    exempt_sources_and_destinations(HOST_GW);
}

#[test]
fn exempt_networks_see_and_show_real_addresses_by_nftables() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("nft"));
    exempt_sources_and_destinations(NFTABLES);
}

#[test]
fn what_is_exempt_goes_through_a_host_by_the_fast_path() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let site = Site::start(HOST_GW);
    let (cluster, office, remote) = (&site.cluster, &site.office, site.cluster.container(1, 0));
    let meter = meter(cluster, 0);
    for (client, server) in [(office, remote), (remote, office)] {
        let transfer = Transfer::start(client, server, server.address, 9000, 9000);
        transfer.wait_for(MEGABYTE);
        let through = carried(&meter, || {
            transfer.wait_for(2 * MEGABYTE);
        });
        println!("to {}: {through:?}", server.address);
        assert!(through.bpf > 100 && through.bpf_percent() >= 80, "to {}: {through:?}", server.address);
        transfer.finish();
    }
}

/// What a run with rules has left goes at the start of one that is asked for none.
fn goes_when_switched_off(config: &str, listed: &str) {
    let mut cluster = Cluster::new(Topology::flat(1).unwrap(), config).unwrap();
    let mut node = cluster.nodes.pop().unwrap().arg("-ip-masq");
    let host = &cluster.topology.hosts[0].ns;
    let rules = || host.sh(listed).unwrap().to_lowercase();
    node.start_ready(PATIENCE).unwrap();
    assert!(rules().contains("flannel"), "{}", rules());
    node.stop().unwrap();
    assert!(rules().contains("flannel"), "rules stay when the agent ends");
    let mut node = node.arg("-ip-masq=false").arg("-iptables-forward-rules=false");
    node.start_ready(PATIENCE).unwrap();
    assert!(!rules().contains("flannel"), "{}\n{}", rules(), node.log());
    assert_eq!(node.state().unwrap().warnings, []);
    // Nobody puts them back.
    std::thread::sleep(Duration::from_millis(200));
    assert!(!rules().contains("flannel"), "{}", rules());
}

#[test]
fn iptables_rules_go_when_switched_off() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("iptables"));
    goes_when_switched_off(HOST_GW, "iptables -t nat -S; iptables -S");
}

#[test]
fn nftables_rules_go_when_switched_off() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("nft"));
    goes_when_switched_off(NFTABLES, "nft list ruleset");
}
