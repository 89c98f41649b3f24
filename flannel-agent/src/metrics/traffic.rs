//! Metrics of the traffic: by hook and reason, by peer, and how full the maps are.

use std::fmt;

use flannel_common::abi::PEERS_CAPACITY;

use super::{Page, Scrape};
use crate::admin::{Amount, PeerRow};

/// Peers that have series of their own. The busiest keep theirs in a larger cluster, the others share `peer="other"`.
const PEERS_SHOWN: usize = 8192;

pub(super) fn write(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    page.gauge(
        "flannel_counters_unreadable",
        "Whether the fast path's counters could not be read for this scrape",
        if scrape.blind { 1.0 } else { 0.0 },
    )?;
    let counts = || scrape.counts.iter().filter(|count| count.packets > 0);
    page.counters(
        "flannel_packets",
        "Packets by the hook they met and by how they left it",
        counts().map(|count| ([("hook", count.hook.as_str()), ("reason", count.reason.as_str())], count.packets)),
    )?;
    page.counters(
        "flannel_bytes",
        "Bytes of those packets (IPv4 total length)",
        counts().map(|count| ([("hook", count.hook.as_str()), ("reason", count.reason.as_str())], count.bytes)),
    )?;
    per_peer(scrape, page)?;
    carrier(scrape, page)?;
    maps(scrape, page)
}

/// One peer's name and its four amounts: fast to, fast from, slow to, slow from.
type Named = (String, [Amount; 4]);

/// Direction and path of the four amounts.
const LABELS: [(&str, &str); 4] = [("to", "fast"), ("from", "fast"), ("to", "slow"), ("from", "slow")];

fn amounts(row: &PeerRow) -> [Amount; 4] {
    [row.fast_to, row.fast_from, row.slow_to, row.slow_from]
}

/// The peers that get series, and the sum of the others, if any.
fn named(rows: &[PeerRow]) -> Vec<Named> {
    let mut rows: Vec<&PeerRow> = rows.iter().filter(|row| row.peer.index.is_some()).collect();
    if rows.len() > PEERS_SHOWN {
        rows.sort_by_key(|row| std::cmp::Reverse(row.total_bytes()));
    }
    let (shown, others) = rows.split_at(rows.len().min(PEERS_SHOWN));
    let mut named: Vec<Named> = shown.iter().map(|row| (row.peer.subnet.to_string(), amounts(row))).collect();
    if !others.is_empty() {
        let mut sum = [Amount::default(); 4];
        for (total, amount) in others.iter().flat_map(|row| (0..4).zip(amounts(row))) {
            sum[total].packets += amount.packets;
            sum[total].bytes += amount.bytes;
        }
        named.push(("other".to_owned(), sum));
    }
    named
}

fn per_peer(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let named = named(&scrape.peers);
    let series = |read: fn(&Amount) -> u64| {
        named.iter().flat_map(move |(peer, amounts)| {
            LABELS.iter().zip(amounts).map(move |((direction, path), amount)| {
                ([("peer", peer.as_str()), ("direction", *direction), ("path", *path)], read(amount))
            })
        })
    };
    page.counters("flannel_peer_packets", "Packets to and from each peer, by path", series(|amount| amount.packets))?;
    page.counters("flannel_peer_bytes", "Bytes to and from each peer, by path", series(|amount| amount.bytes))
}

fn carrier(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let lost = scrape.node.carrier_lost.iter();
    page.counters(
        "flannel_udp_lost_packets",
        "Packets that the udp backend's carrier could not carry, as of the last comparison; no series with other backends",
        lost.flat_map(|lost| [("no_peer", lost.no_peer), ("expired", lost.expired), ("refused", lost.refused)])
            .map(|(reason, count)| ([("reason", reason)], count)),
    )
}

fn maps(scrape: &Scrape, page: &mut Page<'_, '_>) -> fmt::Result {
    let peers = scrape.node.peers.iter().filter(|peer| peer.index.is_some()).count() as f64;
    let flows = scrape.flows.map(|flows| ([("map", "flows")], flows as f64));
    let entries = flows.into_iter().chain([([("map", "peers")], peers)]);
    page.gauges("flannel_map_entries", "Entries in a BPF map", entries)?;
    page.gauges(
        "flannel_map_capacity",
        "Entries that a BPF map has room for",
        [
            ([("map", "flows")], f64::from(scrape.node.fastpath.flows_capacity)),
            ([("map", "peers")], f64::from(PEERS_CAPACITY)),
        ],
    )
}
