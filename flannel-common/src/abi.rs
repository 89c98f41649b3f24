//! The maps that user space and the BPF programs share: names, capacities, key and value layouts.
//!
//! Addresses and ports are byte arrays in network order; every other number is in host order. Structs have no padding
//! (the `Pod` derive refuses it) and their sizes are asserted below. A change of any layout raises [`ABI_VERSION`].

use bytemuck::{Pod, Zeroable};

use crate::reason::Reason;

/// Version of all layouts in this file; part of the pin path, so that two versions never share a map.
pub const ABI_VERSION: u32 = 2;

/// Names of the maps as they stand in the object file and under the pin directory.
pub mod map {
    /// `LPM_TRIE`: [`super::PeerKey`] → [`super::Peer`].
    pub const PEERS: &str = "PEERS";
    /// `LRU_HASH`: [`super::FlowKey`] → [`super::Flow`]. Holds verified flows only.
    pub const FLOWS: &str = "FLOWS";
    /// `PERCPU_ARRAY` of [`super::Seen`]: what entry hooks left to the kernel, for exit hooks to recognise. Private to the programs.
    pub const SEEN: &str = "SEEN";
    /// `HASH`: container address → [`super::Endpoint`] (trusted mode only).
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `ARRAY` of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// `PERCPU_ARRAY`: hook × reason (see [`super::counter_index`]) → [`super::Tally`].
    pub const COUNTERS: &str = "COUNTERS";
    /// `PERCPU_ARRAY`: peer index → [`super::PeerTally`].
    pub const PEER_COUNTERS: &str = "PEER_COUNTERS";
}

/// Names of the programs in the object file. TC programs exist once per mode; what a hook does is said in `flannel-ebpf`.
pub mod program {
    /// TC ingress of a port or a bridge, verified mode.
    pub const FROM_PORT: &str = "from_port";
    /// TC egress of a port, verified mode. Only for a veth or netkit whose peer is in another network namespace: flows that it
    /// verifies are handed to the peer itself, and the kernel would drop them elsewhere.
    pub const TO_PORT: &str = "to_port";
    /// TC egress of a bridge, or of a port without such a peer, verified mode: flows that it verifies are sent by the interface.
    pub const TO_BRIDGE: &str = "to_bridge";
    /// TC ingress of the uplink, verified mode.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// TC egress of the uplink, verified mode.
    pub const TO_UPLINK: &str = "to_uplink";
    /// XDP on the uplink, verified mode.
    pub const TRANSIT: &str = "transit";
    /// TC ingress of a port or a bridge, trusted mode.
    pub const TRUSTED_FROM_PORT: &str = "trusted_from_port";
    /// TC ingress of the uplink, trusted mode.
    pub const TRUSTED_FROM_UPLINK: &str = "trusted_from_uplink";
    /// XDP on the uplink, trusted mode.
    pub const TRUSTED_TRANSIT: &str = "trusted_transit";
}

/// Capacity of [`map::PEERS`]: the subnets of a /8 cut into /24, the largest cluster that anyone has asked flannel for.
pub const PEERS_CAPACITY: u32 = 65_536;
/// Default capacity of [`map::FLOWS`]; `--flows` overrides it at load time.
pub const FLOWS_CAPACITY: u32 = 65_536;
/// Capacity of [`map::ENDPOINTS`]: the addresses of a /20, four times what a host's /24 or /22 can hold.
pub const ENDPOINTS_CAPACITY: u32 = 4_096;

/// Capacity of [`map::SEEN`] on each CPU: more than the kernel receives in one batch.
pub const SEEN_CAPACITY: u32 = 256;

/// What an entry hook leaves in `skb->tc_index` of a packet that it redirects to the egress of an interface, and the exit hook there
/// clears again. Unlike the mark, nothing else in the kernel or in user space reads that field.
pub const FAST_TAG: u16 = 0xF1A7;

/// Which hook counted a packet. Append-only, like [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    /// TC ingress of a container's port, or of a bridge.
    FromPort = 0,
    /// TC egress of a container's port.
    ToPort = 1,
    /// TC ingress of the uplink.
    FromUplink = 2,
    /// TC egress of the uplink.
    ToUplink = 3,
    /// XDP on the uplink.
    Transit = 4,
}

impl Hook {
    /// Number of hooks.
    pub const COUNT: u32 = 5;
    /// Every hook, in counter order.
    pub const ALL: [Self; 5] = [Self::FromPort, Self::ToPort, Self::FromUplink, Self::ToUplink, Self::Transit];

