//! The arms: the dataplanes that are compared.

use std::fmt;

/// One way for packets to be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// Kernel, host-gw routes, Docker's and flannel's iptables rules: what flannel's users have.
    KernelRules,
    /// Kernel, host-gw routes, no netfilter rule and no connection tracking.
    KernelBare,
    /// Kernel, vxlan, the rules of [`Self::KernelRules`].
    KernelVxlan,
    /// flannel's udp backend: every packet through user space.
    Udp,
    /// Our agent without its fast path.
    Off,
    /// Our agent, verified flows, attached to the containers' ports.
    Verified,
    /// Our agent, verified flows, attached to docker0.
    VerifiedBridge,
    /// Our agent, the peer trie alone decides, attached to the containers' ports.
    Trusted,
    /// Our agent, the peer trie alone decides, attached to docker0.
    TrustedBridge,
    /// The kernel's own flowtable beside the rules of [`Self::KernelRules`].
    NftFlowtable,
    /// No dataplane can be faster here: packets are dropped at the first hook that could; those through a node are sent back by
    /// a program that does nothing else; and where answers are needed, the two containers are joined by a veth as if there were
    /// no hosts between them.
    Limit,
}

impl Arm {
    /// Every arm, in the order of tables and charts.
    pub const ALL: [Self; 11] = [
        Self::KernelRules,
        Self::KernelBare,
        Self::KernelVxlan,
        Self::Udp,
        Self::NftFlowtable,
        Self::Off,
        Self::VerifiedBridge,
        Self::Verified,
        Self::TrustedBridge,
        Self::Trusted,
        Self::Limit,
    ];

    /// Its name in tables and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::KernelRules => "kernel-rules",
            Self::KernelBare => "kernel-bare",
            Self::KernelVxlan => "kernel-vxlan",
            Self::Udp => "udp",
            Self::Off => "off",
            Self::Verified => "verified",
            Self::VerifiedBridge => "verified-bridge",
            Self::Trusted => "trusted",
            Self::TrustedBridge => "trusted-bridge",
            Self::NftFlowtable => "nft-flowtable",
            Self::Limit => "limit",
        }
    }

    /// The arm of a name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arm| arm.label() == label)
    }

    /// Whether our agent runs in it.
    pub const fn has_agent(self) -> bool {
        matches!(
            self,
            Self::Udp | Self::Off | Self::Verified | Self::VerifiedBridge | Self::Trusted | Self::TrustedBridge
        )
    }

    /// Whether Docker's and flannel's rules are there.
    pub const fn has_rules(self) -> bool {
        !matches!(self, Self::KernelBare)
    }

    /// Whether packets should bypass the kernel's forwarding code, which counts what it forwards.
    pub const fn bypasses_kernel(self) -> bool {
        matches!(
            self,
            Self::Verified
                | Self::VerifiedBridge
                | Self::Trusted
                | Self::TrustedBridge
                | Self::NftFlowtable
                | Self::Limit
        )
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}
