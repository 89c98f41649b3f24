//! The store's answers to an operator.

use std::net::Ipv4Addr;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use ipnet::Ipv4Net;

use super::{LeaseRow, OpsError, StoreOps};
use crate::{
    lease::{Lease, Subnet},
    store::{Create, Error, Store},
};

/// Questions for a TTL that are under way at once: 5,000 leases take a second, and etcd does not notice.
const AT_ONCE: usize = 64;

fn unavailable(error: &Error) -> OpsError {
    OpsError::Unavailable(error.to_string())
}

fn absent(subnet: Ipv4Net) -> OpsError {
    OpsError::NotFound(format!("there is no lease of {subnet}; flannelctl leases lists them"))
}

async fn row(store: &Store, lease: Lease) -> Result<LeaseRow, Error> {
    let ttl = store.time_left(&lease).await?.map(|left| left.as_secs());
    let Lease { subnet, attrs, revision, .. } = lease;
    Ok(LeaseRow {
        subnet: subnet.v4,
        subnet_v6: subnet.v6,
        public_ip: attrs.public_ip,
        backend: attrs.backend_type,
        ttl,
        revision,
        own: false,
    })
}

/// The lease of an IPv4 subnet, whatever its IPv6 part is.
async fn find(store: &Store, subnet: Ipv4Net) -> Result<Lease, OpsError> {
    let (leases, _) = store.leases().await.map_err(|error| unavailable(&error))?;
    leases.into_iter().find(|lease| lease.subnet.v4 == subnet).ok_or_else(|| absent(subnet))
}

impl StoreOps for Store {
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseRow>, OpsError>> {
        let rows = async {
            let (leases, _) = Self::leases(self).await?;
            stream::iter(leases).map(|lease| row(self, lease)).buffered(AT_ONCE).try_collect().await
        };
        rows.map(|rows| rows.map_err(|error: Error| unavailable(&error))).boxed()
    }

    fn config(&self) -> BoxFuture<'_, Result<Option<String>, OpsError>> {
        async {
            let found = Self::config(self).await.map_err(|error| unavailable(&error))?;
            Ok(found.map(|(text, _)| text))
        }
        .boxed()
    }

    fn set_config(&self, text: String) -> BoxFuture<'_, Result<(), OpsError>> {
        async move { self.put_config(&text).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn reserve(&self, subnet: Ipv4Net, host: Option<Ipv4Addr>) -> BoxFuture<'_, Result<(), OpsError>> {
        reserve(self, subnet, host).boxed()
    }

    fn release(&self, subnet: Ipv4Net) -> BoxFuture<'_, Result<(), OpsError>> {
        async move {
            let lease = find(self, subnet).await?;
            let found = self.delete(&lease.subnet).await.map_err(|error| unavailable(&error))?;
            if found { Ok(()) } else { Err(absent(subnet)) }
        }
        .boxed()
    }
}

async fn reserve(store: &Store, subnet: Ipv4Net, host: Option<Ipv4Addr>) -> Result<(), OpsError> {
    let (subnet, attrs) = match find(store, subnet).await {
        Ok(lease) if host.is_none_or(|host| host == lease.attrs.public_ip) => (lease.subnet, lease.attrs),
        Ok(lease) => {
            let text = format!("{subnet} is leased to {}; release it first", lease.attrs.public_ip);
            return Err(OpsError::Refused(text));
        }
        Err(OpsError::NotFound(_)) if host.is_some() => {
            let host = host.unwrap_or(Ipv4Addr::UNSPECIFIED);
            (Subnet { v4: subnet, v6: None }, crate::lease::Attrs::new(host, ""))
        }
        Err(error) => return Err(error),
    };
    match store.reserve(&subnet, &attrs).await.map_err(|error| unavailable(&error))? {
        Create::Granted(_) => Ok(()),
        Create::Taken => Err(OpsError::Refused(format!("{} was taken by another host just now", subnet.v4))),
    }
}
