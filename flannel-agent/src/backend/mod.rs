//! The slow path that is always right: what the kernel must hold so that this host and its peers reach one another.
//!
//! A backend says what should be there ([`Backend::desired`], pure); `plan::diff` compares that with what is there
//! ([`Backend::look`]); one place applies the difference. Doing so twice changes nothing. One pass of the agent:
//!
//! ```text
//! let observed = backend.look(&peers).await?;          // also brings our own device back if it is gone
//! let desired = backend.desired(&peers, &observed);
//! let plan = plan::desired::plan(&desired.objects, &observed);
//! let failures = netlink.apply(&plan.changes).await;
//! ```

mod alloc;
mod display;
mod hostgw;
mod ipip;
mod peers;
mod reach;
mod udp;
mod vxlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

pub use self::reach::{Reach, RouteTable};
use crate::{
    config::{self, NetworkConfig},
    kernel::{
        iface::Uplink,
        netlink::{self, Kind, Netlink},
    },
    lease::{Lease, Subnet},
    state::{CarrierLost, PeerWay},
};

/// An object in the kernel that we keep for a peer: where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// A permanent neighbour of this address on this interface.
    Neighbour(u32, IpAddr),
    /// A forwarding entry of a vxlan device for this MAC address.
    Fdb(u32, [u8; 6]),
    /// A route of the main table to this destination.
    Route(IpNet),
}

/// An object in the kernel that we keep for a peer: what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Next hop and outgoing interface; `onlink` skips the kernel's check that the gateway is on the link.
    Route {
        /// Next hop; `None` if the whole destination is on the link.
        gateway: Option<IpAddr>,
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
    /// Make it where nothing stands; a route that somebody else put there meanwhile makes this fail.
    Put(Slot, Object),
    /// Replace what stands there in one transaction, so that there is no moment without either.
    Replace {
        /// Where.
        slot: Slot,
        /// What stands there.
        old: Object,
        /// What should.
        new: Object,
    },
    /// Take away what we once made.
    Remove(Slot, Object),
}

/// What is in the kernel, sorted by whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Ours: marked as such, or on a device of ours.
    pub ours: Objects,
    /// Routes in exactly upstream flannel's shape to a live peer's subnet: ours to take over.
    pub adoptable: Objects,
    /// Routes of others to a live peer's subnet. They stay.
    pub foreign: Vec<Foreign>,
    /// How the main table, without our routes, reaches the other nodes.
    pub routes: RouteTable,
}

/// A route of somebody else to a subnet that a peer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its destination.
    pub dst: IpNet,
    /// Whether it stands in the very place of ours, so that only one of them can be.
    pub blocks: bool,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface, if it is one.
    pub ifindex: Option<u32>,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// What it looks like in `ip route`, for the operator.
    pub text: String,
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

/// What a backend makes of the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What should be in the kernel.
    pub objects: Objects,
    /// How each peer is reached.
    pub peers: BTreeMap<Subnet, Reached>,
}

/// How a peer is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// In a word.
    pub way: PeerWay,
    /// For the fast path; `None` if the peer is not reached, or not in IPv4.
    pub via: Option<Way>,
    /// What is wrong with it; a peer may be reached and yet have a problem.
    pub problem: Option<String>,
}

/// What a backend tells the peers in our lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advert {
    /// Backend name as in a lease; empty for udp and alloc.
    pub backend_type: String,
    /// Compact JSON text.
    pub backend_data: Option<String>,
    /// The same for the IPv6 device.
    pub backend_v6_data: Option<String>,
}

