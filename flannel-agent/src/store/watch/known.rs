//! What the watch has told so far. It makes events and listings consistent when keys are odd: two spellings of one
//! subnet, a value that became unreadable, a lease that a replaced store has forgotten.

use std::collections::BTreeMap;

use super::super::Update;
use crate::lease::{Lease, Subnet};

#[derive(Debug, Default)]
pub(super) struct Known {
    by_key: BTreeMap<String, Lease>,
    /// Leases that a replaced store has forgotten; no subnet here overlaps one above.
    forgotten: BTreeMap<Subnet, Lease>,
}

impl Known {
    /// Takes in a listing and gives the leases to tell. An unreadable value leaves the lease that was known by its key. If
    /// the store's data was `replaced`, leases that are not in the listing are kept until the next one.
    pub(super) fn replace(
        &mut self,
        listed: Vec<(String, Lease)>,
        unreadable: &[String],
        replaced: bool,
    ) -> Vec<Lease> {
        let mut before = std::mem::take(&mut self.by_key);
        self.by_key.extend(unreadable.iter().filter_map(|key| before.remove_entry(key)));
        self.by_key.extend(listed);
        self.forgotten = if replaced {
            before
                .into_values()
                .chain(std::mem::take(&mut self.forgotten).into_values())
                .map(|l| (l.subnet, l))
                .collect()
        } else {
            BTreeMap::new()
        };
        self.forgotten.retain(|subnet, _| !self.by_key.values().any(|lease| lease.subnet.overlaps(subnet)));
        self.leases()
    }

    /// Takes in an event and gives what to tell.
    pub(super) fn put(&mut self, key: String, lease: Lease) -> Vec<Update> {
        let mut updates = self.make_way(&lease.subnet);
        let known = if is_proper(&key, &lease.subnet) { None } else { self.of(&lease.subnet) };
        // A second spelling does not change what is known by the first.
        if known.is_none_or(|(known, _)| !is_proper(known, &lease.subnet)) {
            updates.push(Update::Put(lease.clone()));
        }
        self.by_key.insert(key, lease);
        updates
    }

    /// The same for a key whose value became unreadable: its lease is told again as it was, so that its owner, if that is
    /// us, looks at it.
    pub(super) fn touch(&mut self, key: &str, revision: i64) -> Vec<Update> {
        let known = self.by_key.get_mut(key).map(|lease| {
            lease.revision = revision;
            Update::Put(lease.clone())
        });
        known.into_iter().collect()
    }

    /// The same for a key that is gone.
    pub(super) fn delete(&mut self, key: &str) -> Vec<Update> {
        let Some(lease) = self.by_key.remove(key) else { return Vec::new() };
        let other = self.of(&lease.subnet).map(|(_, lease)| Update::Put(lease.clone()));
        vec![other.unwrap_or(Update::Delete(lease.subnet))]
    }

    /// Drops forgotten leases in favour of a new one.
    fn make_way(&mut self, subnet: &Subnet) -> Vec<Update> {
        let gone: Vec<Subnet> = self.forgotten.keys().filter(|other| other.overlaps(subnet)).copied().collect();
        for other in &gone {
            self.forgotten.remove(other);
        }
        gone.into_iter().filter(|other| other != subnet).map(Update::Delete).collect()
    }

    /// A subnet's lease and its key.
    fn of(&self, subnet: &Subnet) -> Option<(&String, &Lease)> {
        let mut found = self.by_key.iter().filter(|(_, lease)| lease.subnet == *subnet);
        let first = found.next()?;
        Some(std::iter::once(first).chain(found).find(|(key, _)| is_proper(key, subnet)).unwrap_or(first))
    }

