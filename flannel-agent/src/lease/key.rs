//! The name of a lease's key: `10.5.34.0-24`, and `10.12.13.0-24&fd00:12:13::-56` for both families.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::{Ipv4Net, Ipv6Net};
use regex::{Captures, Regex};

use super::Subnet;

/// The form of a key's end. Other nodes search with the same expression, so that all agree on which subnets are claimed.
static FORM: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"([0-9]+\.[0-9]+.[0-9]+.[0-9]+)-([0-9]+)(?:&([a-f0-9:]+)-([0-9]+))?$").ok());

/// Other nodes read an IPv4 prefix length into five bits: /32 is unreadable for them.
const V4_LEN_MAX: u8 = 31;
/// And an IPv6 prefix length into seven.
const V6_LEN_MAX: u8 = 127;

/// A key that names no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {0:?} names no lease: expected 10.1.2.0-24 or 10.1.2.0-24&fd00::-64 at its end; delete it if it is stray")]
pub struct BadKey(pub String);

impl Subnet {
    /// The last part of the lease's key.
    pub fn key_name(&self) -> String {
        let v4 = format!("{}-{}", self.v4.addr(), self.v4.prefix_len());
        match self.v6 {
            Some(v6) => format!("{v4}&{}-{}", v6.addr(), v6.prefix_len()),
            None => v4,
        }
    }

    /// Reads a key: its last part, or the whole of it.
    ///
    /// As tolerant as flannel (junk before the address, leading zeros of a length, and host bits are kept), with one
    /// exception: `10.1.2.0-24&10.0.0.0-8`, which flannel takes for 10.0.0.0/8, is refused.
    pub fn parse_key(key: &str) -> Result<Self, BadKey> {
        parse(key).ok_or_else(|| BadKey(key.to_owned()))
    }
}

fn parse(key: &str) -> Option<Subnet> {
    let captures = FORM.as_ref()?.captures(key)?;
    if key[..captures.get(0)?.start()].ends_with('&') {
        return None;
    }
    let v6 = match (captures.get(3), captures.get(4)) {
        (Some(address), Some(len)) => Some(v6(address.as_str(), len.as_str())?),
        _ => None,
    };
    Some(Subnet { v4: v4(&captures)?, v6 })
}

fn v4(captures: &Captures<'_>) -> Option<Ipv4Net> {
    let address: Ipv4Addr = captures.get(1)?.as_str().parse().ok()?;
    let len = captures.get(2)?.as_str().parse().ok().filter(|len| *len <= V4_LEN_MAX)?;
    Ipv4Net::new(address, len).ok()
}

fn v6(address: &str, len: &str) -> Option<Ipv6Net> {
    let address: Ipv6Addr = address.parse().ok()?;
    let len = len.parse().ok().filter(|len| *len <= V6_LEN_MAX)?;
    Ipv6Net::new(address, len).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(key: &str, v4: &str, v6: Option<&str>) {
        let subnet = Subnet { v4: v4.parse().unwrap(), v6: v6.map(|v6| v6.parse().unwrap()) };
        assert_eq!(Subnet::parse_key(key), Ok(subnet), "{key}");
    }

    #[test]
    fn keys_as_flannel_reads_them() {
        check("10.12.13.0-24", "10.12.13.0/24", None);
        check("/any/path/10.12.13.0-24", "10.12.13.0/24", None);
        check("10.12.13.0-24&fd00:12:13::-56", "10.12.13.0/24", Some("fd00:12:13::/56"));
        check("/p/subnets/10.12.13.0-24&fd00:12:13::-56", "10.12.13.0/24", Some("fd00:12:13::/56"));
        check("0.0.0.0-0&fc00:0:0:1::-64", "0.0.0.0/0", Some("fc00:0:0:1::/64"));
        check("10.12.13.0-024", "10.12.13.0/24", None);
        check("10.12.13.0-31", "10.12.13.0/31", None);
        check("10.12.13.0-0", "10.12.13.0/0", None);
        check("10.12.13.7-24", "10.12.13.7/24", None);
        check("999.10.12.13.0-24", "10.12.13.0/24", None);
        check("a10.12.13.0-24", "10.12.13.0/24", None);
        check("1.2.3.4.5-24", "2.3.4.5/24", None);
    }

    #[test]
    fn keys_that_name_no_lease() {
        for key in [
            "10.12.13.0-32",
            "10.12.13.0-24&fd00::-128",
            "10.12.13.0-24&FD00::-64",
            "010.12.13.0-24",
            "10.12.13.0-24/",
            "10.12.13.0-24\n",
            "10",
            "10.12.13.0",
            "10.12.13-24",
            "10.12.13.300-24",
            "10.12.13.0-24hi",
            "10.12.13.0-24&2001::-56hi",
            "10.12.13.0-24&:12:13-56",
            "10.12.13.0-24&20011::-56",
            "10.12.13.0-24&2001-56",
            "10.12.13.0-24&2001::",
            "&2001::-56",
            "10.12.13.0-24&10.0.0.0-8",
            "255.255.255.255-32",
            "garbage",
            "not-a-subnet",
            "",
            "10.12.13.0-99999999999999999999",
            "10.1٢.13.0-24",
        ] {
            let error = Subnet::parse_key(key).unwrap_err();
            assert!(error.to_string().contains(&format!("{key:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back(a: u32, len in 0_u8..=31, b: u128, v6_len in 0_u8..=127, dual: bool) {
            let v6 = dual.then(|| Ipv6Net::new(b.into(), v6_len).unwrap().trunc());
            let subnet = Subnet { v4: Ipv4Net::new(a.into(), len).unwrap(), v6 };
            // Addresses that are written with dots are outside the alphabet of a key.
            prop_assume!(v6.is_none_or(|v6| !v6.addr().to_string().contains('.')));
            prop_assert_eq!(Subnet::parse_key(&subnet.key_name()), Ok(subnet));
        }

        #[test]
        fn no_text_panics(key in "\\PC*") {
            Subnet::parse_key(&key).ok();
        }
    }
}
