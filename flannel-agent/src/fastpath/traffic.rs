//! The reader in the words of everything that explains the node.

use std::cell::Cell;

use flannel_common::{
    abi::{Flow, FlowKey, Hook, PeerTally, Settings, Tally, path},
    reason::Reason,
};
use nix::time::{ClockId, clock_gettime};

use super::Reader;
use crate::traffic::{Count, FlowFilter, FlowRow, Traffic};

impl Traffic for Reader {
    fn counts(&self) -> Result<Vec<Count>, String> {
        let counters = self.counters().map_err(|error| error.to_string())?;
        let row = |((hook, reason), tally): ((Hook, Reason), Tally)| Count {
            hook: hook.label().to_owned(),
            reason: reason.label().to_owned(),
            packets: tally.packets,
            bytes: tally.bytes,
        };
        Ok(counters.into_iter().map(row).collect())
    }

    fn peers(&self, slots: &[u32]) -> Result<Vec<PeerTally>, String> {
        slots.iter().map(|slot| self.peer_tally(*slot).map_err(|error| error.to_string())).collect()
    }

    fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>, String> {
        let fail = |error: super::Error| error.to_string();
        let settings = self.settings().map_err(fail)?;
        let admitted = |key: &FlowKey, _: &Flow| filter.admits(key.src.into(), key.dst.into());
        let flows = Self::flows(self, usize::MAX, admitted).map_err(fail)?;
        let now = monotonic_ns();
        Ok(flows.iter().map(|(key, flow)| row(key, flow, settings.and_then(|s| slow(flow, &s, now)), now)).collect())
    }

    fn flow_count(&self) -> Result<u64, String> {
        // Counting is filtering with nothing let through but the count.
        let count = Cell::new(0);
        let counting = |_: &FlowKey, _: &Flow| {
            count.set(count.get() + 1);
            false
        };
        Self::flows(self, usize::MAX, counting).map_err(|error| error.to_string())?;
        Ok(count.get())
    }
}

/// Why the flow's next packet would be left to the kernel, as far as settings and time go.
fn slow(flow: &Flow, settings: &Settings, now: u64) -> Option<Reason> {
    if settings.enabled == 0 {
        Some(Reason::Disabled)
    } else if flow.epoch != settings.epoch {
        Some(Reason::FlowEpoch)
    } else if now.saturating_sub(flow.verified_at) > settings.revalidate_ns {
        Some(Reason::FlowStale)
    } else {
        None
    }
}

fn row(key: &FlowKey, flow: &Flow, slow: Option<Reason>, now: u64) -> FlowRow {
    let path = match flow.path {
        path::OUT => "out",
        path::IN => "in",
        path::IN_BRIDGE => "in_bridge",
        path::TRANSIT | path::TRANSIT_FROM => "transit",
        _ => "none",
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
        verified_ms: now.saturating_sub(flow.verified_at) / 1_000_000,
        max_len: flow.max_len,
        in_ifindex: flow.in_ifindex,
        out_ifindex: flow.out_ifindex,
    }
}

/// The clock that the programs stamp flows with.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
