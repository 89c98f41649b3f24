//! Neighbour and forwarding tables.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use super::{Error, Netlink};
use crate::backend::{Object, Objects, Slot};

/// A container behind a bridge, as the kernel's tables know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The port of the bridge behind which the MAC address was last seen; `None` if the entry has aged out.
    pub port: Option<u32>,
}

impl Netlink {
    /// Who is behind a bridge: its neighbour table joined with its forwarding table.
    pub async fn endpoints(&self, bridge: u32) -> Result<Vec<Endpoint>, Error> {
        let mut ports = BTreeMap::new();
        for entry in self.entries(AddressFamily::Bridge, bridge).await? {
            let controller = entry.attributes.contains(&NeighbourAttribute::Controller(bridge));
            let learned = !is_permanent(&entry);
            if let (true, true, Some(mac)) = (controller, learned, mac(&entry)) {
                ports.insert(mac, entry.header.ifindex);
            }
        }
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for entry in self.entries(family, bridge).await? {
                let unicast = ip(&entry).filter(|ip| entry.header.ifindex == bridge && !ip.is_multicast());
                if let (Some(ip), Some(mac)) = (unicast, mac(&entry)) {
                    found.push(Endpoint { ip, mac, port: ports.get(&mac).copied() });
                }
            }
        }
        found.sort_by_key(|endpoint| endpoint.ip);
        Ok(found)
    }

    /// The IPv4 neighbours of an interface that are resolved.
    pub async fn neighbours(&self, ifindex: u32) -> Result<Vec<(Ipv4Addr, [u8; 6])>, Error> {
        let entries = self.entries(AddressFamily::Inet, ifindex).await?;
        Ok(entries.iter().filter(|entry| entry.header.ifindex == ifindex).filter_map(resolved).collect())
    }

    /// Permanent neighbours and forwarding entries of one of our own devices.
    pub(super) async fn permanent(&self, device: u32) -> Result<Objects, Error> {
        let mut found = Objects::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            for entry in self.entries(family, device).await? {
                if entry.header.ifindex != device || !is_permanent(&entry) {
                    continue;
                }
                if let (Some(ip), Some(mac)) = (ip(&entry), mac(&entry)) {
                    if family == AddressFamily::Bridge {
                        found.insert(Slot::Fdb(device, mac), Object::Fdb(ip));
                    } else {
                        found.insert(Slot::Neighbour(device, ip), Object::Neighbour(mac));
                    }
                }
            }
        }
        Ok(found)
    }

    async fn entries(&self, family: AddressFamily, device: u32) -> Result<Vec<NeighbourMessage>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        // The kernel filters neighbours by this attribute, and forwarding entries not by device: the caller filters again.
        if family != AddressFamily::Bridge {
            message.attributes.push(NeighbourAttribute::IfIndex(device));
        }
        let listed = self.dump("list neighbours", RouteNetlinkMessage::GetNeighbour(message)).await?;
        let entry = |message| if let RouteNetlinkMessage::NewNeighbour(entry) = message { Some(entry) } else { None };
        Ok(listed.into_iter().filter_map(entry).collect())
    }
}

/// The message that makes, replaces or removes a neighbour or a forwarding entry.
pub(super) fn message(slot: &Slot, object: &Object) -> Option<NeighbourMessage> {
    let mut message = NeighbourMessage::default();
    message.header.state = NeighbourState::Permanent;
    let (ifindex, mac, ip) = match (slot, object) {
        (Slot::Neighbour(ifindex, ip), Object::Neighbour(mac)) => {
            message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            (*ifindex, mac, ip)
        }
        (Slot::Fdb(ifindex, mac), Object::Fdb(ip)) => {
            message.header.family = AddressFamily::Bridge;
            message.header.flags = NeighbourFlags::Own;
            (*ifindex, mac, ip)
        }
        _ => return None,
    };
    message.header.ifindex = ifindex;
    let ip = match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(*ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(*ip),
    };
    message.attributes = vec![NeighbourAttribute::Destination(ip), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    Some(message)
}

/// A neighbour or forwarding entry of our own device is ours whatever stands there: a learned one is replaced too.
pub(super) fn put(message: NeighbourMessage) -> (RouteNetlinkMessage, u16) {
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Address and MAC address of an IPv4 neighbour that is resolved.
pub(super) fn resolved(entry: &NeighbourMessage) -> Option<(Ipv4Addr, [u8; 6])> {
    match ip(entry) {
        Some(IpAddr::V4(ip)) if entry.header.family == AddressFamily::Inet => Some((ip, mac(entry)?)),
        _ => None,
    }
}

fn ip(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // A forwarding entry's destination has no family of its own: the library hands the bytes over.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    })
}

/// `bridge fdb` sets a second bit beside this one.
fn is_permanent(entry: &NeighbourMessage) -> bool {
    u16::from(entry.header.state) & u16::from(NeighbourState::Permanent) != 0
}

fn mac(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}
