//! Reading the configuration and the leases.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use etcd_client::{Client, GetOptions, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse};

use super::{Error, Store};
use crate::lease::{Attrs, Lease, Subnet};

/// Largest answer that is read: a full network of a million leases.
pub(super) const MAX_MESSAGE: usize = 512 << 20;

/// How many unreadable keys are remembered, so that each is reported once.
const STRAYS: usize = 1024;

/// Everything under the prefix, as of one revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) seen: Seen,
    pub(super) config: Option<String>,
    /// Every lease with its key, in the order of keys.
    pub(super) leases: Vec<(String, Lease)>,
    /// Keys of leases whose value cannot be read.
    pub(super) unreadable: Vec<String>,
}

/// What an answer's header says about the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    cluster: u64,
    term: u64,
    pub(super) revision: i64,
}

impl Seen {
    pub(super) fn new(header: Option<&ResponseHeader>) -> Self {
        header.map_or_else(Self::default, |header| Self {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        })
    }

    /// Whether `now` cannot be a later state of the same store: its data was replaced, say from a backup.
    pub(super) fn is_replaced_by(&self, now: &Self) -> bool {
        now.cluster != self.cluster || now.revision < self.revision || now.term < self.term
    }
}

/// One key that is, or should be, a lease.
pub(super) enum Entry {
    Lease(String, Lease),
    /// The key names a subnet, the value is not one of a lease.
    Unreadable(String),
    /// Not a lease's key at all.
    Stray,
}

/// Keys that cannot be read, and the revision at which each was reported.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<BTreeMap<String, i64>>);

impl Strays {
    /// Whether this state of the key has not been reported yet.
    fn is_new(&self, key: &str, revision: i64) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if reported.len() >= STRAYS {
            reported.clear();
        }
        reported.insert(key.to_owned(), revision) != Some(revision)
    }
}

impl Store {
    /// The text of the configuration and the revision of its last change; `None` if there is none.
    pub async fn config(&self) -> Result<Option<(String, i64)>, Error> {
        let key = &self.inner.config_key;
        let get = |mut client: Client| async move { client.get(key.as_str(), None).await };
        let answer = self.inner.members.call("reading the network configuration", get).await?;
        Ok(answer.kvs().first().map(|kv| (text(kv.value()), kv.mod_revision())))
    }

    /// Writes the configuration.
    pub async fn put_config(&self, config: &str) -> Result<(), Error> {
        let key = &self.inner.config_key;
        let put = |mut client: Client| async move { client.put(key.as_str(), config, None).await };
        self.inner.members.call("writing the network configuration", put).await.map(drop)
    }

    /// All leases in the order of their keys, and the revision at which these were all. What cannot be read is left out.
    pub async fn leases(&self) -> Result<(Vec<Lease>, i64), Error> {
        let listing = self.list().await?;
        Ok((listing.leases.into_iter().map(|(_, lease)| lease).collect(), listing.seen.revision))
    }

    /// All leases as above, and the subnets whose keys hold something that cannot be read: taken, but by nobody we know.
    pub async fn claims(&self) -> Result<(Vec<Lease>, Vec<Subnet>), Error> {
        let listing = self.list().await?;
        let unreadable = listing.unreadable.iter().filter_map(|key| self.subnet(key).ok()).collect();
        Ok((listing.leases.into_iter().map(|(_, lease)| lease).collect(), unreadable))
    }

    /// The lease of one subnet, if there is one that can be read.
    pub async fn lease(&self, subnet: &Subnet) -> Result<Option<Lease>, Error> {
        let key = self.key(subnet);
        let get = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let answer = self.inner.members.call("reading a lease", get).await?;
        Ok(answer.kvs().first().and_then(|kv| match self.entry(kv) {
            Entry::Lease(_, lease) => Some(lease),
            Entry::Unreadable(_) | Entry::Stray => None,
        }))
    }

    /// How long the lease lives unless it is renewed; `None` for a reservation, zero if it has ended.
    pub async fn time_left(&self, lease: &Lease) -> Result<Option<Duration>, Error> {
        let Some(id) = lease.ttl_id else { return Ok(None) };
        let ask = |mut client: Client| async move { client.lease_time_to_live(id, None).await };
        let answer = self.inner.members.call("reading a lease's time to live", ask).await?;
        Ok(Some(Duration::from_secs(answer.ttl().try_into().unwrap_or(0))))
    }

    /// Configuration and leases in one request, so that both are of one revision.
    pub(super) async fn list(&self) -> Result<Listing, Error> {
        let (config, prefix) = (&self.inner.config_key, &self.inner.lease_prefix);
        let get = |client: Client| {
            let all = TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix()));
            let txn = Txn::new().and_then([TxnOp::get(config.as_str(), None), all]);
            async move { client.kv_client().max_decoding_message_size(MAX_MESSAGE).txn(txn).await }
        };
        let answer = self.inner.members.call("reading the leases", get).await?;
        let mut listing =
            Listing { seen: Seen::new(answer.header()), config: None, leases: Vec::new(), unreadable: Vec::new() };
        let kvs = answer.op_responses().into_iter().flat_map(|answer| match answer {
            TxnOpResponse::Get(mut answer) => answer.take_kvs(),
            _ => Vec::new(),
        });
        for kv in kvs {
            if kv.key() == config.as_bytes() {
                listing.config = Some(text(kv.value()));
                continue;
            }
            match self.entry(&kv) {
                Entry::Lease(key, lease) => listing.leases.push((key, lease)),
                Entry::Unreadable(key) => listing.unreadable.push(key),
                Entry::Stray => {}
            }
        }
        Ok(listing)
    }

    /// Reads a key and its value; reports what cannot be read, each state of a key once.
    pub(super) fn entry(&self, kv: &KeyValue) -> Entry {
        let key = text(kv.key());
        let subnet = match self.subnet(&key) {
            Ok(subnet) => subnet,
            Err(error) => {
                if self.inner.strays.is_new(&key, kv.mod_revision()) {
                    tracing::warn!(key, %error, "ignoring a stray key among the leases");
                }
                return Entry::Stray;
            }
        };
        match Attrs::from_json(kv.value()) {
            Ok(attrs) => {
                let ttl_id = Some(kv.lease()).filter(|id| *id != 0);
                Entry::Lease(key, Lease { subnet, attrs, ttl_id, revision: kv.mod_revision() })
            }
            Err(error) => {
                if self.inner.strays.is_new(&key, kv.mod_revision()) {
                    tracing::warn!(key, %error, "ignoring the value of a lease; its owner must write it again");
                }
                Entry::Unreadable(key)
            }
        }
    }

    /// The subnet that a full key names.
    pub(super) fn subnet(&self, key: &str) -> Result<Subnet, crate::lease::BadKey> {
        Subnet::parse_key(key.strip_prefix(self.inner.lease_prefix.as_str()).unwrap_or(key))
    }

    /// The full key of a subnet's lease.
    pub(super) fn key(&self, subnet: &Subnet) -> String {
        format!("{}{}", self.inner.lease_prefix, subnet.key_name())
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
