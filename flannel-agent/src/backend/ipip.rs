//! ipip: one IP-in-IP device, and per peer an onlink route through its host address; IPv4 alone.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Advert, Desired, Error, Object, Observed, Reached, Slot, peers};
use crate::{
    kernel::{
        iface::Uplink,
        netlink::{self, Netlink},
    },
    lease::{Lease, Subnet},
    state::PeerWay,
};

pub(super) const NAME: &str = "ipip";

/// Upstream's name for the device.
const DEVICE: &str = "flannel.ipip";

/// The outer IPv4 header.
const OVERHEAD: u32 = 20;

/// The backend's state.
#[derive(Clone, Debug)]
pub struct Ipip {
    pub(super) here: peers::Here,
    direct_routing: bool,
    /// Index of the device; 0 until there is a lease.
    ifindex: u32,
}

impl Ipip {
    pub(super) async fn prepare(direct_routing: bool, uplink: &Uplink, netlink: &Netlink) -> Result<Self, Error> {
        let backend = Self { here: peers::Here { uplink: uplink.clone(), own: None }, direct_routing, ifindex: 0 };
        if backend.mtu() == 0 {
            return Err(Error::Unfit {
                backend: NAME,
                problem: format!("{} has an MTU of {}, and the tunnel needs {OVERHEAD} of it", uplink.name, uplink.mtu),
                remedy: "raise it".into(),
            });
        }
        // Upstream acquires the lease first and then fails here; a node that cannot work should not claim a subnet.
        backend.find_or_make(netlink).await?;
        Ok(backend)
    }

    pub(super) fn mtu(&self) -> u32 {
        self.here.uplink.mtu.saturating_sub(OVERHEAD)
    }

    pub(super) fn advert() -> Advert {
        Advert { backend_type: NAME.into(), ..Advert::default() }
    }

    pub(super) async fn lease_acquired(&mut self, own: Subnet, netlink: &Netlink) -> Result<(), Error> {
        self.here.own = Some(own);
        self.ensure(netlink).await
    }

    pub(super) fn uplinks(&self) -> Vec<(u32, String)> {
        // The device has no Ethernet header: the fast path has nothing to learn there.
        let Uplink { ifindex, name, .. } = &self.here.uplink;
        if self.direct_routing { vec![(*ifindex, name.clone())] } else { Vec::new() }
    }

    pub(super) fn devices(&self) -> Vec<u32> {
        vec![self.ifindex]
    }

    pub(super) async fn ensure(&mut self, netlink: &Netlink) -> Result<(), Error> {
        let link = self.find_or_make(netlink).await?;
        self.ifindex = link.ifindex;
        if link.mtu != self.mtu() {
            netlink.set_mtu(self.ifindex, self.mtu()).await.map_err(refused)?;
        }
        if let Some(own) = self.here.own {
            netlink.ensure_address(self.ifindex, IpAddr::V4(own.v4.network()), 32).await.map_err(refused)?;
        }
        if !link.up {
            netlink.set_up(self.ifindex).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn find_or_make(&self, netlink: &Netlink) -> Result<netlink::Link, Error> {
        if let Some(link) = netlink.link(DEVICE).await.map_err(refused)? {
            if link.kind != NAME {
                return Err(Error::Unfit {
                    backend: NAME,
                    problem: format!("there is an interface {DEVICE} of kind {:?}", link.kind),
                    remedy: format!("remove it with `ip link del {DEVICE}`"),
                });
            }
            if link.tunnel_local == Some(self.here.uplink.address) {
                return Ok(link);
            }
            netlink.remove_link(link.ifindex).await.map_err(refused)?;
        }
        let made = netlink.add_ipip(DEVICE, self.here.uplink.address, self.mtu()).await;
        made.map_err(|error| match nix::errno::Errno::from_raw(error.errno()) {
            nix::errno::Errno::EOPNOTSUPP => Error::Unfit {
                backend: NAME,
                problem: "this kernel has no ipip devices".into(),
                remedy: "load the module with `modprobe ipip`, or choose vxlan in the network's configuration".into(),
            },
            _ => refused(error),
        })?;
        let made = netlink.link(DEVICE).await.map_err(refused)?;
        made.ok_or_else(|| refused(netlink::Error::NoLink { name: DEVICE.into() }))
    }

    pub(super) fn desired<'a>(
        &self,
        leases: impl IntoIterator<Item = &'a Lease> + Clone,
        observed: &Observed,
    ) -> Desired {
        let shared = peers::by_address(leases.clone());
        let mut desired = Desired::default();
        for peer in leases {
            let gateway = IpAddr::V4(peer.attrs.public_ip);
            let uplink = self.here.uplink.ifindex;
            let reached = self.here.refuse(peer, Some(NAME)).unwrap_or_else(|| {
                let mut reached = if self.direct_routing && observed.routes.on_link(gateway, uplink) {
                    self.here.direct(peer, observed, &mut desired.objects)
                } else {
                    let route = Object::Route { gateway: Some(gateway), ifindex: self.ifindex, onlink: true };
                    desired.objects.insert(Slot::Route(IpNet::V4(peer.subnet.v4.trunc())), route);
                    Reached { way: PeerWay::Tunnel, via: None, problem: None }
                };
                peers::note_shared_address(peer, &shared, &mut reached);
                reached
            });
            desired.peers.insert(peer.subnet, reached);
        }
        desired
    }
}

fn refused(source: netlink::Error) -> Error {
    Error::Kernel { backend: NAME, source }
}
