//! Which MAC address each neighbour had when flows were verified through it. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

/// More than the kernel itself keeps by default for all interfaces together (`gc_thresh3`: 1,024), and then some.
const MOST: usize = 65_536;

/// The neighbours by interface and address.
#[derive(Debug, Default)]
pub(super) struct Neighbours(BTreeMap<(u32, Ipv4Addr), [u8; 6]>);

impl Neighbours {
    /// Notes who is there now; whether one of them was known by another MAC address.
    pub(super) fn note(&mut self, ifindex: u32, resolved: impl IntoIterator<Item = (Ipv4Addr, [u8; 6])>) -> bool {
        let mut moved = false;
        for (address, mac) in resolved {
            let before = self.0.insert((ifindex, address), mac);
            moved |= before.is_some_and(|before| before != mac);
        }
        if self.0.len() > MOST {
            self.0.clear();
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_neighbour_that_was_known_otherwise_has_moved() {
        let (one, two) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.note(2, [(one, [1; 6]), (two, [2; 6])]), "nothing is known of them");
        assert!(!neighbours.note(2, [(one, [1; 6])]), "it is where it was");
        assert!(!neighbours.note(3, [(one, [9; 6])]), "another interface, another neighbour");
        assert!(neighbours.note(2, [(one, [7; 6])]));
        assert!(!neighbours.note(2, [(one, [7; 6])]), "it has moved once");
    }
}
