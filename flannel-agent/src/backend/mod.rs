//! The slow path that is always right: what the kernel must hold so that this host and its peers reach one another.
//!
//! A backend says what should be there ([`Backend::desired`], pure); `plan::diff` compares that with what is there; one
//! place applies the difference. Doing so twice changes nothing.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

/// An object in the kernel that we keep for a peer: where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// A route of the main table to this destination.
    Route(IpNet),
    /// A permanent neighbour of this address on this interface.
    Neighbour(u32, IpAddr),
    /// A forwarding entry of a vxlan device for this MAC address.
    Fdb(u32, [u8; 6]),
}

/// An object in the kernel that we keep for a peer: what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Next hop and outgoing interface; `onlink` skips the kernel's check that the gateway is on the link.
    Route {
        /// Next hop.
        gateway: IpAddr,
        /// Outgoing interface.
        ifindex: u32,
        /// Whether the route has the `onlink` flag.
        onlink: bool,
    },
    /// MAC address of the neighbour.
    Neighbour([u8; 6]),
    /// Outer destination address.
    Fdb(IpAddr),
}

/// Everything that should be (or is) in the kernel on our behalf.
pub type Objects = BTreeMap<Slot, Object>;

/// One step from what is to what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make it, or replace what stands there by it, in one transaction.
    Put(Slot, Object),
    /// Take away what we once made.
    Remove(Slot, Object),
}

/// How this host reaches a peer: what the fast path needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Outgoing interface.
    pub ifindex: u32,
    /// The neighbour to resolve there.
    pub next_hop: Ipv4Addr,
    /// Largest packet that the way takes.
    pub mtu: u32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(net) => write!(f, "route {net}"),
            Self::Neighbour(ifindex, ip) => write!(f, "neighbour {ip} on interface {ifindex}"),
            Self::Fdb(ifindex, [a, b, c, d, e, g]) => {
                write!(f, "forwarding entry {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} on interface {ifindex}")
            }
        }
    }
}
