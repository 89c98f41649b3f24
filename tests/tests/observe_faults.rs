//! Ten planted faults: `doctor` or `explain` names the cause and the remedy of each in one line.
//!
//! The host is real (namespaces, kernel, rules), the agent's knowledge of it is made up: so each fault stays as planted,
//! where a living flanneld would mend some of them at once. `observe_node` has those that a living one cannot mend.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{net::Ipv4Addr, path::Path};

use flannel_agent::{
    state::HookState,
    store::{Options, Store},
};
use flannel_tests::{etcd::Etcd, flanneld::binary, require, skip::Feature};
use observe_common::{
    agent::{assert_has, ctl_in},
    site::{Site, lease, peer},
};

#[test]
fn fault_00_none_is_found_where_none_is() {
    require!(Feature::Bpf);
    let site = Site::new();
    let (exit, text) = site.ctl(&["doctor"]);
    assert_eq!(exit, 0, "{text}");
    let (exit, text) = site.ctl(&["doctor", "--peer", &site.container(1)]);
    assert_eq!(exit, 0, "{text}");
    assert_has(&text, &["peer-reached"]);
    let (exit, text) = site.explain();
    assert_eq!(exit, 0, "{text}");
    assert_has(
        &text,
        &[
            "in this node's subnet 172.16.1.0/24",
            "leased to 192.0.2.12",
            "via 192.0.2.12 by eth0",
            "no rule drops or changes it",
        ],
    );
}

#[test]
fn fault_01_wrong_mtu_on_a_peer() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(1, "ip link set eth0 mtu 1400");
    let text = site.diagnosis("mtu-mismatch", &["--peer", "192.0.2.12"]);
    assert_has(
        &text,
        &[
            "192.0.2.12 gets packets of 1400 bytes, but not of 1500",
            "remedy: set the MTU of 192.0.2.12's interfaces to 1500",
        ],
    );
}

#[test]
fn fault_01b_wrong_mtu_behind_a_peer() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(1, "ip link set docker0 mtu 1300");
    site.run(1, "ip link set veth2 mtu 1300");
    let text = site.diagnosis("mtu-mismatch", &["--peer", &site.container(1)]);
    assert_has(&text, &["172.16.2.2 gets packets of 1300 bytes, but not of 1500"]);
}

#[test]
fn fault_02_a_drop_rule() {
    require!(Feature::Tool("iptables"));
    let site = Site::new();
    site.run(0, "iptables -A FORWARD -s 172.16.1.0/24 -p tcp --dport 80 -j DROP");
    let (exit, text) = site.explain();
    assert_eq!(exit, 1, "{text}");
    assert_has(
        &text,
        &[
            "filter FORWARD drops it: -A FORWARD -s 172.16.1.0/24 -p tcp -m tcp --dport 80 -j DROP",
            "remedy: iptables -t filter -D FORWARD -s 172.16.1.0/24 -p tcp -m tcp --dport 80 -j DROP",
            "lost at \"rules\"",
        ],
    );
    // Another port passes, and a rule for every port is doctor's matter too.
    let (here, there) = (site.container(0), site.container(1));
    assert_eq!(site.ctl(&["explain", &here, &there, "tcp", "40000", "81"]).0, 0);
    site.run(0, "iptables -I FORWARD -d 172.16.1.0/24 -j DROP");
    assert_has(
        &site.diagnosis("drop-rule", &[]),
        &["from other hosts to containers", "remedy: iptables -t filter -D FORWARD -d 172.16.1.0/24 -j DROP"],
    );
}

#[test]
fn fault_02b_an_nft_drop_rule() {
    require!(Feature::Tool("nft"));
    let site = Site::new();
    let table =
        "table inet mine { chain f { type filter hook forward priority 0; ip daddr 172.16.2.2 tcp dport 80 drop; }; }";
    site.topology.hosts[0].ns.sh(&format!("nft '{table}'")).unwrap();
    let (exit, text) = site.explain();
    assert_eq!(exit, 1, "{text}");
    assert_has(&text, &["inet mine f drops it: ip daddr 172.16.2.2 tcp dport 80 drop", "nft delete rule"]);
}

