//! The kernel's network configuration by rtnetlink: what is there, what changes, and the one place that changes it.
//!
//! Every answer is a fresh look; nothing is cached here. Requests are bounded in time, so that a stuck kernel cannot
//! stop the agent from renewing its lease.

mod address;
mod apply;
mod blackhole;
mod error;
mod event;
mod link;
mod neighbour;
mod observe;
mod qdisc;
mod route;
mod socket;

use std::sync::{Arc, Mutex, PoisonError};

pub use self::{
    address::Address,
    error::Error,
    event::{KernelEvent, Kind},
    link::{Bridge, Link, VxlanLink},
    neighbour::Endpoint,
    observe::Scope,
    route::{DEFAULT_TABLE, Lookup, OUR_PROTOCOL},
};

/// A connection to the kernel of the network namespace in which it was opened. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    socket: Arc<Mutex<socket::Socket>>,
}

impl Netlink {
    /// Opens a connection; a background task of the current tokio runtime serves it until the last clone is dropped.
    pub fn connect() -> Result<Self, Error> {
        Ok(Self { socket: Arc::new(Mutex::new(socket::Socket::open()?)) })
    }

    /// The socket; a new one if the last one ended.
    fn socket(&self) -> Result<socket::Socket, Error> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_closed() {
            tracing::warn!("the netlink socket closed; opening another");
            *socket = socket::Socket::open()?;
        }
        Ok(socket.clone())
    }
}
