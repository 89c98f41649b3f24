//! Peers with their traffic: the state's peers joined with the fast path's tallies.

use std::collections::BTreeMap;

use flannel_common::abi::{PeerTally, Tally};
use serde::{Deserialize, Serialize};

use super::Context;
use crate::{events, state::PeerState};

/// A peer, what went to and fro, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The peer.
    #[serde(flatten)]
    pub peer: PeerState,
    /// Towards it, by the fast path.
    pub fast_to: Amount,
    /// From it, by the fast path.
    pub fast_from: Amount,
    /// Towards it, by the kernel.
    pub slow_to: Amount,
    /// From it, by the kernel.
    pub slow_from: Amount,
    /// Seconds since the Unix epoch at which a packet from it was last noticed, if one was since the agent started.
    pub seen_at: Option<u64>,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Tally> for Amount {
    fn from(Tally { packets, bytes }: Tally) -> Self {
        Self { packets, bytes }
    }
}

impl PeerRow {
    /// Bytes in both directions, by either path.
    pub fn total_bytes(&self) -> u64 {
        [self.fast_to, self.fast_from, self.slow_to, self.slow_from].iter().map(|amount| amount.bytes).sum()
    }

    /// Share of the packets that the fast path carried, in percent; `None` where there was no packet.
    pub fn fast_percent(&self) -> Option<u64> {
        let fast = self.fast_to.packets + self.fast_from.packets;
        let all = fast + self.slow_to.packets + self.slow_from.packets;
        (fast * 100).checked_div(all)
    }
}

/// Remembers when the tally of packets from each peer last grew. Pure: the caller passes the time.
#[derive(Debug, Default)]
pub struct LastSeen {
    slots: BTreeMap<u32, (u64, Option<u64>)>,
}

impl LastSeen {
    /// Notes that at `now` (seconds) `total` packets had come from the peer in `slot`, and says when the last one was noticed.
    ///
    /// What was counted before the first look says nothing of its time.
    pub fn note(&mut self, slot: u32, total: u64, now: u64) -> Option<u64> {
        let (last, at) = self.slots.entry(slot).or_insert((total, None));
        if *last != total {
            *at = (total > *last).then_some(now);
            *last = total;
        }
        *at
    }
}

impl Context {
    /// Every peer of the latest snapshot with its traffic; zeros where the fast path counts nothing. Reads maps: may block.
    pub fn peer_rows(&self) -> Result<Vec<PeerRow>, String> {
        let node = self.node();
        let slots: Vec<u32> = node.peers.iter().filter_map(|peer| peer.index).collect();
        let tallies = match self.traffic.get() {
            Some(traffic) if !slots.is_empty() => traffic.peers(&slots)?,
            _ => vec![PeerTally::default(); slots.len()],
        };
        let mut tallies = tallies.into_iter();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = events::now();
        let rows = node.peers.iter().map(|peer| {
            let tally = peer.index.and_then(|_| tallies.next()).unwrap_or_default();
            let total = tally.fast_from.packets + tally.slow_from.packets;
            PeerRow {
                peer: peer.clone(),
                fast_to: tally.fast_to.into(),
                fast_from: tally.fast_from.into(),
                slow_to: tally.slow_to.into(),
                slow_from: tally.slow_from.into(),
                seen_at: peer.index.and_then(|slot| seen.note(slot, total, now)),
            }
        });
        Ok(rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::LastSeen;

    #[test]
    fn a_peer_is_seen_when_its_tally_grows() {
        let mut seen = LastSeen::default();
        assert_eq!(seen.note(3, 500, 10), None, "counted before the first look");
        assert_eq!(seen.note(3, 500, 20), None);
        assert_eq!(seen.note(3, 501, 30), Some(30));
        assert_eq!(seen.note(3, 501, 40), Some(30));
        assert_eq!(seen.note(3, 0, 50), None, "the slot now counts for another peer");
        assert_eq!(seen.note(3, 7, 60), Some(60));
    }
}
