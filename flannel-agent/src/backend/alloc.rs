//! alloc: a lease and subnet.env, nothing else; somebody else makes the packets travel.

use super::{Desired, Reached};
use crate::{lease::Lease, state::PeerWay};

pub(super) const NAME: &str = "alloc";

pub(super) fn desired<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> Desired {
    let ignored = || Reached { way: PeerWay::Ignored, via: None, problem: None };
    Desired { peers: leases.into_iter().map(|peer| (peer.subnet, ignored())).collect(), ..Desired::default() }
}
