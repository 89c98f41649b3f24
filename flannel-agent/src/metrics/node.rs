//! Metrics of the node itself: lease, store, reconcile, peers, hooks.

use std::{collections::BTreeMap, fmt};

use super::{Page, Scrape};
use crate::state::PeerWay;

pub(super) fn write(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let node = &scrape.node;
    page.gauges(
        "flannel_build_info",
        "Version of the agent and name of its backend; always 1",
        [([("version", node.agent.as_str()), ("backend", node.backend.as_str())], 1.0)],
    )?;
    page.gauge(
        "flannel_start_time_seconds",
        "When the agent started, in seconds since the Unix epoch",
        node.started_at as f64,
    )?;
    page.gauge("flannel_ready", "Whether subnet.env is written and the node forwards", flag(node.ready))?;
    page.gauge("flannel_warnings", "Warnings that flannelctl status shows", node.warnings.len() as f64)?;
    page.counter("flannel_events", "Lines that flannelctl events has shown or would have", scrape.events)?;
    lease(scrape, page)?;
    reconcile(scrape, page)?;
    peers(scrape, page)?;
    hooks(scrape, page)
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn lease(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let (node, store) = (&scrape.node, &scrape.node.store);
    page.gauge("flannel_lease_held", "Whether the node holds a lease", flag(node.lease.is_some()))?;
    // A reservation has no end, and so no series.
    let left = node.lease.as_ref().and_then(|lease| lease.expires_at).map(|at| at as f64 - scrape.now as f64);
    page.gauge_if("flannel_lease_remaining_seconds", "Time until the lease ends unless it is renewed", left)?;
    page.gauge("flannel_store_connected", "Whether the last exchange with etcd went well", flag(store.connected))?;
    let age = (store.heard_at > 0).then(|| scrape.now.saturating_sub(store.heard_at) as f64);
    page.gauge_if("flannel_store_age_seconds", "Time since the last word from etcd", age)?;
    page.gauge("flannel_store_revision", "Revision of the last snapshot or event from etcd", store.revision as f64)
}

fn reconcile(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let reconcile = &scrape.node.reconcile;
    page.counter(
        "flannel_reconcile_passes",
        "Comparisons of what should be in the kernel with what is there",
        reconcile.passes,
    )?;
    page.counter("flannel_reconcile_changes", "Changes made to the kernel", reconcile.changes)?;
    page.counter("flannel_reconcile_failures", "Changes that the kernel refused", reconcile.failures)?;
    let seconds = reconcile.last_us as f64 / 1e6;
    page.gauge("flannel_reconcile_duration_seconds", "How long the last comparison took, with its changes", seconds)
}

fn peers(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let ways = [
        (PeerWay::Direct, "direct"),
        (PeerWay::Tunnel, "tunnel"),
        (PeerWay::Unreachable, "unreachable"),
        (PeerWay::Ignored, "ignored"),
    ];
    let count = |way| scrape.node.peers.iter().filter(|peer| peer.way == way).count() as f64;
    page.gauges(
        "flannel_peers",
        "Other nodes by how they are reached",
        ways.map(|(way, label)| ([("way", label)], count(way))),
    )
}

fn hooks(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let fastpath = &scrape.node.fastpath;
    let mut hooks: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for hook in &fastpath.hooks {
        *hooks.entry((&hook.program, &hook.rung)).or_default() += 1;
    }
    page.gauges(
        "flannel_hooks",
        "Interfaces by program and by the rung it is attached on; rung none is not attached",
        hooks.into_iter().map(|((program, rung), count)| ([("program", program), ("rung", rung)], f64::from(count))),
    )?;
    page.gauges(
        "flannel_fastpath_info",
        "Mode of the fast path; always 1",
        [([("mode", fastpath.mode.as_str())], 1.0)],
    )?;
    page.counter(
        "flannel_fastpath_epoch",
        "Changes of leases, links or settings after which every flow had to verify again",
        fastpath.epoch.into(),
    )
}
