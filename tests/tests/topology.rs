//! The harness itself: what every other suite stands on.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{net::Ipv4Addr, time::Duration};

use flannel_tests::{
    docker::Docker,
    etcd::{Etcd, Place},
    netns::{self, Netns},
    packets::Wire,
    require,
    skip::Feature,
    topology::{INTERNET, Topology},
    wait::wait_until,
};

#[test]
fn containers_of_static_hosts_reach_one_another() {
    require!(Feature::Root);
    let mut cluster = Topology::flat(2).unwrap();
    cluster.wire_statically(2).unwrap();
    let target = cluster.hosts[1].containers[1].address;
    assert_eq!(target, Ipv4Addr::new(172, 16, 2, 3));
    cluster.hosts[0].containers[0].ns.run(&format!("ping -c1 -W2 {target}")).unwrap();
}

#[test]
fn segments_meet_at_the_router_and_the_internet_knows_no_containers() {
    require!(Feature::Root);
    let mut cluster = Topology::build(&[1, 1], 1400).unwrap();
    cluster.add_internet().unwrap();
    let (near, far) = (&cluster.hosts[0], &cluster.hosts[1]);
    near.ns.run(&format!("ping -c1 -W2 {}", far.address)).unwrap();
    near.ns.run(&format!("ping -c1 -W2 {INTERNET}")).unwrap();
    assert_eq!(near.link_mtu("eth0").unwrap(), 1400);
    cluster.hosts[0].give_subnet("172.16.1.0/24".parse().unwrap(), 1400).unwrap();
    let container = cluster.hosts[0].add_container().unwrap();
    let error = container.ns.run(&format!("ping -c1 -W1 {INTERNET}")).unwrap_err();
    assert!(format!("{error:#}").contains("100% packet loss"), "{error:#}");
}

#[test]
fn a_dropped_namespace_takes_its_processes_with_it() {
    require!(Feature::Root);
    let ns = Netns::new("drop").unwrap();
    let name = ns.name().to_owned();
    let pid: u32 = ns.sh("sleep 1000 > /dev/null 2>&1 & echo $!").unwrap().trim().parse().unwrap();
    assert_eq!(netns::processes_in(&name), [pid]);
    drop(ns);
    assert!(!std::path::Path::new(netns::DIR).join(&name).exists());
    let dead = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until("the end of the process", Duration::from_secs(2), dead).unwrap();
}

#[test]
fn etcd_outlives_one_member_of_three() {
    require!(Feature::Tool("etcd"));
    let mut etcd = Etcd::start_at(&[Place::Loopback, Place::Loopback, Place::Loopback]).unwrap();
    etcd.put("/k", "-1").unwrap();
    etcd.kill(0).unwrap();
    wait_until("a leader", Duration::from_secs(10), || etcd.put("/k2", "2").is_ok()).unwrap();
    etcd.start(0).unwrap();
    assert_eq!((etcd.get("/k").unwrap(), etcd.keys("/k").unwrap().len()), ("-1".to_owned(), 2));
    let revision = etcd.compact().unwrap();
    assert_eq!(etcd.revision().unwrap(), revision);
}

#[test]
fn a_wire_sends_and_captures_frames() {
    require!(Feature::Root);
    let cluster = Topology::flat(2).unwrap();
    let (from, to) = (&cluster.hosts[0].ns, &cluster.hosts[1].ns);
    let (sender, receiver) = (Wire::open(from, "eth0").unwrap(), Wire::open(to, "eth0").unwrap());
    let frame = [&receiver.mac()[..], &sender.mac()[..], &[0x88, 0xb5], &[7; 60][..]].concat();
    sender.send(&frame).unwrap();
    let got = receiver.capture(Duration::from_secs(2), |frame| frame[12..14] == [0x88, 0xb5]).unwrap();
    assert_eq!(got, Some(frame));
}

#[test]
fn docker_runs_in_a_host() {
    require!(Feature::Root, Feature::Docker, Feature::Tool("iptables"));
    let cluster = Topology::flat(1).unwrap();
    let docker = Docker::start(&cluster.hosts[0].ns, &["--bip=172.16.9.1/24", "--mtu=1450"]).unwrap();
    let address = docker.run("c1", &[], &["sleep", "1000"]).unwrap();
    assert_eq!(address, Ipv4Addr::new(172, 16, 9, 2));
    assert!(docker.exec("c1", &["cat", "/sys/class/net/eth0/mtu"]).unwrap().starts_with("1450"));
    cluster.hosts[0].ns.run(&format!("ping -c1 -W2 {address}")).unwrap();
}
