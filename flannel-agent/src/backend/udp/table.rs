//! Which node carries which address: the udp carrier's own routing table.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// Subnets of the peers, by prefix length and base address. Nearly always there is one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    by_length: BTreeMap<u8, BTreeMap<Ipv4Addr, Ipv4Addr>>,
}

impl Table {
    pub(super) fn insert(&mut self, subnet: Ipv4Net, node: Ipv4Addr) {
        self.by_length.entry(subnet.prefix_len()).or_default().insert(subnet.network(), node);
    }

    /// The node of the longest matching subnet.
    pub(super) fn node(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        self.by_length.iter().rev().find_map(|(length, nodes)| {
            let base = Ipv4Net::new(ip, *length).ok()?.network();
            nodes.get(&base).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_carries() {
        let mut table = Table::default();
        table.insert("10.5.0.0/16".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1));
        table.insert("10.5.7.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 2));
        let cases = [("10.5.7.9", Some(2)), ("10.5.8.9", Some(1)), ("10.6.7.9", None)];
        for (ip, node) in cases {
            let expected = node.map(|n| Ipv4Addr::new(192, 0, 2, n));
            assert_eq!(table.node(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
