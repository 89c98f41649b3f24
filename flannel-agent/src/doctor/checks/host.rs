//! This host: rights, settings, Docker's bridge.

use super::{broken, note, warning};
use crate::doctor::{Finding, facts::Facts};

/// The bridge's MTU may be smaller by as much as any tunnel's headers take before it is called odd.
const MTU_SLACK: u32 = 100;
/// Nobody runs this before 2024: a clock that says so is not set.
const RELEASED: u64 = 1_704_067_200;

pub(super) fn rights(facts: &Facts) -> Vec<Finding> {
    if facts.root {
        return vec![];
    }
    let why = "the admin socket, the firewall's rules and BPF are for root alone: much was not checked";
    vec![warning("not-root", "doctor runs without root's rights", why, "sudo flannelctl doctor")]
}

pub(super) fn agent(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(absent) = &facts.absent {
        let why =
            "routes and fast path stay as they are, but no change of the cluster reaches this node, and its lease ends";
        let remedy = "systemctl start flanneld; journalctl -u flanneld tells why it ended";
        findings.push(broken("no-flanneld", absent.clone(), why, remedy));
        if facts.subnet.is_none() {
            let what = format!("{} holds no subnet", facts.subnet_file);
            let why = "flanneld has never got a lease here, or writes elsewhere: Docker has no subnet to use";
            findings.push(warning(
                "no-subnet-file",
                what,
                why,
                "systemctl start flanneld; --subnet-file if it is elsewhere",
            ));
        }
    }
    for warning in facts.node.iter().flat_map(|node| &node.warnings) {
        let why = "flanneld itself says so";
        findings.push(super::warning(
            "agent-warning",
            format!("{}: {}", warning.code, warning.text),
            why,
            warning.remedy.clone(),
        ));
    }
    findings
}

pub(super) fn forwarding(facts: &Facts) -> Vec<Finding> {
    match facts.sysctls.get("net/ipv4/ip_forward").map(String::as_str) {
        Some("0") => {
            let why = "the kernel routes no packet between containers and other hosts";
            vec![broken("ip-forward", "net.ipv4.ip_forward is 0", why, "sysctl -w net.ipv4.ip_forward=1")]
        }
        _ => vec![],
    }
}

pub(super) fn bridge_address(facts: &Facts) -> Vec<Finding> {
    let (Some(subnet), Some(bridge)) = (facts.subnet, facts.link(&facts.bridge)) else { return vec![] };
    if bridge.addresses.is_empty() || bridge.nets().any(|net| subnet.contains(&net.addr())) {
        return vec![];
    }
    let has: Vec<String> = bridge.nets().map(|net| net.to_string()).collect();
    let what = format!("{} has {}, but the lease is {subnet}", bridge.name, has.join(" "));
    let why = "containers have addresses that no other node routes here: Docker was started before flanneld, or not with its options";
    let remedy = "systemctl restart docker (with the options that mk-docker-opts.sh makes of subnet.env)";
    vec![broken("docker0-address", what, why, remedy)]
}

pub(super) fn bridge_mtu(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (Some(mtu), Some(bridge)) = (facts.mtu, facts.link(&facts.bridge)) else { return findings };
    if bridge.mtu > mtu {
        let what = format!("{} has MTU {}, but the way to the peers takes {mtu}", bridge.name, bridge.mtu);
        let why =
            "large packets of containers are answered with \"fragmentation needed\", or lost where ICMP is filtered";
        let remedy = format!("systemctl restart docker with --mtu={mtu} (mk-docker-opts.sh writes it)");
        findings.push(warning("docker0-mtu", what, why, remedy));
    } else if bridge.mtu + MTU_SLACK < mtu {
        let what = format!("{} has MTU {}, where {mtu} would do", bridge.name, bridge.mtu);
        let why = "every packet is smaller than it could be: more packets for the same bytes";
        findings.push(note("docker0-mtu", what, why, format!("systemctl restart docker with --mtu={mtu}")));
    }
    let Some(uplink) = facts.uplink.as_deref().and_then(|name| facts.link(name)) else { return findings };
    if mtu > uplink.mtu {
        let what = format!("subnet.env says MTU {mtu}, but {} takes {}", uplink.name, uplink.mtu);
        let why = "the MTU of the uplink was lowered after flanneld started: large packets do not leave this host";
        findings.push(broken("uplink-mtu", what, why, "systemctl restart flanneld docker"));
    }
    findings
}

pub(super) fn reverse_path(facts: &Facts) -> Vec<Finding> {
    let (Some(network), Some(uplink)) = (facts.network, &facts.uplink) else { return vec![] };
    let value = |name: &str| {
        facts.sysctls.get(&format!("net/ipv4/conf/{name}/rp_filter")).and_then(|value| value.parse::<u8>().ok())
    };
    let strict = value("all").max(value(uplink)) == Some(1);
    let elsewhere = facts.routes.iter().find(|route| {
        route.net().is_some_and(|net| network.contains(&net))
            && route.gateway.is_some()
            && route.dev.as_ref() != Some(uplink)
    });
    match elsewhere {
        Some(route) if strict => {
            let what = format!(
                "rp_filter is strict on {uplink}, but {} is routed by {}",
                route.dst,
                route.dev.as_deref().unwrap_or("?")
            );
            let why = "packets of that peer that come in by the uplink are dropped without a word";
            vec![warning(
                "rp-filter",
                what,
                why,
                format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{uplink}.rp_filter=2"),
            )]
        }
        _ => vec![],
    }
}

pub(super) fn offloads(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (device, offloads) in &facts.offloads {
        let off = |name: &str| offloads.get(name) == Some(&false);
        if off("generic-receive-offload") {
            let why = "each segment of a stream is handled alone: several times the work for the same bytes";
            let remedy = format!("ethtool -K {device} gro on");
            findings.push(note("gro-off", format!("receive offload is off on {device}"), why, remedy));
        }
        if off("tx-checksumming") && device.starts_with("flannel.") {
            let why = "the usual cure of an old kernel's checksum bug; kernels from 5.8 on do not need it, and it takes two thirds of the throughput";
            let remedy = format!("ethtool -K {device} tx on");
            findings.push(note("tx-offload-off", format!("checksum offload is off on {device}"), why, remedy));
        }
    }
    findings
}

pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    let heard = facts.node.as_ref().map_or(0, |node| node.store.heard_at);
    let what = if facts.now < RELEASED {
        "the clock stands before 2024".to_owned()
    } else if heard > facts.now + 5 {
        format!("the clock has gone back: etcd was last heard {} s from now", heard - facts.now)
    } else {
        return vec![];
    };
    let why = "certificates are refused and times of leases are shown wrong";
    vec![warning("clock", what, why, "timedatectl set-ntp true; or set the time with date -s")]
}
