//! What can be wrong with the cluster configuration.

use std::net::IpAddr;

/// Why a cluster configuration cannot be used, and what to write instead.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// Not JSON, or more than one value.
    #[error("the configuration is not valid JSON: {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("the configuration must be a JSON object like {{\"Network\":\"10.5.0.0/16\"}}, not {found}")]
    NotAnObject {
        /// What it is instead.
        found: String,
    },
    /// A member has the wrong JSON type or cannot be read.
    #[error("{key}: {found} is not {expected}")]
    Value {
        /// Name of the member.
        key: String,
        /// What was written, shortened.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// No network.
    #[error(
        "{key} is missing or covers every address: please define a correct Network parameter in the flannel network config"
    )]
    NoNetwork {
        /// `Network` or `IPv6Network`.
        key: &'static str,
    },
    /// The network cannot hold four subnets of default size.
    #[error("{key}: network is too small; the minimum useful network prefix is /{limit}")]
    NetworkTooSmall {
        /// `Network` or `IPv6Network`.
        key: &'static str,
        /// Longest useful prefix.
        limit: u8,
    },
    /// The subnets are too small.
    #[error("{key}: SubnetLen must be less than /{limit}")]
    SubnetTooSmall {
        /// `SubnetLen` or `IPv6SubnetLen`.
        key: &'static str,
        /// First length that is too long.
        limit: u8,
    },
    /// The subnets are too large.
    #[error("{key}: network must be able to accommodate at least four subnets; make it /{least} or longer")]
    SubnetTooLarge {
        /// `SubnetLen` or `IPv6SubnetLen`.
        key: &'static str,
        /// Shortest length that fits.
        least: u8,
    },
    /// A limit lies outside the network.
    #[error("{key} is not in the range of the {network}: {address}")]
    OutsideNetwork {
        /// `SubnetMin` and so on.
        key: &'static str,
        /// `Network` or `IPv6Network`.
        network: &'static str,
        /// The limit.
        address: IpAddr,
    },
    /// A limit is not the base address of a subnet.
    #[error("{key} is not on a SubnetLen boundary: {address}")]
    OffBoundary {
        /// `SubnetMin` and so on.
        key: &'static str,
        /// The limit.
        address: IpAddr,
    },
    /// Neither family is enabled.
    #[error("EnableIPv4 and EnableIPv6 are both false: enable at least EnableIPv4")]
    NoFamily,
    /// Only IPv6 is enabled.
    #[error(
        "EnableIPv4 is false: a cluster of IPv6 only is not supported, because nodes are told apart by their IPv4 address; \
         leave EnableIPv4 out and give an IPv4 Network"
    )]
    Ipv6Only,
    /// An option of the backend is out of range.
    #[error("Backend.{option}: {value} is not in the range {low} to {high}")]
    OptionRange {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: i64,
        /// Least value.
        low: i64,
        /// Greatest value.
        high: i64,
    },
    /// A backend that flannel has and we have not.
    #[error("backend type {name:?} is not supported; supported are host-gw, vxlan, udp, ipip and alloc")]
    UnsupportedBackend {
        /// Its name.
        name: String,
    },
    /// A backend that nobody has.
    #[error("unknown backend type {name:?}; supported are host-gw, vxlan, udp, ipip and alloc")]
    UnknownBackend {
        /// Its name.
        name: String,
    },
}

impl ConfigError {
    /// Whether to give up (exit 1) instead of waiting until an operator corrects the key.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::NoFamily | Self::Ipv6Only | Self::UnsupportedBackend { .. } | Self::UnknownBackend { .. })
    }
}
