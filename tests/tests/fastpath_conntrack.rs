//! Connection tracking beside the fast path over a minute: entries begin, live and end as without it.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use flannel_tests::{
    cluster::Cluster,
    flanneld::HOST_GW,
    require,
    skip::Feature,
    topology::Topology,
    traffic::{Carried, Meter},
    wait::wait_until,
};

/// How long the transfers go on: twice as long as conntrack keeps a UDP flow without an answer.
const LENGTH: Duration = Duration::from_mins(1);
/// Each transfer sends one packet in this time: the machine is left to others.
const PACE: Duration = Duration::from_millis(20);
/// How often conntrack is asked.
const GLANCE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
/// One slow packet in `-revalidate` (5 s) renews an entry; the rest is for a busy machine.
const RENEWED: u64 = 12;

/// A segment is acknowledged within this time, and its entry has its whole life again: until then the kernel gives it 300 s.
const ACKNOWLEDGED: Duration = Duration::from_secs(1);

const TCP_PORT: u16 = 9000;
/// A UDP flow that is answered.
const ASKED_PORT: u16 = 9001;
/// A UDP flow that is not.
const TOLD_PORT: u16 = 9002;

/// An entry of conntrack.
#[derive(Debug)]
struct Entry {
    /// What conntrack calls it: `ESTABLISHED`, `[UNREPLIED]`, …
    state: String,
    /// Seconds that it has left.
    left: u64,
}

impl Entry {
    /// Whether it was renewed lately, to its `full` life in seconds.
    fn lives(&self, full: u64) -> bool {
        // A UDP flow counts as a stream two seconds after its first answer.
        let is_young = self.state == "replied" && self.left <= 30;
        is_young || self.left + RENEWED >= full
    }
}

#[test]
fn entries_live_and_end_as_without_us() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"), Feature::Tool("conntrack"));
    let (with, without) = thread::scope(|scope| {
        let with = scope.spawn(|| minute("-fastpath=verified"));
        let without = scope.spawn(|| minute("-fastpath=off"));
        (with.join().unwrap(), without.join().unwrap())
    });
    assert_eq!(with.states, without.states);
    println!("{} % of the packets were fast, and conntrack said {:?}", with.fast_percent, with.states);
    assert!(with.fast_percent > 90, "{} %", with.fast_percent);
    assert_eq!(without.fast_percent, 0);
}

/// What a minute of transfers showed.
struct Minute {
    /// The states of each protocol's entry on each host, before, during and after; one that repeats is left out.
    states: Vec<Vec<String>>,
    /// Share of packets that BPF carried.
    fast_percent: u64,
}

fn minute(flag: &str) -> Minute {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    cluster.nodes = cluster.nodes.into_iter().map(|node| node.arg(flag)).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, PATIENCE).unwrap();
    for host in &cluster.topology.hosts {
        host.ns.run("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP").unwrap();
    }
    let meter = (flag == "-fastpath=verified")
        .then(|| Meter::new(&cluster.topology.hosts[0].ns, &cluster.nodes[0].state().unwrap()).unwrap());
    let before = meter.as_ref().map(|meter| meter.read().unwrap());
    let mut states = vec![Vec::new(); 6];
    glance(&cluster, &mut states, false);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let transfers = scope.spawn(|| transfer(&cluster, &done));
        // Also when a look fails: the transfers end, or the test would wait for them for ever.
        let ending = End(&done);
        wait_until("every transfer to have begun", PATIENCE, || is_tracked(&cluster)).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < LENGTH {
            glance(&cluster, &mut states, true);
            thread::sleep(GLANCE);
        }
        drop(ending);
        transfers.join().unwrap();
    });
    for host in 0..2 {
        wait_until("conntrack to see the end", PATIENCE, || {
            entry(&cluster, host, "tcp", TCP_PORT).is_some_and(|entry| entry.state == "TIME_WAIT")
        })
        .unwrap();
        let rules = cluster.topology.hosts[host].ns.run("iptables -nvxL FORWARD").unwrap();
        let invalid = rules.lines().find(|line| line.contains("INVALID")).unwrap();
        assert!(invalid.trim_start().starts_with("0 "), "{flag}: packets were invalid: {invalid}");
    }
    glance(&cluster, &mut states, false);
    let carried = meter.map(|meter| meter.read().unwrap().since(before.unwrap_or_default()));
    Minute { states, fast_percent: carried.map_or(0, Carried::bpf_percent) }
}