    /// The label of this hook in metrics, JSON and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FromPort => "from_port",
            Self::ToPort => "to_port",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::Transit => "transit",
        }
    }
}

/// Capacity of [`map::COUNTERS`].
pub const COUNTERS_CAPACITY: u32 = Hook::COUNT * COUNTERS_STRIDE;
/// Reasons per hook in [`map::COUNTERS`], with room to append.
pub const COUNTERS_STRIDE: u32 = 32;
const _: () = assert!(Reason::COUNT <= COUNTERS_STRIDE, "COUNTERS_STRIDE has no room for every Reason");

/// Where the tally of `reason` at `hook` stands in [`map::COUNTERS`].
pub const fn counter_index(hook: Hook, reason: Reason) -> u32 {
    hook as u32 * COUNTERS_STRIDE + reason as u32
}

/// Key of [`map::PEERS`] after the prefix length that the kernel's LPM trie puts in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct PeerKey {
    /// Subnet address.
    pub addr: [u8; 4],
}

/// How packets reach a peer. Values of [`Peer::kind`].
pub mod peer_kind {
    /// Our own subnet: it is in the trie so that one lookup tells "local" from "peer".
    pub const LOCAL: u8 = 0;
    /// A peer that is reached through [`super::Peer::ifindex`] by the neighbour [`super::Peer::next_hop`].
    pub const NEXT_HOP: u8 = 1;
    /// A live peer that the fast path has no way to: its packets are left to the kernel.
    pub const KERNEL: u8 = 2;
}

