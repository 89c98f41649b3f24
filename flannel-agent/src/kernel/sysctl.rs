//! Settings under `/proc/sys`, of the network namespace of the thread that asks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Lets connection tracking accept TCP segments outside its window: it sees a flow again after the fast path carried it.
pub const TCP_BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";
/// How long, in seconds, connection tracking keeps a connection of which it saw a segment, but not that segment's
/// acknowledgement: of a fast flow it sees samples, so that would be nearly every one.
pub const TCP_UNACKNOWLEDGED: &str = "net/netfilter/nf_conntrack_tcp_timeout_unacknowledged";
/// How long, in seconds, connection tracking keeps an established connection.
pub const TCP_ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
/// Forwarding between IPv4 interfaces, without which no container reaches another host.
pub const IP_FORWARD: &str = "net/ipv4/ip_forward";
/// The same for IPv6.
pub const IPV6_FORWARD: &str = "net/ipv6/conf/all/forwarding";

/// Whether a bridge shows IPv4 packets to iptables.
const BRIDGE_IPTABLES: &str = "net/bridge/bridge-nf-call-iptables";

/// What became of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// It had the value already, and nothing was written: so a read-only `/proc/sys` does no harm.
    Already,
    /// It was written; the value that it had.
    Changed(String),
    /// This kernel does not have it, or not yet: it may belong to a module.
    Absent,
}

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; set it to {wanted} from outside: sysctl -w {}={wanted}", path.display(), dotted(path))]
pub struct SysctlError {
    /// Its file.
    path: PathBuf,
    /// The value that it should have.
    wanted: String,
    /// What the system answered.
    source: io::Error,
}

/// The value of a setting, if the kernel has it and shows it.
pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|text| text.trim().to_owned())
}

/// Gives a setting (`net/ipv4/ip_forward`) a value unless it has it.
pub fn set(name: &str, wanted: &str) -> Result<Setting, SysctlError> {
    set_under(Path::new("/proc/sys"), name, wanted)
}

fn set_under(root: &Path, name: &str, wanted: &str) -> Result<Setting, SysctlError> {
    let path = root.join(name);
    let fail = |source| SysctlError { path: path.clone(), wanted: wanted.to_owned(), source };
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Setting::Absent),
        Err(e) => return Err(fail(e)),
    };
    if found == wanted {
        return Ok(Setting::Already);
    }
    fs::write(&path, wanted).map_err(fail)?;
    Ok(Setting::Changed(found))
}

/// Whether bridged packets pass iptables: without it, a container that reaches a published port of its own host by
/// translation may get answers that were not translated back. Packets between hosts are not concerned.
pub fn bridge_netfilter() -> bool {
    Path::new("/proc/sys").join(BRIDGE_IPTABLES).exists()
}

fn dotted(path: &Path) -> String {
    let name = path.strip_prefix("/proc/sys").unwrap_or(path);
    name.to_string_lossy().replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_what_differs() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "1\n").unwrap();
        assert_eq!(set_under(root.path(), "a", "1").unwrap(), Setting::Already);
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "1\n", "written although it was right");
        assert_eq!(set_under(root.path(), "a", "0").unwrap(), Setting::Changed("1".to_owned()));
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "0");
        assert_eq!(set_under(root.path(), "b", "1").unwrap(), Setting::Absent);
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_named_with_its_remedy() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        let error = set_under(root.path(), "d", "1").unwrap_err().to_string();
        assert!(error.contains("/d: ") && error.contains("sysctl -w"), "{error}");
    }
}
