//! Where leases live: etcd. The only code that knows keys, revisions and etcd's own leases (here: a TTL and its id).
//!
//! Every request tries the endpoints in turn and ends after a deadline; none hangs. What is written is guarded by a
//! transaction, so that a subnet has one owner whatever fails in between. Errors are [`Error`]; "somebody else has it" is
//! an answer, not an error.

mod error;
mod options;

mod members;

mod claim;
mod read;
mod watch;

use std::{sync::Arc, time::Duration};

pub use self::{error::Error, options::Options, watch::Pace};
use self::{members::Members, read::Strays};
use crate::lease::Lease;
pub use crate::lease::Update;

/// A connection to the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    members: Members,
    /// Key of the configuration.
    config_key: String,
    /// What the key of every lease starts with, the last slash included.
    lease_prefix: String,
    strays: Strays,
}

/// What became of a claim to a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Create {
    /// It is ours.
    Granted(Lease),
    /// Somebody was faster.
    Taken,
}

/// What became of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renew {
    /// The lease is ours as before, with the new attributes.
    Renewed(Lease),
    /// The lease ended, was deleted, or belongs to another node by now.
    Lost,
}

/// How long a request may try in vain, all endpoints together.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl Store {
    /// Checks the options and reads the certificate files. Connections are made by the first request: a store that does
    /// not answer is no error here.
    pub fn connect(options: &Options) -> Result<Self, Error> {
        let members = Members::new(&options.endpoints()?, &options.connect_options()?, options.user().as_ref());
        let (config_key, lease_prefix) = (options.key("config"), options.key("subnets") + "/");
        Ok(Self { inner: Arc::new(Inner { members, config_key, lease_prefix, strays: Strays::default() }) })
    }

    /// The endpoints in the order they were given, as URLs, without credentials.
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.members.urls()
    }

    /// Key of the cluster's configuration.
    pub fn config_key(&self) -> &str {
        &self.inner.config_key
    }

    /// The endpoint that answered last, or will be asked next.
    pub fn endpoint(&self) -> &str {
        self.inner.members.preferred_url()
    }
}
