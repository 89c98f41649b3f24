//! `flannelctl lease` against a real etcd and real flannelds: reservations stay, for a host to come too; leases of dead hosts go.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{mem, time::Duration};

use flannel_tests::{
    cluster::{Cluster, READY},
    flanneld::{HOST_GW, lease_json, lease_key},
    require,
    skip::Feature,
    topology::Topology,
    wait::wait_until,
};
use ipnet::Ipv4Net;
use observe_common::agent::{assert_has, ctl_in};

const SOON: Duration = Duration::from_secs(20);

fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let with = |node: flannel_tests::flanneld::Flanneld| flags.iter().fold(node, |node, flag| node.arg(*flag));
    cluster.nodes = mem::take(&mut cluster.nodes).into_iter().map(with).collect();
    cluster
}

fn ctl(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    ctl_in(&cluster.topology.hosts[0].ns, &cluster.nodes[0].admin_socket(), args)
}

/// Runs flannelctl on the first host, which must do as asked.
fn done(cluster: &Cluster, args: &[&str]) -> String {
    let (code, text) = ctl(cluster, args);
    assert_eq!(code, 0, "flannelctl {args:?}: {text}");
    text
}

/// The key's own lease in etcd: 0 is none, the key stays for ever.
fn ttl_id(cluster: &Cluster, subnet: Ipv4Net) -> String {
    let text = cluster.etcd.ctl(&["get", "-w", "fields", "--", &lease_key(subnet)]).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("\"Lease\" : "));
    line.unwrap_or_else(|| panic!("no lease of {subnet} in etcd: {text}")).to_owned()
}

#[test]
fn a_reserved_lease_has_no_end_and_stays_so() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let mut cluster = cluster(&[]);
    cluster.start_all().unwrap();
    let [mine, other] = [0, 1].map(|host| cluster.nodes[host].subnet().unwrap());
    assert_ne!(ttl_id(&cluster, mine), "0");
    for subnet in [mine, other] {
        assert_eq!(done(&cluster, &["lease", "reserve", &subnet.to_string()]), format!("{subnet} is reserved\n"));
        assert_eq!(ttl_id(&cluster, subnet), "0");
    }
    assert_eq!(done(&cluster, &["leases"]).matches("reserved").count(), 2);
    // The nodes notice, and would not write a time to live again.
    for node in &cluster.nodes {
        let is_reserved = || node.state().unwrap().lease.unwrap().expires_at.is_none();
        wait_until("the node to know of its reservation", SOON, is_reserved).unwrap();
    }
    assert_has(&done(&cluster, &["status"]), &["reserved, without end"]);
    // A restart renews the lease.
    for node in &mut cluster.nodes {
        node.stop().unwrap();
    }
    cluster.start_all().unwrap();
    assert_eq!([0, 1].map(|host| cluster.nodes[host].subnet().unwrap()), [mine, other]);
    assert_eq!([mine, other].map(|subnet| ttl_id(&cluster, subnet)), ["0", "0"]);
    // A crash, and a value that the node has to put right.
    cluster.nodes[1].kill().unwrap();
    cluster
        .etcd
        .put(&lease_key(other), &lease_json(cluster.topology.hosts[1].address).replace("host-gw", "vxlan"))
        .unwrap();
    cluster.nodes[1].start_ready(READY).unwrap();
    assert_eq!(cluster.nodes[1].subnet().unwrap(), other);
    assert_has(&cluster.etcd.get(&lease_key(other)).unwrap(), &["host-gw"]);
    assert_eq!(ttl_id(&cluster, other), "0");
}