#[test]
fn fault_03_a_deleted_route() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(0, "ip route del 172.16.2.0/24");
    let text = site.diagnosis("route-missing", &[]);
    assert_has(
        &text,
        &[
            "there is no route to 172.16.2.0/24 of 192.0.2.12",
            "remedy: ip route replace 172.16.2.0/24 via 192.0.2.12 dev eth0",
        ],
    );
    let (exit, text) = site.explain();
    assert_eq!(exit, 1, "{text}");
    assert_has(
        &text,
        &["the kernel has no route to 172.16.2.2", "remedy: ip route replace 172.16.2.0/24 via 192.0.2.12 dev eth0"],
    );
    site.run(0, "ip route add 172.16.2.0/24 via 192.0.2.99 dev eth0");
    assert_has(&site.diagnosis("route-conflict", &[]), &["routed otherwise: 172.16.2.0/24 via 192.0.2.99 dev eth0"]);
}

#[test]
fn fault_04_a_stale_lease_with_a_dead_next_hop() {
    require!(Feature::Root);
    let site = Site::new();
    let dead = Ipv4Addr::new(192, 0, 2, 99);
    site.store.leases.lock().unwrap().push(lease("172.16.9.0/24", dead, false));
    site.change(|node| node.peers.push(peer("172.16.9.0/24", dead)));
    site.run(0, "ip route add 172.16.9.0/24 via 192.0.2.99 dev eth0");
    let text = site.diagnosis("dead-next-hop", &[]);
    assert_has(
        &text,
        &[
            "192.0.2.99, the next hop to 172.16.9.0/24, does not answer ARP; its lease has 22 h 13 min left",
            "remedy: start the host, or flannelctl lease release 172.16.9.0/24",
        ],
    );
    let (exit, text) = site.ctl(&["explain", &site.container(0), "172.16.9.5"]);
    assert_eq!(exit, 1, "{text}");
    assert_has(&text, &["192.0.2.99 does not answer ARP", "flannelctl lease release 172.16.9.0/24"]);
    let (exit, text) = site.ctl(&["lease", "reclaim", "--yes"]);
    assert_eq!(exit, 0, "{text}");
    let left: Vec<String> = site.store.leases.lock().unwrap().iter().map(|row| row.subnet.to_string()).collect();
    assert_eq!(left, ["172.16.1.0/24", "172.16.2.0/24"]);
    // Now the route is nobody's.
    assert_has(
        &site.diagnosis("route-stale", &[]),
        &["172.16.9.0/24 via 192.0.2.99 dev eth0 belongs to no lease", "remedy: ip route del 172.16.9.0/24"],
    );
}

#[test]
fn fault_05_a_duplicate_public_ip() {
    require!(Feature::Root);
    let site = Site::new();
    site.store.leases.lock().unwrap().push(lease("172.16.7.0/24", Ipv4Addr::new(192, 0, 2, 12), false));
    let text = site.diagnosis("duplicate-public-ip", &[]);
    assert_has(
        &text,
        &["192.0.2.12 is the PublicIP of 172.16.2.0/24 and 172.16.7.0/24", "remedy: give each node its own -public-ip"],
    );
}

#[test]
fn fault_05b_two_owners_of_a_subnet() {
    require!(Feature::Root);
    let site = Site::new();
    site.store.leases.lock().unwrap()[0].public_ip = Ipv4Addr::new(192, 0, 2, 50);
    let text = site.diagnosis("two-owners", &[]);
    assert_has(
        &text,
        &["172.16.1.0/24 is held by 192.0.2.50 in etcd, but this node (192.0.2.11) uses it", "remedy: rm "],
    );
}

#[test]
fn fault_06_docker0_with_the_old_address() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(0, "ip addr flush dev docker0");
    site.run(0, "ip addr add 172.16.77.1/24 dev docker0");
    let text = site.diagnosis("docker0-address", &[]);
    assert_has(
        &text,
        &["docker0 has 172.16.77.1/24, but the lease is 172.16.1.0/24", "remedy: systemctl restart docker"],
    );
}

