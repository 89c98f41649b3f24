//! Desired and observed state, and what belongs to others, made into one plan.

use crate::{
    backend::{Change, Foreign, Objects, Observed, Slot},
    plan::diff::diff,
};

/// What to do, and what we leave alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub changes: Vec<Change>,
    /// Routes of others to subnets that peers hold. Those that block stand instead of ours.
    pub conflicts: Vec<Foreign>,
}

/// Plans the way from what is observed to what is desired.
///
/// A route of somebody else that stands in the place of ours stays there. A route in upstream flannel's shape is
/// replaced in one transaction, also where it already says the same: from then on it carries our mark.
pub fn plan(desired: &Objects, observed: &Observed) -> Plan {
    let mut wanted = desired.clone();
    for foreign in observed.foreign.iter().filter(|foreign| foreign.blocks) {
        let slot = Slot::Route(foreign.dst);
        // Both can stand only if the other was appended behind ours: then ours works, and taking it away would not help.
        if observed.ours.get(&slot) != wanted.get(&slot) {
            wanted.remove(&slot);
        }
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut ours = observed.ours.clone();
    for (slot, old) in &observed.adoptable {
        // Two routes to one destination, of which one is ours: replacing would hit whichever comes first.
        if let (Some(new), false) = (wanted.get(slot), ours.contains_key(slot)) {
            changes.push(Change::Replace { slot: *slot, old: *old, new: *new });
            ours.insert(*slot, *new);
        }
    }
    let adopted = changes.len();
    changes.extend(diff(&wanted, &ours));
    // Adopted routes need their neighbours first, like all others: they go behind the puts, before the removals.
    let puts = changes[adopted..].iter().take_while(|change| !matches!(change, Change::Remove(..))).count();
    changes[..adopted + puts].rotate_left(adopted);
    Plan { changes, conflicts: observed.foreign.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Object;

    fn route(dst: &str) -> Slot {
        Slot::Route(dst.parse().unwrap())
    }

    fn via(gateway: &str) -> Object {
        Object::Route { gateway: Some(gateway.parse().unwrap()), ifindex: 2, onlink: false }
    }

    fn foreign(dst: &str, blocks: bool) -> Foreign {
        Foreign { dst: dst.parse().unwrap(), blocks, gateway: None, ifindex: None, protocol: 4, text: String::new() }
    }

    const A: &str = "10.5.1.0/24";

    #[test]
    fn a_foreign_route_in_our_place_stays_and_is_reported() {
        let desired = Objects::from([(route(A), via("192.0.2.2"))]);
        let observed = Observed { foreign: vec![foreign(A, true)], ..Observed::default() };
        let plan = plan(&desired, &observed);
        assert_eq!(plan.changes, []);
        assert_eq!(plan.conflicts, observed.foreign);
    }

    #[test]
    fn a_foreign_route_beside_our_place_is_reported_and_ours_made() {
        let desired = Objects::from([(route(A), via("192.0.2.2"))]);
        let observed = Observed { foreign: vec![foreign(A, false)], ..Observed::default() };
        let plan = plan(&desired, &observed);
        assert_eq!(plan.changes, [Change::Put(route(A), via("192.0.2.2"))]);
        assert_eq!(plan.conflicts, observed.foreign);
    }

    #[test]
    fn our_route_stays_when_a_foreign_one_is_appended_behind_it() {
        let desired = Objects::from([(route(A), via("192.0.2.2"))]);
        let observed = Observed { ours: desired.clone(), foreign: vec![foreign(A, true)], ..Observed::default() };
        assert_eq!(plan(&desired, &observed).changes, []);
    }

    #[test]
    fn an_upstream_route_is_replaced_after_what_it_needs() {
        let neighbour = Slot::Neighbour(2, "10.5.1.0".parse().unwrap());
        let desired = Objects::from([(route(A), via("192.0.2.2")), (neighbour, Object::Neighbour([2; 6]))]);
        let observed = Observed {
            ours: Objects::from([(route("10.5.9.0/24"), via("192.0.2.9"))]),
            adoptable: Objects::from([(route(A), via("192.0.2.3"))]),
            ..Observed::default()
        };
        let expected = [
            Change::Put(neighbour, Object::Neighbour([2; 6])),
            Change::Replace { slot: route(A), old: via("192.0.2.3"), new: via("192.0.2.2") },
            Change::Remove(route("10.5.9.0/24"), via("192.0.2.9")),
        ];
        assert_eq!(plan(&desired, &observed).changes, expected);
    }

    #[test]
    fn an_upstream_route_of_an_unreachable_peer_stays() {
        let observed = Observed { adoptable: Objects::from([(route(A), via("192.0.2.3"))]), ..Observed::default() };
        assert_eq!(plan(&Objects::new(), &observed).changes, []);
    }
}
