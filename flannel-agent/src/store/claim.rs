//! Taking, keeping and giving up subnets. Every write is a transaction that fails if somebody else was faster, and every
//! request can be sent again without harm: a TTL's id is chosen here, and a key that hangs on it is known to be ours.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};

use super::{Create, Error, Renew, Store, error::brief, read::Entry};
use crate::{
    lease::{Attrs, Lease, Subnet},
    plan::renew::TTL,
};

/// How often a renewal tries again after another writer of our own lease was faster.
const RACES: usize = 5;

impl Store {
    /// Claims a subnet that nobody has, for the time given (in whole seconds; etcd raises less than 2 s).
    pub async fn create(&self, subnet: &Subnet, attrs: &Attrs, ttl: Duration) -> Result<Create, Error> {
        let id = self.grant(ttl).await?;
        let outcome = self.claim(subnet, attrs, Some(id)).await;
        if !matches!(outcome, Ok(Create::Granted(_))) {
            self.revoke(id).await;
        }
        outcome
    }

    /// Claims a subnet for ever: what `create` does, without a time to live. A lease that already has these attributes'
    /// public address becomes a reservation.
    pub async fn reserve(&self, subnet: &Subnet, attrs: &Attrs) -> Result<Create, Error> {
        for _ in 0..RACES {
            if let Create::Granted(lease) = self.claim(subnet, attrs, None).await? {
                return Ok(Create::Granted(lease));
            }
            let Some(lease) = self.lease(subnet).await? else { continue };
            if lease.attrs.public_ip != attrs.public_ip {
                break;
            }
            if let Swap::Done(revision) =
                self.swap(&Lease { attrs: attrs.clone(), ttl_id: None, ..lease }, lease.revision).await?
            {
                return Ok(Create::Granted(Lease { subnet: *subnet, attrs: attrs.clone(), ttl_id: None, revision }));
            }
        }
        Ok(Create::Taken)
    }

    /// Gives the lease its full time to live again and writes `attrs`, if it is still ours: unchanged since we read it, or
    /// still with our public address. A reservation stays one.
    ///
    /// After an error the renewal may or may not have happened; both are safe.
    pub async fn renew(&self, lease: &Lease, attrs: &Attrs) -> Result<Renew, Error> {
        let mut before = lease.clone();
        for _ in 0..RACES {
            let ttl_id = match before.ttl_id {
                Some(_) => Some(self.grant(TTL).await?),
                None => None,
            };
            let after = Lease { attrs: attrs.clone(), ttl_id, ..before };
            let current = match self.swap(&after, before.revision).await? {
                Swap::Done(revision) => return Ok(Renew::Renewed(Lease { revision, ..after })),
                Swap::Absent => None,
                Swap::Other(kv) => self.still_ours(&kv, lease, attrs),
            };
            if let Some(id) = ttl_id {
                self.revoke(id).await;
            }
            match current {
                Some(current) => before = current,
                None => break,
            }
        }
        Ok(Renew::Lost)
    }

    /// Gives a lease up, if it is still ours. Whether it was.
    pub async fn release(&self, lease: &Lease) -> Result<bool, Error> {
        let key = self.key(&lease.subnet);
        let mut revision = lease.revision;
        for _ in 0..RACES {
            let txn = guarded(&key, revision, TxnOp::delete(key.as_str(), None));
            match self.transact("deleting our lease", txn).await? {
                Swap::Done(_) => return Ok(true),
                Swap::Absent => return Ok(false),
                Swap::Other(kv) => match self.still_ours(&kv, lease, &lease.attrs) {
                    Some(current) => revision = current.revision,
                    None => return Ok(false),
                },
            }
        }
        Ok(false)
    }

    /// Deletes whatever is at a subnet's key, whoever it belongs to: for an operator, not for a node. Whether there was
    /// something.
    pub async fn delete(&self, subnet: &Subnet) -> Result<bool, Error> {
        let key = self.key(subnet);
        let delete = |mut client: Client| {
            let key = key.clone();
            async move { client.delete(key, None).await }
        };
        Ok(self.inner.members.call("deleting a lease", delete).await?.deleted() > 0)
    }

