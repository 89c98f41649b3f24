//! br_netfilter: whether rules see what containers of one host send each other through the bridge.

use std::net::Ipv4Addr;

use super::{note, warning};
use crate::{
    doctor::{Finding, facts::Facts},
    rules::Packet,
};

/// The switch, which each network namespace has for itself; absent where the module is not loaded.
pub const SWITCH: &str = "net/bridge/bridge-nf-call-iptables";

/// What goes to other hosts is routed, and meets the rules either way. What stays on the bridge meets them only by this switch.
pub(super) fn netfilter(facts: &Facts) -> Vec<Finding> {
    let (Some(subnet), Some(bridge)) = (facts.subnet, facts.link(&facts.bridge)) else { return vec![] };
    let base = u32::from(subnet.network());
    let packet = Packet {
        src: Ipv4Addr::from(base.wrapping_add(2)),
        dst: Ipv4Addr::from(base.wrapping_add(3)),
        proto: Some(6),
        sport: None,
        dport: None,
        iif: bridge.name.clone(),
        oif: bridge.name.clone(),
    };
    let drop = facts.rules.dropped(&packet);
    let is_on = facts.sysctls.get(SWITCH).map(String::as_str) == Some("1");
    match drop {
        Some(hit) if is_on => {
            let what = format!("containers of this host cannot reach each other: {} drops it: {}", hit.chain, hit.rule);
            let why = "net.bridge.bridge-nf-call-iptables is 1, so that rules see what is bridged; meant so if Docker runs with --icc=false";
            let remedy = format!("iptables -I FORWARD -i {0} -o {0} -j ACCEPT", bridge.name);
            vec![note("bridged-dropped", what, why, remedy)]
        }
        Some(hit) => {
            let what = format!(
                "{} forbids traffic between containers of this host, but is not asked: {}",
                hit.chain, hit.rule
            );
            let why = "net.bridge.bridge-nf-call-iptables is not 1: what is bridged passes no rule, and --icc=false or a policy has no effect inside this host";
            let remedy = "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1";
            vec![warning("br-netfilter", what, why, remedy)]
        }
        None if !is_on && facts.rules.publishes(subnet) => {
            let what = "net.bridge.bridge-nf-call-iptables is not 1, and containers publish ports";
            let why = "a container that asks for a port that its own host publishes gets the answer from the wrong address, unless Docker's userland proxy runs; traffic between hosts is not touched";
            let remedy = "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1";
            vec![note("br-netfilter", what, why, remedy)]
        }
        None => vec![],
    }
}