    fn leases(&self) -> Vec<Lease> {
        let mut at: BTreeMap<Subnet, usize> = BTreeMap::new();
        let mut leases: Vec<Lease> = Vec::with_capacity(self.by_key.len() + self.forgotten.len());
        for (key, lease) in &self.by_key {
            match at.get(&lease.subnet) {
                Some(&at) if is_proper(key, &lease.subnet) => leases[at] = lease.clone(),
                Some(_) => {}
                None => {
                    at.insert(lease.subnet, leases.len());
                    leases.push(lease.clone());
                }
            }
        }
        leases.extend(self.forgotten.values().cloned());
        leases
    }
}

/// Whether a key is spelt as flannel writes it; of two spellings this one counts.
fn is_proper(key: &str, subnet: &Subnet) -> bool {
    key.strip_suffix(&subnet.key_name()).is_some_and(|before| before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Attrs;

    fn entry(name: &str, ip: u8) -> (String, Lease) {
        let attrs = Attrs::new([192, 0, 2, ip].into(), "host-gw");
        let subnet = Subnet::parse_key(name).unwrap();
        (format!("/p/subnets/{name}"), Lease { subnet, attrs, ttl_id: None, revision: 1 })
    }

    fn put(known: &mut Known, name: &str, ip: u8) -> Vec<Update> {
        let (key, lease) = entry(name, ip);
        known.put(key, lease)
    }

    fn told(name: &str, ip: u8) -> Update {
        Update::Put(entry(name, ip).1)
    }

    #[test]
    fn two_spellings_are_one_lease() {
        let mut known = Known::default();
        assert_eq!(put(&mut known, "10.3.1.0-024", 1), [told("10.3.1.0-24", 1)]);
        assert_eq!(put(&mut known, "10.3.1.0-24", 2), [told("10.3.1.0-24", 2)]);
        assert_eq!(put(&mut known, "10.3.1.0-024", 3), []);
        assert_eq!(known.leases(), [entry("10.3.1.0-24", 2).1]);
        assert_eq!(known.delete("/p/subnets/10.3.1.0-24"), [told("10.3.1.0-24", 3)]);
        assert_eq!(known.delete("/p/subnets/10.3.1.0-024"), [Update::Delete(entry("10.3.1.0-24", 0).1.subnet)]);
        assert_eq!(known.delete("/p/subnets/10.3.1.0-024"), []);
    }

    #[test]
    fn an_unreadable_value_leaves_the_lease() {
        let mut known = Known::default();
        put(&mut known, "10.3.1.0-24", 1);
        put(&mut known, "10.3.2.0-24", 2);
        let unreadable = ["/p/subnets/10.3.1.0-24".to_owned(), "/p/subnets/10.3.9.0-24".to_owned()];
        assert_eq!(known.replace(Vec::new(), &unreadable, false), [entry("10.3.1.0-24", 1).1]);
        assert_eq!(known.replace(Vec::new(), &[], false), []);
    }

    #[test]
    fn a_replaced_store_takes_nothing_away_at_once() {
        let mut known = Known::default();
        for (name, ip) in [("10.3.1.0-24", 1), ("10.3.2.0-24", 2), ("10.3.3.0-24", 3), ("10.3.4.0-24", 4)] {
            put(&mut known, name, ip);
        }
        let listed = vec![entry("10.3.1.0-24", 9), entry("10.3.4.0-25", 8)];
        let told_now = known.replace(listed, &[], true);
        let expected = [("10.3.1.0-24", 9), ("10.3.4.0-25", 8), ("10.3.2.0-24", 2), ("10.3.3.0-24", 3)];
        assert_eq!(told_now, expected.map(|(name, ip)| entry(name, ip).1));
        assert_eq!(put(&mut known, "10.3.2.0-24", 2), [told("10.3.2.0-24", 2)], "claimed again by its owner");
        let gone = Update::Delete(entry("10.3.3.0-24", 3).1.subnet);
        assert_eq!(put(&mut known, "10.3.2.0-23", 5), [gone, told("10.3.2.0-23", 5)], "given to another node");
        assert_eq!(known.replace(vec![entry("10.3.1.0-24", 9)], &[], false), [entry("10.3.1.0-24", 9).1]);
    }
}
