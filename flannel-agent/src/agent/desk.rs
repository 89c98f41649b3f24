//! What `flannelctl` may ask of the store, answered for the admin socket.

use std::{net::Ipv4Addr, sync::Arc};

use futures::future::{BoxFuture, try_join_all};
use ipnet::Ipv4Net;
use tokio::sync::watch;

use crate::{
    admin::{LeaseRow, OpsError, StoreOps},
    config::NetworkConfig,
    lease::{Attrs, Lease, Subnet},
    state::NodeState,
    store::{Create, Store},
};

/// Leases whose time left is asked for at once.
const AT_ONCE: usize = 64;

/// The store, and the state that tells which lease is ours.
pub(super) struct StoreDesk {
    store: Store,
    state: watch::Receiver<Arc<NodeState>>,
}

impl StoreDesk {
    pub(super) const fn new(store: Store, state: watch::Receiver<Arc<NodeState>>) -> Self {
        Self { store, state }
    }

    async fn all(&self) -> Result<Vec<LeaseRow>, OpsError> {
        let (leases, _) = self.store.leases().await.map_err(unavailable)?;
        let mut rows = Vec::with_capacity(leases.len());
        for chunk in leases.chunks(AT_ONCE) {
            rows.extend(try_join_all(chunk.iter().map(|lease| self.row(lease))).await?);
        }
        Ok(rows)
    }

    async fn row(&self, lease: &Lease) -> Result<LeaseRow, OpsError> {
        let left = self.store.time_left(lease).await.map_err(unavailable)?;
        let own = self.state.borrow().lease.as_ref().is_some_and(|own| own.subnet == lease.subnet.v4);
        Ok(LeaseRow {
            subnet: lease.subnet.v4,
            subnet_v6: lease.subnet.v6,
            public_ip: lease.attrs.public_ip,
            backend: lease.attrs.backend_type.clone(),
            ttl: left.map(|left| left.as_secs()),
            revision: lease.revision,
            own,
        })
    }

    async fn find(&self, subnet: Ipv4Net) -> Result<Lease, OpsError> {
        let (leases, _) = self.store.leases().await.map_err(unavailable)?;
        let found = leases.into_iter().find(|lease| lease.subnet.v4.trunc() == subnet.trunc());
        found.ok_or_else(|| OpsError::NotFound(format!("there is no lease of {subnet}; see: flannelctl leases")))
    }
}

impl StoreDesk {
    /// Refuses a new reservation that its host could not take, or that would harm another node.
    async fn refuse_unfit(&self, subnet: Ipv4Net, host: Ipv4Addr) -> Result<(), OpsError> {
        let refuse = |text: String| Err(OpsError::Refused(text));
        let text = self.store.config().await.map_err(unavailable)?.map(|(text, _)| text).unwrap_or_default();
        let config = NetworkConfig::parse(&text).map_err(|error| OpsError::Refused(error.to_string()))?;
        let range = config.range();
        if range.v6.is_some() {
            return refuse("a dual-stack lease cannot be reserved before its node has it: start the node first".into());
        }
        let wanted = Subnet { v4: subnet, v6: None };
        if !range.allows(&wanted) {
            let (min, max, len) = (range.min, range.max, range.len);
            return refuse(format!("{subnet} is none of the network's subnets: each is a /{len} from {min} to {max}"));
        }
        let (leases, unreadable) = self.store.claims().await.map_err(unavailable)?;
        if let Some(other) = leases.iter().find(|lease| lease.attrs.public_ip == host) {
            let theirs = other.subnet.v4;
            return refuse(format!("{host} has {theirs} already: reserve that, or release it while the host is down"));
        }
        let mut taken = leases.iter().map(|lease| lease.subnet).chain(unreadable);
        match taken.find(|taken| taken.overlaps(&wanted)) {
            Some(taken) => refuse(format!("{subnet} overlaps with {}, which is taken", taken.v4)),
            None => Ok(()),
        }
    }
}

impl StoreOps for StoreDesk {
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseRow>, OpsError>> {
        Box::pin(self.all())
    }

    fn config(&self) -> BoxFuture<'_, Result<Option<String>, OpsError>> {
        Box::pin(async { Ok(self.store.config().await.map_err(unavailable)?.map(|(text, _)| text)) })
    }

    fn set_config(&self, text: String) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async move {
            NetworkConfig::parse(&text).map_err(|error| OpsError::Refused(error.to_string()))?;
            self.store.put_config(&text).await.map_err(unavailable)
        })
    }

    fn reserve(&self, subnet: Ipv4Net, host: Option<Ipv4Addr>) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async move {
            let subnet = subnet.trunc();
            let (claimed, attrs) = match (self.find(subnet).await, host) {
                (Ok(lease), Some(host)) if host != lease.attrs.public_ip => {
                    let text = format!("{subnet} is leased to {}; release it first", lease.attrs.public_ip);
                    return Err(OpsError::Refused(text));
                }
                (Ok(lease), _) => (lease.subnet, lease.attrs),
                (Err(OpsError::NotFound(_)), Some(host)) => {
                    self.refuse_unfit(subnet, host).await?;
                    // The node writes its backend when it takes the reservation.
                    (Subnet { v4: subnet, v6: None }, Attrs::new(host, ""))
                }
                (Err(OpsError::NotFound(_)), None) => {
                    let text = format!("nobody has leased {subnet}; --for ADDRESS says which host it is reserved for");
                    return Err(OpsError::NotFound(text));
                }
                (Err(error), _) => return Err(error),
            };
            match self.store.reserve(&claimed, &attrs).await.map_err(unavailable)? {
                Create::Granted(_) => Ok(()),
                Create::Taken => {
                    Err(OpsError::Refused(format!("the lease of {subnet} changed hands just now; look again")))
                }
            }
        })
    }

    fn release(&self, subnet: Ipv4Net) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async move {
            let lease = self.find(subnet).await?;
            if self.store.delete(&lease.subnet).await.map_err(unavailable)? {
                Ok(())
            } else {
                Err(OpsError::NotFound(format!("the lease of {subnet} is gone already")))
            }
        })
    }
}

fn unavailable(error: crate::store::Error) -> OpsError {
    OpsError::Unavailable(error.to_string())
}
