use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{Finding, Level, all};
use crate::{
    doctor::facts::Facts,
    fastpath::Feature,
    kernel::inspect::{Address, Link, Ping, Route},
    state::{HookState, NodeState, Warning},
};

/// A host on which nothing is wrong.
fn healthy() -> Facts {
    let link = |name: &str, address: [u8; 4], mtu| Link {
        name: name.into(),
        mtu,
        addresses: vec![Address { local: Some(address.into()), prefixlen: 24 }],
        ..Link::default()
    };
    Facts {
        now: 1_800_000_000,
        root: true,
        node: Some(NodeState {
            ready: true,
            lease: Some(crate::state::OwnLease {
                subnet: "172.16.1.0/24".parse().unwrap(),
                expires_at: None,
                public_ip: [192, 0, 2, 11].into(),
            }),
            ..NodeState::default()
        }),
        network: "172.16.0.0/16".parse().ok(),
        subnet: "172.16.1.0/24".parse().ok(),
        mtu: Some(1500),
        subnet_file: "/run/flannel/subnet.env".into(),
        bridge: "docker0".into(),
        uplink: Some("eth0".into()),
        links: vec![link("docker0", [172, 16, 1, 1], 1500), link("eth0", [192, 0, 2, 11], 1500)],
        bpffs: vec!["/sys/fs/bpf".into()],
        ..Facts::default()
    }
}