/// Value of [`map::PEERS`]. Written by the agent, read by every program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Peer {
    /// The neighbour to resolve on [`Self::ifindex`]: the peer's host address for host-gw, its subnet's base address for vxlan.
    pub next_hop: [u8; 4],
    /// The peer's host address (its `PublicIP`).
    pub host: [u8; 4],
    /// Interface towards the peer; 0 for our own subnet.
    pub ifindex: u32,
    /// Slot in [`map::PEER_COUNTERS`].
    pub index: u32,
    /// Largest IPv4 packet that the way to the peer takes.
    pub mtu: u16,
    /// One of [`peer_kind`].
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of [`map::SETTINGS`]. Written by the agent, read by every program once per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// How long a flow stays fast after its last verification, in nanoseconds.
    pub revalidate_ns: u64,
    /// Raised when a lease, link or setting changes: flows of another epoch must verify again.
    pub epoch: u32,
    /// Base address of the flannel network.
    pub network: [u8; 4],
    /// Netmask of the flannel network.
    pub network_mask: [u8; 4],
    /// Base address of our own subnet.
    pub subnet: [u8; 4],
    /// Netmask of our own subnet.
    pub subnet_mask: [u8; 4],
    /// 0: every packet is left to the kernel. 1: the fast path works.
    pub enabled: u32,
    /// Trusted mode: MAC address of the bridge; zero if there are several, or none.
    pub bridge_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Key of [`map::FLOWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Source port.
    pub sport: [u8; 2],
    /// Destination port.
    pub dport: [u8; 2],
    /// IP protocol number: 6 or 17.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Value of [`map::FLOWS`]: how a flow comes in, and what the kernel made of it on its way out.
///
/// Written by exit hooks alone, and only once the kernel has forwarded a packet of the flow unchanged. 64 bytes: with the kernel's
/// own part of an entry and the key in front of it, which take 64 as well, every value is one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Packets carried by the fast path. Added to without a lock: exact while one CPU carries the flow.
    pub packets: u64,
    /// Bytes (IPv4 total length) carried by the fast path. As exact as [`Self::packets`].
    pub bytes: u64,
    /// When an exit hook last verified the flow (`bpf_ktime_get_ns`); 0 while the entry is being changed.
    pub verified_at: u64,
    /// [`Settings::epoch`] at the last verification.
    pub epoch: u32,
    /// Interface by which it comes in.
    pub in_ifindex: u32,
    /// Interface by which the kernel sends it out.
    pub out_ifindex: u32,
    /// Packet priority that the kernel sends it out with (forwarding derives it from the TOS). A flow with a mark is never verified.
    pub priority: u32,
    /// MAC addresses with which the kernel sends it out: destination, source.
    pub macs: [u8; 12],
    /// Destination MAC address with which it comes in.
    pub in_mac: [u8; 6],
    /// Largest IPv4 packet (or segment of a GSO packet) that the kernel was seen to forward, in bytes.
    pub max_len: u16,
    /// Slot of its peer in [`map::PEER_COUNTERS`].
    pub peer: u16,
    /// One of [`path`].
    pub path: u8,
    /// DSCP part of its TOS, which must stay the same.
    pub tos: u8,
}

const _: () = assert!(PEERS_CAPACITY - 1 <= u16::MAX as u32, "Flow::peer has no room for every slot");

/// Value of [`map::SEEN`]: one packet that an entry hook has just left to the kernel. The kernel forwards a packet in one go on one
/// CPU, so the exit hook on the same CPU finds it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Seen {
    /// Its flow.
    pub key: FlowKey,
    /// When (`bpf_ktime_get_coarse_ns`).
    pub at: u64,
    /// [`Settings::epoch`] at that time.
    pub epoch: u32,
    /// Interface by which it came in.
    pub in_ifindex: u32,
    /// Slot of its peer in [`map::PEER_COUNTERS`].
    pub peer: u32,
    /// IPv4 total length.
    pub len: u16,
    /// Largest IPv4 packet that it becomes on the wire: its own length, or a segment's.
    pub segment: u16,
    /// Destination MAC address.
    pub in_mac: [u8; 6],
    /// TTL.
    pub ttl: u8,
    /// TOS.
    pub tos: u8,
    /// The [`path`] that it is expected to take; 0 if the slot is empty.
    pub path: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// Which way a flow takes through the host. Values of [`Flow::path`].
pub mod path {
    /// From a container to another host.
    pub const OUT: u8 = 1;
    /// From another host into a container, handed to the peer of its port.
    pub const IN: u8 = 2;
    /// In and out by an uplink, towards a peer.
    pub const TRANSIT: u8 = 3;
    /// From another host to a container behind a bridge, or behind a port without a peer: sent by that interface.
    pub const IN_BRIDGE: u8 = 4;
    /// In and out by an uplink, from a peer to a machine that is none's.
    pub const TRANSIT_FROM: u8 = 5;

    /// Whether the peer of such a flow is its source.
    #[inline(always)]
    pub const fn is_from_peer(path: u8) -> bool {
        matches!(path, IN | IN_BRIDGE | TRANSIT_FROM)
    }
}

/// Value of [`map::ENDPOINTS`] (key: the container's address as `[u8; 4]`). Written by the agent from the kernel's neighbour and
/// forwarding tables; what is not there is left to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// The port's host-side interface.
    pub ifindex: u32,
    /// The container's MAC address.
    pub mac: [u8; 6],
    /// The bridge's MAC address.
    pub bridge_mac: [u8; 6],
}

/// Value of [`map::COUNTERS`], one per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tally {
    /// Packets; a GSO or GRO packet counts as its segments.
    pub packets: u64,
    /// Bytes (IPv4 total length, or the frame's length where it is not IPv4).
    pub bytes: u64,
}

/// Value of [`map::PEER_COUNTERS`], one per CPU. "To" and "from" are as seen from this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PeerTally {
    /// Towards the peer, by the fast path.
    pub fast_to: Tally,
    /// From the peer, by the fast path.
    pub fast_from: Tally,
    /// Towards the peer, left to the kernel.
    pub slow_to: Tally,
    /// From the peer, left to the kernel.
    pub slow_from: Tally,
}

/// Lets aya copy the structs to and from maps.
#[cfg(feature = "user")]
mod pod {
    #![allow(unsafe_code, reason = "aya's marker trait is unsafe to implement, and has no derive")]
    use super::{Endpoint, Flow, FlowKey, Peer, PeerKey, PeerTally, Seen, Settings, Tally};

    macro_rules! pod {
        ($($shape:ty),+ $(,)?) => {
            // SAFETY: aya::Pod asks for plain old data; each of these is bytemuck::Pod, whose derive has proved just that.
            $(unsafe impl aya::Pod for $shape {})+
        };
    }
    pod!(Endpoint, Flow, FlowKey, Peer, PeerKey, PeerTally, Seen, Settings, Tally);
}

const _: () = {
    assert!(size_of::<PeerKey>() == 4);
    assert!(size_of::<Peer>() == 20);
    assert!(size_of::<Settings>() == 40);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<Seen>() == 56);
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<Tally>() == 16);
    assert!(size_of::<PeerTally>() == 64);
};
