//! Packets that come in and go out by the uplink, at XDP.

use flannel_common::abi::{Settings, path};
use flannel_common::flow::{self, Arrival, Entry};
use flannel_common::header::{ETH_LEN, Macs, is_local};
use flannel_common::{checksum, reason::Reason};

use crate::candidate::{self, Candidate};
use crate::count::{Out, Outcome};
use crate::maps;
use crate::packet::{Head, Xdp};

/// What the uplink receives, verified mode. Notes nothing: what it passes meets `from_uplink` next.
#[inline(always)]
pub fn transit(xdp: &Xdp) -> Outcome {
    enter(xdp, |candidate, settings| {
        let (ifindex, mac) = (xdp.ifindex(), candidate.frame.mac);
        attempt(xdp, candidate, &Arrival { ifindex, mac, mark: 0, now: maps::coarse_now() }, settings)
    })
}

/// The whole of the hook: `attempt` rewrites a packet that leaves by where it came in, or says why not.
#[inline(always)]
pub fn enter(xdp: &Xdp, attempt: impl FnOnce(&Candidate, &Settings) -> Result<Reason, Reason>) -> Outcome {
    let Some(settings) = maps::settings() else {
        return Outcome::slow(Reason::Disabled, xdp.bytes().len());
    };
    let candidate = match candidate::at_xdp(xdp, settings) {
        Ok(candidate) => candidate,
        Err(reason) => return Outcome::slow(reason, xdp.bytes().len()),
    };
    let bytes = u32::from(candidate.ip.len);
    // What is for our own containers goes in by TC.
    if is_local(candidate.ip.dst, settings) {
        return Outcome::slow(Reason::NotOurs, bytes);
    }
    match attempt(&candidate, settings) {
        Ok(reason) => Outcome { reason, bytes, out: Out::Link(xdp.ifindex()) },
        Err(reason) => Outcome::slow(reason, bytes),
    }
}

#[inline(always)]
fn attempt(xdp: &Xdp, candidate: &Candidate, arrival: &Arrival, settings: &Settings) -> Result<Reason, Reason> {
    let packet = candidate.packet?;
    let key = candidate.ip.key(packet.ports);
    if packet.control {
        // from_uplink ends the flow.
        return Err(Reason::TcpControl);
    }
    let verified = maps::flow(&key).ok_or(Reason::FlowNew)?;
    let stamp = verified.verified_at();
    let known = verified.flow();
    let reason = flow::decide(known, &candidate.ip, &packet, arrival, Entry::Uplink, settings);
    if !reason.is_fast() {
        return Err(reason);
    }
    if reason != Reason::FastTransit || known.out_ifindex != arrival.ifindex {
        return Err(Reason::NoRoute);
    }
    let macs = Macs::from_bytes(&known.macs);
    let (peer, from_peer) = (u32::from(known.peer), path::is_from_peer(known.path));
    if verified.verified_at() != stamp {
        return Err(Reason::FlowStale);
    }
    unpadded(xdp, candidate)?.rewrite(&macs, checksum::decrement_ttl(candidate.frame.ip[2]));
    let bytes = u64::from(candidate.ip.len);
    verified.add(1, bytes);
    maps::count_peer(peer, from_peer, true, 1, bytes);
    Ok(reason)
}

/// The packet without the padding of its frame, which the kernel does not forward either.
#[inline(always)]
pub fn unpadded(xdp: &Xdp, candidate: &Candidate) -> Result<Head, Reason> {
    if !candidate.padded {
        return Ok(candidate.head);
    }
    xdp.trim(ETH_LEN + u32::from(candidate.ip.len)).ok_or(Reason::Malformed)
}
