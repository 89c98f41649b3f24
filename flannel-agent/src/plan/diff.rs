//! From what is to what should be, in steps whose order is safe.

use crate::backend::{Change, Objects};

/// The changes that turn `observed` into `desired`.
///
/// What a route needs (neighbour, forwarding entry) is made before it and taken away after it; everything new stands
/// before anything old goes; and what changes is replaced, never removed and made again.
pub fn diff(desired: &Objects, observed: &Objects) -> Vec<Change> {
    // The order of `Slot` is that of need: neighbours, forwarding entries, routes.
    let puts = desired.iter().filter_map(|(slot, new)| match observed.get(slot) {
        None => Some(Change::Put(*slot, *new)),
        Some(old) if old != new => Some(Change::Replace { slot: *slot, old: *old, new: *new }),
        Some(_) => None,
    });
    let removals = observed.iter().rev().filter(|(slot, _)| !desired.contains_key(slot));
    puts.chain(removals.map(|(slot, old)| Change::Remove(*slot, *old))).collect()
}

/// What a list of changes makes of a state; the kernel does the same.
pub fn apply(changes: &[Change], state: &mut Objects) {
    for change in changes {
        match change {
            Change::Put(slot, new) | Change::Replace { slot, new, .. } => state.insert(*slot, *new),
            Change::Remove(slot, _) => state.remove(slot),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::{IpNet, Ipv4Net};
    use proptest::prelude::*;

    use super::*;
    use crate::backend::{Object, Slot};

    /// Few values, so that the two states share places and objects.
    fn objects() -> impl Strategy<Value = Objects> {
        proptest::collection::btree_map(slot(), 0..3_u8, 0..12)
            .prop_map(|states| states.into_iter().map(|(slot, state)| (slot, object(slot, state))).collect())
    }

    fn slot() -> impl Strategy<Value = Slot> {
        prop_oneof![
            (0..6_u8).prop_map(|n| Slot::Route(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 5, n, 0), 24)))),
            (1..3_u32, 0..4_u8).prop_map(|(ifindex, n)| Slot::Neighbour(ifindex, IpAddr::from([10, 5, n, 0]))),
            (1..3_u32, 0..4_u8).prop_map(|(ifindex, n)| Slot::Fdb(ifindex, [2, 0, 0, 0, 0, n])),
        ]
    }

    fn object(slot: Slot, n: u8) -> Object {
        match slot {
            Slot::Route(_) => Object::Route { gateway: Some(IpAddr::from([192, 0, 2, n])), ifindex: 1, onlink: n == 0 },
            Slot::Neighbour(..) => Object::Neighbour([2, 0, 0, 0, 0, n]),
            Slot::Fdb(..) => Object::Fdb(IpAddr::from([192, 0, 2, n])),
        }
    }

    proptest! {
        #[test]
        fn applying_the_difference_makes_what_is_desired(desired in objects(), observed in objects()) {
            let mut state = observed.clone();
            apply(&diff(&desired, &observed), &mut state);
            prop_assert_eq!(state, desired);
        }

        #[test]
        fn there_is_no_difference_to_itself(state in objects()) {
            prop_assert!(diff(&state, &state).is_empty());
        }

        #[test]
        fn each_place_is_touched_once(desired in objects(), observed in objects()) {
            let mut slots: Vec<Slot> = diff(&desired, &observed).iter().map(place).collect();
            let changes = slots.len();
            slots.sort();
            slots.dedup();
            prop_assert_eq!(slots.len(), changes);
        }

        #[test]
        fn routes_come_last_and_go_first(desired in objects(), observed in objects()) {
            let changes = diff(&desired, &observed);
            let is_route = |change: &&Change| matches!(place(change), Slot::Route(_));
            let (removals, puts): (Vec<_>, Vec<_>) = changes.iter().partition(|c| matches!(c, Change::Remove(..)));
            prop_assert!(puts.iter().skip_while(|c| !is_route(c)).all(|c| is_route(&c)));
            prop_assert!(removals.iter().skip_while(|c| is_route(c)).all(|c| !is_route(&c)));
            prop_assert!(changes.iter().skip_while(|c| !matches!(c, Change::Remove(..))).count() == removals.len());
        }
    }

    fn place(change: &Change) -> Slot {
        match change {
            Change::Put(slot, _) | Change::Replace { slot, .. } | Change::Remove(slot, _) => *slot,
        }
    }
}
