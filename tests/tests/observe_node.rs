//! `flannelctl` and `/metrics` of real flannelds: what they show is what happened, and planted faults are named.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{
    fs, mem,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use flannel_tests::{
    cluster::{Cluster, READY},
    flanneld::{HOST_GW, binary, lease_json, lease_key},
    require,
    scratch::Scratch,
    skip::Feature,
    topology::Topology,
    traffic::detach_everything,
    wait::{wait_for, wait_until},
};
use observe_common::{agent::assert_has, agent::ctl_in, http};

const SOON: Duration = Duration::from_secs(20);
const HEALTH: u16 = 8285;

/// Two hosts with a container each, flanneld running with these flags.
fn running(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let with = |mut node: flannel_tests::flanneld::Flanneld| {
        node = node.arg(format!("-healthz-port={HEALTH}"));
        flags.iter().fold(node, |node, flag| node.arg(*flag))
    };
    cluster.nodes = mem::take(&mut cluster.nodes).into_iter().map(with).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster
}

fn ctl(cluster: &Cluster, host: usize, args: &[&str]) -> (i32, String) {
    ctl_in(&cluster.topology.hosts[host].ns, &cluster.nodes[host].admin_socket(), args)
}

/// Waits until flannelctl on the first host says something.
fn wait_says(cluster: &Cluster, args: &[&str], parts: &[&str]) -> String {
    let look = || Some(ctl(cluster, 0, args).1).filter(|text| parts.iter().all(|part| text.contains(part)));
    let said = wait_for(&format!("{parts:?} from {args:?}"), SOON, look);
    said.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", ctl(cluster, 0, args).1, cluster.nodes[0].log()))
}

fn metrics(cluster: &Cluster, host: usize) -> String {
    let get = || http(SocketAddr::from(([127, 0, 0, 1], HEALTH)), "GET /metrics");
    let (code, text) = cluster.topology.hosts[host].ns.enter(get).unwrap();
    assert_eq!(code, 200, "{text}");
    text
}

/// The sum of a counter over all series that have these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Sends `count` packets of `size` bytes from the first host's container to the second's, and sees each of them arrive.
/// Gives both ends.
fn send(cluster: &Cluster, count: usize, size: usize) -> (SocketAddrV4, SocketAddrV4) {
    let (from, to) = (cluster.container(0, 0), cluster.container(1, 0));
    let receiver = to.ns.bind(|| UdpSocket::bind((to.address, 9000))).unwrap();
    let sender = from.ns.enter(|| UdpSocket::bind((from.address, 0)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    sender.connect((to.address, 9000)).unwrap();
    let (message, mut buffer) = (vec![7; size], vec![0; size + 1]);
    for _ in 0..count {
        sender.send(&message).unwrap();
        assert_eq!(receiver.recv(&mut buffer).unwrap(), size);
    }
    let SocketAddr::V4(port) = sender.local_addr().unwrap() else { panic!("not IPv4") };
    (port, SocketAddrV4::new(to.address, 9000))
}

#[test]
fn metrics_are_what_was_sent() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let cluster = running(&[]);
    let peers = [cluster.nodes[1].subnet().unwrap(), cluster.nodes[0].subnet().unwrap()];
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    // Ports are noticed, and hooked, a moment after they appear.
    for host in 0..2 {
        wait_until("hooks at the port", SOON, || ctl(&cluster, host, &["status"]).1.contains("to_port      tcx"))
            .unwrap();
    }
    let before = [metrics(&cluster, 0), metrics(&cluster, 1)];
    send(&cluster, 3000, 400);
    let after = [metrics(&cluster, 0), metrics(&cluster, 1)];
    for (host, direction) in [(0, "direction=\"to\""), (1, "direction=\"from\"")] {
        let peer = format!("peer=\"{}\"", peers[host]);
        let grown = |name: &str, path: &str| {
            let labels = [peer.as_str(), direction, path];
            sum(&after[host], name, &labels) - sum(&before[host], name, &labels)
        };
        assert_eq!(grown("flannel_peer_packets_total", ""), 3000, "host {host}\n{}", after[host]);
        assert_eq!(grown("flannel_peer_bytes_total", ""), 3000 * 428, "host {host}");
        let fast = grown("flannel_peer_packets_total", "path=\"fast\"");
        let status = ctl(&cluster, host, &["status"]).1;
        assert!(fast > 2900, "{fast} of 3000 packets went fast on host {host}\n{status}");
    }
    let text = &after[0];
    assert_has(text, &["flannel_ready 1.0", "flannel_store_connected 1.0", "flannel_peers{way=\"direct\"} 1.0"]);
    assert!(text.contains("flannel_lease_remaining_seconds 8"), "a lease of 24 h has 86,4xx s: {text}");
    let golden = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/metrics.txt")).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.iter().all(|name| golden.lines().any(|line| line == *name)), "{names:?}");
}

#[test]
fn a_fast_flow_is_explained_listed_and_counted() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let cluster = running(&[]);
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    let (from, to) = send(&cluster, 200, 400);
    let (src, dst) = (from.ip().to_string(), to.ip().to_string());
    let (code, text) = ctl(&cluster, 0, &["explain", &src, &dst, "udp", &from.port().to_string(), "9000"]);
    assert_eq!(code, 0, "{text}");
    let there = cluster.topology.hosts[1].address.to_string();
    assert_has(
        &text,
        &[
            "is in this node's subnet",
            &format!("leased to {there}"),
            &format!("via {there} by eth0"),
            "from_port by tcx, then to_uplink by tcx",
            "is fast: 19",
            "verdict  delivered by the fast path",
        ],
    );
    let (code, text) = ctl(&cluster, 1, &["explain", &src, &dst, "udp", &from.port().to_string(), "9000"]);
    assert_eq!(code, 0, "{text}");
    assert_has(
        &text,
        &["directly by docker0", "from_uplink by tcx, then to_port by tcx", "delivered by the fast path"],
    );
    assert_has(&ctl(&cluster, 0, &["flows", &dst]).1, &[&format!("{src}:{}", from.port()), "out", "fast"]);
    assert_has(&ctl(&cluster, 0, &["peers"]).1, &[&cluster.nodes[1].subnet().unwrap().to_string(), "direct", "9"]);
}

