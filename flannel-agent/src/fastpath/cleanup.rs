//! Taking everything away again that is ours, with or without an agent.

use std::{collections::BTreeSet, path::Path};

use aya::programs::TcAttachType;
use ipnet::Ipv4Net;
use nix::net::if_::if_nameindex;

use super::{
    attach,
    error::Error,
    pins::{Dir, NetworkDir},
};
use crate::kernel::netlink::Netlink;

/// What a cleanup removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pinned links: each was a program at an interface, or is left of one.
    pub links: usize,
    /// Filters of the clsact qdisc.
    pub filters: usize,
    /// clsact qdiscs that we had made.
    pub qdiscs: usize,
    /// Pin directories, with their maps.
    pub directories: usize,
}

/// Removes everything that is ours in the calling thread's network namespace: for one network, or for all that are
/// pinned. Needs no agent, and leaves what others attached. The kernel frees maps and programs with their last user.
pub fn cleanup(pin_root: &Path, network: Option<Ipv4Net>) -> Result<Removed, Error> {
    let dirs = match network {
        Some(network) => vec![NetworkDir::of(pin_root, network)?],
        None => NetworkDir::all(pin_root)?,
    };
    let networks: BTreeSet<Ipv4Net> = dirs.iter().filter_map(NetworkDir::network).chain(network).collect();
    // Filters before the qdiscs that they hang on.
    let mut removed = Removed {
        filters: networks.into_iter().map(|network| remove_filters(network, |_, _| true)).sum(),
        ..Removed::default()
    };
    for dir in dirs {
        for version in dir.versions()? {
            removed.links += version.links()?.len();
            removed.qdiscs += remove_qdiscs(&version)?;
            version.remove()?;
            removed.directories += 1;
        }
        dir.remove_if_empty(pin_root);
    }
    Ok(removed)
}

/// Removes our filters from all interfaces of this network namespace that `unwanted` picks; says how many there were.
/// No list of them is kept: priority and handle tell which are ours.
pub(super) fn remove_filters(network: Ipv4Net, unwanted: impl Fn(u32, TcAttachType) -> bool) -> usize {
    let Ok(interfaces) = if_nameindex() else { return 0 };
    let places = interfaces
        .iter()
        .flat_map(|interface| [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| (interface, direction)));
    places
        .filter(|(interface, direction)| unwanted(interface.index(), *direction))
        .filter(|(interface, direction)| {
            interface.name().to_str().is_ok_and(|name| attach::remove_filter(name, *direction, network))
        })
        .count()
}

/// Removes the clsact qdiscs that we made. One that still has filters is used by somebody, and stays.
fn remove_qdiscs(dir: &Dir) -> Result<usize, Error> {
    let ours = dir.qdiscs()?;
    if ours.is_empty() {
        return Ok(0);
    }
    // A runtime of our own: we may be called from within one, which must not block.
    let work = || -> Result<usize, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let netlink = Netlink::connect().map_err(|error| error.to_string())?;
            let mut removed = 0;
            for ifindex in ours {
                removed += usize::from(netlink.remove_empty_clsact(ifindex).await.map_err(|error| error.to_string())?);
            }
            Ok(removed)
        })
    };
    let outcome = std::thread::scope(|scope| scope.spawn(work).join());
    outcome
        .unwrap_or_else(|_| Err("the thread that removes qdiscs panicked".to_owned()))
        .map_err(|why| Error::pin(dir.path())(std::io::Error::other(why)))
}
