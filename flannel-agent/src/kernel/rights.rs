//! The right to change the network, looked for at start: without it a node would hold a lease and reach nobody.

use std::fs;

/// CAP_NET_ADMIN as a bit of `CapEff` (include/uapi/linux/capability.h).
const NET_ADMIN: u32 = 12;

/// The process may not change routes, links and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "flanneld needs CAP_NET_ADMIN to set routes and links, and does not have it; run it as root, or give it that capability"
)]
pub struct MissingRights;

/// Fails without CAP_NET_ADMIN. Where the capabilities cannot be read, whatever follows will tell.
pub fn check() -> Result<(), MissingRights> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    match effective(&status) {
        Some(bits) if bits >> NET_ADMIN & 1 == 0 => Err(MissingRights),
        _ => Ok(()),
    }
}

/// The effective capabilities in a status file of /proc.
fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::effective;

    #[test]
    fn effective_capabilities_are_read() {
        let status = "Name:\tflanneld\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\nCapBnd:\t0\n";
        assert_eq!(effective(status), Some(1 << 12));
        assert_eq!(effective("Name:\tflanneld\n"), None);
    }
}
