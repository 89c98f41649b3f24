//! What the fast path has counted, in the form in which it is shown: rows for tables, JSON and metrics.
//!
//! [`Traffic`] is what everything that explains the node asks; the fast path answers it from its maps, tests from memory.

use std::{cell::Cell, net::Ipv4Addr};

use flannel_common::{
    abi::{Flow, FlowKey, PeerTally, Settings, path},
    reason::Reason,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::fastpath::Reader;

/// Reads what the fast path has counted. Every call reads the maps anew; calls may block for milliseconds.
pub trait Traffic: Send + Sync {
    /// Packets by hook and reason; pairs that never happened may be left out.
    fn counts(&self) -> Result<Vec<Count>, String>;
    /// The tallies of these slots of the `PEER_COUNTERS` map, in the same order.
    fn peers(&self, slots: &[u32]) -> Result<Vec<PeerTally>, String>;
    /// Every flow of the `FLOWS` map that the filter lets through, in no order.
    fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>, String>;
    /// How many entries the `FLOWS` map holds.
    fn flow_count(&self) -> Result<u64, String>;
}

/// Packets that one hook ended in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Count {
    /// Label of the hook.
    pub hook: String,
    /// Label of the reason.
    pub reason: String,
    /// Packets; a GSO packet counts as its segments.
    pub packets: u64,
    /// Bytes of IPv4 packets (total length), or of frames where it is not IPv4.
    pub bytes: u64,
}

/// Which flows to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Only flows from or to this address.
    pub address: Option<Ipv4Addr>,
}

impl FlowFilter {
    /// Whether a flow between these addresses is to be shown.
    pub fn admits(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.address.is_none_or(|address| address == src || address == dst)
    }
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Source address.
    pub src: Ipv4Addr,
    /// Source port.
    pub sport: u16,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Destination port.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u8,
    /// `out`, `in`, `in_bridge` or `transit`.
    pub path: String,
    /// Label of the reason for which its next packet would be slow (`flow_stale`, `flow_epoch`); `None` if it would be fast.
    pub slow: Option<String>,
    /// Packets carried by the fast path.
    pub packets: u64,
    /// Bytes carried by the fast path.
    pub bytes: u64,
    /// Milliseconds since it was last verified.
    pub verified_ms: u64,
    /// Largest IPv4 packet that was seen to be forwarded, in bytes.
    pub max_len: u16,
    /// Interface by which it comes in.
    pub in_ifindex: u32,
    /// Interface by which the kernel sends it out.
    pub out_ifindex: u32,
}

impl Traffic for Reader {
    fn counts(&self) -> Result<Vec<Count>, String> {
        let counters = self.counters().map_err(|error| error.to_string())?;
        let count = |((hook, reason), tally): ((flannel_common::abi::Hook, Reason), flannel_common::abi::Tally)| Count {
            hook: hook.label().to_owned(),
            reason: reason.label().to_owned(),
            packets: tally.packets,
            bytes: tally.bytes,
        };
        Ok(counters.into_iter().map(count).collect())
    }

    fn peers(&self, slots: &[u32]) -> Result<Vec<PeerTally>, String> {
        slots.iter().map(|slot| self.peer_tally(*slot).map_err(|error| error.to_string())).collect()
    }

    fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>, String> {
        let wanted = |key: &FlowKey, _: &Flow| filter.admits(key.src.into(), key.dst.into());
        let flows = Self::flows(self, usize::MAX, wanted).map_err(|error| error.to_string())?;
        let settings = self.settings().map_err(|error| error.to_string())?;
        let now = monotonic_ns();
        Ok(flows.iter().map(|(key, flow)| row(key, flow, settings.as_ref(), now)).collect())
    }

    fn flow_count(&self) -> Result<u64, String> {
        let count = Cell::new(0);
        let each = |_: &FlowKey, _: &Flow| {
            count.set(count.get() + 1);
            false
        };
        Self::flows(self, usize::MAX, each).map_err(|error| error.to_string())?;
        Ok(count.get())
    }
}

/// The clock by which the programs date flows, in nanoseconds.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn row(key: &FlowKey, flow: &Flow, settings: Option<&Settings>, now: u64) -> FlowRow {
    let path = match flow.path {
        path::OUT => "out",
        path::IN => "in",
        path::TRANSIT => "transit",
        path::IN_BRIDGE => "in_bridge",
        _ => "unknown",
    };
    let age = now.saturating_sub(flow.verified_at);
    let slow = match settings {
        None => Some(Reason::Disabled),
        Some(settings) if settings.enabled == 0 => Some(Reason::Disabled),
        Some(settings) if settings.epoch != flow.epoch => Some(Reason::FlowEpoch),
        Some(settings) if age > settings.revalidate_ns => Some(Reason::FlowStale),
        Some(_) => None,
    };
    FlowRow {
        src: key.src.into(),
        sport: u16::from_be_bytes(key.sport),
        dst: key.dst.into(),
        dport: u16::from_be_bytes(key.dport),
        proto: key.proto,
        path: path.to_owned(),
        slow: slow.map(|reason| reason.label().to_owned()),
        packets: flow.packets,
        bytes: flow.bytes,
        verified_ms: age / 1_000_000,
        max_len: flow.max_len,
        in_ifindex: flow.in_ifindex,
        out_ifindex: flow.out_ifindex,
    }
}