#[test]
fn every_verb_shows_a_living_node() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let cluster = running(&[]);
    let subnets = [cluster.nodes[0].subnet().unwrap().to_string(), cluster.nodes[1].subnet().unwrap().to_string()];
    wait_says(
        &cluster,
        &["status"],
        &[&subnets[0], "ready", "1 direct", "connected, heard", "23 h 59 min left", "from_port", "nothing is wrong"],
    );
    let (code, text) = ctl(&cluster, 0, &["leases"]);
    assert_eq!(code, 0, "{text}");
    assert_has(&text, &[&subnets[0], &subnets[1], "this node", "23 h 59 min"]);
    let events = ctl(&cluster, 0, &["events"]).1;
    assert!(events.contains(&subnets[0]) && events.lines().count() >= 3, "{events}");
    assert_has(&ctl(&cluster, 0, &["config", "get"]).1, &["host-gw"]);
    assert_eq!(ctl(&cluster, 0, &["config", "check"]), (0, "valid\n".to_owned()));
    let (code, text) = ctl(&cluster, 0, &["doctor", "--peer", &cluster.container(1, 0).address.to_string()]);
    assert_eq!(code, 0, "{text}");
    assert_has(&text, &["peer-reached"]);
    ctl(&cluster, 0, &["lease", "reserve", &subnets[1]]);
    assert_has(&ctl(&cluster, 0, &["leases"]).1, &["reserved"]);
}

#[test]
fn cleanup_takes_the_fast_path_away_and_leaves_the_routes() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let mut cluster = running(&[]);
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    let (code, text) = ctl(&cluster, 0, &["cleanup"]);
    assert_eq!(code, 1, "{text}");
    assert_has(&text, &["flanneld is running"]);
    cluster.nodes[0].stop().unwrap();
    let (code, text) = ctl(&cluster, 0, &["cleanup"]);
    assert_eq!(code, 0, "{text}");
    assert_has(&text, &["removed", "links", "routes and rules stay"]);
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    assert!(detach_everything(&cluster.topology.hosts[0].ns).is_err(), "pins were left");
}

#[test]
fn fault_wrong_mtu_on_a_peer() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let cluster = running(&[]);
    let host = &cluster.topology.hosts[1];
    host.ns.run("ip link set eth0 mtu 1400").unwrap();
    let text = ctl(&cluster, 0, &["doctor", "--peer", &host.address.to_string()]).1;
    assert_has(&text, &["mtu-mismatch", "gets packets of 1400 bytes, but not of 1500"]);
}

#[test]
fn faults_of_rules_and_bridge() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let cluster = running(&["-iptables-forward-rules=false"]);
    let host = &cluster.topology.hosts[0].ns;
    let (here, there) = (cluster.container(0, 0).address.to_string(), cluster.container(1, 0).address.to_string());
    // Docker's policy, and flanneld was told not to answer it.
    host.run("iptables -P FORWARD DROP").unwrap();
    wait_says(&cluster, &["doctor"], &["forward-drop", "-iptables-forward-rules=true"]);
    assert_has(&ctl(&cluster, 0, &["explain", &here, &there]).1, &["the policy of the chain", "lost at \"rules\""]);
    host.run("iptables -P FORWARD ACCEPT").unwrap();

    host.run(&format!("iptables -I FORWARD -d {there} -p tcp --dport 5432 -j DROP")).unwrap();
    let text = ctl(&cluster, 0, &["explain", &here, &there, "tcp", "40000", "5432"]).1;
    assert_has(
        &text,
        &["filter FORWARD drops it: -A FORWARD -d", "--dport 5432 -j DROP", "iptables -t filter -D FORWARD -d"],
    );

    host.run("ip addr flush dev docker0").unwrap();
    host.run("ip addr add 172.17.0.1/16 dev docker0").unwrap();
    wait_says(&cluster, &["doctor"], &["docker0-address", "172.17.0.1/16", "systemctl restart docker"]);
}

