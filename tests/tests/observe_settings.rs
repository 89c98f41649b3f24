//! Settings of a host that break its container network or make it slow: `doctor` names each, why it matters and the command.
//!
//! The host is real, the agent's knowledge of it is made up, as in `observe_faults`.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use flannel_tests::{flanneld::binary, require, skip::Feature};
use observe_common::{agent::assert_has, site::Site};

#[test]
fn forwarding_and_reverse_path_filter() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(0, "sysctl -w net.ipv4.ip_forward=0");
    assert_has(
        &site.diagnosis("ip-forward", &[]),
        &["net.ipv4.ip_forward is 0", "remedy: sysctl -w net.ipv4.ip_forward=1"],
    );
    site.run(0, "sysctl -w net.ipv4.ip_forward=1");

    site.run(0, "sysctl -w net.ipv4.conf.all.rp_filter=1");
    assert_eq!(site.ctl(&["doctor"]).0, 0, "strict is well where routes go by the uplink");
    site.run(0, "ip link add eth1 type veth peer name eth1-far");
    site.run(0, "ip addr add 198.51.100.1/24 dev eth1");
    site.run(0, "ip link set eth1 up");
    site.run(0, "ip route add 172.16.9.0/24 via 198.51.100.2 dev eth1");
    assert_has(
        &site.diagnosis("rp-filter", &[]),
        &["strict on eth0, but 172.16.9.0/24 is routed by eth1", "remedy: sysctl -w net.ipv4.conf.all.rp_filter=2"],
    );
}

#[test]
fn mtus_of_bridge_uplink_and_peers() {
    require!(Feature::Root);
    let site = Site::new();
    site.run(1, "ip link set eth0 mtu 1400");
    assert_has(
        &site.diagnosis("mtu-mismatch", &[]),
        &["192.0.2.12 answers small packets, but not those of 1500 bytes", "flannelctl doctor --peer 192.0.2.12"],
    );
    site.run(1, "ip link set eth0 mtu 1500");
    site.run(0, "ip link set docker0 mtu 9000");
    assert_has(
        &site.diagnosis("docker0-mtu", &[]),
        &[
            "docker0 has MTU 9000, but the way to the peers takes 1500",
            "remedy: systemctl restart docker with --mtu=1500",
        ],
    );
    site.run(0, "ip link set docker0 mtu 1500");
    site.run(0, "ip link set eth0 mtu 1400");
    assert_has(
        &site.diagnosis("uplink-mtu", &[]),
        &["subnet.env says MTU 1500, but eth0 takes 1400", "remedy: systemctl restart flanneld docker"],
    );
}

#[test]
fn offloads_are_noted_and_are_no_fault() {
    require!(Feature::Tool("ethtool"));
    let site = Site::new();
    // A veth begins without it.
    site.run(0, "ethtool -K eth0 gro on");
    assert_eq!(site.ctl(&["doctor"]), (0, "nothing is wrong\n".to_owned()));
    site.run(0, "ethtool -K eth0 gro off");
    let (exit, text) = site.ctl(&["doctor"]);
    assert_eq!(exit, 0, "{text}");
    assert_has(&text, &["note    gro-off: receive offload is off on eth0", "remedy: ethtool -K eth0 gro on"]);
}

/// What containers of one host send each other meets rules only where `bridge-nf-call-iptables` says so.
#[test]
fn rules_that_meet_bridged_packets_or_should() {
    require!(Feature::Tool("iptables"));
    let site = Site::new();
    let switch = "net.bridge.bridge-nf-call-iptables";
    if site.topology.hosts[0].ns.run(&format!("sysctl {switch}")).is_err() {
        println!("this kernel has no br_netfilter: only its absence is tested");
    }
    // Docker with --icc=false.
    site.run(0, "iptables -A FORWARD -i docker0 -o docker0 -j DROP");
    let set = |value: u8| site.topology.hosts[0].ns.run(&format!("sysctl -w {switch}={value}")).is_ok();
    if set(1) {
        let (exit, text) = site.ctl(&["doctor"]);
        assert_eq!(exit, 0, "{text}");
        assert_has(&text, &["note    bridged-dropped: containers of this host cannot reach each other", "--icc=false"]);
    }
    set(0);
    assert_has(
        &site.diagnosis("br-netfilter", &[]),
        &[
            "forbids traffic between containers of this host, but is not asked",
            "remedy: modprobe br_netfilter && sysctl",
        ],
    );
    site.run(0, "iptables -F FORWARD");
    let text = site.ctl(&["doctor"]).1;
    assert!(!text.contains("bridge"), "{text}");
    site.run(0, "iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.16.1.2:80");
    let (exit, text) = site.ctl(&["doctor"]);
    assert_eq!(exit, 0, "{text}");
    assert_has(
        &text,
        &["note    br-netfilter: net.bridge.bridge-nf-call-iptables is not 1, and containers publish ports"],
    );
}

#[test]
fn a_user_without_rights_is_told() {
    require!(Feature::Root, Feature::Tool("setpriv"));
    let site = Site::new();
    // A place that everybody may enter.
    let copy = std::env::temp_dir().join(format!("flannelctl-for-all-{}", std::process::id()));
    std::fs::copy(binary("flannelctl").unwrap(), &copy).unwrap();
    let mut command = site.topology.hosts[0].ns.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    let output = command.arg("--socket").arg(&site.agent.socket).arg("doctor").output().unwrap();
    std::fs::remove_file(&copy).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_has(&text, &["not-root: doctor runs without root's rights", "remedy: sudo flannelctl doctor"]);
    assert!(!text.contains("no-flanneld"), "nobody can tell: {text}");
}
