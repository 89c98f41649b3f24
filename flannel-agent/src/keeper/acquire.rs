//! How a node gets its subnet: its lease of last time, the subnet it remembers, or a free one.
//!
//! Some messages begin as flannel's do, because operators search logs for them.

use ipnet::Ipv4Net;

use crate::{
    lease::{Attrs, Lease, Subnet},
    plan::{
        allocate::{Range, choose},
        renew::TTL,
    },
    store::{Create, Error, Renew, Store},
};

/// How often others may be faster before we say so and leave it to the caller to go on.
const CONFLICTS: usize = 20;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// Nothing is free.
    #[error(
        "out of subnets: no /{len} is free between {min} and {max} of {network}; delete leases of nodes that are gone, or \
         enlarge the network in the configuration"
    )]
    Exhausted {
        /// The whole network.
        network: Ipv4Net,
        /// First and last subnet.
        min: std::net::Ipv4Addr,
        /// Last subnet.
        max: std::net::Ipv4Addr,
        /// Prefix length.
        len: u8,
    },
    /// Others were always faster.
    #[error("others took each of {CONFLICTS} subnets that we tried before we could")]
    Contended,
}

/// Gets a lease: ours by public address if the range allows it, else the previous subnet if it is free, else a free one by
/// chance. Another node that is faster only means another try.
pub async fn acquire(
    store: &Store,
    range: &Range,
    attrs: &Attrs,
    previous: Option<Subnet>,
) -> Result<Lease, AcquireError> {
    let mut lost = false;
    for _ in 0..CONFLICTS {
        let (leases, unreadable) = store.claims().await?;
        let ours = leases.iter().find(|lease| lease.attrs.public_ip == attrs.public_ip);
        if let Some(ours) = ours.filter(|_| !lost) {
            match reuse(store, range, ours, attrs).await? {
                Reuse::Kept(lease) => return Ok(lease),
                Reuse::Deleted => {}
                Reuse::Lost => {
                    lost = true;
                    continue;
                }
            }
        }
        let taken: Vec<Subnet> = leases.iter().map(|lease| lease.subnet).chain(unreadable).collect();
        let subnet = pick(range, &taken, previous)?;
        if let Create::Granted(lease) = store.create(&subnet, attrs, TTL).await? {
            tracing::info!("Allocated lease (ip: {subnet}) to current node ({})", attrs.public_ip);
            return Ok(lease);
        }
        tracing::info!(%subnet, "another node was faster; choosing again");
    }
    Err(AcquireError::Contended)
}

enum Reuse {
    Kept(Lease),
    Deleted,
    Lost,
}

/// Renews our lease in place, or gives it up if the range does not allow it any more.
async fn reuse(store: &Store, range: &Range, ours: &Lease, attrs: &Attrs) -> Result<Reuse, Error> {
    let (subnet, ip) = (&ours.subnet, attrs.public_ip);
    if !range.allows(subnet) {
        tracing::warn!(
            "Found lease (ip: {subnet}) for current IP ({ip}), but the configuration does not allow it; deleting it"
        );
        store.release(ours).await?;
        return Ok(Reuse::Deleted);
    }
    tracing::info!("Found lease (ip: {subnet}) for current IP ({ip}), reusing");
    Ok(match store.renew(ours, attrs).await? {
        Renew::Renewed(lease) => Reuse::Kept(lease),
        Renew::Lost => Reuse::Lost,
    })
}

fn pick(range: &Range, taken: &[Subnet], previous: Option<Subnet>) -> Result<Subnet, AcquireError> {
    let Range { network, min, max, len, .. } = *range;
    let subnet =
        choose(range, taken, previous, rand::random()).ok_or(AcquireError::Exhausted { network, min, max, len })?;
    if previous == Some(subnet) {
        tracing::info!("Found previously leased subnet ({subnet}), reusing");
    } else {
        tracing::info!("Picking subnet in range {min} ... {max}");
    }
    Ok(subnet)
}
