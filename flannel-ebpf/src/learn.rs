//! Exit hooks: what the kernel forwarded unchanged is verified, and its way remembered.

use flannel_common::flow::{Departure, Exit, is_seen, is_tagged, seen_slot, verify};
use flannel_common::{header::ETH_LEN, reason::Reason};

use crate::candidate;
use crate::count::Outcome;
use crate::maps;
use crate::packet::Skb;

/// The whole of an exit hook. It never changes the packet.
#[inline(always)]
pub fn leave(skb: &Skb, exit: Exit) -> Outcome {
    if is_tagged(skb.tc_index()) {
        skb.set_tag(0);
        return Outcome::slow(Reason::AlreadyFast, skb.len().wrapping_sub(ETH_LEN));
    }
    let Some(settings) = maps::settings() else {
        return Outcome::slow(Reason::Disabled, skb.len());
    };
    let candidate = match candidate::at_tc(skb, settings) {
        Ok(candidate) => candidate,
        Err(reason) => return Outcome::slow(reason, skb.len()),
    };
    let bytes = u32::from(candidate.ip.len);
    let packet = match candidate.packet {
        Ok(packet) if packet.control => return Outcome::slow(Reason::TcpControl, bytes),
        Ok(packet) => packet,
        Err(reason) => return Outcome::slow(reason, bytes),
    };
    let seen = maps::seen(seen_slot(&candidate.ip, packet.ports));
    let Some(seen) = seen.filter(|seen| is_seen(seen, &candidate.ip, &packet)) else {
        return Outcome::slow(Reason::NotSeen, bytes);
    };
    let departure = Departure {
        exit,
        ifindex: skb.ifindex(),
        ingress_ifindex: skb.ingress_ifindex(),
        mark: skb.mark(),
        priority: skb.priority(),
        macs: candidate.head.macs(),
        now: maps::now(),
    };
    let reason = match verify(seen, &candidate.ip, &packet, &departure) {
        Ok(mut flow) => {
            // One packet verifies once.
            seen.path = 0;
            maps::publish(&seen.key, &mut flow, settings)
        }
        Err(reason) => reason,
    };
    Outcome::slow(reason, bytes)
}
