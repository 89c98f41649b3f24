//! Leases, peers, flows and events as tables.

use super::table::{Table, ago, bytes, clock, duration, packets};
use crate::{
    admin::{Amount, LeaseRow, PeerRow},
    cli::flannelctl::FlowOrder,
    state::{Event, PeerWay},
    traffic::FlowRow,
};

/// All leases, by subnet.
pub(super) fn leases(rows: &[LeaseRow]) -> String {
    let mut rows: Vec<&LeaseRow> = rows.iter().collect();
    rows.sort_by_key(|row| row.subnet);
    let mut table = Table::new(["SUBNET", "HOST", "BACKEND", ">LEFT", ""]);
    for row in rows {
        let left = row.ttl.map_or_else(|| "reserved".to_owned(), duration);
        let own = if row.own { "this node" } else { "" };
        let backend = if row.backend.is_empty() { "-" } else { &row.backend };
        table.row([row.subnet.to_string(), row.public_ip.to_string(), backend.to_owned(), left, own.to_owned()]);
    }
    table.to_string()
}

/// One word for how a peer is reached.
pub(super) fn way(way: PeerWay) -> &'static str {
    match way {
        PeerWay::Direct => "direct",
        PeerWay::Tunnel => "tunnel",
        PeerWay::Unreachable => "unreachable",
        PeerWay::Ignored => "ignored",
    }
}

/// All peers, by subnet.
pub(super) fn peers(rows: &[PeerRow], now: u64) -> String {
    let amount = |amount: Amount| format!("{} / {}", packets(amount.packets), bytes(amount.bytes));
    let sum = |a: Amount, b: Amount| amount(Amount { packets: a.packets + b.packets, bytes: a.bytes + b.bytes });
    let mut table = Table::new(["SUBNET", "HOST", "WAY", ">TO", ">FROM", ">FAST", "SEEN", "PROBLEM"]);
    for row in rows {
        table.row([
            row.peer.subnet.to_string(),
            row.peer.public_ip.to_string(),
            way(row.peer.way).to_owned(),
            sum(row.fast_to, row.slow_to),
            sum(row.fast_from, row.slow_from),
            row.fast_percent().map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
            seen(row, now),
            row.peer.problem.clone().unwrap_or_default(),
        ]);
    }
    if table.is_empty() { "no peers: this node is alone in its cluster\n".to_owned() } else { table.to_string() }
}

/// When a packet from a peer was last noticed. What came before the agent started was counted, but nobody knows when.
fn seen(row: &PeerRow, now: u64) -> String {
    match row.seen_at {
        None if row.fast_from.packets + row.slow_from.packets > 0 => "-".to_owned(),
        at => ago(at, now),
    }
}

/// Sorts flows, busiest first, and keeps `limit` of them (0: all).
pub(super) fn busiest(mut rows: Vec<FlowRow>, order: FlowOrder, limit: usize) -> Vec<FlowRow> {
    let weight = |row: &FlowRow| match order {
        FlowOrder::Bytes => row.bytes,
        FlowOrder::Packets => row.packets,
    };
    rows.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| endpoints(a).cmp(&endpoints(b))));
    if limit > 0 {
        rows.truncate(limit);
    }
    rows
}

fn endpoints(row: &FlowRow) -> (std::net::Ipv4Addr, u16, std::net::Ipv4Addr, u16, u8) {
    (row.src, row.sport, row.dst, row.dport, row.proto)
}

/// The name of a protocol.
pub(super) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// Flows in the given order.
pub(super) fn flows(rows: &[FlowRow]) -> String {
    let mut table = Table::new(["PROTO", "FROM", "TO", "PATH", ">PACKETS", ">BYTES", ">VERIFIED", "STATE"]);
    for row in rows {
        let state = row.slow.as_deref().unwrap_or("fast");
        table.row([
            protocol(row.proto),
            format!("{}:{}", row.src, row.sport),
            format!("{}:{}", row.dst, row.dport),
            row.path.clone(),
            packets(row.packets),
            bytes(row.bytes),
            format!("{} ms ago", row.verified_ms),
            state.to_owned(),
        ]);
    }
    if table.is_empty() { "no flows\n".to_owned() } else { table.to_string() }
}

/// One event as a line.
pub(super) fn event(event: &Event) -> String {
    format!("{} UTC  {:<20} {}", clock(event.at), event.kind, event.text)
}
