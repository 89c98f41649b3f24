//! What is in the kernel, sorted by whose it is.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Error, Netlink, OUR_PROTOCOL, route::Route};
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
        observed.foreign.push(Foreign { dst: route.dst, blocks: route.same_place, text: describe(route) });
    }
}

fn object(route: &Route) -> Object {
    Object::Route { gateway: route.gateway, ifindex: route.ifindex.unwrap_or(0), onlink: route.onlink }
}

fn describe(route: &Route) -> String {
    use std::fmt::Write as _;
    let mut text = route.dst.to_string();
    if let Some(gateway) = route.gateway {
        let _infallible = write!(text, " via {gateway}");
    }
    if let Some(ifindex) = route.ifindex {
        let _infallible = write!(text, " out of interface {ifindex}");
    }
    let _infallible = write!(text, ", protocol {}", route.protocol);
    text
}
