//! Which subnet a new node gets.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::lease::Subnet;

/// How many free subnets are considered, from the lowest: as in flannel, so that a network fills up from below.
pub const CANDIDATES: usize = 100;

/// Where subnets are taken from: the cluster configuration, validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The whole flannel network.
    pub network: Ipv4Net,
    /// Base address of the first subnet.
    pub min: Ipv4Addr,
    /// Base address of the last subnet.
    pub max: Ipv4Addr,
    /// Prefix length of a subnet.
    pub len: u8,
    /// The same for IPv6, if the cluster has it.
    pub v6: Option<RangeV6>,
}

/// [`Range`] for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeV6 {
    /// The whole flannel network.
    pub network: Ipv6Net,
    /// Base address of the first subnet.
    pub min: Ipv6Addr,
    /// Base address of the last subnet.
    pub max: Ipv6Addr,
    /// Prefix length of a subnet.
    pub len: u8,
}

impl Range {
    /// Whether a lease of this subnet is one that this range could have given out, so that its owner may keep it.
    pub fn allows(&self, subnet: &Subnet) -> bool {
        self.allows_v4(subnet.v4)
            && match (self.v6, subnet.v6) {
                (None, None) => true,
                (Some(range), Some(v6)) => range.allows(v6),
                _ => false,
            }
    }

    fn allows_v4(&self, v4: Ipv4Net) -> bool {
        v4.prefix_len() == self.len && v4 == v4.trunc() && (self.min..=self.max).contains(&v4.addr())
    }
}

impl RangeV6 {
    fn allows(&self, v6: Ipv6Net) -> bool {
        v6.prefix_len() == self.len && v6 == v6.trunc() && (self.min..=self.max).contains(&v6.addr())
    }
}

/// The previous subnet if the range allows it and it is free, otherwise one of the lowest free ones, chosen by the random
/// number `pick`; `None` if none is free.
pub fn choose(range: &Range, taken: &[Subnet], previous: Option<Subnet>, pick: u64) -> Option<Subnet> {
    if let Some(previous) =
        previous.filter(|previous| range.allows(previous) && !taken.iter().any(|t| t.overlaps(previous)))
    {
        return Some(previous);
    }
    let v4 = one_of(&free_v4(range, taken), pick)?;
    let v6 = match &range.v6 {
        // The upper half of the number, so that the two choices do not hang together.
        Some(v6) => Some(one_of(&free_v6(v6, taken), pick >> 32)?),
        None => None,
    };
    Some(Subnet { v4, v6 })
}

impl Subnet {
    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let v6 = match (self.v6, other.v6) {
            (Some(a), Some(b)) => a.contains(&b.network()) || b.contains(&a.network()),
            _ => false,
        };
        v6 || (self.has_v4()
            && other.has_v4()
            && (self.v4.contains(&other.v4.network()) || other.v4.contains(&self.v4.network())))
    }

    /// An IPv6-only lease is written with 0.0.0.0/0, which stands for nothing.
    fn has_v4(&self) -> bool {
        self.v6.is_none() || self.v4.prefix_len() > 0
    }
}

fn one_of<T: Copy>(candidates: &[T], pick: u64) -> Option<T> {
    let index = pick.checked_rem(candidates.len() as u64)?;
    candidates.get(index as usize).copied()
}

fn free_v4(range: &Range, taken: &[Subnet]) -> Vec<Ipv4Net> {
    let taken = taken
        .iter()
        .filter(|subnet| subnet.has_v4())
        .map(|subnet| (u128::from(u32::from(subnet.v4.network())), u128::from(u32::from(subnet.v4.broadcast()))));
    let Some(size) = size(32, range.len) else { return Vec::new() };
    free(u32::from(range.min).into(), u32::from(range.max).into(), size, taken.collect())
        .into_iter()
        .filter_map(|base| Ipv4Net::new((base as u32).into(), range.len).ok())
        .collect()
}

fn free_v6(range: &RangeV6, taken: &[Subnet]) -> Vec<Ipv6Net> {
    let taken = taken.iter().filter_map(|subnet| subnet.v6).map(|v6| (v6.network().into(), v6.broadcast().into()));
    let Some(size) = size(128, range.len) else { return Vec::new() };
    free(range.min.into(), range.max.into(), size, taken.collect())
        .into_iter()
        .filter_map(|base| Ipv6Net::new(base.into(), range.len).ok())
        .collect()
}

