//! Why the agent ends, and with which exit code.

use crate::{backend, config::ConfigError, http, kernel, store};

/// Why the agent ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refuses us for good: bad certificates, a wrong password.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The cluster's configuration asks for what this agent does not do.
    #[error("the network configuration at key {key}: {source}")]
    Config {
        /// The key that holds it.
        key: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// We may not change the network.
    #[error("{0}")]
    Rights(#[from] kernel::rights::MissingRights),
    /// No interface towards other nodes.
    #[error("{0}")]
    Interface(#[from] kernel::iface::IfaceError),
    /// The backend cannot work here.
    #[error("{0}")]
    Backend(#[from] backend::Error),
    /// The kernel does not talk to us.
    #[error("{0}")]
    Netlink(#[from] kernel::netlink::Error),
    /// The health port cannot be had.
    #[error("{0}")]
    Health(#[from] http::Error),
    /// Our lease went away and `-exit-on-lease-loss` is given.
    #[error("the lease of {subnet} is lost ({why}) and -exit-on-lease-loss is given")]
    LeaseLost {
        /// What we held.
        subnet: String,
        /// How it went.
        why: String,
    },
}

impl Error {
    /// Exit code of the process: 1, as flannel's for everything that ends it at start.
    pub const fn exit_code() -> u8 {
        1
    }
}
