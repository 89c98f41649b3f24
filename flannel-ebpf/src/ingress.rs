//! Packets that the uplink receives.

use flannel_common::flow::{Course, Entry, admit_from_uplink};
use flannel_common::{abi::Settings, header::is_local, reason::Reason};

use crate::candidate::Candidate;
use crate::count::Outcome;
use crate::packet::Skb;
use crate::{maps, shortcut};

/// What the uplink receives, verified mode.
#[inline(always)]
pub fn from_uplink(skb: &Skb) -> Outcome {
    shortcut::enter(skb, Entry::Uplink, admit)
}

/// The course of what the uplink has received.
#[inline(always)]
pub fn admit(candidate: &Candidate, settings: &Settings) -> Result<Course, Reason> {
    let ip = &candidate.ip;
    let dst = if is_local(ip.dst, settings) { None } else { maps::peer(ip.dst) };
    admit_from_uplink(ip, settings, maps::peer(ip.src), dst)
}