/// Number of addresses in a subnet.
fn size(bits: u32, len: u8) -> Option<u128> {
    1_u128.checked_shl(bits.checked_sub(len.into())?)
}

/// Base addresses of the lowest free subnets of `size` addresses, from `min` to `max` in steps of `size`.
///
/// Taken spans are sorted once and stepped over as a whole: a full network costs no more than reading the list.
fn free(min: u128, max: u128, size: u128, mut taken: Vec<(u128, u128)>) -> Vec<u128> {
    taken.sort_unstable();
    let mut taken = taken.into_iter().peekable();
    let mut found = Vec::new();
    let mut base = min;
    while base <= max && found.len() < CANDIDATES {
        let last = base.saturating_add(size - 1);
        match taken.peek() {
            Some((_, end)) if *end < base => {
                taken.next();
            }
            Some((start, end)) if *start <= last => {
                let Some(next) = step_over(base, *end, size) else { break };
                base = next;
            }
            _ => {
                found.push(base);
                let Some(next) = base.checked_add(size) else { break };
                base = next;
            }
        }
    }
    found
}

/// The first base address after `end`, counted from `base` in steps of `size`; `None` past the end of the address family.
fn step_over(base: u128, end: u128, size: u128) -> Option<u128> {
    let steps = ((end - base) / size).checked_add(1)?;
    base.checked_add(steps.checked_mul(size)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(network: &str, min: &str, max: &str, len: u8) -> Range {
        Range { network: network.parse().unwrap(), min: min.parse().unwrap(), max: max.parse().unwrap(), len, v6: None }
    }

    fn subnets(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| text.parse::<Ipv4Net>().unwrap().into()).collect()
    }

    fn check(range: &Range, taken: &[&str], previous: Option<&str>, pick: u64, expected: Option<&str>) {
        let previous = previous.map(|text| text.parse::<Ipv4Net>().unwrap().into());
        let chosen = choose(range, &subnets(taken), previous, pick);
        assert_eq!(chosen.map(|subnet| subnet.v4.to_string()).as_deref(), expected, "{taken:?} {previous:?} {pick}");
    }

    #[test]
    fn choices() {
        let sixteen = range("10.3.0.0/16", "10.3.1.0", "10.3.255.0", 24);
        check(&sixteen, &[], None, 0, Some("10.3.1.0/24"));
        check(&sixteen, &[], None, 99, Some("10.3.100.0/24"));
        check(&sixteen, &[], None, 100, Some("10.3.1.0/24"));
        check(&sixteen, &["10.3.1.0/24", "10.3.3.0/24"], None, 1, Some("10.3.4.0/24"));
        check(&sixteen, &["10.3.0.0/17", "10.3.128.0/18"], None, 0, Some("10.3.192.0/24"));
        check(&sixteen, &["10.3.1.64/26"], None, 0, Some("10.3.2.0/24"));
        check(&sixteen, &["0.0.0.0/0"], None, 0, None);
        check(&sixteen, &[], Some("10.3.6.0/24"), 0, Some("10.3.6.0/24"));
        check(&sixteen, &["10.3.6.0/24"], Some("10.3.6.0/24"), 0, Some("10.3.1.0/24"));
        check(&sixteen, &[], Some("10.4.1.0/24"), 0, Some("10.3.1.0/24"));
        check(&sixteen, &[], Some("10.3.6.0/25"), 0, Some("10.3.1.0/24"));
        check(&range("10.0.0.0/8", "10.3.9.0", "10.3.1.0", 24), &[], None, 0, None);
    }

    #[test]
    fn a_previous_subnet_inside_a_larger_lease_is_not_free() {
        let sixteen = range("10.3.0.0/16", "10.3.1.0", "10.3.255.0", 24);
        check(&sixteen, &["10.3.4.0/22"], Some("10.3.6.0/24"), 3, Some("10.3.8.0/24"));
        check(&sixteen, &["10.3.6.128/25"], Some("10.3.6.0/24"), 5, Some("10.3.7.0/24"));
    }

    #[test]
    fn a_network_at_the_end_of_the_addresses_does_not_wrap() {
        let last = range("255.255.240.0/20", "255.255.244.0", "255.255.252.0", 22);
        check(&last, &[], None, 2, Some("255.255.252.0/22"));
        check(&last, &[], None, 3, Some("255.255.244.0/22"));
        check(&last, &["255.255.240.0/20"], None, 0, None);
    }

    #[test]
    fn both_families_are_chosen_and_free() {
        let v6 = RangeV6 {
            network: "fc00::/48".parse().unwrap(),
            min: "fc00:0:0:1::".parse().unwrap(),
            max: "fc00:0:0:ffff::".parse().unwrap(),
            len: 64,
        };
        let both = Range { v6: Some(v6), ..range("10.3.0.0/16", "10.3.1.0", "10.3.255.0", 24) };
        let taken = ["10.3.1.0-24", "10.3.2.0-24&fc00:0:0:1::-64", "0.0.0.0-0&fc00:0:0:2::-64"];
        let taken = taken.map(|key| Subnet::parse_key(key).unwrap());
        let chosen = choose(&both, &taken, None, 0).unwrap();
        assert_eq!(chosen.key_name(), "10.3.3.0-24&fc00:0:0:3::-64");
        let previous = Some(Subnet::parse_key("10.3.9.0-24&fc00:0:0:9::-64").unwrap());
        assert_eq!(choose(&both, &taken, previous, 0), previous);
        let only_v4 = Some(Subnet::parse_key("10.3.9.0-24").unwrap());
        assert_eq!(choose(&both, &taken, only_v4, 0), Some(chosen));
        let clash = Some(Subnet::parse_key("10.3.9.0-24&fc00:0:0:2::-64").unwrap());
        assert_eq!(choose(&both, &taken, clash, 0), Some(chosen));
        let last = RangeV6 {
            network: "ffff::/16".parse().unwrap(),
            min: "ffff:ffff:ffff:fffe::".parse().unwrap(),
            max: "ffff:ffff:ffff:ffff::".parse().unwrap(),
            len: 64,
        };
        let last = Range { v6: Some(last), ..both };
        let chosen = choose(&last, &[], None, 3 << 32).unwrap();
        assert_eq!(chosen.v6.unwrap().to_string(), "ffff:ffff:ffff:ffff::/64");
    }

    #[test]
    fn a_full_network_is_refused_at_once() {
        let eight = range("10.0.0.0/8", "10.0.0.0", "10.255.255.252", 30);
        let taken: Vec<Subnet> =
            "10.0.0.0/8".parse::<Ipv4Net>().unwrap().subnets(24).unwrap().map(Subnet::from).collect();
        assert_eq!(choose(&eight, &taken, None, 0), None);
        assert_eq!(choose(&eight, &taken[..65_535], None, 1).unwrap().v4.to_string(), "10.255.255.4/30");
    }

    proptest! {
        #[test]
        fn a_choice_is_allowed_and_free_and_among_the_lowest(
            len in 18_u8..=30,
            taken in prop::collection::vec((0_u32..0x1_0000, 14_u8..=32), 0..40),
            pick: u64,
        ) {
            let size = 1_u32 << (32 - len);
            let base = u32::from(Ipv4Addr::new(10, 3, 0, 0));
            let (min, max) = (Ipv4Addr::from(base + size), Ipv4Addr::from(base + 0x1_0000 - size));
            let range = Range { network: "10.3.0.0/16".parse().unwrap(), min, max, len, v6: None };
            let taken: Vec<Subnet> =
                taken.into_iter().map(|(at, len)| Ipv4Net::new((base + at).into(), len).unwrap().into()).collect();
            let free: BTreeSet<Ipv4Net> = range.network.subnets(len).unwrap().skip(1)
                .filter(|net| !taken.iter().any(|t| t.overlaps(&(*net).into())))
                .take(CANDIDATES)
                .collect();
            let chosen = choose(&range, &taken, None, pick);
            prop_assert_eq!(chosen.is_some(), !free.is_empty());
            if let Some(chosen) = chosen {
                prop_assert!(range.allows(&chosen));
                let nth = (pick % free.len() as u64) as usize;
                prop_assert_eq!(Some(chosen.v4), free.into_iter().nth(nth));
                prop_assert!(!taken.iter().any(|t| t.overlaps(&chosen)));
            }
        }
    }
}
