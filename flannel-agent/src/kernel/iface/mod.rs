//! The choice of the interface towards other nodes, as upstream flannel makes it.
//!
//! Specifications are tried in order, names and addresses first, then patterns, then the address to reach; the first
//! that fits wins. Only without any of them is the default route's interface taken. The choice itself is a pure
//! function of what the kernel lists (`pick`).

mod pick;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::pick::{Facts, pick};
use super::netlink::{self, Netlink};

/// What was asked for: the flags that choose an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IfaceSpec {
    /// `-iface`: names or addresses, in order.
    pub iface: Vec<String>,
    /// `-iface-regex`: unanchored patterns, matched with addresses and then with names.
    pub iface_regex: Vec<String>,
    /// `-iface-can-reach`.
    pub iface_can_reach: Option<IpAddr>,
    /// `-public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `-public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Which address families the network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 alone.
    V4,
    /// Both.
    Dual,
}

/// The interface towards other nodes, and the addresses by which they know us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its address: the source of what we send to peers.
    pub address: Ipv4Addr,
    /// Its IPv6 address, in a dual-stack network.
    pub v6: Option<Ipv6Addr>,
    /// Its MTU at the time of the choice.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The address in our lease: `-public-ip`, or else the interface's.
    pub public_ip: Ipv4Addr,
    /// The IPv6 address in our lease, in a dual-stack network.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum IfaceError {
    /// The kernel's lists could not be read.
    #[error("cannot choose an interface: {0}")]
    Kernel(#[from] netlink::Error),
    /// Nothing that was asked for fits.
    #[error("no interface towards other nodes: {}", tried.join("; "))]
    NothingFits {
        /// Each specification and why it does not.
        tried: Vec<String>,
    },
}

/// Chooses the interface.
pub async fn choose(spec: &IfaceSpec, stack: Stack, netlink: &Netlink) -> Result<Uplink, IfaceError> {
    let reach = match spec.iface_can_reach {
        // No route is an answer: it is said together with why the other specifications did not fit.
        Some(ip) => Some(netlink.route_to(ip).await.map_err(|error| error.to_string())),
        None => None,
    };
    let facts = Facts {
        links: netlink.links().await?,
        addresses: netlink.addresses().await?,
        default_v4: netlink.default_routes(true).await?,
        default_v6: netlink.default_routes(false).await?,
        reach,
    };
    pick(spec, stack, &facts).map_err(|tried| IfaceError::NothingFits { tried })
}
