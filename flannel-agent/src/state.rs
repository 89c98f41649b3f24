//! What this node knows of itself: one snapshot that the agent publishes and that everything which explains the node
//! (admin socket, metrics, health, status page, `flannelctl`) reads. It is also the JSON of the admin socket's `/v1/status`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The whole snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Version of this form; raised when a field changes its meaning or goes.
    pub version: u32,
    /// Version of the agent.
    pub agent: String,
    /// Seconds since the Unix epoch at which the agent started.
    pub started_at: u64,
    /// Whether subnet.env is written and the node forwards.
    pub ready: bool,
    /// Our own lease, once there is one.
    pub lease: Option<OwnLease>,
    /// The store as we see it.
    pub store: StoreState,
    /// Name of the backend, as in a lease (`host-gw`, `vxlan`, …).
    pub backend: String,
    /// The whole flannel network.
    pub network: Option<Ipv4Net>,
    /// The interface towards other nodes.
    pub uplink: Option<Uplink>,
    /// Where subnet.env was written.
    pub subnet_file: String,
    /// MTU written to subnet.env.
    pub mtu: u32,
    /// The fast path: mode, and the rung that each hook reached.
    pub fastpath: FastPath,
    /// The other nodes, by subnet.
    pub peers: Vec<PeerState>,
    /// Whatever an operator should know, with its remedy; empty on a healthy node.
    pub warnings: Vec<Warning>,
    /// Passes of the reconcile loop so far.
    pub reconcile: Reconcile,
    /// Packets that the udp backend's carrier has lost, as of the last pass; none where there is no such carrier.
    #[serde(default)]
    pub carrier_lost: Option<CarrierLost>,
}

/// Packets that the udp backend's carrier could not carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierLost {
    /// No peer has the destination.
    pub no_peer: u64,
    /// The TTL ended here, or it was no IPv4 packet.
    pub expired: u64,
    /// The kernel did not take it.
    pub refused: u64,
}

/// Our own lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnLease {
    /// What we hold.
    pub subnet: Ipv4Net,
    /// Seconds since the Unix epoch at which it ends unless renewed; `None` for a reservation.
    pub expires_at: Option<u64>,
    /// The address we tell the others.
    pub public_ip: Ipv4Addr,
}

/// The store as we see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreState {
    /// Configured endpoints, without credentials.
    pub endpoints: Vec<String>,
    /// Key prefix.
    pub prefix: String,
    /// Whether the last request or watch went well.
    pub connected: bool,
    /// Revision of the last snapshot or event.
    pub revision: i64,
    /// Seconds since the Unix epoch of the last word from the store.
    pub heard_at: u64,
    /// The last error, if the store is not connected.
    pub error: Option<String>,
}

/// The interface towards other nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its address that peers use.
    pub address: Ipv4Addr,
    /// Its MTU.
    pub mtu: u32,
}

/// The fast path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FastPath {
    /// `verified`, `trusted` or `off`.
    pub mode: String,
    /// Why it is off or lower than asked for, if it is.
    pub reason: Option<String>,
    /// Every hook that is, or should be, attached.
    pub hooks: Vec<HookState>,
    /// Current epoch.
    pub epoch: u32,
    /// Capacity of the flow map.
    pub flows_capacity: u32,
    /// Where maps and links are pinned.
    pub pin_dir: String,
}

/// One program at one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookState {
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub ifindex: u32,
    /// Name of the program (`from_port`, `to_uplink`, …).
    pub program: String,
    /// `xdp`, `tcx`, `clsact`, or `none` where it could not be attached.
    pub rung: String,
    /// Why it is not on a higher rung, or not attached.
    pub reason: Option<String>,
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerWay {
    /// By a route through the uplink.
    Direct,
    /// Encapsulated.
    Tunnel,
    /// Not at all: see [`PeerState::problem`].
    #[default]
    Unreachable,
    /// It is of another backend, which we leave alone.
    Ignored,
}

/// Another node as we see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Its host address.
    pub public_ip: Ipv4Addr,
    /// Its backend as it spells it.
    pub backend: String,
    /// How we reach it.
    pub way: PeerWay,
    /// Slot in the `PEER_COUNTERS` map, if it has one.
    pub index: Option<u32>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Warning {
    /// A stable word for it (`docker0-address`, `route-conflict`, …).
    pub code: String,
    /// What it is, and what it touches.
    pub text: String,
    /// What to do about it; a command where there is one.
    pub remedy: String,
}

/// Passes of the reconcile loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reconcile {
    /// Passes so far.
    pub passes: u64,
    /// Changes applied so far.
    pub changes: u64,
    /// Changes that failed so far.
    pub failures: u64,
    /// How long the last pass took, in microseconds.
    pub last_us: u64,
}

/// Something the agent did, and why: one line of `flannelctl events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// A stable word for it (`lease-acquired`, `route-put`, …).
    pub kind: String,
    /// What was done and why.
    pub text: String,
}
