//! The flow state machine: when a flow is admitted, when the kernel has verified it, and when a packet of it may go fast.
//!
//! Pure functions over what a hook has read. The programs call them between two map accesses; the tests run them against a
//! model. Rule numbers are those of the design.

use crate::abi::{FAST_TAG, Flow, FlowKey, Peer, SEEN_CAPACITY, Seen, Settings, path, peer_kind};
use crate::header::{Ipv4, Mac, Macs, Packet, is_in_network, is_local};
use crate::reason::Reason;

/// How long an entry hook's note may wait for its packet to leave, in nanoseconds: the kernel forwards a packet in one go.
pub const SEEN_NS: u64 = 1_000_000_000;

/// The part of the TOS byte that forwarding may depend on; the two ECN bits differ between the packets of one connection.
const DSCP: u8 = 0xfc;

/// Where an entry hook sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At a container's port or a bridge.
    Port,
    /// At the uplink.
    Uplink,
}

/// Where an exit hook sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// At a container's port, whose peer is in another namespace.
    Port,
    /// At a bridge, or a port without such a peer.
    Bridge,
    /// At the uplink.
    Uplink,
}

/// The way that an admitted packet is expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// One of [`path`].
    pub path: u8,
    /// Slot of the peer at the other end.
    pub peer: u32,
}

impl Course {
    /// Whether the peer is the source.
    #[inline(always)]
    pub const fn is_from_peer(&self) -> bool {
        path::is_from_peer(self.path)
    }
}

/// What an entry hook knows of a packet besides its headers.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Destination MAC address.
    pub mac: Mac,
    /// Its mark.
    pub mark: u32,
    /// Time, in nanoseconds.
    pub now: u64,
}

/// What an exit hook knows of a packet besides its headers.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Where it leaves.
    pub exit: Exit,
    /// Interface that it leaves by.
    pub ifindex: u32,
    /// Interface that it came in by; 0 for the host's own.
    pub ingress_ifindex: u32,
    /// Its mark.
    pub mark: u32,
    /// Its priority.
    pub priority: u32,
    /// The MAC addresses of its Ethernet header: destination, source.
    pub macs: [u8; 12],
    /// Time, in nanoseconds.
    pub now: u64,
}

/// The slot of the live peer that the trie has answered, if it is one.
#[inline(always)]
pub const fn live(peer: Option<&Peer>) -> Option<u32> {
    match peer {
        Some(peer) if peer.kind != peer_kind::LOCAL => Some(peer.index),
        Some(_) | None => None,
    }
}

/// Admission and source check (rule 7) of a packet that came from a port. `dst` is the trie's answer for its destination.
#[inline(always)]
pub fn admit_from_port(ip: &Ipv4, settings: &Settings, dst: Option<&Peer>) -> Result<Course, Reason> {
    if !is_local(ip.src, settings) {
        return Err(Reason::SourceMismatch);
    }
    match live(dst) {
        Some(peer) => Ok(Course { path: path::OUT, peer }),
        None => Err(Reason::NoPeer),
    }
}

/// Admission and source check (rule 7) of a packet that came from the uplink. `src` is the trie's answer for its source;
/// `dst` the answer for its destination, looked up only if that is not our own subnet.
#[inline(always)]
pub fn admit_from_uplink(
    ip: &Ipv4,
    settings: &Settings,
    src: Option<&Peer>,
    dst: Option<&Peer>,
) -> Result<Course, Reason> {
    if is_local(ip.src, settings) {
        return Err(Reason::SourceMismatch);
    }
    let src = live(src);
    if is_local(ip.dst, settings) {
        return match src {
            Some(peer) => Ok(Course { path: path::IN, peer }),
            None => Err(Reason::NoPeer),
        };
    }
    match (src, live(dst)) {
        (None, Some(_)) if is_in_network(ip.src, settings) => Err(Reason::SourceMismatch),
        (Some(_) | None, Some(peer)) => Ok(Course { path: path::TRANSIT, peer }),
        (Some(peer), None) => Ok(Course { path: path::TRANSIT_FROM, peer }),
        (None, None) => Err(Reason::NoPeer),
    }
}

/// Whether `addr` (memory order) can be a container's of our own subnet: neither the subnet's own address nor its broadcast address
/// nor its first, which is the bridge's. The kernel calls these martian sources; in trusted mode nobody else would.
#[inline(always)]
pub const fn is_container(addr: u32, settings: &Settings) -> bool {
    let host = u32::from_be(addr & !u32::from_ne_bytes(settings.subnet_mask));
    let last = u32::from_be(!u32::from_ne_bytes(settings.subnet_mask));
    is_local(addr, settings) && host > 1 && host != last
}

/// Whether a packet may repeat what the kernel did for its flow: one of the fast reasons, or why not.
#[inline(always)]
pub fn decide(flow: &Flow, ip: &Ipv4, packet: &Packet, arrival: &Arrival, entry: Entry, settings: &Settings) -> Reason {
    let fast = match (entry, flow.path) {
        (Entry::Port, path::OUT) => Reason::FastOut,
        (Entry::Uplink, path::IN | path::IN_BRIDGE) => Reason::FastIn,
        (Entry::Uplink, path::TRANSIT | path::TRANSIT_FROM) => Reason::FastTransit,
        (Entry::Port | Entry::Uplink, _) => return Reason::FlowMoved,
    };
    if flow.epoch != settings.epoch {
        return Reason::FlowEpoch;
    }
    if flow.in_ifindex != arrival.ifindex
        || Mac::from_bytes(&flow.in_mac) != arrival.mac
        || arrival.mark != 0
        || (flow.tos ^ ip.tos) & DSCP != 0
    {
        return Reason::FlowMoved;
    }
    if !is_fresh(flow, settings, arrival.now) {
        return Reason::FlowStale;
    }
    if packet.segment > flow.max_len {
        return Reason::TooBig;
    }
    fast
}

