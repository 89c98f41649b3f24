//! Routes of the main table.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        RouteVia,
    },
};

use super::{Error, Netlink};
use crate::backend::{Object, Slot};

/// Route protocol of every route that we make (`ip route show proto 241`).
///
/// Numbers from 192 up are free for whoever wants them; iproute2's `rt_protos` names none above 192. By it we
/// recognise our routes after a restart, and leave all others alone.
pub const OUR_PROTOCOL: u8 = 241;

/// The main table (`RT_TABLE_MAIN`), in which our routes are.
pub const DEFAULT_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
const DEFAULT_V6_METRIC: u32 = 1024;

/// A route as the kernel holds it, in the terms in which we judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Destination.
    pub(super) dst: IpNet,
    /// Single next hop.
    pub(super) gateway: Option<IpAddr>,
    /// Single outgoing interface.
    pub(super) ifindex: Option<u32>,
    /// `RTNH_F_ONLINK`.
    pub(super) onlink: bool,
    /// Who made it (`RTPROT_*`).
    pub(super) protocol: u8,
    /// A plain unicast route with at most one next hop and global scope, without metric, TOS or source: the shape of
    /// ours and of upstream flannel's.
    pub(super) plain: bool,
    /// Whether it stands where a route of ours to the same destination would: same metric, no TOS.
    pub(super) same_place: bool,
    /// Whether it is a unicast route at all (not blackhole, unreachable, …).
    pub(super) unicast: bool,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address that the kernel would choose.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Where the kernel would send a packet to this address (`ip route get`).
    pub async fn route_to(&self, ip: IpAddr) -> Result<Lookup, Error> {
        let what = format!("look up the route to {ip}");
        let mut message = empty(ip.is_ipv4());
        message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(address(ip)));
        let found = routes_of(self.ask(&what, RouteNetlinkMessage::GetRoute(message)).await?);
        let none = || Error::Refused { what: what.clone(), why: "the kernel named no interface".into(), errno: 0 };
        let route = found.first().ok_or_else(none)?;
        let mut lookup = Lookup { ifindex: 0, gateway: gateway(route), source: None };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => lookup.ifindex = *ifindex,
                RouteAttribute::PrefSource(source) => lookup.source = ip_of(source),
                _ => {}
            }
        }
        if lookup.ifindex == 0 { Err(none()) } else { Ok(lookup) }
    }

    /// The routes of the main table, in the kernel's order.
    pub(super) async fn routes(&self) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for v4 in [true, false] {
            found.extend(self.main_table(v4).await?.iter().filter_map(parse));
        }
        Ok(found)
    }

    async fn main_table(&self, v4: bool) -> Result<Vec<RouteMessage>, Error> {
        let mut message = empty(v4);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        Ok(routes_of(self.dump("list routes", RouteNetlinkMessage::GetRoute(message)).await?))
    }

    /// Interfaces of the default routes of the main table in the kernel's order, so the lowest metric first; `None`
    /// for one with several next hops.
    pub async fn default_routes(&self, v4: bool) -> Result<Vec<Option<u32>>, Error> {
        let routes = self.main_table(v4).await?;
        let mut defaults: Vec<(u32, Option<u32>)> = routes
            .iter()
            .filter(|route| route.header.destination_prefix_length == 0 && in_main(route))
            .map(|route| (metric(route), Some(oif(route)).filter(|ifindex| *ifindex != 0)))
            .collect();
        defaults.sort_by_key(|(metric, _)| *metric);
        Ok(defaults.into_iter().map(|(_, ifindex)| ifindex).collect())
    }
}

fn routes_of(messages: Vec<RouteNetlinkMessage>) -> Vec<RouteMessage> {
    let route = |message| if let RouteNetlinkMessage::NewRoute(route) = message { Some(route) } else { None };
    messages.into_iter().filter_map(route).collect()
}

/// The message that makes or removes one of our routes.
pub(super) fn message(slot: &Slot, object: &Object) -> Option<RouteMessage> {
    let (Slot::Route(dst), Object::Route { gateway, ifindex, onlink }) = (slot, object) else {
        return None;
    };
    let mut message = empty(dst.addr().is_ipv4());
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(OUR_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = dst.prefix_len();
    if *onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Destination(address(dst.network())));
    message.attributes.push(RouteAttribute::Oif(*ifindex));
    if let Some(gateway) = gateway {
        message.attributes.push(RouteAttribute::Gateway(address(*gateway)));
    }
    Some(message)
}

/// Outgoing interface of a route; 0 if it names none.
pub(super) fn oif(route: &RouteMessage) -> u32 {
    route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(oif) = a { Some(*oif) } else { None }).unwrap_or(0)
}

pub(super) fn empty(v4: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message
}

pub(super) fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(ip) => ip_of(ip),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn metric(route: &RouteMessage) -> u32 {
    let given = route.attributes.iter().find_map(|a| if let RouteAttribute::Priority(m) = a { Some(*m) } else { None });
    given.unwrap_or(0)
}

fn in_main(route: &RouteMessage) -> bool {
    let table = route.attributes.iter().find_map(|a| if let RouteAttribute::Table(t) = a { Some(*t) } else { None });
    table.unwrap_or(u32::from(route.header.table)) == DEFAULT_TABLE
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    // IPv6 lists the kernel's cached exceptions among the routes.
    if !in_main(message) || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let v4 = header.address_family == AddressFamily::Inet;
    let dst = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(ip) => ip_of(ip),
        _ => None,
    });
    let unspecified = if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let dst = IpNet::new(dst.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
    let unicast = header.kind == RouteType::Unicast;
    let same_place = header.tos == 0 && metric(message) == if v4 { 0 } else { DEFAULT_V6_METRIC };
    let extras = message.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::MultiPath(_)
                | RouteAttribute::Source(_)
                | RouteAttribute::PrefSource(_)
                | RouteAttribute::Encap(_)
                | RouteAttribute::NhId(_)
                | RouteAttribute::Metrics(_)
        )
    });
    Some(Route {
        dst,
        gateway: gateway(message),
        ifindex: Some(oif(message)).filter(|ifindex| *ifindex != 0),
        onlink: header.flags.contains(RouteFlags::Onlink),
        protocol: header.protocol.into(),
        plain: unicast && same_place && !extras && header.scope == RouteScope::Universe,
        same_place,
        unicast,
    })
}