    /// Writes the key if there is none.
    async fn claim(&self, subnet: &Subnet, attrs: &Attrs, ttl_id: Option<i64>) -> Result<Create, Error> {
        let key = self.key(subnet);
        let txn = guarded(&key, 0, put(&key, attrs, ttl_id));
        let lease = |revision| Lease { subnet: *subnet, attrs: attrs.clone(), ttl_id, revision };
        Ok(match self.transact("claiming a subnet", txn).await? {
            Swap::Done(revision) => Create::Granted(lease(revision)),
            // An earlier attempt, whose answer was lost.
            Swap::Other(kv) if ttl_id == Some(kv.lease()) => Create::Granted(lease(kv.mod_revision())),
            Swap::Other(_) | Swap::Absent => Create::Taken,
        })
    }

    /// Overwrites a lease that has not changed since `revision`.
    async fn swap(&self, lease: &Lease, revision: i64) -> Result<Swap, Error> {
        let key = self.key(&lease.subnet);
        let txn = guarded(&key, revision, put(&key, &lease.attrs, lease.ttl_id));
        Ok(match self.transact("renewing our lease", txn).await? {
            Swap::Other(kv) if lease.ttl_id == Some(kv.lease()) => Swap::Done(kv.mod_revision()),
            // Without a TTL there is no mark of ours; the same value is as good.
            Swap::Other(kv) if is_same(&kv, lease) => Swap::Done(kv.mod_revision()),
            swap => swap,
        })
    }

    /// The lease as it is now, if it is still our node's: written by it with its old or its new address. A value that
    /// nobody can read belongs to nobody else, so it is repaired.
    fn still_ours(&self, kv: &KeyValue, lease: &Lease, attrs: &Attrs) -> Option<Lease> {
        let current = match self.entry(kv) {
            Entry::Lease(_, current) => current,
            Entry::Unreadable(_) => Lease { revision: kv.mod_revision(), ..lease.clone() },
            Entry::Stray => return None,
        };
        let ip = current.attrs.public_ip;
        let ours = ip == lease.attrs.public_ip || ip == attrs.public_ip;
        ours.then_some(Lease { subnet: lease.subnet, ..current })
    }

    async fn transact(&self, what: &'static str, txn: Txn) -> Result<Swap, Error> {
        let send = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let answer = self.inner.members.call(what, send).await?;
        if answer.succeeded() {
            return Ok(Swap::Done(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        let found = answer.op_responses().into_iter().find_map(|answer| match answer {
            TxnOpResponse::Get(mut answer) => answer.take_kvs().into_iter().next(),
            _ => None,
        });
        Ok(found.map_or(Swap::Absent, Swap::Other))
    }

    /// A new TTL under an id of our choice: asked for twice, it is the same one.
    async fn grant(&self, ttl: Duration) -> Result<i64, Error> {
        let id = rand::random_range(1..=i64::MAX);
        let seconds = ttl.as_secs().try_into().unwrap_or(i64::MAX);
        let grant = |mut client: Client| async move {
            match client.lease_grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await {
                Err(error) if brief(&error).contains("lease already exists") => Ok(()),
                answer => answer.map(drop),
            }
        };
        self.inner.members.call("asking for a time to live", grant).await?;
        Ok(id)
    }

    /// Ends a TTL that nothing hangs on. If that fails, it ends by itself.
    async fn revoke(&self, id: i64) {
        let revoke = |mut client: Client| async move { client.lease_revoke(id).await };
        if let Err(error) = self.inner.members.call("giving back a time to live", revoke).await {
            tracing::debug!(%error, "an unused TTL stays until it ends");
        }
    }
}

/// What became of a guarded write.
#[derive(Debug)]
enum Swap {
    /// Done, at this revision.
    Done(i64),
    /// There is no such key.
    Absent,
    /// The key has changed; this is what it is now.
    Other(KeyValue),
}

/// `write` if the key's last change was at `revision` (0: there is no key), otherwise a look at what is there.
fn guarded(key: &str, revision: i64, write: TxnOp) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
        .and_then([write])
        .or_else([TxnOp::get(key, None)])
}

fn put(key: &str, attrs: &Attrs, ttl_id: Option<i64>) -> TxnOp {
    let options = ttl_id.map(|id| PutOptions::new().with_lease(id));
    TxnOp::put(key, attrs.to_json(), options)
}

fn is_same(kv: &KeyValue, lease: &Lease) -> bool {
    kv.lease() == 0 && lease.ttl_id.is_none() && kv.value() == lease.attrs.to_json().as_bytes()
}
