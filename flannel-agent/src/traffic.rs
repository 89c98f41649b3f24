//! What the fast path has counted, in the form in which it is shown: rows for tables, JSON and metrics.
//!
//! [`Traffic`] is what everything that explains the node asks; the fast path answers it from its maps, tests from memory.

use std::net::Ipv4Addr;

use flannel_common::abi::PeerTally;
use serde::{Deserialize, Serialize};

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
