//! The maps. Every unsafe map access of the programs is in this file.

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
};
use flannel_common::abi::{
    COUNTERS_CAPACITY, ENDPOINTS_CAPACITY, Endpoint, FLOWS_CAPACITY, Flow, FlowKey, Hook, PEERS_CAPACITY, Peer,
    PeerKey, PeerTally, SEEN_CAPACITY, Seen, Settings, Tally, counter_index,
};
use flannel_common::flow::{merged_max_len, same_way};
use flannel_common::reason::Reason;

#[map]
static PEERS: LpmTrie<PeerKey, Peer> =
    LpmTrie::with_max_entries(PEERS_CAPACITY, 1 /* BPF_F_NO_PREALLOC, required */);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(FLOWS_CAPACITY, 0);
#[map]
static SEEN: PerCpuArray<Seen> = PerCpuArray::with_max_entries(SEEN_CAPACITY, 0);
#[map]
static ENDPOINTS: HashMap<[u8; 4], Endpoint> = HashMap::with_max_entries(ENDPOINTS_CAPACITY, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<Tally> = PerCpuArray::with_max_entries(COUNTERS_CAPACITY, 0);
#[map]
static PEER_COUNTERS: PerCpuArray<PeerTally> = PerCpuArray::with_max_entries(PEERS_CAPACITY, 0);

/// The settings, unless the fast path is switched off.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.enabled != 0)
}

/// The trie's answer for an address (memory order).
#[inline(always)]
pub fn peer(addr: u32) -> Option<&'static Peer> {
    PEERS.get(Key::new(32, PeerKey { addr: addr.to_ne_bytes() }))
}

/// Where a container of ours is (address in memory order).
#[inline(always)]
pub fn endpoint(addr: u32) -> Option<&'static Endpoint> {
    // SAFETY: the agent replaces an entry as a whole; a reader that meets one being reused sends one packet to a container that
    // has just gone, as the kernel's own tables may.
    unsafe { ENDPOINTS.get(addr.to_ne_bytes()) }
}

/// A clock that is cheap to read and up to a tick late, in nanoseconds.
#[inline(always)]
pub fn coarse_now() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The same clock to the nanosecond.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// A verified flow in the map, which other CPUs may verify anew, replace or reuse for another flow at any time.
///
/// Readers bracket what they read with the stamp: as long as [`Self::verified_at`] is the same before and after, all of it belongs
/// to that verification: every one has a stamp of its own (fine clock), and the kernel fills an entry that it reuses from its start.
#[derive(Clone, Copy)]
pub struct Entry {
    flow: *mut Flow,
}

impl Entry {
    /// The stamp.
    #[inline(always)]
    pub fn verified_at(&self) -> u64 {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: a live map value.
        let stamp = unsafe { read_volatile(&raw const (*self.flow).verified_at) };
        compiler_fence(Ordering::SeqCst);
        stamp
    }

    /// The value. May change under the reader: see the bracket above.
    #[inline(always)]
    pub fn flow(&self) -> &Flow {
        // SAFETY: a live map value, of which every bit pattern is valid.
        unsafe { &*self.flow }
    }

    /// Adds to what the fast path has carried.
    #[inline(always)]
    pub fn add(&self, packets: u64, bytes: u64) {
        // SAFETY: a live map value; the two tallies need not be exact while several CPUs carry one flow.
        let flow = unsafe { &mut *self.flow };
        flow.packets += packets;
        flow.bytes += bytes;
    }

    /// Takes over a new verification that changes nothing but the stamps. Each is one store and the time is the last, so that a reader
    /// sees the flow as it was, or as it is.
    #[inline(always)]
    fn renew(&self, new: &Flow, settings: &Settings) {
        let max_len = merged_max_len(self.flow(), new, settings);
        // SAFETY: a live map value.
        unsafe { write_volatile(&raw mut (*self.flow).max_len, max_len) };
        // SAFETY: a live map value.
        unsafe { write_volatile(&raw mut (*self.flow).epoch, new.epoch) };
        // SAFETY: a live map value.
        unsafe { write_volatile(&raw mut (*self.flow).verified_at, new.verified_at) };
    }
}

/// The verified flow of a key.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<Entry> {
    FLOWS.get_ptr_mut(key).map(|flow| Entry { flow })
}

/// Puts a verification into the map. A new flow, or one whose way has changed, appears as a whole: the kernel links in a new entry
/// before it takes the old one away.
#[inline(always)]
pub fn publish(key: &FlowKey, new: &mut Flow, settings: &Settings) -> Reason {
    if let Some(entry) = flow(key) {
        let old = entry.flow();
        if same_way(old, new) {
            entry.renew(new, settings);
            return Reason::Verified;
        }
        (new.packets, new.bytes) = (old.packets, old.bytes);
    }
    match FLOWS.insert(key, &*new, 0) {
        Ok(()) => Reason::Verified,
        Err(_) => Reason::FlowTableFull,
    }
}

/// Ends a flow (rule 2).
#[inline(always)]
pub fn forget(key: &FlowKey) {
    // That there was no entry is as good.
    FLOWS.remove(key).ok();
}

/// This CPU's slot for seen packets.
#[inline(always)]
pub fn seen(slot: u32) -> Option<&'static mut Seen> {
    // SAFETY: a live slot of this CPU alone, and a CPU runs one of the hooks at a time.
    SEEN.get_ptr_mut(slot).map(|seen| unsafe { &mut *seen })
}

/// Adds to the tally of a reason at a hook.
#[inline(always)]
pub fn count(hook: Hook, reason: Reason, packets: u64, bytes: u64) {
    if let Some(tally) = COUNTERS.get_ptr_mut(counter_index(hook, reason)) {
        // SAFETY: a live slot of this CPU alone, and a CPU runs one of the hooks at a time.
        add(unsafe { &mut *tally }, packets, bytes);
    }
}

/// Adds to the tally of a peer.
#[inline(always)]
pub fn count_peer(peer: u32, from_peer: bool, fast: bool, packets: u64, bytes: u64) {
    if let Some(tally) = PEER_COUNTERS.get_ptr_mut(peer) {
        // SAFETY: a live slot of this CPU alone, and a CPU runs one of the hooks at a time.
        let tally = unsafe { &mut *tally };
        let way = match (fast, from_peer) {
            (true, false) => &mut tally.fast_to,
            (true, true) => &mut tally.fast_from,
            (false, false) => &mut tally.slow_to,
            (false, true) => &mut tally.slow_from,
        };
        add(way, packets, bytes);
    }
}

#[inline(always)]
fn add(tally: &mut Tally, packets: u64, bytes: u64) {
    tally.packets += packets;
    tally.bytes += bytes;
}
