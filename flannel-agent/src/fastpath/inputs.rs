//! What the fast path is told of the world: leases from the store, links and neighbours from the kernel.

use std::{collections::BTreeMap, net::Ipv4Addr};

pub use flannel_common::abi::Endpoint;
use ipnet::Ipv4Net;

use crate::backend::Way;

/// Everything the fast path depends on. It is told the whole of it at every change, and finds out what is new by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Our own subnet.
    pub subnet: Ipv4Net,
    /// The live peers.
    pub peers: BTreeMap<Ipv4Net, PeerInput>,
    /// The interfaces that the backend's routes point at.
    pub uplinks: Vec<Link>,
    /// The containers' bridges.
    pub bridges: Vec<Bridge>,
    /// Where each local container is. Read in trusted mode only.
    pub endpoints: BTreeMap<Ipv4Addr, Endpoint>,
}

/// A live peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInput {
    /// Its host address.
    pub host: Ipv4Addr,
    /// How to reach it; `None` leaves its packets to the kernel.
    pub way: Option<Way>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its MAC address; `None` if its packets have no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// What rtnetlink calls its kind (`veth`, `vxlan`, …); `None` for hardware.
    pub kind: Option<String>,
}

/// A bridge with its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge itself.
    pub link: Link,
    /// Its ports.
    pub ports: Vec<Link>,
}