/// Ends the transfers when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at the entries on both hosts. While traffic flows, none may have come close to its end.
fn glance(cluster: &Cluster, states: &mut [Vec<String>], flowing: bool) {
    let flows = [("tcp", TCP_PORT, 432_000), ("udp", ASKED_PORT, 120), ("udp", TOLD_PORT, 30)];
    for host in 0..2 {
        for (index, (protocol, port, full)) in flows.into_iter().enumerate() {
            let look = || entry(cluster, host, protocol, port);
            if flowing {
                let lives = || look().is_some_and(|entry| entry.lives(full));
                wait_until("an entry with its life before it", ACKNOWLEDGED, lives)
                    .unwrap_or_else(|_late| panic!("host {host}: {protocol} {port}: {:?}", look()));
            }
            let entry = look();
            let state = entry.map_or_else(|| "none".to_owned(), |entry| entry.state);
            let seen = &mut states[host * 3 + index];
            if seen.last() != Some(&state) {
                seen.push(state);
            }
        }
    }
}

fn is_tracked(cluster: &Cluster) -> bool {
    let established = |host| entry(cluster, host, "tcp", TCP_PORT).is_some_and(|entry| entry.state == "ESTABLISHED");
    let replied = |host| entry(cluster, host, "udp", ASKED_PORT).is_some_and(|entry| entry.state != "[UNREPLIED]");
    let told = |host| entry(cluster, host, "udp", TOLD_PORT).is_some();
    (0..2).all(|host| established(host) && replied(host) && told(host))
}

fn entry(cluster: &Cluster, host: usize, protocol: &str, port: u16) -> Option<Entry> {
    let list =
        cluster.topology.hosts[host].ns.run(&format!("conntrack -L -p {protocol} --orig-port-dst {port}")).unwrap();
    let words: Vec<&str> = list.lines().next()?.split_whitespace().collect();
    let state = match protocol {
        "tcp" => words[3],
        _ if words.contains(&"[UNREPLIED]") => "[UNREPLIED]",
        _ => "replied",
    };
    Some(Entry { state: state.to_owned(), left: words[2].parse().unwrap() })
}

/// One TCP connection, one UDP flow that is answered and one that is not, until `done`.
fn transfer(cluster: &Cluster, done: &AtomicBool) {
    let (client, server) = (cluster.container(0, 0), cluster.container(1, 0));
    let (listener, answering, listening) = server
        .ns
        .enter(|| {
            let udp = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            (TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP_PORT)).unwrap(), udp(ASKED_PORT), udp(TOLD_PORT))
        })
        .unwrap();
    let (mut stream, asking, telling) = client
        .ns
        .enter(|| {
            let udp = |port| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(SocketAddr::from((server.address, port))).unwrap();
                socket
            };
            (TcpStream::connect((server.address, TCP_PORT)).unwrap(), udp(ASKED_PORT), udp(TOLD_PORT))
        })
        .unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    for socket in [&answering, &listening, &asking] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 500];
    while !done.load(Ordering::Relaxed) {
        stream.write_all(&[1; 500]).unwrap();
        accepted.read_exact(&mut buffer).unwrap();
        asking.send(&[2; 100]).unwrap();
        let (_, asker) = answering.recv_from(&mut buffer).unwrap();
        answering.send_to(&[3; 100], asker).unwrap();
        asking.recv(&mut buffer).unwrap();
        telling.send(&[4; 100]).unwrap();
        listening.recv(&mut buffer).unwrap();
        thread::sleep(PACE);
    }
    drop(stream);
    assert_eq!(accepted.read(&mut buffer).unwrap(), 0);
}
