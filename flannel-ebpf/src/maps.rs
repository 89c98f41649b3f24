//! The maps. Every unsafe map access of the BPF programs is in this file.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use flannel_common::abi::{
    COUNTERS_CAPACITY, ENDPOINTS_CAPACITY, Endpoint, FLOWS_CAPACITY, Flow, FlowKey, Hook, PEERS_CAPACITY, Peer,
    PeerKey, PeerTally, Settings, Tally, counter_index,
};
use flannel_common::reason::Reason;

#[map]
static PEERS: LpmTrie<PeerKey, Peer> =
    LpmTrie::with_max_entries(PEERS_CAPACITY, 1 /* BPF_F_NO_PREALLOC, required */);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(FLOWS_CAPACITY, 0);
#[map]
static ENDPOINTS: HashMap<[u8; 4], Endpoint> = HashMap::with_max_entries(ENDPOINTS_CAPACITY, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<Tally> = PerCpuArray::with_max_entries(COUNTERS_CAPACITY, 0);
#[map]
static PEER_COUNTERS: PerCpuArray<PeerTally> = PerCpuArray::with_max_entries(PEERS_CAPACITY, 0);

/// Adds one packet of `bytes` to the tally of `reason` at `hook`.
pub fn count(hook: Hook, reason: Reason, bytes: u64) {
    if let Some(tally) = COUNTERS.get_ptr_mut(counter_index(hook, reason)) {
        // SAFETY: a per-CPU slot of a live map, and BPF programs are not preempted by themselves on one CPU.
        let tally = unsafe { &mut *tally };
        tally.packets += 1;
        tally.bytes += bytes;
    }
}
