//! How the main table reaches an address: the kernel's own rules for accepting a next hop, without asking it per peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

/// The unicast routes of the main table that are not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    routes: BTreeMap<IpNet, Vec<Reach>>,
    /// Prefix lengths in use: a look-up tries only those.
    lengths: BTreeSet<u8>,
}

/// How a route reaches its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Outgoing interface; `None` if there are several.
    pub ifindex: Option<u32>,
    /// Next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl RouteTable {
    /// Adds a route; of several to one destination the first is the kernel's choice.
    pub fn insert(&mut self, dst: IpNet, ifindex: Option<u32>, gateway: Option<IpAddr>) {
        self.routes.entry(dst.trunc()).or_default().push(Reach { ifindex, gateway });
        self.lengths.insert(dst.prefix_len());
    }

    /// The kernel's choice for a packet to this address.
    pub fn reach(&self, ip: IpAddr) -> Option<Reach> {
        self.matches(ip).flatten().next().copied()
    }

    /// Whether the kernel would take this address as a next hop out of this interface: the longest match among the
    /// routes of that interface must reach it without a gateway.
    pub fn on_link(&self, ip: IpAddr, ifindex: u32) -> bool {
        let first = self.matches(ip).flatten().find(|reach| reach.ifindex == Some(ifindex));
        first.is_some_and(|reach| reach.gateway.is_none())
    }

    /// Whether any network is on this interface's link; not so while the interface is down or has no address.
    pub fn has_link(&self, ifindex: u32) -> bool {
        self.routes.values().flatten().any(|reach| reach.ifindex == Some(ifindex) && reach.gateway.is_none())
    }

    /// Routes that match, the longest first.
    fn matches(&self, ip: IpAddr) -> impl Iterator<Item = &Vec<Reach>> {
        self.lengths.iter().rev().filter_map(move |length| {
            let net = IpNet::new(ip, *length).ok()?.trunc();
            self.routes.get(&net)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, u32, Option<&str>)]) -> RouteTable {
        let mut table = RouteTable::default();
        for (dst, ifindex, gateway) in routes {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            table.insert(dst.parse().unwrap(), Some(*ifindex), gateway);
        }
        table
    }

    #[test]
    fn next_hops_are_judged_as_the_kernel_does() {
        let table = table(&[
            ("0.0.0.0/0", 2, Some("192.0.2.1")),
            ("192.0.2.0/24", 2, None),
            ("192.0.0.0/16", 3, None),
            ("198.51.100.0/24", 2, Some("192.0.2.9")),
            ("203.0.113.0/24", 3, None),
            ("2001:db8::/64", 2, None),
        ]);
        let cases = [
            ("192.0.2.7", 2, true, "in the link's own network"),
            ("192.0.2.7", 3, true, "a shorter match of the interface counts"),
            ("198.51.100.7", 2, false, "behind a gateway"),
            ("203.0.113.7", 2, false, "on another interface; here only the default route is left"),
            ("203.0.113.7", 3, true, "on that interface"),
            ("8.8.8.8", 3, false, "no route at all out of the interface"),
            ("2001:db8::7", 2, true, "IPv6"),
            ("2001:db9::7", 2, false, "IPv6 without a route"),
        ];
        for (ip, ifindex, expected, why) in cases {
            assert_eq!(table.on_link(ip.parse().unwrap(), ifindex), expected, "{ip} out of {ifindex}: {why}");
        }
        assert_eq!(table.reach("203.0.113.7".parse().unwrap()).unwrap().gateway, None);
        assert_eq!(table.reach("8.8.8.8".parse().unwrap()).unwrap().gateway, Some("192.0.2.1".parse().unwrap()));
    }
}
