//! The programs: one thin shell per hook, and what a verdict makes the kernel do.
//!
//! A program that does not carry a packet itself passes it on, to other programs at the hook and then to the kernel. None drops.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the attribute macros of aya drop the documentation of a program")]
#![allow(unreachable_pub, reason = "a binary: `pub` says which items of a module are for the others")]
#![allow(clippy::inline_always, reason = "a program is one function: a call costs, and hides bounds from the verifier")]

mod candidate;
mod count;
mod egress;
mod ingress;
mod learn;
mod maps;
mod packet;
mod shortcut;
mod transit;
mod trusted;

use aya_ebpf::{
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{XDP_PASS, XDP_TX},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flannel_common::{abi::Hook, flow::Exit};

use crate::count::{Out, Outcome};
use crate::packet::{Skb, Xdp};

macro_rules! tc {
    ($($(#[$doc:meta])* $name:ident at $hook:ident: |$skb:ident| $run:expr;)+) => {$(
        $(#[$doc])*
        #[classifier]
        pub fn $name(context: TcContext) -> i32 {
            let $skb = &Skb::new(context.skb.skb);
            tc_verdict($skb, Hook::$hook, $run)
        }
    )+};
}

tc! {
    /// TC ingress of a port or a bridge, verified mode: fast path out, or notes the packet as seen.
    from_port at FromPort: |skb| egress::from_port(skb);
    /// TC egress of the uplink, verified mode: verifies flows that leave the host.
    to_uplink at ToUplink: |skb| learn::leave(skb, Exit::Uplink);
    /// TC ingress of the uplink, verified mode: fast path in, or notes the packet as seen.
    from_uplink at FromUplink: |skb| ingress::from_uplink(skb);
    /// TC egress of a port, verified mode: verifies flows that enter a container.
    to_port at ToPort: |skb| learn::leave(skb, Exit::Port);
    /// The same for a bridge, and for ports that have no peer in another namespace.
    to_bridge at ToPort: |skb| learn::leave(skb, Exit::Bridge);
    /// TC ingress of a port or a bridge, trusted mode: out by the trie.
    trusted_from_port at FromPort: |skb| trusted::from_port(skb);
    /// TC ingress of the uplink, trusted mode: in by the map of endpoints.
    trusted_from_uplink at FromUplink: |skb| trusted::from_uplink(skb);
}

/// XDP on the uplink, verified mode: flows that come in and go out by it.
#[xdp(frags)]
pub fn transit(context: XdpContext) -> u32 {
    xdp_verdict(transit::transit(&Xdp::new(context.ctx)))
}

/// XDP on the uplink, trusted mode: what the kernel's route sends back out of it.
#[xdp(frags)]
pub fn trusted_transit(context: XdpContext) -> u32 {
    xdp_verdict(trusted::at_xdp(&Xdp::new(context.ctx)))
}

/// Counts an outcome and carries it out: every reason that is not fast leaves the packet to the kernel.
#[inline(always)]
fn tc_verdict(skb: &Skb, hook: Hook, outcome: Outcome) -> i32 {
    count::outcome(hook, &outcome, count::packets(skb.gso_size(), || skb.gso_segs()));
    if !outcome.reason.is_fast() {
        return TC_ACT_UNSPEC;
    }
    match outcome.out {
        Out::Link(ifindex) => packet::redirect(ifindex),
        Out::Peer(ifindex) => packet::redirect_peer(ifindex),
        Out::Neighbour(ifindex, next_hop) => packet::redirect_neighbour(ifindex, next_hop),
        Out::Stack => TC_ACT_UNSPEC,
    }
}

/// Counts an outcome and carries it out, as above.
#[inline(always)]
fn xdp_verdict(outcome: Outcome) -> u32 {
    count::outcome(Hook::Transit, &outcome, 1);
    if outcome.reason.is_fast() { XDP_TX } else { XDP_PASS }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
