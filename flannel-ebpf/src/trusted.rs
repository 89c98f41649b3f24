//! Trusted mode: the trie alone decides, from the first packet on. For clusters with no NAT and no policy between containers.

use flannel_common::abi::{Endpoint, Peer, Settings, path, peer_kind};
use flannel_common::flow::{Course, admit_from_port, is_container, live};
use flannel_common::header::{Mac, Macs, Packet};
use flannel_common::{checksum, reason::Reason};

use crate::candidate::{self, Candidate};
use crate::count::{self, Out, Outcome};
use crate::packet::{Skb, Xdp};
use crate::{ingress, maps, shortcut, transit};

/// What a port or a bridge receives from its containers.
#[inline(always)]
pub fn from_port(skb: &Skb) -> Outcome {
    enter(
        skb,
        |candidate, settings| {
            if !is_container(candidate.ip.src, settings) {
                return Err(Reason::SourceMismatch);
            }
            admit_from_port(&candidate.ip, settings, maps::peer(candidate.ip.dst))
        },
        |candidate, settings, packet, _course| {
            let peer = maps::peer(candidate.ip.dst).ok_or(Reason::NoPeer)?;
            is_for_bridge(skb, candidate, settings)?;
            to_peer(skb, candidate, packet, peer).map(|out| (Reason::FastOut, out))
        },
    )
}

/// What the uplink receives.
#[inline(always)]
pub fn from_uplink(skb: &Skb) -> Outcome {
    enter(skb, admit, |candidate, _settings, packet, course| {
        if !skb.is_for_host() {
            return Err(Reason::FlowMoved);
        }
        if course.path == path::IN {
            return to_container(skb, candidate, packet).map(|out| (Reason::FastIn, out));
        }
        let peer = maps::peer(candidate.ip.dst).ok_or(Reason::NoRoute)?;
        to_peer(skb, candidate, packet, peer).map(|out| (Reason::FastTransit, out))
    })
}

/// The course of what the uplink has received. A source must be a live peer's: of any other, only the kernel can say whether it
/// belongs here.
#[inline(always)]
fn admit(candidate: &Candidate, settings: &Settings) -> Result<Course, Reason> {
    let course = ingress::admit(candidate, settings)?;
    if course.is_from_peer() || live(maps::peer(candidate.ip.src)).is_some() {
        return Ok(course);
    }
    Err(Reason::SourceMismatch)
}

/// The whole of an entry hook: `admit` gives the course, `send` takes it.
#[inline(always)]
fn enter(
    skb: &Skb,
    admit: impl FnOnce(&Candidate, &Settings) -> Result<Course, Reason>,
    send: impl FnOnce(&Candidate, &Settings, &Packet, &Course) -> Result<(Reason, Out), Reason>,
) -> Outcome {
    let Some(settings) = maps::settings() else {
        return Outcome::slow(Reason::Disabled, skb.len());
    };
    let candidate = match candidate::at_tc(skb, settings) {
        Ok(candidate) => candidate,
        Err(reason) => return Outcome::slow(reason, skb.len()),
    };
    let bytes = u32::from(candidate.ip.len);
    let course = match admit(&candidate, settings) {
        Ok(course) => course,
        Err(reason) => return Outcome::slow(candidate.packet.err().unwrap_or(reason), bytes),
    };
    let packets = count::packets(candidate.gso_size, || skb.gso_segs());
    let sent = match candidate.packet {
        Ok(_) if skb.mark() != 0 => Err(Reason::FlowMoved),
        Ok(packet) => send(&candidate, settings, &packet, &course),
        Err(reason) => Err(reason),
    };
    maps::count_peer(course.peer, course.is_from_peer(), sent.is_ok(), packets, u64::from(bytes));
    match sent {
        Ok((reason, out)) => Outcome { reason, bytes, out },
        Err(reason) => Outcome::slow(reason, bytes),
    }
}

/// Whether a container has sent a frame to its bridge, and not to another container.
#[inline(always)]
fn is_for_bridge(skb: &Skb, candidate: &Candidate, settings: &Settings) -> Result<(), Reason> {
    if candidate.frame.mac == Mac::from_bytes(&settings.bridge_mac) {
        return Ok(());
    }
    match maps::endpoint(candidate.ip.src) {
        Some(endpoint)
            if endpoint.ifindex == skb.ifindex() && candidate.frame.mac == Mac::from_bytes(&endpoint.bridge_mac) =>
        {
            Ok(())
        }
        Some(_) | None => Err(Reason::FlowMoved),
    }
}

/// Sends a packet to the host of a peer.
#[inline(always)]
fn to_peer(skb: &Skb, candidate: &Candidate, packet: &Packet, peer: &Peer) -> Result<Out, Reason> {
    if peer.kind != peer_kind::NEXT_HOP {
        return Err(Reason::NoRoute);
    }
    if packet.segment > peer.mtu {
        return Err(Reason::TooBig);
    }
    let out = Out::Neighbour(peer.ifindex, peer.next_hop);
    shortcut::unpadded(skb, candidate)?.set_third(checksum::decrement_ttl(candidate.frame.ip[2]));
    Ok(out)
}

/// Hands a packet to a container of ours, if it is known where that is. Which addresses of our subnet are containers' at all, the
/// kernel knows better.
#[inline(always)]
fn to_container(skb: &Skb, candidate: &Candidate, packet: &Packet) -> Result<Out, Reason> {
    let sender = maps::peer(candidate.ip.src).ok_or(Reason::NoPeer)?;
    if packet.segment > sender.mtu {
        return Err(Reason::TooBig);
    }
    let Endpoint { ifindex, mac, bridge_mac } = *maps::endpoint(candidate.ip.dst).ok_or(Reason::NoRoute)?;
    let third = checksum::decrement_ttl(candidate.frame.ip[2]);
    shortcut::unpadded(skb, candidate)?.rewrite(&Macs::new(&mac, &bridge_mac), third);
    Ok(Out::Peer(ifindex))
}

/// What the uplink receives, at XDP.
#[inline(always)]
pub fn at_xdp(xdp: &Xdp) -> Outcome {
    transit::enter(xdp, |candidate, settings| reflect(xdp, candidate, settings))
}

/// Sends a packet back out of the uplink by the kernel's route, if that is where the route leads.
#[inline(always)]
fn reflect(xdp: &Xdp, candidate: &Candidate, settings: &Settings) -> Result<Reason, Reason> {
    let packet = candidate.packet?;
    let ip = &candidate.ip;
    let course = admit(candidate, settings)?;
    let peer = maps::peer(ip.dst).filter(|peer| peer.kind == peer_kind::NEXT_HOP).ok_or(Reason::NoRoute)?;
    if packet.segment > peer.mtu {
        return Err(Reason::TooBig);
    }
    let next = xdp.fib(ip.src, ip.dst, ip.len).ok_or(Reason::NoRoute)?;
    if candidate.frame.mac != Mac::from_bytes(&next.own) {
        return Err(Reason::FlowMoved);
    }
    let macs = Macs::new(&next.mac, &next.own);
    transit::unpadded(xdp, candidate)?.rewrite(&macs, checksum::decrement_ttl(candidate.frame.ip[2]));
    maps::count_peer(course.peer, course.is_from_peer(), true, 1, u64::from(ip.len));
    Ok(Reason::FastTransit)
}
