//! The fast path: nothing is lost without it but speed.

use super::{note, warning};
use crate::{
    doctor::{Finding, facts::Facts},
    state::HookState,
};

const SLOWER: &str = "packets take the kernel's way: correct, but several times the work";

/// Whether somebody wants a fast path here.
fn is_off(facts: &Facts) -> bool {
    facts.node.as_ref().is_some_and(|node| node.fastpath.mode == "off" && node.fastpath.reason.is_none())
}

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let missing = facts.features.iter().filter(|feature| feature.name != "bpffs");
    let mut findings: Vec<Finding> = missing
        .filter_map(|feature| {
            let why = feature.found.as_ref().err()?;
            let what = format!("{}: {why}", feature.name);
            let remedy = "a kernel from 6.6 on has everything; flanneld -fastpath=off says that this is meant";
            Some(if feature.needed {
                warning("kernel-feature", what, SLOWER, remedy)
            } else {
                note("kernel-feature", what, SLOWER, remedy)
            })
        })
        .collect();
    if facts.sysctls.get("net/core/bpf_jit_enable").map(String::as_str) == Some("0") {
        findings.push(warning(
            "bpf-jit",
            "net.core.bpf_jit_enable is 0",
            "programs are interpreted: no faster than the kernel's way",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    if let Some(reason) = facts.node.as_ref().and_then(|node| node.fastpath.reason.as_ref()) {
        findings.push(warning(
            "fastpath",
            format!("the fast path is not as asked for: {reason}"),
            SLOWER,
            "flannelctl events tells what was tried",
        ));
    }
    findings
}

pub(super) fn pins(facts: &Facts) -> Vec<Finding> {
    if !facts.bpffs.is_empty() || is_off(facts) {
        return vec![];
    }
    let why = "the fast path is not pinned: it ends with flanneld instead of going on through a restart";
    let remedy = "mount -t bpf bpf /sys/fs/bpf && systemctl restart flanneld";
    vec![warning("no-bpffs", "no BPF file system is mounted at /sys/fs/bpf", why, remedy)]
}

pub(super) fn hooks(facts: &Facts) -> Vec<Finding> {
    if facts.node.is_none() {
        return vec![];
    }
    let detached = |hook: &HookState| match hook.rung.as_str() {
        "none" if hook.program.contains("transit") => None,
        "none" => {
            let reason = hook.reason.as_deref().unwrap_or("nobody says why");
            let what = format!("{} is not attached to {}: {reason}", hook.program, hook.interface);
            Some(warning("hook-detached", what, SLOWER, "systemctl restart flanneld"))
        }
        _ if facts.is_attached(hook) => None,
        rung => {
            let (program, interface) = (&hook.program, &hook.interface);
            let what = format!(
                "{program} should be attached to {interface} ({rung}), but the kernel has no such program there"
            );
            let why = "somebody detached it; packets take the kernel's way: correct, but several times the work";
            let remedy = "flanneld attaches it again within 10 s; if not: systemctl restart flanneld";
            Some(warning("hook-detached", what, why, remedy))
        }
    };
    facts.hooks.iter().filter_map(detached).collect()
}

/// Programs of a network that this node has left.
pub(super) fn left_behind(facts: &Facts) -> Vec<Finding> {
    let (Some(_), Some(network)) = (&facts.node, facts.network) else { return vec![] };
    let old = facts.pinned.iter().filter(|pinned| **pinned != network);
    old.map(|old| {
        let what = format!("the fast path of {old} is still pinned and attached, but this node's network is {network}");
        let why =
            "an earlier run left it: it does its part of the work for packets of that network only, and takes memory";
        let remedy = format!("flannelctl cleanup --network {old} (not if another flanneld of this host serves it)");
        note("old-network", what, why, remedy)
    })
    .collect()
}

/// Trusted mode without anybody who tells it of changes.
pub(super) fn stale_trust(facts: &Facts) -> Vec<Finding> {
    let mut programs = facts.attached.values().flatten();
    if facts.node.is_some() || !programs.any(|(_, name)| name.starts_with("trusted_")) {
        return vec![];
    }
    let what = "the fast path goes on in trusted mode, by the leases of the time when flanneld ended";
    let why = "it decides by them alone: packets for a subnet that changes hands go to its former host";
    let remedy = "systemctl start flanneld; or flannelctl cleanup, and the kernel's routes carry everything";
    vec![warning("trusted-stale", what, why, remedy)]
}
