//! What became of a packet, and its place in the counters.

use flannel_common::{abi::Hook, flow::Course, reason::Reason};

use crate::maps;

/// What became of a packet at a hook.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// Bytes to count: IPv4 total length, or the frame's length where it is not IPv4.
    pub bytes: u32,
    /// The interface of a fast reason.
    pub out: Out,
}

/// Where a fast packet goes.
#[derive(Clone, Copy)]
pub enum Out {
    /// Nowhere: it is slow.
    Stack,
    /// By the egress of an interface, with the Ethernet header that it has.
    Link(u32),
    /// To the other end of a port, with the Ethernet header that it has.
    Peer(u32),
    /// By an interface to a neighbour that the kernel resolves.
    Neighbour(u32, [u8; 4]),
}

impl Outcome {
    /// Left to the kernel.
    #[inline(always)]
    pub fn slow(reason: Reason, bytes: u32) -> Self {
        Self { reason, bytes, out: Out::Stack }
    }
}

/// Counts an outcome at its hook.
#[inline(always)]
pub fn outcome(hook: Hook, outcome: &Outcome, packets: u64) {
    maps::count(hook, outcome.reason, packets, u64::from(outcome.bytes));
}

/// Counts a packet that is left to the kernel for its peer.
#[inline(always)]
pub fn slow_peer(course: &Course, packets: u64, bytes: u32) {
    maps::count_peer(course.peer, course.is_from_peer(), false, packets, u64::from(bytes));
}

/// The packets that one packet stands for: the segments of a GSO packet.
#[inline(always)]
pub fn packets(gso_size: u32, gso_segs: impl FnOnce() -> u32) -> u64 {
    if gso_size == 0 {
        return 1;
    }
    let segments = gso_segs();
    if segments > 1 { u64::from(segments) } else { 1 }
}
