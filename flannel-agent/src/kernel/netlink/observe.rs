//! What is in the kernel, sorted by whose it is.

use std::{collections::BTreeSet, fmt::Write as _};

use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;

use super::{Error, Link, Netlink, OUR_PROTOCOL, route::Route};
use crate::backend::{Foreign, Object, Observed, Slot};

/// `RTPROT_BOOT`: what upstream flannel's routes carry, and every route of `ip route add`.
const BOOT: u8 = 3;

/// What of the kernel's state concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The flannel networks of this daemon: the current one, and those it had before. Routes of ours outside them
    /// belong to another daemon on this host.
    pub networks: Vec<IpNet>,
    /// Subnets of live peers, whatever their backend.
    pub leased: BTreeSet<IpNet>,
    /// Interfaces out of which a route in upstream flannel's shape is taken over.
    pub interfaces: BTreeSet<u32>,
    /// Our own devices: every permanent neighbour and forwarding entry on them is ours.
    pub devices: BTreeSet<u32>,
}

impl Netlink {
    /// Reads what is in the kernel.
    pub async fn observe(&self, scope: &Scope) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        for route in self.routes().await? {
            sort(&route, scope, &mut observed);
        }
        if !observed.foreign.is_empty() {
            let links = self.links().await?;
            for foreign in &mut observed.foreign {
                foreign.text = describe(foreign, &links);
            }
        }
        for device in &scope.devices {
            observed.ours.extend(self.permanent(*device).await?);
        }
        Ok(observed)
    }
}

fn sort(route: &Route, scope: &Scope, observed: &mut Observed) {
    let slot = Slot::Route(route.dst);
    let leased = scope.leased.contains(&route.dst);
    let within = leased || scope.networks.iter().any(|network| network.contains(&route.dst));
    if route.protocol == OUR_PROTOCOL && within && route.same_place {
        // Whatever its shape: what differs from what should be there is replaced.
        observed.ours.insert(slot, object(route));
        return;
    }
    if route.unicast {
        observed.routes.insert(route.dst, route.ifindex, route.gateway);
    }
    if !leased {
        return;
    }
    let upstream = route.plain
        && route.protocol == BOOT
        && route.gateway.is_some()
        && route.ifindex.is_some_and(|ifindex| scope.interfaces.contains(&ifindex));
    if upstream {
        observed.adoptable.insert(slot, object(route));
    } else {
        let Route { dst, gateway, ifindex, protocol, same_place, .. } = *route;
        observed.foreign.push(Foreign { dst, blocks: same_place, gateway, ifindex, protocol, text: String::new() });
    }
}

fn object(route: &Route) -> Object {
    Object::Route { gateway: route.gateway, ifindex: route.ifindex.unwrap_or(0), onlink: route.onlink }
}

/// As `ip route` shows it.
fn describe(route: &Foreign, links: &[Link]) -> String {
    let mut text = route.dst.to_string();
    if let Some(gateway) = route.gateway {
        let _infallible = write!(text, " via {gateway}");
    }
    if let Some(ifindex) = route.ifindex {
        let name = links.iter().find(|link| link.ifindex == ifindex).map_or("?", |link| &link.name);
        let _infallible = write!(text, " dev {name}");
    }
    let _infallible = write!(text, " proto {}", RouteProtocol::from(route.protocol));
    text
}
