//! Firewalls, NAT and path MTU with the fast path in its default mode: the same results as without it.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "policy/mod.rs"]
mod policy;

use std::time::Duration;

use flannel_tests::{cluster::Cluster, require, skip::Feature, wait::wait_until};

use crate::policy::{PATIENCE, REVALIDATE, Transfer, carried, cluster, meter};

const MEGABYTE: u64 = 1 << 20;

/// A direct transfer between the first containers of both hosts, known to be fast by now.
fn fast_transfer(cluster: &Cluster) -> Transfer {
    let (client, server) = (cluster.container(0, 0), cluster.container(1, 0));
    let transfer = Transfer::start(client, server, server.address, 9000, 9000);
    transfer.wait_for(MEGABYTE);
    for host in 0..2 {
        let share = carried(&meter(cluster, host), || {
            transfer.wait_for(2 * MEGABYTE);
        })
        .bpf_percent();
        assert!(share >= 80, "host {host} carries {share} % of an established transfer by BPF");
    }
    transfer
}

/// A drop rule acts on an established, fast connection within the revalidation time and a second; without it, the same
/// connection goes on.
fn drops_and_goes_on(cluster: &Cluster, host: usize, add: &str, remove: &str) {
    let ns = &cluster.topology.hosts[host].ns;
    let transfer = fast_transfer(cluster);
    ns.run(add).unwrap();
    let took = transfer.wait_stalled(Duration::from_millis(700));
    println!("{add:?} stopped an established fast flow after {took:?}");
    assert!(took < REVALIDATE + Duration::from_secs(1), "{add:?} took {took:?}");
    ns.run(remove).unwrap();
    transfer.wait_for(MEGABYTE);
    transfer.finish();
}

#[test]
fn docker_user_drop_stops_an_established_fast_flow() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let cluster = cluster(&[]);
    for host in 0..2 {
        let ns = &cluster.topology.hosts[host].ns;
        ns.run("iptables -N DOCKER-USER").unwrap();
        ns.run("iptables -I FORWARD -j DOCKER-USER").unwrap();
        drops_and_goes_on(
            &cluster,
            host,
            "iptables -I DOCKER-USER -p tcp -j DROP",
            "iptables -D DOCKER-USER -p tcp -j DROP",
        );
    }
}

#[test]
fn nft_and_raw_table_drops_stop_an_established_fast_flow() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("nft"), Feature::Tool("iptables"));
    let cluster = cluster(&[]);
    let ns = &cluster.topology.hosts[1].ns;
    ns.run("nft add table ip guard").unwrap();
    ns.sh("nft 'add chain ip guard forward { type filter hook forward priority 0; }'").unwrap();
    drops_and_goes_on(
        &cluster,
        1,
        "nft add rule ip guard forward tcp dport 9000 drop",
        "nft flush chain ip guard forward",
    );
    // As Docker 28 closes a container to whoever does not come by its own bridge.
    let address = cluster.container(1, 0).address;
    let rule = format!("PREROUTING -d {address} ! -i docker0 -j DROP");
    drops_and_goes_on(&cluster, 1, &format!("iptables -t raw -I {rule}"), &format!("iptables -t raw -D {rule}"));
}

#[test]
fn translated_flows_stay_right_beside_fast_ones() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let cluster = cluster(&[]);
    let (client, server) = (cluster.container(0, 0), cluster.container(1, 0));
    let (a, b) = (&cluster.topology.hosts[0], &cluster.topology.hosts[1]);
    let to = server.address;
    // A published port of the server's host, reached without masquerading (the case of calico#7420).
    b.ns.run(&format!("iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination {to}:81")).unwrap();
    // A service address, translated on the client's host.
    a.ns.run(&format!("iptables -t nat -A PREROUTING -p tcp -d 10.96.0.1 --dport 80 -j DNAT --to-destination {to}:82"))
        .unwrap();
    // The client's address hidden on its own host, between the two container networks.
    a.ns.run(&format!("iptables -t nat -A POSTROUTING -p tcp -d {to} --dport 83 -j MASQUERADE")).unwrap();
    let direct = fast_transfer(&cluster);
    let published = Transfer::start(client, server, b.address, 8080, 81);
    let service = Transfer::start(client, server, [10, 96, 0, 1].into(), 80, 82);
    let hidden = Transfer::start(client, server, to, 83, 83);
    for transfer in [&published, &service, &hidden] {
        transfer.wait_for(30 * MEGABYTE);
    }
    for transfer in [published, service, hidden, direct] {
        assert!(transfer.finish() >= 3 * MEGABYTE);
    }
}

#[test]
fn conntrack_sees_connections_begin_live_and_end() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"), Feature::Tool("conntrack"));
    let cluster = cluster(&[]);
    for host in &cluster.topology.hosts {
        host.ns.run("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP").unwrap();
        host.ns.run("iptables -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT").unwrap();
    }
    let state = |host: usize| {
        let list = cluster.topology.hosts[host].ns.run("conntrack -L -p tcp --dport 9000").unwrap_or_default();
        ["ESTABLISHED", "TIME_WAIT", "CLOSE"].into_iter().find(|state| list.contains(state))
    };
    let transfer = fast_transfer(&cluster);
    // Long enough to be verified anew several times, with conntrack seeing but samples of it.
    let goal = transfer.arrived() + 24 * MEGABYTE;
    wait_until("a long transfer", PATIENCE, || transfer.arrived() >= goal).unwrap();
    for host in 0..2 {
        assert_eq!(state(host), Some("ESTABLISHED"), "host {host}");
    }
    transfer.finish();
    for host in 0..2 {
        wait_until("conntrack to see the end", PATIENCE, || state(host) == Some("TIME_WAIT")).unwrap();
        let dropped = cluster.topology.hosts[host].ns.run("iptables -nvxL FORWARD").unwrap();
        let invalid = dropped.lines().find(|line| line.contains("INVALID")).unwrap();
        assert!(invalid.trim_start().starts_with("0 "), "the rule has dropped packets: {invalid}");
    }
}

#[test]
fn path_mtu_and_time_exceeded_come_from_the_kernel() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("ping"));
    let cluster = cluster(&[]);
    let (client, server) = (cluster.container(0, 0), cluster.container(1, 0));
    // Before the hosts' link gets smaller, the flow is fast with full-size segments.
    let transfer = fast_transfer(&cluster);
    cluster.topology.hosts[0].ns.run("ip link set eth0 mtu 1400").unwrap();
    transfer.wait_for(4 * MEGABYTE);
    let route = client.ns.run(&format!("ip route get {}", server.address)).unwrap();
    assert!(route.contains("mtu 1400"), "path MTU discovery has told the sender: {route}");
    transfer.finish();
    let far = server.address;
    let refused = client.ns.sh(&format!("ping -c1 -W2 -M do -s 1472 {far} 2>&1 || true")).unwrap();
    assert!(refused.contains("mtu = 1400") || refused.contains("mtu=1400"), "{refused}");
    let first = client.ns.sh(&format!("ping -c1 -W2 -t1 {far} || true")).unwrap();
    assert!(first.contains("Time to live exceeded"), "{first}");
    let second = client.ns.sh(&format!("ping -c1 -W2 -t2 {far} || true")).unwrap();
    assert!(
        second.contains(&cluster.topology.hosts[1].address.to_string()),
        "the second hop is the other host: {second}"
    );
}