#[test]
fn a_subnet_is_reserved_for_a_host_that_is_yet_to_come() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let mut cluster = cluster(&[]);
    cluster.nodes[0].start_ready(READY).unwrap();
    let mine = cluster.nodes[0].subnet().unwrap();
    let (here, there) = (cluster.topology.hosts[0].address.to_string(), cluster.topology.hosts[1].address.to_string());
    let wanted: Ipv4Net = "172.16.200.0/24".parse().unwrap();
    done(&cluster, &["lease", "reserve", "172.16.200.0/24", "--for", &there]);
    assert_eq!(ttl_id(&cluster, wanted), "0");
    assert_has(&done(&cluster, &["leases"]), &["172.16.200.0/24", &there, "reserved"]);
    // The host gets what is reserved for it, and says in it how it is reached.
    cluster.nodes[1].start_ready(READY).unwrap();
    assert_eq!(cluster.nodes[1].subnet().unwrap(), wanted);
    assert_has(&cluster.etcd.get(&lease_key(wanted)).unwrap(), &["host-gw", &there]);
    assert_eq!(ttl_id(&cluster, wanted), "0");
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();

    let refused = |args: &[&str], why: &str| {
        let (code, text) = ctl(&cluster, args);
        assert_eq!(code, 1, "{args:?}: {text}");
        assert_has(&text, &[why]);
    };
    let reserve = |subnet: &str, host: &str, why: &str| refused(&["lease", "reserve", subnet, "--for", host], why);
    reserve("10.9.0.0/24", "192.0.2.77", "none of the network's subnets: each is a /24 from 172.16.");
    reserve("172.16.9.0/25", "192.0.2.77", "none of the network's subnets");
    reserve("172.16.9.0/24", &there, &format!("{there} has 172.16.200.0/24 already"));
    reserve(&mine.to_string(), "192.0.2.77", &format!("is leased to {here}; release it first"));
    refused(&["lease", "reserve", "172.16.9.0/24"], "--for ADDRESS says which host");
    refused(&["lease", "release", "172.16.9.0/24"], "there is no lease of 172.16.9.0/24; see: flannelctl leases");
    assert_eq!(cluster.etcd.keys("/flannel/network/subnets/").unwrap().len(), 2);
}

#[test]
fn leases_of_dead_hosts_are_reclaimed_and_no_others() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let mut cluster = cluster(&[]);
    cluster.start_all().unwrap();
    let [mine, other] = [0, 1].map(|host| cluster.nodes[host].subnet().unwrap().to_string());
    assert_has(&done(&cluster, &["lease", "reclaim"]), &["every host that holds a lease answers"]);
    // A host that is off, one that is off for a while and has a reservation, and one that answers.
    let dead: Ipv4Net = "172.16.240.0/24".parse().unwrap();
    let ttl = cluster.etcd.ctl(&["lease", "grant", "86400"]).unwrap();
    let id = ttl.split_whitespace().nth(1).unwrap();
    let value = lease_json([192, 0, 2, 99].into());
    cluster.etcd.ctl(&["put", &format!("--lease={id}"), "--", &lease_key(dead), &value]).unwrap();
    done(&cluster, &["lease", "reserve", "172.16.241.0/24", "--for", "192.0.2.98"]);
    let routes = || cluster.topology.hosts[0].ns.run("ip route").unwrap();
    wait_until("a route to the dead host", SOON, || routes().contains("172.16.240.0/24")).unwrap();

    let text = done(&cluster, &["lease", "reclaim"]);
    assert_has(&text, &["would be released by lease reclaim --yes", "172.16.240.0/24"]);
    let spared = |text: &str| assert!(!text.contains("172.16.241.0") && !text.contains(&other), "{text}");
    spared(&text);
    assert_eq!(cluster.etcd.keys("/flannel/network/subnets/").unwrap().len(), 4, "asking changes nothing");
    let text = done(&cluster, &["lease", "reclaim", "--yes"]);
    assert_has(&text, &["released:", "172.16.240.0/24"]);
    spared(&text);
    wait_until("the route to go", SOON, || !routes().contains("172.16.240.0/24")).unwrap();
    assert!(routes().contains(&other), "{}", routes());

    // A living node takes its subnet again.
    done(&cluster, &["lease", "release", &other]);
    let holders = || cluster.etcd.keys("/flannel/network/subnets/").unwrap();
    let again = || holders().iter().any(|key| *key == lease_key(other.parse().unwrap()));
    wait_until("the node to take its lease again", SOON, again).unwrap();
    wait_until("the route to it", SOON, || routes().contains(&other)).unwrap();
    // The lease of a node that has ended stays away.
    cluster.nodes[1].stop().unwrap();
    done(&cluster, &["lease", "release", &other]);
    let routes = || cluster.topology.hosts[0].ns.run("ip route").unwrap();
    wait_until("the route to it to go", SOON, || !routes().contains(&other)).unwrap();
    assert_has(&done(&cluster, &["leases"]), &[&mine, "172.16.241.0/24"]);
}
