//! All leases as the store last told of them.

use std::collections::BTreeMap;

use crate::lease::{Lease, Subnet, Update};

/// All leases by subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    leases: BTreeMap<Subnet, Lease>,
}

impl Table {
    /// Takes in news. Whether anything is different now that a peer's routes could depend on: not so after a renewal.
    pub fn apply(&mut self, update: Update) -> bool {
        match update {
            Update::Snapshot { leases, .. } => self.replace(leases),
            Update::Put(lease) => self.put(lease),
            Update::Delete(subnet) => self.leases.remove(&subnet).is_some(),
            Update::Config(_) | Update::Connected { .. } | Update::Disconnected { .. } => false,
        }
    }

    /// Every lease, in the order of subnets.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease of a subnet.
    pub fn get(&self, subnet: &Subnet) -> Option<&Lease> {
        self.leases.get(subnet)
    }

    /// Every lease but our own.
    pub fn peers(&self, own: Option<&Subnet>) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(move |lease| Some(&lease.subnet) != own)
    }

    fn put(&mut self, lease: Lease) -> bool {
        let attrs = lease.attrs.clone();
        self.leases.insert(lease.subnet, lease).is_none_or(|before| before.attrs != attrs)
    }

    fn replace(&mut self, leases: Vec<Lease>) -> bool {
        let before = std::mem::take(&mut self.leases);
        self.leases = leases.into_iter().map(|lease| (lease.subnet, lease)).collect();
        let same = |(a, b): (&Lease, &Lease)| a.subnet == b.subnet && a.attrs == b.attrs;
        before.len() != self.leases.len() || !before.values().zip(self.leases.values()).all(same)
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::lease::Attrs;

    fn lease(subnet: u8, ip: u8, revision: i64) -> Lease {
        Lease {
            subnet: Ipv4Net::new([10, 3, subnet, 0].into(), 24).unwrap().into(),
            attrs: Attrs::new([192, 0, 2, ip].into(), "host-gw"),
            ttl_id: None,
            revision,
        }
    }

    #[test]
    fn only_differences_count() {
        let mut table = Table::default();
        let snapshot = |leases: &[Lease]| Update::Snapshot { leases: leases.to_vec(), revision: 9 };
        assert!(table.apply(Update::Put(lease(1, 1, 1))));
        assert!(!table.apply(Update::Put(lease(1, 1, 2))), "renewed");
        assert!(table.apply(Update::Put(lease(1, 2, 3))), "moved");
        assert!(!table.apply(snapshot(&[lease(1, 2, 4)])), "the same again");
        assert!(table.apply(snapshot(&[lease(1, 3, 5)])), "moved while we looked away");
        assert!(table.apply(snapshot(&[lease(1, 3, 5), lease(2, 4, 6)])));
        assert!(!table.apply(Update::Delete(lease(9, 9, 9).subnet)), "never known");
        assert!(!table.apply(Update::Disconnected { error: "gone".into() }), "losing the store changes nothing");
        assert_eq!(table.peers(Some(&lease(1, 0, 0).subnet)).count(), 1);
        assert_eq!(table.leases().count(), 2);
        assert!(table.apply(Update::Delete(lease(2, 4, 6).subnet)));
        assert_eq!(table.get(&lease(2, 4, 6).subnet), None);
    }

    proptest! {
        #[test]
        fn a_snapshot_is_its_puts_and_deletes(
            before in prop::collection::btree_map(0_u8..8, 0_u8..4, 0..8),
            after in prop::collection::btree_map(0_u8..8, 0_u8..4, 0..8),
        ) {
            let leases = |map: &BTreeMap<u8, u8>| map.iter().map(|(subnet, ip)| lease(*subnet, *ip, 1)).collect::<Vec<_>>();
            let mut by_snapshot = Table::default();
            by_snapshot.apply(Update::Snapshot { leases: leases(&before), revision: 1 });
            let mut by_events = Table::default();
            for lease in leases(&before) {
                by_events.apply(Update::Put(lease));
            }
            prop_assert_eq!(&by_snapshot, &by_events);

            let changed = by_snapshot.apply(Update::Snapshot { leases: leases(&after), revision: 2 });
            prop_assert_eq!(changed, before != after);
            for gone in before.keys().filter(|subnet| !after.contains_key(subnet)) {
                prop_assert!(by_events.apply(Update::Delete(lease(*gone, 0, 0).subnet)));
            }
            for lease in leases(&after) {
                by_events.apply(Update::Put(lease));
            }
            prop_assert_eq!(by_snapshot, by_events);
        }
    }
}
