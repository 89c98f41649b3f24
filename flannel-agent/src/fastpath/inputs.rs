//! What the fast path is told of the world: leases from the store, links and neighbours from the kernel.

use std::{collections::BTreeMap, net::Ipv4Addr};

pub use flannel_common::abi::Endpoint;
use ipnet::Ipv4Net;

use crate::{backend::Way, kernel::netlink};

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
    /// What rtnetlink calls its kind (`veth`, `vxlan`, …); empty for hardware.
    pub kind: String,
    /// Whether its other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// Whether VLANs are made of it.
    pub has_vlans: bool,
}

/// A bridge with its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its ports.
    pub ports: Vec<Link>,
}

impl Link {
    /// An interface among all of its host.
    pub fn among(links: &[netlink::Link], link: &netlink::Link) -> Self {
        let is_its_vlan =
            |other: &netlink::Link| other.kind == "vlan" && other.peer == Some(link.ifindex) && !other.peer_elsewhere;
        Self { has_vlans: links.iter().any(is_its_vlan), ..Self::from(link) }
    }

    /// Whether packets can be handed straight to the other end, past this one.
    pub(super) fn has_peer(&self) -> bool {
        self.peer_elsewhere && (self.kind == "veth" || self.kind == "netkit")
    }
}

impl From<&netlink::Link> for Link {
    fn from(link: &netlink::Link) -> Self {
        Self {
            ifindex: link.ifindex,
            name: link.name.clone(),
            mtu: link.mtu,
            mac: link.mac,
            kind: link.kind.clone(),
            peer_elsewhere: link.peer_elsewhere,
            has_vlans: false,
        }
    }
}

impl From<&netlink::Bridge> for Bridge {
    fn from(bridge: &netlink::Bridge) -> Self {
        Self {
            ifindex: bridge.ifindex,
            name: bridge.name.clone(),
            mac: bridge.mac,
            ports: bridge.ports.iter().map(Link::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_those_made_of_the_very_interface() {
        let link = |ifindex, kind: &str, peer, peer_elsewhere| netlink::Link {
            ifindex,
            name: format!("i{ifindex}"),
            kind: kind.to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
            master: None,
            peer,
            peer_elsewhere,
            vxlan: None,
            tunnel_local: None,
        };
        let links = [
            link(2, "", None, false),
            link(3, "", None, false),
            link(4, "", None, false),
            link(5, "vlan", Some(2), false),
            // Of an interface with this number in another namespace.
            link(6, "vlan", Some(3), true),
            link(7, "vxlan", Some(4), false),
        ];
        let with_vlans: Vec<u32> = links
            .iter()
            .map(|one| Link::among(&links, one))
            .filter(|one| one.has_vlans)
            .map(|one| one.ifindex)
            .collect();
        assert_eq!(with_vlans, [2]);
    }
}
