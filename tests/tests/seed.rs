//! The deployment that this project starts from, played through: three etcd members, the sysconfig lines, flanneld and
//! mk-docker-opts.sh as the unit starts them, a real dockerd on each of two hosts, and an internet outside.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "seed/mod.rs"]
mod seed;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use flannel_tests::{
    require,
    skip::Feature,
    topology::{INTERNET, Topology},
};

use crate::seed::{Store, UnitHost, in_network_of};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn seed_deployment_with_docker() {
    require!(Feature::Root, Feature::Bpf, Feature::Docker, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let mut topology = Topology::flat(2).unwrap();
    topology.add_internet().unwrap();
    let store = Store::start(&topology).unwrap();
    store.etcd.put("/flannel/network/config", r#"{"Network":"172.16.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();

    let hosts: Vec<UnitHost> =
        topology.hosts.iter().map(|host| UnitHost::boot(&host.ns, &store.etcd.endpoints()).unwrap()).collect();
    for (host, unit) in topology.hosts.iter().zip(&hosts) {
        let expected = format!("{}/24", unit.gateway());
        let docker0 = host.ns.run("ip -o -4 addr show dev docker0").unwrap();
        assert!(docker0.contains(&format!("inet {expected} ")), "docker0 has the leased address {expected}: {docker0}");
        assert_eq!(host.link_mtu("docker0").unwrap(), 1500);
        assert!(unit.docker_options().contains("--ip-masq=false"), "{}", unit.docker_options());
    }
    let a = hosts[0].docker.run("ca", &[], &["sleep", "1000"]).unwrap();
    let b = hosts[1].docker.run("cb", &[], &["sleep", "1000"]).unwrap();
    let (net_a, net_b) = (hosts[0].pid_of("ca").unwrap(), hosts[1].pid_of("cb").unwrap());

    hosts[0].docker.exec("ca", &["ping", "-c", "2", "-W", "5", &b.to_string()]).unwrap();
    hosts[1].docker.exec("cb", &["ping", "-c", "2", "-W", "5", &a.to_string()]).unwrap();
    assert_eq!(tcp_source_seen(net_b, b, net_a), IpAddr::V4(a), "containers see each other's real addresses");
    assert_eq!(tcp_source_seen(net_a, a, net_b), IpAddr::V4(b), "in both directions");
    assert_eq!(udp_source_seen(net_b, b, net_a), IpAddr::V4(a), "by UDP too");

    let internet = topology.internet.as_ref().unwrap();
    let listener = internet.enter(|| TcpListener::bind((INTERNET, 80)).unwrap()).unwrap();
    let source = source_of(&listener, net_a, SocketAddr::from((INTERNET, 80)));
    assert_eq!(source, IpAddr::V4(topology.hosts[0].address), "the internet sees the host, not the container");
}

/// Which source a TCP server in one container sees when another container connects to it.
fn tcp_source_seen(server: u32, address: Ipv4Addr, client: u32) -> IpAddr {
    let listener = in_network_of(server, move || TcpListener::bind((address, 7000)).unwrap());
    source_of(&listener, client, SocketAddr::from((address, 7000)))
}

/// Connects from a container, exchanges a megabyte, and says whom the server saw.
fn source_of(listener: &TcpListener, client: u32, to: SocketAddr) -> IpAddr {
    const SIZE: usize = 1 << 20;
    let sender = thread::spawn(move || {
        in_network_of(client, move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.write_all(&vec![7; SIZE]).unwrap();
        });
    });
    let (mut stream, from) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert_eq!(received.len(), SIZE);
    from.ip()
}

/// Which source a UDP server in one container sees when another container sends to it.
fn udp_source_seen(server: u32, address: Ipv4Addr, client: u32) -> IpAddr {
    let socket = in_network_of(server, move || UdpSocket::bind((address, 7001)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    in_network_of(client, move || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().send_to(b"hello", (address, 7001)).unwrap();
    });
    let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
    from.ip()
}