/// Whether the last verification is younger than the revalidation time (rule 3).
#[inline(always)]
pub const fn is_fresh(flow: &Flow, settings: &Settings, now: u64) -> bool {
    // Verification is stamped with the fine clock and compared with the coarse one, which is up to a tick behind: signed.
    let age = now.wrapping_sub(flow.verified_at) as i64;
    flow.verified_at != 0 && age < settings.revalidate_ns as i64
}

/// The slot of the map of seen packets that a flow uses.
#[inline(always)]
pub const fn seen_slot(ip: &Ipv4, ports: u32) -> u32 {
    (ip.src ^ ip.dst.rotate_left(16) ^ ports).wrapping_mul(0x9e37_79b1) >> (32 - SEEN_CAPACITY.trailing_zeros())
}

/// The key of the other direction. TCP ends (or begins) both at once.
#[inline(always)]
pub fn reversed(key: &FlowKey) -> FlowKey {
    let [src, dst, ports, protocol]: [u32; 4] = bytemuck::must_cast(*key);
    bytemuck::must_cast([dst, src, ports.rotate_left(16), protocol])
}

/// What an entry hook notes of an admitted packet that it leaves to the kernel.
#[inline(always)]
pub fn note(ip: &Ipv4, packet: &Packet, course: &Course, arrival: &Arrival, settings: &Settings) -> Seen {
    Seen {
        key: ip.key(packet.ports),
        at: arrival.now,
        epoch: settings.epoch,
        in_ifindex: arrival.ifindex,
        peer: course.peer,
        len: ip.len,
        segment: packet.segment,
        in_mac: arrival.mac.to_bytes(),
        ttl: ip.ttl,
        tos: ip.tos,
        path: course.path,
        reserved: [0; 7],
    }
}

/// Whether what leaves is what was seen to come in, changed by nothing but forwarding (rule 9): then the flow that it makes.
#[inline(always)]
pub fn verify(seen: &Seen, ip: &Ipv4, packet: &Packet, departure: &Departure) -> Result<Flow, Reason> {
    let waited = departure.now.wrapping_sub(seen.at);
    if seen.path == 0 || departure.ingress_ifindex == 0 || waited >= SEEN_NS || !is_seen(seen, ip, packet) {
        return Err(Reason::NotSeen);
    }
    let path = match (seen.path, departure.exit) {
        (path::OUT, Exit::Uplink) => path::OUT,
        (path::IN, Exit::Port) => path::IN,
        (path::IN, Exit::Bridge) => path::IN_BRIDGE,
        (path::TRANSIT | path::TRANSIT_FROM, Exit::Uplink) => seen.path,
        (_, Exit::Port | Exit::Bridge | Exit::Uplink) => return Err(Reason::Rewritten),
    };
    if ip.ttl.wrapping_add(1) != seen.ttl || ip.tos != seen.tos || ip.len != seen.len || departure.mark != 0 {
        return Err(Reason::Rewritten);
    }
    Ok(Flow {
        packets: 0,
        bytes: 0,
        verified_at: departure.now,
        epoch: seen.epoch,
        in_ifindex: seen.in_ifindex,
        out_ifindex: departure.ifindex,
        priority: departure.priority,
        macs: departure.macs,
        in_mac: seen.in_mac,
        max_len: seen.segment,
        peer: seen.peer as u16,
        path,
        tos: seen.tos & DSCP,
    })
}

/// Whether a slot holds a packet of the same flow. Asked first: most of what meets an exit hook is the host's own traffic.
#[inline(always)]
pub fn is_seen(seen: &Seen, ip: &Ipv4, packet: &Packet) -> bool {
    let (seen, left): ([u32; 4], [u32; 4]) = (bytemuck::must_cast(seen.key), bytemuck::must_cast(ip.key(packet.ports)));
    seen[0] == left[0] && seen[1] == left[1] && seen[2] == left[2] && seen[3] == left[3]
}

/// Whether a verification changes nothing of an entry but its stamps, so that they can be stored while others read the rest.
#[inline(always)]
pub fn same_way(old: &Flow, new: &Flow) -> bool {
    old.in_ifindex == new.in_ifindex
        && old.out_ifindex == new.out_ifindex
        && old.peer == new.peer
        && old.priority == new.priority
        && old.path == new.path
        && old.tos == new.tos
        && Mac::from_bytes(&old.in_mac) == Mac::from_bytes(&new.in_mac)
        && Macs::from_bytes(&old.macs) == Macs::from_bytes(&new.macs)
}

/// The size limit after a verification: sizes add up while the flow stays verified, and start anew once it was not, so that a
/// smaller path MTU is learned within the revalidation time (rule 5).
#[inline(always)]
pub const fn merged_max_len(old: &Flow, new: &Flow, settings: &Settings) -> u16 {
    let keeps = old.epoch == new.epoch && is_fresh(old, settings, new.verified_at);
    if keeps && old.max_len > new.max_len { old.max_len } else { new.max_len }
}

/// Whether a packet at an exit hook was redirected there by an entry hook.
#[inline(always)]
pub const fn is_tagged(tc_index: u32) -> bool {
    tc_index == FAST_TAG as u32
}
