//! subnet.env: what Docker and scripts read, and where a restart finds its previous subnet.

mod read;
mod write;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use ipnet::{Ipv4Net, Ipv6Net};

pub use self::{read::read, write::write};
pub(crate) use self::{read::variables, write::replace};

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetFile {
    /// The whole IPv4 network.
    pub network: Ipv4Net,
    /// Our own subnet by its base address; the file names the address after it.
    pub subnet: Ipv4Net,
    /// The same for IPv6: the whole network and our own subnet.
    pub v6: Option<(Ipv6Net, Ipv6Net)>,
    /// MTU for containers.
    pub mtu: u32,
    /// Whether we masquerade, so that Docker need not.
    pub ip_masq: bool,
}

/// What an earlier run left in the file: whatever can be understood of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// `FLANNEL_NETWORK`.
    pub network: Option<Ipv4Net>,
    /// `FLANNEL_SUBNET`, host bits masked off.
    pub subnet: Option<Ipv4Net>,
    /// `FLANNEL_IPV6_NETWORK`.
    pub v6_network: Option<Ipv6Net>,
    /// `FLANNEL_IPV6_SUBNET`, host bits masked off.
    pub v6_subnet: Option<Ipv6Net>,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("subnet file {}: {action}: {source}; {remedy}", path.display())]
pub struct SubnetFileError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// What the system answered.
    pub source: io::Error,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for SubnetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = std::net::Ipv4Addr::from(u32::from(self.subnet.network()).wrapping_add(1));
        writeln!(f, "FLANNEL_NETWORK={}", self.network.trunc())?;
        writeln!(f, "FLANNEL_SUBNET={first}/{}", self.subnet.prefix_len())?;
        if let Some((network, subnet)) = self.v6 {
            let first = std::net::Ipv6Addr::from(u128::from(subnet.network()).wrapping_add(1));
            writeln!(f, "FLANNEL_IPV6_NETWORK={}", network.trunc())?;
            writeln!(f, "FLANNEL_IPV6_SUBNET={first}/{}", subnet.prefix_len())?;
        }
        writeln!(f, "FLANNEL_MTU={}", self.mtu)?;
        writeln!(f, "FLANNEL_IPMASQ={}", self.ip_masq)
    }
}

impl SubnetFileError {
    fn new(path: &Path, action: &'static str, source: io::Error) -> Self {
        let remedy = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there",
            io::ErrorKind::PermissionDenied => "run as root, or name another file by -subnet-file",
            io::ErrorKind::ReadOnlyFilesystem => "name a file on a writable file system by -subnet-file",
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "a directory and a file are mixed up there: move what is in the way, or name another file by -subnet-file"
            }
            _ => "check the path given by -subnet-file",
        };
        Self { path: path.to_owned(), action, source, remedy }
    }
}
