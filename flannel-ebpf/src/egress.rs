//! Packets that containers send.

use flannel_common::flow::{Entry, admit_from_port};

use crate::count::Outcome;
use crate::packet::Skb;
use crate::{maps, shortcut};

/// What a port or a bridge receives from its containers, verified mode.
#[inline(always)]
pub fn from_port(skb: &Skb) -> Outcome {
    shortcut::enter(skb, Entry::Port, |candidate, settings| {
        admit_from_port(&candidate.ip, settings, maps::peer(candidate.ip.dst))
    })
}
