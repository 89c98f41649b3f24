//! Which subnets may be leased: defaults and limits, once for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    V4Range, V6Range,
    error::ConfigError,
    json::{Member, Object},
};

/// What differs between the families.
struct Family {
    /// Bits of an address.
    width: u8,
    /// Prefix length of a subnet in a large network.
    default_len: u8,
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
}

const V4: Family =
    Family { width: 32, default_len: 24, network: "Network", len: "SubnetLen", min: "SubnetMin", max: "SubnetMax" };

const V6: Family = Family {
    width: 128,
    default_len: 64,
    network: "IPv6Network",
    len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
};

/// A family's range as numbers: addresses in the low bits.
struct Numbers {
    network: u128,
    prefix: u8,
    len: u8,
    min: u128,
    max: u128,
}

impl V4Range {
    pub(super) fn parse(config: &Object<'_>) -> Result<Self, ConfigError> {
        let numbers = V4.range(config)?;
        let address = |n: u128| Ipv4Addr::from(n as u32);
        Ok(Self {
            network: Ipv4Net::new_assert(address(numbers.network), numbers.prefix),
            subnet_len: numbers.len,
            subnet_min: address(numbers.min),
            subnet_max: address(numbers.max),
        })
    }
}

impl V6Range {
    pub(super) fn parse(config: &Object<'_>) -> Result<Self, ConfigError> {
        let numbers = V6.range(config)?;
        Ok(Self {
            network: Ipv6Net::new_assert(numbers.network.into(), numbers.prefix),
            subnet_len: numbers.len,
            subnet_min: numbers.min.into(),
            subnet_max: numbers.max.into(),
        })
    }
}

impl Family {
    fn range(&self, config: &Object<'_>) -> Result<Numbers, ConfigError> {
        let (network, prefix) = self.network(config)?;
        let given = config.get(self.len).map(|m| m.unsigned()).transpose()?.flatten().unwrap_or(0);
        let len = self.subnet_len(prefix, given)?;
        let step = 1_u128 << (self.width - len);
        // The last subnet that fits; a network that ends with the address space has no address after it.
        let last = network | (self.host_mask(prefix) & !(step - 1));
        let min = self.limit(config, self.min)?.unwrap_or(network + step);
        let max = self.limit(config, self.max)?.unwrap_or(last);
        for (key, limit) in [(self.min, min), (self.max, max)] {
            if limit & !self.host_mask(prefix) != network {
                return Err(ConfigError::OutsideNetwork { key, network: self.network, address: self.address(limit) });
            }
            if limit & (step - 1) != 0 {
                return Err(ConfigError::OffBoundary { key, address: self.address(limit) });
            }
        }
        Ok(Numbers { network, prefix, len, min, max })
    }

    fn network(&self, config: &Object<'_>) -> Result<(u128, u8), ConfigError> {
        let Some(member) = config.get(self.network) else {
            return Err(ConfigError::NoNetwork { key: self.network });
        };
        let text = member.string()?.unwrap_or_default();
        let (address, prefix) = self.cidr(&text).ok_or_else(|| member.wrong(self.cidr_wanted()))?;
        let network = address & !self.host_mask(prefix);
        if network == 0 && prefix == 0 {
            return Err(ConfigError::NoNetwork { key: self.network });
        }
        Ok((network, prefix))
    }

    fn subnet_len(&self, prefix: u8, given: u64) -> Result<u8, ConfigError> {
        let least = prefix + 2;
        if given > u64::from(self.width - 2) {
            return Err(ConfigError::SubnetTooSmall { key: self.len, limit: self.width - 1 });
        }
        if given > 0 {
            let len = given as u8;
            return if len < least { Err(ConfigError::SubnetTooLarge { key: self.len, least }) } else { Ok(len) };
        }
        let limit = self.width - 4;
        if prefix > limit {
            return Err(ConfigError::NetworkTooSmall { key: self.network, limit });
        }
        Ok(self.default_len.max(least))
    }

    /// A limit as it is given; an absent one and the zero address stand for the default, and so does `null` for IPv6.
    fn limit(&self, config: &Object<'_>, key: &str) -> Result<Option<u128>, ConfigError> {
        let Some(member) = config.get(key) else { return Ok(None) };
        if member.is_null() && self.width == 128 {
            return Ok(None);
        }
        let limit = self.limit_of(&member)?;
        Ok((limit != 0).then_some(limit))
    }

    fn limit_of(&self, member: &Member<'_>) -> Result<u128, ConfigError> {
        let text = member.string()?.unwrap_or_default();
        self.number(&text).ok_or_else(|| member.wrong(self.address_wanted()))
    }

    fn cidr(&self, text: &str) -> Option<(u128, u8)> {
        let (address, prefix) = text.split_once('/')?;
        if !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let prefix = prefix.parse::<u8>().ok().filter(|p| *p <= self.width)?;
        Some((self.number(address)?, prefix))
    }

    fn number(&self, text: &str) -> Option<u128> {
        if self.width == 32 {
            text.parse::<Ipv4Addr>().ok().map(|a| u128::from(u32::from(a)))
        } else {
            text.parse::<Ipv6Addr>().ok().map(u128::from)
        }
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.width == 32 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
    }

    fn host_mask(&self, prefix: u8) -> u128 {
        1_u128.checked_shl(u32::from(self.width - prefix)).map_or(u128::MAX, |bit| bit - 1)
    }

    fn cidr_wanted(&self) -> &'static str {
        if self.width == 32 { "an IPv4 network like \"10.5.0.0/16\"" } else { "an IPv6 network like \"fc00::/48\"" }
    }

    fn address_wanted(&self) -> &'static str {
        if self.width == 32 { "an IPv4 address like \"10.5.1.0\"" } else { "an IPv6 address like \"fc00:0:0:1::\"" }
    }
}
