//! The pin directory: where maps and links outlive the agent.
//!
//! `<root>/<network namespace>/<network>/v<ABI>/` holds one file for each map and one for each link. The namespace is
//! part of the path because agents of several network namespaces share one BPF file system; the version is, because two
//! layouts must never share a map. The names of link files are the same in all versions: that is how an agent takes
//! over the links of an older or a newer one.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use flannel_common::abi::Hook;
use ipnet::Ipv4Net;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use super::error::Error;

/// Where every distribution mounts the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// Its magic number (`BPF_FS_MAGIC` in linux/magic.h).
const BPFFS_MAGIC: FsType = FsType(0xcafe_4a11);

/// The directory of one network in one network namespace; one sub-directory for each ABI version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NetworkDir(PathBuf);

/// The directory of one ABI version: where maps and links are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dir(PathBuf);

/// A pinned link as its file name describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkPin {
    pub(super) hook: Hook,
    pub(super) ifindex: u32,
    pub(super) path: PathBuf,
}

impl NetworkDir {
    /// The directory of `network` in the calling thread's network namespace. Does not make it.
    pub(super) fn of(root: &Path, network: Ipv4Net) -> Result<Self, Error> {
        Ok(Self(namespace_dir(root)?.join(network_name(network))))
    }

    /// All that exist in the calling thread's network namespace.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>, Error> {
        Self::all_in(&namespace_dir(root)?)
    }

    /// All that exist in this directory of a network namespace.
    pub(super) fn all_in(namespace: &Path) -> Result<Vec<Self>, Error> {
        Ok(entries(namespace)?.into_iter().map(Self).collect())
    }

    /// The network that the directory is named after.
    pub(super) fn network(&self) -> Option<Ipv4Net> {
        let (address, prefix_len) = self.0.file_name()?.to_str()?.rsplit_once('-')?;
        format!("{}/{prefix_len}", address.replace('-', ".")).parse().ok()
    }

    /// The directory of an ABI version. Does not make it.
    pub(super) fn version(&self, abi: u32) -> Dir {
        Dir(self.0.join(format!("v{abi}")))
    }

    /// The directories of all ABI versions that exist.
    pub(super) fn versions(&self) -> Result<Vec<Dir>, Error> {
        Ok(entries(&self.0)?.into_iter().map(Dir).collect())
    }

    /// Removes what has become empty, upwards to `root`; a directory that somebody else uses stays.
    pub(super) fn remove_if_empty(&self, root: &Path) {
        for dir in self.0.ancestors().take_while(|dir| dir.starts_with(root)) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
}

impl Dir {
    /// Makes it, for root alone.
    pub(super) fn make(&self) -> Result<(), Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(Error::pin(&self.0))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the map of this name is.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where the link of this hook at this interface is.
    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.0.join(format!("link-{}-{ifindex}", hook.label()))
    }

    /// The mark that we made the clsact qdisc of this interface: bpffs holds no plain files, but directories.
    pub(super) fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.0.join(format!("clsact-{ifindex}"))
    }

    /// All links that are pinned here.
    pub(super) fn links(&self) -> Result<Vec<LinkPin>, Error> {
        Ok(entries(&self.0)?.into_iter().filter_map(parse_link).collect())
    }

    /// The interfaces whose clsact qdisc we made.
    pub(super) fn qdiscs(&self) -> Result<Vec<u32>, Error> {
        let ifindex = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix("clsact-")?.parse().ok();
        Ok(entries(&self.0)?.into_iter().filter_map(ifindex).collect())
    }

    /// Unpins everything: links whose last reference this was are detached, maps freed.
    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin(&self.0)(error)),
            _ => Ok(()),
        }
    }
}

/// Removes the file of a pin; it is fine if it is not there.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin(path)(error)),
        _ => Ok(()),
    }
}

/// Makes sure that `root` lies on a BPF file system, mounting the usual one if nobody has.
pub(super) fn ensure_bpffs(root: &Path) -> Result<(), Error> {
    if on_bpffs(root) {
        return Ok(());
    }
    if !root.starts_with(BPFFS) {
        let why = "not on a BPF file system; mount one there (mount -t bpf bpf DIR)";
        return Err(Error::pin(root)(io::Error::new(io::ErrorKind::Unsupported, why)));
    }
    // Two agents that start together must not mount one over the other's pins.
    let dir = File::open(BPFFS).map_err(Error::pin(BPFFS))?;
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| Error::pin(BPFFS)(errno.into()))?;
    if on_bpffs(root) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700")).map_err(|errno| {
        Error::pin(BPFFS)(io::Error::new(io::Error::from(errno).kind(), format!("cannot mount it: {errno}")))
    })
}

/// Whether the nearest existing directory of `path` is on a BPF file system.
pub(super) fn on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|dir| dir.exists());
    existing.is_some_and(|dir| statfs(dir).is_ok_and(|fs| fs.filesystem_type() == BPFFS_MAGIC))
}

/// Identity of the calling thread's network namespace.
fn namespace_dir(root: &Path) -> Result<PathBuf, Error> {
    let path = "/proc/thread-self/ns/net";
    let inode = fs::metadata(path).map_err(Error::pin(path))?.ino();
    Ok(root.join(inode.to_string()))
}

/// bpffs refuses names with dots.
fn network_name(network: Ipv4Net) -> String {
    network.to_string().replace(['.', '/'], "-")
}

fn parse_link(path: PathBuf) -> Option<LinkPin> {
    let (label, ifindex) = path.file_name()?.to_str()?.strip_prefix("link-")?.rsplit_once('-')?;
    let hook = Hook::ALL.into_iter().find(|hook| hook.label() == label)?;
    Some(LinkPin { hook, ifindex: ifindex.parse().ok()?, path })
}

/// What is in a directory, sorted; nothing if it does not exist.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(Error::pin(dir))?,
    };
    let paths: io::Result<BTreeSet<_>> = listing.map(|entry| Ok(entry?.path())).collect();
    Ok(paths.map_err(Error::pin(dir))?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_files_say_what_they_hold() {
        let dir = Dir(PathBuf::from("/x/v1"));
        for hook in Hook::ALL {
            let path = dir.link(hook, 42);
            assert_eq!(parse_link(path.clone()), Some(LinkPin { hook, ifindex: 42, path }));
        }
        for foreign in ["/x/v1/PEERS", "/x/v1/link-other-3", "/x/v1/link-to_port-x", "/x/v1/clsact-3"] {
            assert_eq!(parse_link(PathBuf::from(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn names_have_no_dots() {
        let network = "172.16.0.0/16".parse().unwrap();
        assert_eq!(network_name(network), "172-16-0-0-16");
        assert_eq!(NetworkDir(PathBuf::from("/x/172-16-0-0-16")).network(), Some(network));
    }
}
