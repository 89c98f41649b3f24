//! What every backend asks of a peer before it builds a way to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::{Object, Objects, Observed, Reached, Slot, Way};
use crate::{
    kernel::iface::Uplink,
    lease::{Lease, Subnet},
    state::PeerWay,
};

/// Where this host stands: what a peer is judged by.
#[derive(Clone, Debug)]
pub(super) struct Here {
    /// Our interface towards other nodes.
    pub(super) uplink: Uplink,
    /// Our own lease, once there is one.
    pub(super) own: Option<Subnet>,
}

/// Subnets that share a public address, by that address.
pub(super) fn by_address<'a>(peers: impl IntoIterator<Item = &'a Lease>) -> BTreeMap<Ipv4Addr, Vec<Ipv4Net>> {
    let mut found: BTreeMap<Ipv4Addr, Vec<Ipv4Net>> = BTreeMap::new();
    for peer in peers {
        found.entry(peer.attrs.public_ip).or_default().push(peer.subnet.v4);
    }
    found
}

impl Here {
    /// Why there cannot be a way to this peer, if there cannot. `backend_type` is our own name, compared as upstream
    /// does: to the letter; `None` takes peers of any type.
    pub(super) fn refuse(&self, peer: &Lease, backend_type: Option<&str>) -> Option<Reached> {
        let theirs = &peer.attrs.backend_type;
        if let Some(ours) = backend_type.filter(|ours| theirs != ours) {
            let problem = format!("its backend is {theirs:?} and ours {ours:?}: nodes of one network must share one");
            return Some(Reached { way: PeerWay::Ignored, via: None, problem: Some(problem) });
        }
        self.problem(peer).map(unreachable)
    }

    fn problem(&self, peer: &Lease) -> Option<String> {
        let ip = peer.attrs.public_ip;
        if peer.subnet.v4.prefix_len() == 0 {
            return Some("its lease has no IPv4 subnet, and this network is an IPv4 one".into());
        }
        if ip == self.uplink.public_ip || IpAddr::V4(ip) == IpAddr::V4(self.uplink.address) {
            return Some(format!(
                "its public address {ip} is our own: two nodes with one address, or a lease that we left behind; \
                 give each node its own address (-iface, -public-ip)"
            ));
        }
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() {
            return Some(format!("its public address {ip} cannot be that of another host"));
        }
        let own = self.own?;
        let overlaps = own.v4.contains(&peer.subnet.v4.network()) || peer.subnet.v4.contains(&own.v4.network());
        (overlaps && own.v4.prefix_len() != 0).then(|| {
            format!("its subnet {} overlaps our own, {}: one of the two leases has to go", peer.subnet.v4, own.v4)
        })
    }

    /// Adds routes through a peer's host address, if that is on the uplink's link.
    pub(super) fn direct(&self, peer: &Lease, observed: &Observed, objects: &mut Objects) -> Reached {
        let mut reached = self.direct_v4(peer, observed, objects);
        if let Some(problem) = self.direct_v6(peer, observed, objects) {
            reached.problem.get_or_insert(problem);
        }
        reached
    }

    fn direct_v4(&self, peer: &Lease, observed: &Observed, objects: &mut Objects) -> Reached {
        let gateway = peer.attrs.public_ip;
        let Uplink { ifindex, name, mtu, address, .. } = &self.uplink;
        let slot = Slot::Route(IpNet::V4(peer.subnet.v4.trunc()));
        let object = Object::Route { gateway: Some(IpAddr::V4(gateway)), ifindex: *ifindex, onlink: false };
        let way = Way { ifindex: *ifindex, next_hop: gateway, mtu: *mtu };
        let on_link = observed.routes.on_link(IpAddr::V4(gateway), *ifindex);
        let problem = (!on_link).then(|| {
            if !observed.routes.has_link(*ifindex) {
                return format!("{name} has no network on its link now: it is down, or has lost its address {address}");
            }
            format!(
                "its address {gateway} is not on the link of {name} ({address}): host-gw needs all nodes on one \
                 layer 2 network; use vxlan, or another -iface"
            )
        });
        // A route that stands was accepted by the kernel once: an address that is away for a moment does not cost it.
        if on_link || observed.ours.get(&slot) == Some(&object) {
            objects.insert(slot, object);
            return Reached { way: PeerWay::Direct, via: Some(way), problem };
        }
        Reached { way: PeerWay::Unreachable, via: None, problem }
    }

    fn direct_v6(&self, peer: &Lease, observed: &Observed, objects: &mut Objects) -> Option<String> {
        let (subnet, _) = (peer.subnet.v6?, self.uplink.v6?);
        let Some(gateway) = peer.attrs.public_ipv6 else {
            return Some(format!("its lease has the IPv6 subnet {subnet}, but no IPv6 address to reach it by"));
        };
        let Uplink { ifindex, name, .. } = &self.uplink;
        if Some(gateway) == self.uplink.public_ipv6 {
            return Some(format!("its public IPv6 address {gateway} is our own"));
        }
        if !observed.routes.on_link(IpAddr::V6(gateway), *ifindex) {
            return Some(format!("its IPv6 address {gateway} is not on the link of {name}"));
        }
        let object = Object::Route { gateway: Some(IpAddr::V6(gateway)), ifindex: *ifindex, onlink: false };
        objects.insert(Slot::Route(IpNet::V6(subnet.trunc())), object);
        None
    }
}

/// Notes on a peer that is reached, but shares its address with another lease.
pub(super) fn note_shared_address(peer: &Lease, shared: &BTreeMap<Ipv4Addr, Vec<Ipv4Net>>, reached: &mut Reached) {
    let Some(others) = shared.get(&peer.attrs.public_ip).filter(|subnets| subnets.len() > 1) else {
        return;
    };
    let others: Vec<String> =
        others.iter().filter(|other| **other != peer.subnet.v4).map(ToString::to_string).collect();
    reached.problem.get_or_insert_with(|| {
        format!("its public address {} is also in the lease of {}", peer.attrs.public_ip, others.join(", "))
    });
}

fn unreachable(problem: String) -> Reached {
    Reached { way: PeerWay::Unreachable, via: None, problem: Some(problem) }
}
