//! What still lives of what was pinned: links by their interface, network namespaces by whoever is in them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{
    MultiProgLink as _,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
};

use flannel_common::abi::Hook;
use ipnet::Ipv4Net;

use super::{
    attach,
    error::Error,
    pins::{self, Dir, LinkPin, NetworkDir},
};
use crate::state::HookState;

/// Whether the tcx link pinned at `path` is attached to an interface, in whichever network namespace. aya does not give
/// the interface out, but the kernel shows it beside the descriptor: 0 once the interface has gone.
pub(super) fn is_attached(path: &Path) -> bool {
    let Ok(link) = PinnedLink::from_pin(path) else { return false };
    let Ok(link) = SchedClassifierLink::try_from(FdLink::from(link)) else { return false };
    let Ok(fd) = link.fd() else { return false };
    let shown = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    let ifindex = shown.lines().find_map(|line| line.strip_prefix("ifindex:")).map(str::trim);
    ifindex.is_some_and(|ifindex| ifindex != "0")
}

/// Whether links are pinned in `dir`, and all of them have lost their interface.
pub(super) fn is_dead(dir: &Dir) -> Result<bool, Error> {
    let links = dir.links()?;
    Ok(!links.is_empty() && !links.iter().any(|link| is_attached(&link.path)))
}

/// The hooks that are pinned in the calling thread's network namespace, without an agent: for `network`, or for all.
pub fn pinned_hooks(pin_root: &Path, network: Option<Ipv4Net>) -> Result<Vec<HookState>, Error> {
    let dirs = match network {
        Some(network) => vec![NetworkDir::of(pin_root, network)?],
        None => NetworkDir::all(pin_root)?,
    };
    let mut hooks = Vec::new();
    for dir in dirs {
        for version in dir.versions()? {
            hooks.extend(version.links()?.into_iter().map(hook_state));
        }
    }
    Ok(hooks)
}

/// The networks of which something is pinned in the calling thread's network namespace.
pub fn pinned_networks(pin_root: &Path) -> Result<BTreeSet<Ipv4Net>, Error> {
    let mut networks = BTreeSet::new();
    for dir in NetworkDir::all(pin_root)? {
        if !dir.versions()?.is_empty() {
            networks.extend(dir.network());
        }
    }
    Ok(networks)
}

fn hook_state(pin: LinkPin) -> HookState {
    let interface = attach::current_name(pin.ifindex);
    let reason = interface.is_none().then(|| "its interface has gone".to_owned());
    let rung = if pin.hook == Hook::Transit { "xdp" } else { "tcx" };
    HookState {
        interface: interface.unwrap_or_default(),
        ifindex: pin.ifindex,
        program: pin.hook.label().to_owned(),
        rung: if reason.is_some() { "none" } else { rung }.to_owned(),
        reason,
    }
}

/// Removes what was pinned for network namespaces that no longer exist. Nobody else would: their interfaces have gone
/// with them, and their maps take memory.
pub(super) fn discard_dead_namespaces(root: &Path) -> Result<(), Error> {
    let dirs = pins::entries(root)?;
    let inode = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
    let candidates: Vec<_> = dirs.iter().filter_map(|dir| Some((inode(dir)?, dir))).collect();
    if candidates.is_empty() {
        return Ok(());
    }
    let Ok(Living { namespaces, complete }) = living_namespaces() else { return Ok(()) };
    for (_, dir) in candidates.iter().filter(|(inode, _)| !namespaces.contains(inode)) {
        let links = links(dir)?;
        // Programs that hang on a clsact qdisc have no links: without any, only the namespace itself can tell.
        if links.iter().all(|link| !is_attached(link)) && (complete || !links.is_empty()) {
            tracing::debug!(dir = %dir.display(), "removing pins of a network namespace that has gone");
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::pin(*dir)(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// All links that are pinned for a network namespace.
fn links(namespace: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut links = Vec::new();
    for network in NetworkDir::all_in(namespace)? {
        for version in network.versions()? {
            links.extend(version.links()?.into_iter().map(|link| link.path));
        }
    }
    Ok(links)
}

/// Network namespaces that exist.
struct Living {
    namespaces: BTreeSet<u64>,
    /// Whether there are no others, as far as processes and mounts tell.
    complete: bool,
}

/// The network namespaces that some process is in, or that are mounted somewhere (as `ip netns` and Docker do).
fn living_namespaces() -> io::Result<Living> {
    let mut living = Living { namespaces: BTreeSet::new(), complete: true };
    for entry in fs::read_dir("/proc")?.flatten() {
        match fs::metadata(entry.path().join("ns/net")) {
            Ok(meta) => living.namespaces.extend([meta.ino()]),
            // With fewer capabilities than a process has, we may not see where it is, as under systemd.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => living.complete = false,
            // A process that ends meanwhile is no error.
            Err(_) => {}
        }
    }
    for line in fs::read_to_string("/proc/thread-self/mountinfo")?.lines() {
        let root: Option<u64> =
            line.split(' ').nth(3).and_then(|root| root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
        living.namespaces.extend(root);
    }
    living.namespaces.insert(fs::metadata("/proc/thread-self/ns/net")?.ino());
    Ok(living)
}
