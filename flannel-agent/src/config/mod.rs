//! The cluster configuration, turned once into types that cannot be wrong.

mod backend;
mod diff;
mod error;
mod json;
mod range;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

pub use self::{
    backend::Backend,
    diff::{Difference, Effect, diff},
    error::ConfigError,
};
use crate::plan::allocate::{Range, RangeV6};

/// The value of the key `<prefix>/config`, validated and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// IPv4 subnets of the cluster.
    pub v4: V4Range,
    /// IPv6 subnets of a dual-stack cluster (`EnableIPv6`).
    pub v6: Option<V6Range>,
    /// Use nftables instead of iptables (`EnableNFTables`).
    pub nftables: bool,
    /// How packets travel.
    pub backend: Backend,
}

/// The IPv4 subnets that leases are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4Range {
    /// The whole network, host bits masked off.
    pub network: Ipv4Net,
    /// Prefix length of a lease.
    pub subnet_len: u8,
    /// Base address of the first subnet that may be leased.
    pub subnet_min: Ipv4Addr,
    /// Base address of the last subnet that may be leased; may be below the first, and then nothing can be leased.
    pub subnet_max: Ipv4Addr,
}

/// The IPv6 subnets that leases are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6Range {
    /// The whole network, host bits masked off.
    pub network: Ipv6Net,
    /// Prefix length of a lease.
    pub subnet_len: u8,
    /// Base address of the first subnet that may be leased.
    pub subnet_min: Ipv6Addr,
    /// Base address of the last subnet that may be leased.
    pub subnet_max: Ipv6Addr,
}

impl NetworkConfig {
    /// Reads and validates the text of the configuration key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = json::Object::parse(text)?;
        let enabled =
            |key, default| config.get(key).map(|m| m.boolean()).transpose().map(|b| b.flatten().unwrap_or(default));
        let (v4, v6) = (enabled("EnableIPv4", true)?, enabled("EnableIPv6", false)?);
        let nftables = enabled("EnableNFTables", false)?;
        let v6 = v6.then(|| V6Range::parse(&config)).transpose()?;
        if !v4 {
            return Err(if v6.is_some() { ConfigError::Ipv6Only } else { ConfigError::NoFamily });
        }
        let v4 = V4Range::parse(&config)?;
        Ok(Self { v4, v6, nftables, backend: Backend::parse(config.get("Backend"))? })
    }

    /// Where subnets are taken from.
    pub fn range(&self) -> Range {
        Range {
            network: self.v4.network,
            min: self.v4.subnet_min,
            max: self.v4.subnet_max,
            len: self.v4.subnet_len,
            v6: self.v6.map(|v6| RangeV6 {
                network: v6.network,
                min: v6.subnet_min,
                max: v6.subnet_max,
                len: v6.subnet_len,
            }),
        }
    }
}
