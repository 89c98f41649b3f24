//! Leases and peers, and the key and JSON forms that flannel gives them in etcd.

mod key;
mod update;
mod value;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;

pub use self::{key::BadKey, update::Update, value::BadValue};

/// The subnets that a lease claims: its identity, and its key's name in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subnet {
    /// IPv4 subnet; `0.0.0.0/0` for an IPv6-only lease, as flannel writes it.
    pub v4: Ipv4Net,
    /// IPv6 subnet of a dual-stack lease.
    pub v6: Option<Ipv6Net>,
}

/// What a node says of itself in its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Host address for the other nodes; `0.0.0.0` if unset.
    pub public_ip: Ipv4Addr,
    /// IPv6 host address for the other nodes.
    pub public_ipv6: Option<Ipv6Addr>,
    /// Backend name as its owner spells it; empty for udp and alloc.
    pub backend_type: String,
    /// Compact JSON text that the backend gives its peers.
    pub backend_data: Option<String>,
    /// The same for the IPv6 device.
    pub backend_v6_data: Option<String>,
}

/// A claim in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is claimed.
    pub subnet: Subnet,
    /// By whom.
    pub attrs: Attrs,
    /// The store's id of the time-to-live it hangs on; `None` for a reservation, which never ends by itself.
    pub ttl_id: Option<i64>,
    /// Store revision of the last write.
    pub revision: i64,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v6 {
            Some(v6) => write!(f, "{} and {v6}", self.v4),
            None => write!(f, "{}", self.v4),
        }
    }
}

impl From<Ipv4Net> for Subnet {
    fn from(v4: Ipv4Net) -> Self {
        Self { v4, v6: None }
    }
}

impl Attrs {
    /// What a node without backend data says of itself.
    pub fn new(public_ip: Ipv4Addr, backend_type: &str) -> Self {
        Self {
            public_ip,
            public_ipv6: None,
            backend_type: backend_type.to_owned(),
            backend_data: None,
            backend_v6_data: None,
        }
    }
}
