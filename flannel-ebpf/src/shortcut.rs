//! The fast path of verified mode at the entry hooks: a hit repeats what the kernel did, a miss is noted and left to the kernel.

use flannel_common::abi::{FAST_TAG, Settings, path};
use flannel_common::flow::{self, Arrival, Course, Entry, reversed};
use flannel_common::header::{ETH_LEN, Macs, Packet};
use flannel_common::{checksum, reason::Reason};

use crate::candidate::{self, Candidate};
use crate::count::{self, Out, Outcome};
use crate::maps;
use crate::packet::{Head, Skb};

/// What is repeated for a fast packet, copied out of the map.
struct Shortcut {
    reason: Reason,
    out_ifindex: u32,
    priority: u32,
    path: u8,
    macs: Macs,
}

/// The whole of an entry hook. `admit` gives the course of a candidate that is slow.
#[inline(always)]
pub fn enter(skb: &Skb, entry: Entry, admit: impl FnOnce(&Candidate, &Settings) -> Result<Course, Reason>) -> Outcome {
    let Some(settings) = maps::settings() else {
        return Outcome::slow(Reason::Disabled, skb.len());
    };
    let candidate = match candidate::at_tc(skb, settings) {
        Ok(candidate) => candidate,
        Err(reason) => return Outcome::slow(reason, skb.len()),
    };
    let bytes = u32::from(candidate.ip.len);
    let arrival =
        Arrival { ifindex: skb.ifindex(), mac: candidate.frame.mac, mark: skb.mark(), now: maps::coarse_now() };
    let missed = match attempt(skb, &candidate, &arrival, entry, settings) {
        Ok((reason, out)) => return Outcome { reason, bytes, out },
        Err(reason) => reason,
    };
    Outcome::slow(leave(skb, &candidate, &arrival, settings, missed, admit), bytes)
}

/// Takes the shortcut, or says why not.
#[inline(always)]
fn attempt(
    skb: &Skb,
    candidate: &Candidate,
    arrival: &Arrival,
    entry: Entry,
    settings: &Settings,
) -> Result<(Reason, Out), Reason> {
    let packet = candidate.packet?;
    let key = candidate.ip.key(packet.ports);
    if packet.control {
        maps::forget(&key);
        maps::forget(&reversed(&key));
        return Err(Reason::TcpControl);
    }
    let verified = maps::flow(&key).ok_or(Reason::FlowNew)?;
    let stamp = verified.verified_at();
    let known = verified.flow();
    let reason = flow::decide(known, &candidate.ip, &packet, arrival, entry, settings);
    if !reason.is_fast() {
        return Err(reason);
    }
    let shortcut = Shortcut {
        reason,
        out_ifindex: known.out_ifindex,
        priority: known.priority,
        path: known.path,
        macs: Macs::from_bytes(&known.macs),
    };
    let (peer, from_peer) = (u32::from(known.peer), path::is_from_peer(known.path));
    if verified.verified_at() != stamp {
        return Err(Reason::FlowStale);
    }
    let out = take(skb, candidate, &shortcut)?;
    let (packets, bytes) = (count::packets(candidate.gso_size, || skb.gso_segs()), u64::from(candidate.ip.len));
    verified.add(packets, bytes);
    maps::count_peer(peer, from_peer, true, packets, bytes);
    Ok((shortcut.reason, out))
}

/// Does to the packet what the kernel's forwarding did to the flow's last one.
#[inline(always)]
fn take(skb: &Skb, candidate: &Candidate, shortcut: &Shortcut) -> Result<Out, Reason> {
    let head = unpadded(skb, candidate)?;
    head.rewrite(&shortcut.macs, checksum::decrement_ttl(candidate.frame.ip[2]));
    if shortcut.path == path::IN {
        return Ok(Out::Peer(shortcut.out_ifindex));
    }
    skb.set_priority(shortcut.priority);
    skb.set_tag(FAST_TAG);
    Ok(Out::Link(shortcut.out_ifindex))
}

/// The packet without the padding of its frame, which the kernel does not forward either.
#[inline(always)]
pub fn unpadded(skb: &Skb, candidate: &Candidate) -> Result<Head, Reason> {
    if !candidate.padded {
        return Ok(candidate.head);
    }
    if candidate.gso_size != 0 {
        return Err(Reason::Malformed);
    }
    skb.trim(ETH_LEN + u32::from(candidate.ip.len)).ok_or(Reason::Malformed)
}

/// Leaves a candidate to the kernel: counts it for its peer, and notes it for the exit hook if it may become verified.
#[inline(always)]
fn leave(
    skb: &Skb,
    candidate: &Candidate,
    arrival: &Arrival,
    settings: &Settings,
    missed: Reason,
    admit: impl FnOnce(&Candidate, &Settings) -> Result<Course, Reason>,
) -> Reason {
    let course = match admit(candidate, settings) {
        Ok(course) => course,
        Err(reason) => return if candidate.packet.is_ok() { reason } else { missed },
    };
    count::slow_peer(&course, count::packets(candidate.gso_size, || skb.gso_segs()), u32::from(candidate.ip.len));
    if let Ok(packet) = candidate.packet
        && !packet.control
    {
        note(candidate, &packet, &course, arrival, settings);
    }
    missed
}

#[inline(always)]
fn note(candidate: &Candidate, packet: &Packet, course: &Course, arrival: &Arrival, settings: &Settings) {
    if let Some(seen) = maps::seen(flow::seen_slot(&candidate.ip, packet.ports)) {
        *seen = flow::note(&candidate.ip, packet, course, arrival, settings);
    }
}