#[test]
fn faults_of_leases() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let cluster = running(&[]);
    let other = cluster.topology.hosts[1].address;
    cluster.etcd.put(&lease_key("172.16.250.0/24".parse().unwrap()), &lease_json([192, 0, 2, 99].into())).unwrap();
    wait_says(
        &cluster,
        &["doctor"],
        &[
            "dead-next-hop",
            "192.0.2.99, the next hop to 172.16.250.0/24, does not answer ARP",
            "flannelctl lease release 172.16.250.0/24",
        ],
    );
    assert_eq!(ctl(&cluster, 0, &["lease", "release", "172.16.250.0/24"]).0, 0);
    let routes = || cluster.topology.hosts[0].ns.run("ip route").unwrap();
    wait_until("the route to go", SOON, || !routes().contains("172.16.250.0/24")).unwrap();

    cluster.etcd.put(&lease_key("172.16.251.0/24".parse().unwrap()), &lease_json(other)).unwrap();
    wait_says(
        &cluster,
        &["doctor"],
        &["duplicate-public-ip", &format!("{other} is the PublicIP of"), "172.16.251.0/24"],
    );
}

#[test]
fn a_deleted_route_comes_back_and_without_flanneld_it_is_named() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let mut cluster = running(&[]);
    let host = cluster.topology.hosts[0].ns.clone();
    let (subnet, there) = (cluster.nodes[1].subnet().unwrap().to_string(), cluster.container(1, 0).address.to_string());
    let here = cluster.container(0, 0).address.to_string();
    wait_says(&cluster, &["status"], &["1 direct"]);
    host.run(&format!("ip route del {subnet}")).unwrap();
    wait_until("the route to come back", SOON, || host.run("ip route").unwrap().contains(&subnet)).unwrap();
    wait_says(&cluster, &["events"], &[&subnet]);

    cluster.nodes[0].kill().unwrap();
    host.run(&format!("ip route del {subnet}")).unwrap();
    let file = cluster.nodes[0].subnet_file();
    let file = file.to_str().unwrap();
    let (code, text) = ctl(&cluster, 0, &["explain", &here, &there, "--subnet-file", file]);
    assert_eq!(code, 1, "{text}");
    assert_has(&text, &["the kernel has no route to", "systemctl restart flanneld", "lost at \"route\""]);
    let (code, text) = ctl(&cluster, 0, &["doctor", "--subnet-file", file]);
    assert_eq!(code, 1, "{text}");
    assert_has(&text, &["no-flanneld", "route-missing", "systemctl start flanneld"]);
}

#[test]
fn fault_wrong_etcd_password() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("unshare"));
    let mut cluster = Cluster::new(Topology::flat(1).unwrap(), HOST_GW).unwrap();
    for line in ["user add root:right", "user grant-role root root", "auth enable"] {
        cluster.etcd.ctl(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let with = |node: flannel_tests::flanneld::Flanneld| {
        node.arg("-etcd-username=root").env("FLANNELD_ETCD_PASSWORD", "guess-me")
    };
    cluster.nodes = mem::take(&mut cluster.nodes).into_iter().map(with).collect();
    cluster.nodes[0].start().unwrap();
    // flannel gives up at once, and so do we: systemd tries again.
    wait_until("flanneld to give up", READY, || !cluster.nodes[0].is_running()).unwrap();
    let env_file = Scratch::new("sysconfig").unwrap();
    let (path, endpoints) = (env_file.join("flanneld"), cluster.etcd.endpoints());
    let text = format!(
        "FLANNEL_ETCD_ENDPOINTS=\"{endpoints}\"\nFLANNEL_ETCD_PREFIX=\"/flannel/network\"\nFLANNELD_ETCD_USERNAME=root\nFLANNELD_ETCD_PASSWORD=guess-me\n"
    );
    fs::write(&path, text).unwrap();
    let (code, text) = ctl(&cluster, 0, &["doctor", "--env-file", path.to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    assert_has(
        &text,
        &[
            "etcd-password: etcd (",
            "authentication failed",
            "remedy: set the right FLANNELD_ETCD_USERNAME and FLANNELD_ETCD_PASSWORD",
        ],
    );
    assert!(!text.contains("guess-me"), "{text}");
    let log = cluster.nodes[0].log();
    assert!(!log.contains("guess-me"), "the password is in the log:\n{log}");
    assert!(log.lines().count() < 20, "a fault that repeats fills the log:\n{log}");

    // The same host without a BPF file system.
    let mut command = cluster.topology.hosts[0].ns.command("unshare");
    let (program, socket) = (binary("flannelctl").unwrap(), cluster.nodes[0].admin_socket());
    let script = format!("umount -a -t bpf && exec {} --socket {} doctor", program.display(), socket.display());
    let output = command.args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_has(&String::from_utf8(output.stdout).unwrap(), &["no-bpffs", "mount -t bpf bpf /sys/fs/bpf"]);
}
