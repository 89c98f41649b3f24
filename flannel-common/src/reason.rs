//! Why a packet left one of our hooks the way it did.

/// One outcome of one hook for one packet: the verdict, the index into the `COUNTERS` map and the metric label in one.
///
/// Append-only: numbers are part of the ABI and of people's dashboards. Retired ones stay as unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reason {
    /// Carried by the fast path from a container to another host.
    FastOut = 0,
    /// Carried by the fast path from another host into a container.
    FastIn = 1,
    /// Carried by the fast path from the uplink back to the uplink.
    FastTransit = 2,
    /// Neither end is in the flannel network: none of our business.
    NotOurs = 3,
    /// Not IPv4 (ARP, IPv6, VLAN-tagged and so on).
    NotIpv4 = 4,
    /// Shorter than its headers say, or headers that contradict each other.
    Malformed = 5,
    /// IPv4 header with options.
    Options = 6,
    /// A fragment (more-fragments set, or an offset).
    Fragment = 7,
    /// TTL of one or less: the kernel answers "time exceeded".
    TtlExpired = 8,
    /// Neither TCP nor UDP.
    Protocol = 9,
    /// TCP SYN, FIN or RST: conntrack must see connections begin and end.
    TcpControl = 10,
    /// The other end is in no live peer's subnet.
    NoPeer = 11,
    /// The source address does not belong where the packet came from.
    SourceMismatch = 12,
    /// First packet of a flow, or its flow is not verified yet.
    FlowNew = 13,
    /// Verified too long ago: sent by the kernel so that it verifies again.
    FlowStale = 14,
    /// Verified before the last change of leases, links or settings.
    FlowEpoch = 15,
    /// Arrived otherwise than the verified flow does: another interface, path, MAC address, DSCP, or with a mark.
    FlowMoved = 16,
    /// Larger than anything the kernel has forwarded for this flow.
    TooBig = 17,
    /// Left the host as it came, but for what forwarding changes: its flow is verified.
    Verified = 18,
    /// Left the host changed (DSCP, TTL, mark, size) or not where expected: its flow stays slow.
    Rewritten = 19,
    /// At an exit hook, but not as it was seen at an entry hook: rewritten by NAT, sent by the host itself, or by a path that is not ours.
    NotSeen = 20,
    /// Already carried by the fast path when it met an exit hook.
    AlreadyFast = 21,
    /// The kernel's routing lookup did not give a way that the fast path can take.
    NoRoute = 22,
    /// The map of flows had no room or refused the entry.
    FlowTableFull = 23,
    /// The fast path is switched off in the settings.
    Disabled = 24,
}

impl Reason {
    /// Number of reasons, and so the size of the counter map.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Every reason, in counter order.
    pub const ALL: [Self; 25] = [
        Self::FastOut,
        Self::FastIn,
        Self::FastTransit,
        Self::NotOurs,
        Self::NotIpv4,
        Self::Malformed,
        Self::Options,
        Self::Fragment,
        Self::TtlExpired,
        Self::Protocol,
        Self::TcpControl,
        Self::NoPeer,
        Self::SourceMismatch,
        Self::FlowNew,
        Self::FlowStale,
        Self::FlowEpoch,
        Self::FlowMoved,
        Self::TooBig,
        Self::Verified,
        Self::Rewritten,
        Self::NotSeen,
        Self::AlreadyFast,
        Self::NoRoute,
        Self::FlowTableFull,
        Self::Disabled,
    ];

    /// The label of this reason in metrics, JSON and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FastOut => "fast_out",
            Self::FastIn => "fast_in",
            Self::FastTransit => "fast_transit",
            Self::NotOurs => "not_ours",
            Self::NotIpv4 => "not_ipv4",
            Self::Malformed => "malformed",
            Self::Options => "options",
            Self::Fragment => "fragment",
            Self::TtlExpired => "ttl_expired",
            Self::Protocol => "protocol",
            Self::TcpControl => "tcp_control",
            Self::NoPeer => "no_peer",
            Self::SourceMismatch => "source_mismatch",
            Self::FlowNew => "flow_new",
            Self::FlowStale => "flow_stale",
            Self::FlowEpoch => "flow_epoch",
            Self::FlowMoved => "flow_moved",
            Self::TooBig => "too_big",
            Self::Verified => "verified",
            Self::Rewritten => "rewritten",
            Self::NotSeen => "not_seen",
            Self::AlreadyFast => "already_fast",
            Self::NoRoute => "no_route",
            Self::FlowTableFull => "flow_table_full",
            Self::Disabled => "disabled",
        }
    }

    /// Whether the packet was carried by the fast path. Whatever else becomes of a packet, the kernel gets it: a new reason has to
    /// say here which of the two it is.
    #[inline(always)]
    pub const fn is_fast(self) -> bool {
        match self {
            Self::FastOut | Self::FastIn | Self::FastTransit => true,
            Self::NotOurs
            | Self::NotIpv4
            | Self::Malformed
            | Self::Options
            | Self::Fragment
            | Self::TtlExpired
            | Self::Protocol
            | Self::TcpControl
            | Self::NoPeer
            | Self::SourceMismatch
            | Self::FlowNew
            | Self::FlowStale
            | Self::FlowEpoch
            | Self::FlowMoved
            | Self::TooBig
            | Self::Verified
            | Self::Rewritten
            | Self::NotSeen
            | Self::AlreadyFast
            | Self::NoRoute
            | Self::FlowTableFull
            | Self::Disabled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn counter_index_matches_position() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{}", reason.label());
        }
    }
}
