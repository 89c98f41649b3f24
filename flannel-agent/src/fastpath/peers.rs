//! Which entries the `PEERS` trie should hold, and the steps from those it holds. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use flannel_common::abi::{Peer, peer_kind};
use ipnet::Ipv4Net;

use super::inputs::{Inputs, PeerInput};

/// Slot of our own subnet in the per-peer counters.
const OWN_SLOT: u32 = 0;
/// "No slot": beyond any map, so that programs find nothing there and count nothing.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make or replace an entry.
    Put {
        /// Its key.
        subnet: Ipv4Net,
        /// Its value.
        peer: Peer,
        /// The slot was not this peer's before: what is counted there is another's.
        new_slot: bool,
    },
    /// Take an entry away.
    Remove(Ipv4Net),
}

/// The steps from `known` to what `inputs` ask for. With `all`, entries that look right are put again.
pub(super) fn steps(known: &BTreeMap<Ipv4Net, Peer>, inputs: &Inputs, slots: u32, all: bool) -> Vec<Step> {
    let desired = desired(known, inputs, slots);
    let gone = known.keys().filter(|subnet| !desired.contains_key(*subnet)).map(|subnet| Step::Remove(*subnet));
    let put = desired.iter().filter_map(|(subnet, peer)| {
        let before = known.get(subnet);
        let new_slot = peer.index != NO_SLOT && before.is_none_or(|before| before.index != peer.index);
        (all || before != Some(peer)).then_some(Step::Put { subnet: *subnet, peer: *peer, new_slot })
    });
    // Removals first: a slot that one peer leaves may be another's in the same pass.
    gone.chain(put).collect()
}

/// Whether flows that were verified before this step must verify again.
pub(super) fn outdates_flows(known: &BTreeMap<Ipv4Net, Peer>, step: &Step) -> bool {
    match step {
        Step::Remove(_) => true,
        Step::Put { subnet, peer, .. } => known.get(subnet).is_some_and(|before| before != peer),
    }
}

fn desired(known: &BTreeMap<Ipv4Net, Peer>, inputs: &Inputs, slots: u32) -> BTreeMap<Ipv4Net, Peer> {
    let remote = || inputs.peers.iter().filter(|(subnet, _)| **subnet != inputs.subnet);
    let mut taken = BTreeSet::from([OWN_SLOT]);
    let mut kept = BTreeMap::new();
    for (subnet, _) in remote() {
        let slot = known.get(subnet).map(|peer| peer.index).filter(|slot| *slot < slots);
        if let Some(slot) = slot
            && taken.insert(slot)
        {
            kept.insert(*subnet, slot);
        }
    }
    let mut free = (0..slots).filter(|slot| !taken.contains(slot));
    let mut entries: BTreeMap<_, _> = remote()
        .map(|(subnet, peer)| {
            let slot = kept.get(subnet).copied().or_else(|| free.next()).unwrap_or(NO_SLOT);
            (*subnet, entry(peer, slot))
        })
        .collect();
    entries.insert(inputs.subnet.trunc(), own());
    entries
}

fn entry(peer: &PeerInput, index: u32) -> Peer {
    let host = peer.host.octets();
    match peer.way {
        Some(way) => Peer {
            next_hop: way.next_hop.octets(),
            host,
            ifindex: way.ifindex,
            index,
            mtu: u16::try_from(way.mtu).unwrap_or(u16::MAX),
            kind: peer_kind::NEXT_HOP,
            reserved: 0,
        },
        None => Peer { next_hop: NOWHERE, host, ifindex: 0, index, mtu: 0, kind: peer_kind::KERNEL, reserved: 0 },
    }
}

const NOWHERE: [u8; 4] = Ipv4Addr::UNSPECIFIED.octets();

const fn own() -> Peer {
    Peer { next_hop: NOWHERE, host: NOWHERE, ifindex: 0, index: OWN_SLOT, mtu: 0, kind: peer_kind::LOCAL, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Way;

    fn net(third: u8) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, 5, third, 0), 24)
    }

    fn inputs(peers: &[(u8, Option<u32>)]) -> Inputs {
        let peer = |third: u8, ifindex: Option<u32>| PeerInput {
            host: Ipv4Addr::new(192, 168, 0, third),
            way: ifindex.map(|ifindex| Way { ifindex, next_hop: Ipv4Addr::new(192, 168, 0, third), mtu: 1500 }),
        };
        Inputs {
            subnet: net(1),
            peers: peers.iter().map(|(third, ifindex)| (net(*third), peer(*third, *ifindex))).collect(),
            uplinks: Vec::new(),
            bridges: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }

    fn apply(known: &mut BTreeMap<Ipv4Net, Peer>, inputs: &Inputs, slots: u32) -> Vec<Step> {
        let steps = steps(known, inputs, slots, false);
        for step in &steps {
            match step {
                Step::Put { subnet, peer, .. } => known.insert(*subnet, *peer),
                Step::Remove(subnet) => known.remove(subnet),
            };
        }
        steps
    }

    #[test]
    fn the_second_time_changes_nothing() {
        let mut known = BTreeMap::new();
        let inputs = inputs(&[(2, Some(7)), (3, None)]);
        assert_eq!(apply(&mut known, &inputs, 256).len(), 3);
        assert_eq!(apply(&mut known, &inputs, 256), []);
        assert_eq!(known[&net(1)].kind, peer_kind::LOCAL);
        assert_eq!(known[&net(2)].kind, peer_kind::NEXT_HOP);
        assert_eq!(known[&net(3)].kind, peer_kind::KERNEL);
    }

    #[test]
    fn a_peer_keeps_its_slot_and_a_newcomer_gets_a_cleared_one() {
        let mut known = BTreeMap::new();
        apply(&mut known, &inputs(&[(2, Some(7)), (3, Some(7))]), 256);
        let third = known[&net(3)].index;
        let steps = apply(&mut known, &inputs(&[(3, Some(7)), (4, Some(7))]), 256);
        assert_eq!(known[&net(3)].index, third);
        assert_eq!(steps[0], Step::Remove(net(2)));
        assert!(matches!(steps[1], Step::Put { subnet, new_slot: true, .. } if subnet == net(4)));
    }

    #[test]
    fn more_peers_than_slots_leaves_some_uncounted() {
        let mut known = BTreeMap::new();
        apply(&mut known, &inputs(&[(2, None), (3, None), (4, None)]), 3);
        let slots: Vec<u32> = known.values().map(|peer| peer.index).collect();
        assert_eq!(slots, [0, 1, 2, NO_SLOT]);
    }

    #[test]
    fn our_own_subnet_is_never_a_peer() {
        let mut known = BTreeMap::new();
        apply(&mut known, &inputs(&[(1, Some(7))]), 256);
        assert_eq!(known.len(), 1);
        assert_eq!(known[&net(1)].kind, peer_kind::LOCAL);
    }

    #[test]
    fn only_what_goes_or_changes_outdates_flows() {
        let mut known = BTreeMap::new();
        for step in steps(&known, &inputs(&[(2, Some(7))]), 256, false) {
            assert!(!outdates_flows(&known, &step));
        }
        apply(&mut known, &inputs(&[(2, Some(7)), (3, Some(7))]), 256);
        let steps = steps(&known, &inputs(&[(2, Some(8))]), 256, false);
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|step| outdates_flows(&known, step)));
    }
}