#[test]
fn fault_07_missing_bpffs() {
    require!(Feature::Bpf, Feature::Tool("unshare"));
    let site = Site::new();
    site.change(|node| node.fastpath.mode = "verified".into());
    let mut command = site.topology.hosts[0].ns.command("unshare");
    let ctl = binary("flannelctl").unwrap();
    let script = format!("umount -a -t bpf && exec {} --socket {} doctor", ctl.display(), site.agent.socket.display());
    let output = command.args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_has(
        &text,
        &[
            "no-bpffs: no BPF file system is mounted at /sys/fs/bpf",
            "remedy: mount -t bpf bpf /sys/fs/bpf && systemctl restart flanneld",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_a_wrong_etcd_password() {
    require!(Feature::Tool("etcd"));
    let site = Site::new();
    let etcd = Etcd::loopback().unwrap();
    for line in ["user add root:right", "user grant-role root root", "auth enable"] {
        etcd.ctl(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let options = Options {
        endpoints: vec![etcd.endpoint(0).to_owned()],
        prefix: "/flannel/network".into(),
        username: "root".into(),
        password: "wrong".into(),
        ..Options::default()
    };
    let store = Store::connect(&options).unwrap();
    let error = store.leases().await.unwrap_err().to_string();
    assert!(!error.contains("wrong"), "the password is in {error:?}");
    site.change(|node| {
        node.store.connected = false;
        node.store.error = Some(error);
    });
    let text = site.diagnosis("etcd-password", &[]);
    assert_has(
        &text,
        &["authentication failed", "remedy: set the right FLANNELD_ETCD_USERNAME and FLANNELD_ETCD_PASSWORD"],
    );
}

#[test]
fn fault_09_forward_drop_without_rules() {
    require!(Feature::Tool("iptables"));
    let site = Site::new();
    site.run(0, "iptables -P FORWARD DROP");
    let (exit, text) = site.ctl(&["doctor"]);
    assert_eq!(exit, 1, "{text}");
    assert_has(
        &text,
        &[
            "forward-drop: packets from containers to other hosts are dropped by the policy of filter FORWARD",
            "remedy: start flanneld with -iptables-forward-rules=true",
        ],
    );
    let (exit, text) = site.explain();
    assert_eq!(exit, 1, "{text}");
    assert_has(&text, &["filter FORWARD drops it: the policy of the chain"]);
    // With flannel's rules nothing is wrong any more.
    site.run(0, "iptables -A FORWARD -s 172.16.0.0/16 -j ACCEPT");
    site.run(0, "iptables -A FORWARD -d 172.16.0.0/16 -j ACCEPT");
    assert_eq!(site.ctl(&["doctor"]).0, 0);
}

#[test]
fn fault_09b_docker_28_s_drop_of_direct_access() {
    require!(Feature::Tool("iptables"));
    let site = Site::new();
    site.run(0, "iptables -t raw -A PREROUTING -d 172.16.1.7/32 ! -i docker0 -j DROP");
    let text = site.diagnosis("docker-direct-access", &[]);
    assert_has(
        &text,
        &[
            "packets from other hosts to 172.16.1.7 are dropped before routing",
            "remedy: start dockerd with --allow-direct-routing",
        ],
    );
}

#[test]
fn fault_10_a_hook_detached() {
    require!(Feature::Bpf);
    let site = Site::new();
    site.change(|node| {
        node.fastpath.mode = "verified".into();
        let hook = |program: &str| HookState {
            interface: "eth0".into(),
            ifindex: 2,
            program: program.into(),
            rung: "tcx".into(),
            reason: None,
        };
        node.fastpath.hooks = vec![hook("to_uplink")];
    });
    let text = site.diagnosis("hook-detached", &[]);
    assert_has(
        &text,
        &[
            "to_uplink should be attached to eth0 (tcx), but the kernel has no such program there",
            "if not: systemctl restart flanneld",
        ],
    );
    let (_, text) = site.explain();
    assert_has(&text, &["to_uplink is not attached to eth0 (the kernel has no such program there)"]);
}

#[test]
fn doctor_works_without_a_flanneld() {
    require!(Feature::Root);
    let site = Site::new();
    let dir = flannel_tests::scratch::Scratch::new("doctor").unwrap();
    let file = dir.join("subnet.env");
    std::fs::write(
        &file,
        "FLANNEL_NETWORK=172.16.0.0/16\nFLANNEL_SUBNET=172.16.1.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n",
    )
    .unwrap();
    site.run(0, "ip route replace 172.16.2.0/24 via 192.0.2.99 dev eth0");
    let file = file.to_str().unwrap();
    let (exit, text) =
        ctl_in(&site.topology.hosts[0].ns, Path::new("/nonexistent"), &["doctor", "--subnet-file", file]);
    assert_eq!(exit, 1, "{text}");
    assert_has(
        &text,
        &[
            "no-flanneld",
            "remedy: systemctl start flanneld",
            "192.0.2.99, the next hop to 172.16.2.0/24, does not answer ARP",
        ],
    );
    let (exit, text) = ctl_in(
        &site.topology.hosts[0].ns,
        Path::new("/nonexistent"),
        &["explain", "172.16.1.2", "172.16.2.2", "--subnet-file", file],
    );
    assert_eq!(exit, 1, "{text}");
    assert_has(&text, &["whose it is only a running flanneld could tell", "192.0.2.99 does not answer ARP"]);
}