/// The one finding that a change of a healthy host makes.
fn found(change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let mut findings = all(&facts);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

fn sysctl(facts: &mut Facts, path: &str, value: &str) {
    facts.sysctls.insert(path.into(), value.into());
}

#[test]
fn a_healthy_host_has_no_findings() {
    assert_eq!(all(&healthy()), vec![]);
}

#[test]
fn forwarding_that_is_off_is_broken() {
    let finding = found(|facts| sysctl(facts, "net/ipv4/ip_forward", "0"));
    assert_eq!((finding.level, finding.code), (Level::Broken, "ip-forward"));
    assert_eq!(finding.remedy, "sysctl -w net.ipv4.ip_forward=1");
}

#[test]
fn a_strict_reverse_path_filter_matters_only_where_routes_go_elsewhere() {
    let mut facts = healthy();
    sysctl(&mut facts, "net/ipv4/conf/all/rp_filter", "1");
    assert_eq!(all(&facts), vec![]);
    let elsewhere = Route {
        dst: "172.16.2.0/24".into(),
        gateway: Some([198, 51, 100, 1].into()),
        dev: Some("eth1".into()),
        ..Route::default()
    };
    let finding = found(|facts| {
        sysctl(facts, "net/ipv4/conf/all/rp_filter", "1");
        facts.routes = vec![elsewhere.clone()];
    });
    assert_eq!(finding.code, "rp-filter");
    // 2 is loose, and the larger of the two values counts.
    facts.routes = vec![elsewhere];
    sysctl(&mut facts, "net/ipv4/conf/eth0/rp_filter", "2");
    assert_eq!(all(&facts), vec![]);
}

#[test]
fn mtus_are_compared_along_the_way() {
    let docker = found(|facts| facts.links[0].mtu = 9000);
    assert_eq!((docker.level, docker.code), (Level::Warning, "docker0-mtu"));
    let small = found(|facts| facts.links[0].mtu = 1300);
    assert_eq!((small.level, small.code), (Level::Note, "docker0-mtu"));
    let uplink = found(|facts| facts.links[1].mtu = 1400);
    assert_eq!((uplink.level, uplink.code), (Level::Broken, "uplink-mtu"));
    let mut tunnel = healthy();
    tunnel.mtu = Some(1450);
    tunnel.links[0].mtu = 1450;
    assert_eq!(all(&tunnel), vec![], "a tunnel's headers take 50 bytes");
}

#[test]
fn offloads_are_noted() {
    let off = |name: &str| BTreeMap::from([(name.to_owned(), false)]);
    let gro = found(|facts| {
        facts.offloads.insert("eth0".into(), off("generic-receive-offload"));
    });
    assert_eq!((gro.level, gro.remedy.as_str()), (Level::Note, "ethtool -K eth0 gro on"));
    let tx = found(|facts| {
        facts.offloads.insert("flannel.1".into(), off("tx-checksumming"));
    });
    assert_eq!(tx.code, "tx-offload-off");
}

#[test]
fn clocks_that_lie_are_found() {
    assert_eq!(found(|facts| facts.now = 86_400).code, "clock");
    let back = found(|facts| {
        facts.node.as_mut().unwrap().store.heard_at = facts.now + 3600;
    });
    assert_eq!(back.what, "the clock has gone back: etcd was last heard 3600 s from now");
}

#[test]
fn the_store_s_words_tell_what_to_do() {
    let cases = [
        ("etcdserver: authentication failed, invalid user ID or password", "etcd-password"),
        ("etcdserver: user name is empty", "etcd-password"),
        ("etcdserver: permission denied", "etcd-permission"),
        ("tls handshake: invalid peer certificate: Expired", "etcd-certificate"),
        ("no answer from etcd: http://10.0.0.1:2379: connection refused", "etcd-away"),
    ];
    for (error, code) in cases {
        let finding = found(|facts| facts.node.as_mut().unwrap().store.error = Some(error.into()));
        assert_eq!(finding.code, code, "{error}");
    }
}

#[test]
fn silence_of_the_store_is_found() {
    let finding = found(|facts| facts.node.as_mut().unwrap().store.heard_at = facts.now - 500);
    assert_eq!(finding.code, "etcd-silent");
}

#[test]
fn flanneld_s_own_warnings_are_passed_on() {
    let warning = Warning {
        code: "route-conflict".into(),
        text: "route 172.16.9.0/24 is a user's".into(),
        remedy: "ip route del".into(),
    };
    let finding = found(|facts| facts.node.as_mut().unwrap().warnings.push(warning));
    assert_eq!((finding.code, finding.remedy.as_str()), ("agent-warning", "ip route del"));
}

#[test]
fn a_missing_bpffs_matters_only_to_a_fast_path() {
    assert_eq!(found(|facts| facts.bpffs.clear()).code, "no-bpffs");
    let mut off = healthy();
    off.bpffs.clear();
    off.node.as_mut().unwrap().fastpath.mode = "off".into();
    assert_eq!(all(&off), vec![]);
}

#[test]
fn what_the_kernel_lacks_is_found() {
    let feature = |needed| Feature { name: "bpf", needed, found: Err("operation not permitted".into()) };
    let needed = found(|facts| facts.features.push(feature(true)));
    assert_eq!((needed.level, needed.code), (Level::Warning, "kernel-feature"));
    assert_eq!(found(|facts| facts.features.push(feature(false))).level, Level::Note);
    assert_eq!(found(|facts| sysctl(facts, "net/core/bpf_jit_enable", "0")).code, "bpf-jit");
}

#[test]
fn large_packets_that_do_not_pass_are_found() {
    let host = Ipv4Addr::new(192, 0, 2, 12);
    let lost = |facts: &mut Facts, small| {
        facts.pings.insert(host, small);
        facts.large_pings.insert(host, (1500, Ping::TooBig(1400)));
    };
    let finding = found(|facts| lost(facts, Ping::Answered));
    assert_eq!((finding.level, finding.code), (Level::Broken, "mtu-mismatch"));
    let mut silent = healthy();
    lost(&mut silent, Ping::Silent);
    assert_eq!(all(&silent), vec![], "who answers nothing says nothing of sizes");
}

#[test]
fn hooks_of_every_rung_are_looked_for() {
    let hook = |rung: &str, program: &str| HookState {
        interface: "eth0".into(),
        ifindex: 2,
        program: program.into(),
        rung: rung.into(),
        reason: None,
    };
    for (rung, program, there) in
        [("tcx", "to_uplink", "to_uplink"), ("clsact", "from_uplink", "trusted_from_up"), ("xdp", "transit", "transit")]
    {
        let finding = found(|facts| facts.hooks = vec![hook(rung, program)]);
        assert_eq!(finding.code, "hook-detached", "{rung}");
        assert!(finding.what.contains(program) && finding.what.contains("eth0"), "{}", finding.what);
        let mut facts = healthy();
        facts.hooks = vec![hook(rung, program)];
        facts.attached.insert("eth0".into(), vec![("ingress", there.into())]);
        assert_eq!(all(&facts), vec![], "{rung}");
    }
}

#[test]
fn users_without_rights_are_told() {
    assert_eq!(found(|facts| facts.root = false).remedy, "sudo flannelctl doctor");
}
