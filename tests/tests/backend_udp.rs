//! udp between namespaces, with peers of our own and with a hand-written one that speaks as upstream's proxy does.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use backend_common::{Node, lease, subnet};
use flannel_agent::{lease::Lease, state::PeerWay};
use flannel_tests::{
    packets::Wire,
    require,
    skip::Feature,
    topology::{Host, Topology},
    wait::wait_until,
};

const UDP: &str = r#"{"Type":"udp"}"#;

const PORT: u16 = 8285;

fn topology(counts: &[u8]) -> Topology {
    let mut topology = Topology::build(counts, 1500).unwrap();
    for (host, n) in topology.hosts.iter_mut().zip(1..) {
        host.give_subnet(subnet(n).v4, 1472).unwrap();
        host.add_container().unwrap();
    }
    topology
}

/// A udp lease names no backend.
fn udp_lease(n: u8, host: &Host) -> Lease {
    lease(n, host.address, "", None)
}

fn start_all(topology: &Topology) -> Vec<Node> {
    let leases: Vec<_> = topology.hosts.iter().zip(1..).map(|(host, n)| udp_lease(n, host)).collect();
    let start = |(index, host)| {
        let mut node = Node::start(host, UDP, index as u8 + 1).unwrap();
        let peers: Vec<_> = leases.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, lease)| lease).collect();
        let pass = node.settle(&peers);
        assert!(pass.desired.peers.values().all(|peer| peer.way == PeerWay::Tunnel && peer.problem.is_none()));
        node
    };
    topology.hosts.iter().enumerate().map(start).collect()
}

#[test]
fn three_hosts_reach_one_another_across_a_router() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[2, 1]);
    let nodes = start_all(&topology);
    for from in &topology.hosts {
        for to in topology.hosts.iter().filter(|to| to.address != from.address) {
            // The largest packet of the tunnel and the smallest.
            let target = to.containers[0].address;
            from.containers[0].ns.run(&format!("ping -c1 -W2 -M do -s 1444 {target}")).unwrap();
            from.containers[0].ns.run(&format!("ping -c1 -W2 -s 0 {target}")).unwrap();
        }
    }
    let lost = || nodes[0].backend.carrier_lost().unwrap();
    assert_eq!((lost().no_peer, lost().expired), (0, 0));
    // Nobody has this subnet.
    topology.hosts[0].containers[0].ns.run("ping -c1 -W1 10.5.99.2").unwrap_err();
    assert_eq!(lost().no_peer, 1);
    assert_eq!(nodes[0].backend.mtu(), 1472);
    assert_eq!(nodes[0].backend.advert().backend_type, "");
    let ns = &topology.hosts[0].ns;
    assert!(ns.run("ip -4 -o addr show flannel0").unwrap().contains("inet 10.5.1.0/32"));
    assert!(ns.run("ip link show flannel0").unwrap().contains("mtu 1472"));
    assert_eq!(ns.run("ip route show 10.5.0.0/16").unwrap().trim(), "10.5.0.0/16 dev flannel0 proto 241");
    // A node that has gone takes its device with it, and the kernel the routes.
    drop(nodes);
    let gone = || ns.run("ip route show 10.5.0.0/16").unwrap().is_empty();
    wait_until("the end of the device", Duration::from_secs(5), gone).unwrap();
}

#[test]
fn a_bulk_transfer_arrives_whole() {
    const MEGABYTES: usize = 20;
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[2]);
    let _nodes = start_all(&topology);
    let [from, to] = [0, 1].map(|i| &topology.hosts[i].containers[0]);
    let listener = to.ns.enter(|| TcpListener::bind((to.address, 7000)).unwrap()).unwrap();
    let stream =
        from.ns.enter(|| TcpStream::connect_timeout(&(to.address, 7000).into(), Duration::from_secs(5)).unwrap());
    let mut stream = stream.unwrap();
    let writer = thread::spawn(move || {
        let block: Vec<u8> = (0..1_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        for _ in 0..MEGABYTES {
            stream.write_all(&block).unwrap();
        }
        block
    });
    let mut received = Vec::new();
    let start = std::time::Instant::now();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    println!("{} MB in {:?}", received.len() / 1_000_000, start.elapsed());
    let block = writer.join().unwrap();
    assert_eq!(received.len(), MEGABYTES * block.len());
    assert!(received.chunks(block.len()).all(|chunk| chunk == block));
}

