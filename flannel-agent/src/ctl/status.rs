//! The node on one screen.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{
    reasons::meaning,
    table::{Table, bytes, duration, packets},
};
use crate::{
    http::faults,
    state::{NodeState, PeerWay},
    traffic::Count,
};

/// Peers with problems that are listed one by one; a segment that is away makes hundreds.
const PROBLEMS_SHOWN: usize = 5;

/// The screen. `counts` may be empty.
pub(super) fn screen(node: &NodeState, counts: &[Count], flows: Option<u64>, now: u64) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    write(&mut out, node, counts, flows, now).ok();
    out
}

fn write(out: &mut String, node: &NodeState, counts: &[Count], flows: Option<u64>, now: u64) -> fmt::Result {
    let up = duration(now.saturating_sub(node.started_at));
    let ready = if node.ready { "ready" } else { "not ready" };
    writeln!(out, "flanneld   {ready}, version {}, up {up}", node.agent)?;
    writeln!(out, "lease      {}", lease(node, now))?;
    writeln!(out, "etcd       {}", store(node, now))?;
    writeln!(out, "uplink     {}", uplink(node))?;
    writeln!(out, "docker     MTU {} and subnet from {}", node.mtu, node.subnet_file)?;
    writeln!(out, "peers      {}", peers(node))?;
    let r = &node.reconcile;
    writeln!(
        out,
        "kernel     {} changes made, {} refused, in {} passes; the last took {} µs",
        r.changes, r.failures, r.passes, r.last_us
    )?;
    fastpath(out, node, flows)?;
    traffic(out, counts)?;
    problems(out, node, now)
}

fn lease(node: &NodeState, now: u64) -> String {
    let Some(lease) = &node.lease else { return "none yet".to_owned() };
    let left = match lease.expires_at {
        None => "reserved, without end".to_owned(),
        Some(at) if at <= now => "HAS ENDED".to_owned(),
        Some(at) => format!("{} left", duration(at - now)),
    };
    let network = node.network.map_or(String::new(), |network| format!(" of {network}"));
    format!("{}{network} for {}, {left}", lease.subnet, lease.public_ip)
}

fn store(node: &NodeState, now: u64) -> String {
    let store = &node.store;
    let heard = if store.heard_at == 0 {
        "never heard".to_owned()
    } else {
        format!("heard {} ago", duration(now.saturating_sub(store.heard_at)))
    };
    let state = if store.connected { "connected" } else { "NOT CONNECTED" };
    format!("{state}, {heard}, revision {}, {} {}", store.revision, store.endpoints.join(" "), store.prefix)
}

fn uplink(node: &NodeState) -> String {
    match &node.uplink {
        None => "none yet".to_owned(),
        Some(link) => format!("{} {} MTU {}, backend {}", link.name, link.address, link.mtu, node.backend),
    }
}

fn peers(node: &NodeState) -> String {
    let count = |way| node.peers.iter().filter(|peer| peer.way == way).count();
    let ways = [
        (PeerWay::Direct, "direct"),
        (PeerWay::Tunnel, "by tunnel"),
        (PeerWay::Unreachable, "UNREACHABLE"),
        (PeerWay::Ignored, "of other backends"),
    ];
    let parts: Vec<String> = ways
        .iter()
        .map(|(way, name)| (count(*way), name))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn fastpath(out: &mut String, node: &NodeState, flows: Option<u64>) -> fmt::Result {
    let path = &node.fastpath;
    let why = path.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    let flows = flows
        .map_or(String::new(), |flows| format!(", {flows} of {} flows, epoch {}", path.flows_capacity, path.epoch));
    writeln!(out, "fast path  {}{why}{flows}", path.mode)?;
    // Ports are alike: one line for all of them that differ in nothing.
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for hook in &path.hooks {
        let reason = hook.reason.as_deref().unwrap_or("");
        groups.entry((&hook.program, &hook.rung, reason)).or_default().push(&hook.interface);
    }
    for ((program, rung, reason), interfaces) in groups {
        let shown = interfaces.iter().take(4).copied().collect::<Vec<_>>().join(" ");
        let more = if interfaces.len() > 4 { format!(" and {} more", interfaces.len() - 4) } else { String::new() };
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        writeln!(out, "           {program:<12} {rung:<6} {shown}{more}{why}")?;
    }
    Ok(())
}

fn traffic(out: &mut String, counts: &[Count]) -> fmt::Result {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for count in counts.iter().filter(|count| count.packets > 0) {
        let sum = sums.entry(&count.reason).or_default();
        *sum = (sum.0 + count.packets, sum.1 + count.bytes);
    }
    if sums.is_empty() {
        return Ok(());
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, (packets, _))| std::cmp::Reverse(*packets));
    let mut table = Table::new(["REASON", ">PACKETS", ">BYTES", "WHAT HAPPENED"]);
    for (reason, (count, size)) in sums {
        table.row([reason.to_owned(), packets(count), bytes(size), meaning(reason).to_owned()]);
    }
    write!(out, "\n{table}")
}

fn problems(out: &mut String, node: &NodeState, now: u64) -> fmt::Result {
    let faults = faults(node, now);
    let (peers, others): (Vec<&String>, Vec<&String>) = faults.iter().partition(|fault| fault.starts_with("peer "));
    if faults.is_empty() {
        return writeln!(out, "\nnothing is wrong");
    }
    writeln!(out, "\nwrong:")?;
    for fault in others.iter().chain(peers.iter().take(PROBLEMS_SHOWN)) {
        writeln!(out, "  {fault}")?;
    }
    if peers.len() > PROBLEMS_SHOWN {
        writeln!(out, "  and {} more peers: flannelctl peers", peers.len() - PROBLEMS_SHOWN)?;
    }
    Ok(())
}