/// What keeps a backend from working.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("backend {backend}: {source}")]
    Kernel {
        /// Backend name.
        backend: &'static str,
        /// What the kernel said.
        #[source]
        source: netlink::Error,
    },
    /// Something of the configuration or of the host does not fit the backend.
    #[error("backend {backend}: {problem}; {remedy}")]
    Unfit {
        /// Backend name.
        backend: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A device or socket of our own could not be used.
    #[error("backend {backend}: {what}: {source}")]
    Io {
        /// Backend name.
        backend: &'static str,
        /// What was being done, with the object.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A way to carry packets to other nodes. One file each; they differ in what they keep in the kernel for a peer.
#[derive(Debug)]
pub enum Backend {
    /// A route per peer through the uplink.
    HostGw(hostgw::HostGw),
    /// A tunnel device, with neighbour, forwarding entry and route per peer.
    Vxlan(Box<vxlan::Vxlan>),
    /// A TUN device and a thread.
    Udp(Box<udp::Udp>),
    /// An IP-in-IP device and a route per peer.
    Ipip(Box<ipip::Ipip>),
    /// Leases alone.
    Alloc(Uplink),
}

impl Backend {
    /// Makes what the backend needs before there is a lease (for vxlan the device, whose MAC address is in the lease).
    pub async fn prepare(config: &NetworkConfig, uplink: &Uplink, netlink: &Netlink) -> Result<Self, Error> {
        let backend = config.backend.name();
        if config.v6.is_some() && matches!(config.backend, config::Backend::Udp { .. } | config::Backend::Ipip { .. }) {
            return Err(Error::Unfit {
                backend,
                problem: "it carries IPv4 alone, and the network has EnableIPv6".into(),
                remedy: "choose vxlan or host-gw, or set EnableIPv6 to false".into(),
            });
        }
        Ok(match config.backend {
            config::Backend::HostGw => Self::HostGw(hostgw::HostGw::new(uplink.clone())?),
            config::Backend::Vxlan { vni, port, mtu, gbp, learning, direct_routing } => {
                let options = vxlan::Options { vni, port, mtu, gbp, learning, direct_routing };
                Self::Vxlan(Box::new(vxlan::Vxlan::prepare(options, config, uplink, netlink).await?))
            }
            config::Backend::Udp { port } => Self::Udp(Box::new(udp::Udp::prepare(port, config.v4.network, uplink))),
            config::Backend::Ipip { direct_routing } => {
                Self::Ipip(Box::new(ipip::Ipip::prepare(direct_routing, uplink, netlink).await?))
            }
            config::Backend::Alloc => Self::Alloc(uplink.clone()),
        })
    }

    /// Name as in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HostGw(_) => hostgw::NAME,
            Self::Vxlan(_) => vxlan::NAME,
            Self::Udp(_) => udp::NAME,
            Self::Ipip(_) => ipip::NAME,
            Self::Alloc(_) => alloc::NAME,
        }
    }

    /// What our lease tells the peers; the same for the life of the process.
    pub fn advert(&self) -> Advert {
        match self {
            Self::HostGw(_) => hostgw::HostGw::advert(),
            Self::Vxlan(backend) => backend.advert(),
            Self::Ipip(_) => ipip::Ipip::advert(),
            Self::Udp(_) | Self::Alloc(_) => Advert::default(),
        }
    }

    /// MTU of containers, for subnet.env.
    pub fn mtu(&self) -> u32 {
        match self {
            Self::HostGw(backend) => backend.here.uplink.mtu,
            Self::Vxlan(backend) => backend.mtu(),
            Self::Udp(backend) => backend.mtu(),
            Self::Ipip(backend) => backend.mtu(),
            Self::Alloc(uplink) => uplink.mtu,
        }
    }

    /// Told when we have our lease, and again if it becomes another one: gives the device its address.
    pub async fn lease_acquired(&mut self, own: Subnet, netlink: &Netlink) -> Result<(), Error> {
        match self {
            Self::HostGw(backend) => backend.here.own = Some(own),
            Self::Vxlan(backend) => backend.lease_acquired(own, netlink).await?,
            Self::Udp(backend) => backend.lease_acquired(own, netlink).await?,
            Self::Ipip(backend) => backend.lease_acquired(own, netlink).await?,
            Self::Alloc(_) => {}
        }
        Ok(())
    }

    /// Gives up what another backend could not have beside this one (the udp port), so that it can take over. The next
    /// [`Backend::look`] takes it again.
    pub fn yield_place(&mut self) {
        if let Self::Udp(backend) = self {
            backend.stop();
        }
    }

    /// Brings our own device back if it is gone or differs (vxlan: with the same MAC address), tells the udp carrier
    /// of the peers, and reads what is in the kernel. `networks` are this daemon's: the current one, and the one of
    /// the run before if that was another.
    pub async fn look(&mut self, peers: &[&Lease], networks: &[IpNet], netlink: &Netlink) -> Result<Observed, Error> {
        match self {
            Self::HostGw(_) | Self::Alloc(_) => {}
            Self::Vxlan(backend) => backend.ensure(netlink).await?,
            Self::Ipip(backend) => backend.ensure(netlink).await?,
            Self::Udp(backend) => {
                backend.tell(peers.iter().copied());
                backend.ensure(netlink).await?;
            }
        }
        let scope = self.scope(peers, networks);
        netlink.observe(&scope).await.map_err(|source| Error::Kernel { backend: self.name(), source })
    }

    /// What should be in the kernel for these peers, and how each is reached. Pure.
    pub fn desired(&self, peers: &[&Lease], observed: &Observed) -> Desired {
        let peers = peers.iter().copied();
        match self {
            Self::HostGw(backend) => backend.desired(peers, observed),
            Self::Vxlan(backend) => backend.desired(peers, observed),
            Self::Udp(backend) => backend.desired(peers),
            Self::Ipip(backend) => backend.desired(peers, observed),
            Self::Alloc(_) => alloc::desired(peers),
        }
    }

    /// The Ethernet interfaces that our routes go out of, where the fast path attaches: none for udp, ipip and alloc.
    /// Ask again after each [`Backend::look`]: a device that was made anew has another index.
    pub fn uplinks(&self) -> Vec<(u32, String)> {
        match self {
            Self::HostGw(backend) => vec![(backend.here.uplink.ifindex, backend.here.uplink.name.clone())],
            Self::Vxlan(backend) => backend.uplinks(),
            Self::Ipip(backend) => backend.uplinks(),
            Self::Udp(_) | Self::Alloc(_) => Vec::new(),
        }
    }

    /// Packets that our own carrier has lost; `None` where the kernel carries them all.
    pub fn carrier_lost(&self) -> Option<CarrierLost> {
        match self {
            Self::Udp(backend) => Some(backend.lost()),
            Self::HostGw(_) | Self::Vxlan(_) | Self::Ipip(_) | Self::Alloc(_) => None,
        }
    }

    /// Whether an event can mean work for us. Neighbours and forwarding entries change all the time, and count only on
    /// devices of ours; everything else may have moved a route.
    pub fn concerns(&self, event: &netlink::KernelEvent) -> bool {
        match event.kind {
            Kind::Link | Kind::Address | Kind::Route | Kind::LookAgain => true,
            Kind::Neighbour | Kind::Fdb => self.devices().contains(&event.ifindex),
        }
    }

    /// Interfaces that are ours alone.
    fn devices(&self) -> BTreeSet<u32> {
        let devices = match self {
            Self::Vxlan(backend) => backend.devices(),
            Self::Udp(backend) => backend.devices(),
            Self::Ipip(backend) => backend.devices(),
            Self::HostGw(_) | Self::Alloc(_) => Vec::new(),
        };
        devices.into_iter().collect()
    }

    fn scope(&self, peers: &[&Lease], networks: &[IpNet]) -> netlink::Scope {
        let mut leased = BTreeSet::new();
        for peer in peers {
            leased.insert(IpNet::V4(peer.subnet.v4.trunc()));
            leased.extend(peer.subnet.v6.map(|v6| IpNet::V6(v6.trunc())));
        }
        let uplink = match self {
            Self::HostGw(backend) => &backend.here.uplink,
            Self::Vxlan(backend) => &backend.here.uplink,
            Self::Udp(backend) => &backend.here.uplink,
            Self::Ipip(backend) => &backend.here.uplink,
            Self::Alloc(uplink) => uplink,
        };
        let devices = self.devices();
        let interfaces = devices.iter().copied().chain([uplink.ifindex]).collect();
        netlink::Scope { networks: networks.to_vec(), leased, interfaces, devices }
    }
}