/// Upstream's proxy in miniature: answers each echo request that arrives as a datagram, and tells its TTL.
fn answer_echo(socket: &UdpSocket) -> u8 {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let packet = &mut buffer[..length];
    assert_eq!((packet[0], packet[9], packet[20]), (0x45, 1, 8), "a bare IPv4 packet with an echo request");
    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), length, "and nothing else");
    let arrived = packet[8];
    packet.copy_within(12..16, 32);
    let (source, destination) =
        ([packet[12], packet[13], packet[14], packet[15]], [packet[16], packet[17], packet[18], packet[19]]);
    packet[12..16].copy_from_slice(&destination);
    packet[16..20].copy_from_slice(&source);
    packet[20] = 0;
    for (range, at) in [(0..20, 10), (20..length, 22)] {
        packet[at..at + 2].fill(0);
        let mut sum: u32 =
            packet[range].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        packet[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    socket.send_to(packet, from).unwrap();
    arrived
}

#[test]
fn an_upstream_peer_and_we_understand_one_another() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[2]);
    let [ours, theirs] = [0, 1].map(|i| &topology.hosts[i]);
    let mut node = Node::start(ours, UDP, 1).unwrap();
    // Upstream's udp uses every lease, whatever its backend.
    node.settle(&[&lease(2, theirs.address, "vxlan", None)]);
    let socket = theirs.ns.enter(|| UdpSocket::bind((theirs.address, PORT)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let peer = thread::spawn(move || answer_echo(&socket));
    let reply = ours.containers[0].ns.run("ping -c1 -W3 -t 64 10.5.2.9").unwrap();
    // One off for the host's forwarding, one for the carrier; and the same back.
    assert_eq!(peer.join().unwrap(), 62);
    assert!(reply.contains("ttl=60"), "{reply}");
}

#[test]
fn what_nobody_carries_is_answered_with_net_unreachable() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let mut node = Node::start(host, UDP, 1).unwrap();
    node.settle(&[]);
    let container = &host.containers[0];
    let wire = Wire::open(&container.ns, "eth0").unwrap();
    container
        .ns
        .enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.send_to(b"anybody?", SocketAddrV4::new(Ipv4Addr::new(10, 5, 77, 1), 9)).unwrap();
        })
        .unwrap();
    let unreachable =
        |frame: &[u8]| frame.len() > 36 && frame[12..15] == [8, 0, 0x45] && frame[23] == 1 && frame[34] == 3;
    let frame = wire.capture(Duration::from_secs(5), unreachable).unwrap().expect("no ICMP error came back");
    assert_eq!(frame[35], 0, "network unreachable");
    assert_eq!(frame[26..30], [10, 5, 1, 0], "from the tunnel's address");
    assert_eq!(frame[22], 8, "upstream's TTL");
}

#[test]
fn garbage_and_dead_nodes_stop_nothing() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[2]);
    let mut nodes = start_all(&topology);
    let [a, b] = [0, 1].map(|i| &topology.hosts[i]);
    let target = SocketAddrV4::new(a.address, PORT);
    b.ns.enter(|| {
        let socket = UdpSocket::bind((b.address, 0)).unwrap();
        let packets: [&[u8]; 7] = [b"", b"x", &[0x45; 19], &[0x4f; 20], &[0x60; 60], &[0xff; 1472], &[0; 9]];
        for packet in packets.iter().cycle().take(700) {
            socket.send_to(packet, target).unwrap();
        }
    })
    .unwrap();
    // A node that answers no ARP, beside one that is there.
    let dead = lease(8, Ipv4Addr::new(192, 0, 2, 250), "", None);
    nodes[0].settle(&[&udp_lease(2, b), &dead]);
    a.containers[0].ns.run("ping -c1 -W1 10.5.8.1").unwrap_err();
    a.containers[0].ns.run(&format!("ping -c3 -i0.1 -W2 {}", b.containers[0].address)).unwrap();
}

#[test]
fn the_device_comes_back() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[2]);
    let mut nodes = start_all(&topology);
    let [a, b] = [0, 1].map(|i| &topology.hosts[i]);
    let peer = udp_lease(2, b);
    nodes[0].while_watching(&[&peer], || {
        let there = || a.ns.run("ip route show 10.5.0.0/16").unwrap().contains("flannel");
        wait_until("the route", Duration::from_secs(5), there).unwrap();
        a.ns.run("ip link del flannel0").unwrap();
        wait_until("device and route", Duration::from_secs(5), there).unwrap();
        let up = || a.containers[0].ns.run(&format!("ping -c1 -W1 {}", b.containers[0].address)).is_ok();
        wait_until("traffic", Duration::from_secs(5), up).unwrap();
        a.ns.run("ip link set flannel0 down").unwrap();
        wait_until("traffic after the device was down", Duration::from_secs(5), up).unwrap();
        a.ns.run("ip route del 10.5.0.0/16").unwrap();
        wait_until("the route after it was deleted", Duration::from_secs(5), there).unwrap();
    });
}

#[test]
fn a_port_in_use_is_named() {
    require!(Feature::Root, Feature::Tun);
    let topology = topology(&[1]);
    let host = &topology.hosts[0];
    let _taken = host.ns.enter(|| UdpSocket::bind((host.address, PORT)).unwrap()).unwrap();
    let error = Node::start(host, UDP, 1).unwrap_err().to_string();
    assert!(error.contains("bind UDP port 192.0.2.11:8285") && error.contains("in use"), "{error}");
}
