//! What an operator may do to the store through the agent, in the forms of the admin socket.

use std::net::Ipv4Addr;

use futures::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Operations on leases and the cluster's configuration. The store answers them in the agent, memory in tests.
pub trait StoreOps: Send + Sync {
    /// Every lease, ours too.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseRow>, OpsError>>;
    /// The text of the cluster's configuration; `None` if there is none.
    fn config(&self) -> BoxFuture<'_, Result<Option<String>, OpsError>>;
    /// Writes the cluster's configuration, which the caller has validated.
    fn set_config(&self, text: String) -> BoxFuture<'_, Result<(), OpsError>>;
    /// Makes the lease of `subnet` a reservation: it no longer ends by itself. A subnet without a lease is reserved for `host`.
    fn reserve(&self, subnet: Ipv4Net, host: Option<Ipv4Addr>) -> BoxFuture<'_, Result<(), OpsError>>;
    /// Deletes the lease of `subnet`.
    fn release(&self, subnet: Ipv4Net) -> BoxFuture<'_, Result<(), OpsError>>;
}

/// One lease, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// What is claimed.
    pub subnet: Ipv4Net,
    /// The IPv6 subnet of a dual-stack lease.
    pub subnet_v6: Option<Ipv6Net>,
    /// By which host.
    pub public_ip: Ipv4Addr,
    /// The host's backend; empty for udp and alloc.
    pub backend: String,
    /// Seconds until it ends; `None` for a reservation.
    pub ttl: Option<u64>,
    /// Store revision of the last write.
    pub revision: i64,
    /// Whether it is this node's.
    pub own: bool,
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", content = "text", rename_all = "kebab-case")]
pub enum OpsError {
    /// There is no such lease.
    #[error("{0}")]
    NotFound(String),
    /// It would harm: the lease is in use, or what was asked contradicts what is there.
    #[error("{0}")]
    Refused(String),
    /// The store did not answer.
    #[error("{0}")]
    Unavailable(String),
}
