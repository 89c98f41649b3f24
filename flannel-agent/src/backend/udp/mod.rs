//! udp: a TUN device, and a thread that carries each packet in a datagram of its own; IPv4 alone.
//!
//! The slowest backend, for networks that let nothing else through. Its peers are all leases, whatever their backend,
//! as upstream has it: a udp lease names none.

mod carrier;
mod packet;
mod table;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{Arc, PoisonError},
};

use ipnet::{IpNet, Ipv4Net};
use tun_rs::DeviceBuilder;

use self::{
    carrier::{Carrier, Shared},
    table::Table,
};
use super::{Desired, Error, Object, Reached, Slot, peers};
use crate::{
    kernel::{
        iface::Uplink,
        netlink::{self, Netlink},
    },
    lease::{Lease, Subnet},
    state::{CarrierLost, PeerWay},
};

pub(super) const NAME: &str = "udp";

/// Upstream's pattern of the device's name; the kernel fills in the first free number.
const DEVICE: &str = "flannel%d";

/// Outer headers: IP 20, UDP 8 bytes.
const OVERHEAD: u32 = 28;

/// The backend's state.
#[derive(Debug)]
pub struct Udp {
    pub(super) here: peers::Here,
    network: Ipv4Net,
    port: u16,
    shared: Arc<Shared>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    carrier: Carrier,
    ifindex: u32,
}

impl Udp {
    pub(super) fn prepare(port: u16, network: Ipv4Net, uplink: &Uplink) -> Self {
        let here = peers::Here { uplink: uplink.clone(), own: None };
        Self { here, network, port, shared: Arc::default(), running: None }
    }

    pub(super) fn mtu(&self) -> u32 {
        self.here.uplink.mtu.saturating_sub(OVERHEAD)
    }

    pub(super) async fn lease_acquired(&mut self, own: Subnet, netlink: &Netlink) -> Result<(), Error> {
        self.here.own = Some(own);
        self.running = None;
        self.ensure(netlink).await
    }

    /// Ends the carrier; port and device are free then.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Starts the carrier, or starts it again if its device was removed.
    pub(super) async fn ensure(&mut self, netlink: &Netlink) -> Result<(), Error> {
        let Some(own) = self.here.own else { return Ok(()) };
        let base = own.v4.network();
        let link = match &self.running {
            Some(running) if running.carrier.is_running() => netlink.link_at(running.ifindex).await.map_err(refused)?,
            _ => None,
        };
        let link = match link {
            Some(link) => link,
            None => self.start(base, netlink).await?,
        };
        if link.mtu != self.mtu() {
            netlink.set_mtu(link.ifindex, self.mtu()).await.map_err(refused)?;
        }
        netlink.ensure_address(link.ifindex, IpAddr::V4(base), 32).await.map_err(refused)?;
        if !link.up {
            netlink.set_up(link.ifindex).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn start(&mut self, base: Ipv4Addr, netlink: &Netlink) -> Result<netlink::Link, Error> {
        // The old thread holds the port until it is gone.
        self.running = None;
        let from = SocketAddrV4::new(self.here.uplink.address, self.port);
        let socket = UdpSocket::bind(from).map_err(|source| failed(format!("bind UDP port {from}"), source))?;
        let tun = DeviceBuilder::new()
            .name(DEVICE)
            .inherit_enable_state()
            .build_sync()
            .map_err(|source| failed("make a TUN device from /dev/net/tun (`modprobe tun`)".into(), source))?;
        let ifindex = tun.if_index().map_err(|source| failed("ask for the TUN device's index".into(), source))?;
        let carrier = Carrier::start(tun, socket, base, self.port, Arc::clone(&self.shared))
            .map_err(|source| failed("start the udp carrier".into(), source))?;
        self.running = Some(Running { carrier, ifindex });
        let link = netlink.link_at(ifindex).await.map_err(refused)?;
        link.ok_or_else(|| refused(netlink::Error::NoLink { name: DEVICE.into() }))
    }

    /// Packets that went nowhere so far.
    pub(super) fn lost(&self) -> CarrierLost {
        self.shared.lost.so_far()
    }

    pub(super) fn devices(&self) -> Vec<u32> {
        self.running.iter().map(|running| running.ifindex).collect()
    }

    /// Gives the carrier its table.
    pub(super) fn tell<'a>(&self, leases: impl IntoIterator<Item = &'a Lease>) {
        let mut table = Table::default();
        for peer in leases {
            if self.here.refuse(peer, None).is_none() {
                table.insert(peer.subnet.v4, peer.attrs.public_ip);
            }
        }
        let mut peers = self.shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        if **peers != table {
            *peers = Arc::new(table);
        }
    }

    pub(super) fn desired<'a>(&self, leases: impl IntoIterator<Item = &'a Lease> + Clone) -> Desired {
        let shared = peers::by_address(leases.clone());
        let mut desired = Desired::default();
        if let Some(running) = &self.running {
            let route = Object::Route { gateway: None, ifindex: running.ifindex, onlink: false };
            desired.objects.insert(Slot::Route(IpNet::V4(self.network)), route);
        }
        for peer in leases {
            let reached = self.here.refuse(peer, None).unwrap_or_else(|| {
                let mut reached = Reached { way: PeerWay::Tunnel, via: None, problem: None };
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

fn failed(what: String, source: io::Error) -> Error {
    Error::Io { backend: NAME, what, source }
}
