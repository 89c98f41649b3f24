//! Interfaces: listing them, and making, changing and removing the devices of our backends.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVxlan,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
};

use super::{Error, Netlink};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The kernel's word for its kind (`veth`, `bridge`, `vxlan`, …); empty for a physical one.
    pub kind: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bridge (or bond, …) it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth, in that end's own namespace; for a tunnel, the interface below it.
    pub peer: Option<u32>,
    /// Whether that other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// What a vxlan device is set to.
    pub vxlan: Option<VxlanLink>,
    /// Outer source address of an IP-in-IP device.
    pub tunnel_local: Option<Ipv4Addr>,
}

/// What a vxlan device is set to; in the kernel's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VxlanLink {
    /// Network identifier.
    pub vni: u32,
    /// Interface below, if it is bound to one.
    pub dev: Option<u32>,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Multicast group or default destination.
    pub group: Option<IpAddr>,
    /// UDP port; as an order, 0 is the kernel's default (8472).
    pub port: u16,
    /// Whether it learns forwarding entries from what it receives.
    pub learning: bool,
    /// Group policy extension.
    pub gbp: bool,
    /// Whether it tells user space of unknown MAC addresses.
    pub l2miss: bool,
    /// Whether it takes its outer header from the packet's metadata (`external`).
    pub external: bool,
}

/// A bridge and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its ports, by index.
    pub ports: Vec<Link>,
}

impl Netlink {
    /// All interfaces of this namespace, in order of their index.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let mut all = LinkMessage::default();
        // The counters would be most of the answer.
        all.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let messages = self.dump("list interfaces", RouteNetlinkMessage::GetLink(all)).await?;
        let mut links: Vec<Link> = messages.iter().filter_map(parse).collect();
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// The interface of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let what = format!("look for interface {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        one(self.ask(&what, RouteNetlinkMessage::GetLink(message)).await)
    }

    /// The interface of this index, if there is one.
    pub async fn link_at(&self, ifindex: u32) -> Result<Option<Link>, Error> {
        let what = format!("look for interface {ifindex}");
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        one(self.ask(&what, RouteNetlinkMessage::GetLink(message)).await)
    }

    /// The bridge of this name and its ports; `None` if there is no such interface or it is no bridge.
    pub async fn bridge(&self, name: &str) -> Result<Option<Bridge>, Error> {
        let links = self.links().await?;
        let Some(link) = links.iter().find(|link| link.name == name && link.kind == "bridge") else {
            return Ok(None);
        };
        let (ifindex, mac) = (link.ifindex, link.mac.unwrap_or_default());
        let ports = links.into_iter().filter(|port| port.master == Some(ifindex)).collect();
        Ok(Some(Bridge { ifindex, name: name.to_owned(), mac, ports }))
    }

    /// Makes a vxlan device; it is down.
    pub async fn add_vxlan(&self, name: &str, vxlan: VxlanLink, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        let mut device = LinkMessageBuilder::<LinkVxlan>::new(name)
            .id(vxlan.vni)
            .learning(vxlan.learning)
            .l2miss(vxlan.l2miss)
            .l3miss(false)
            .address(mac.to_vec())
            .mtu(mtu);
        if let Some(ifindex) = vxlan.dev {
            device = device.dev(ifindex);
        }
        device = match vxlan.local {
            Some(IpAddr::V4(ip)) => device.local(ip),
            Some(IpAddr::V6(ip)) => device.local6(ip),
            None => device,
        };
        if vxlan.port != 0 {
            device = device.port(vxlan.port);
        }
        if vxlan.gbp {
            device = device.gbp();
        }
        let message = RouteNetlinkMessage::NewLink(device.build());
        self.request(&format!("create vxlan device {name}"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Makes an IP-in-IP device that sends from `local` to whatever its routes say; it is down.
    pub async fn add_ipip(&self, name: &str, local: Ipv4Addr, mtu: u32) -> Result<(), Error> {
        let device = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::IpIp)
            .name(name)
            .mtu(mtu)
            .set_info_data(InfoData::IpTunnel(vec![InfoIpTunnel::Local(IpAddr::V4(local))]));
        let message = RouteNetlinkMessage::NewLink(device.build());
        self.request(&format!("create ipip device {name}"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Removes an interface.
    pub async fn remove_link(&self, ifindex: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        self.request(&format!("remove interface {ifindex}"), RouteNetlinkMessage::DelLink(message), 0).await
    }

    /// Sets the MTU of an interface.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        self.request(&format!("set the MTU of interface {ifindex} to {mtu}"), RouteNetlinkMessage::NewLink(message), 0)
            .await
    }

    /// Sets the Ethernet address of an interface.
    pub async fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex).address(mac.to_vec()).build();
        let what = format!("set the MAC address of interface {ifindex}");
        self.request(&what, RouteNetlinkMessage::NewLink(message), 0).await
    }

    /// Sets whether a vxlan device learns; everything else of it stays.
    pub async fn set_vxlan_learning(&self, ifindex: u32, vxlan: VxlanLink) -> Result<(), Error> {
        let settings = InfoData::Vxlan(vec![InfoVxlan::Learning(vxlan.learning)]);
        let mut message = LinkUnspec::new_with_index(ifindex).build();
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(settings)]));
        let what = format!("set learning of interface {ifindex} to {}", vxlan.learning);
        self.request(&what, RouteNetlinkMessage::NewLink(message), 0).await
    }

    /// Keeps a device of ours from taking IPv6 routes and addresses from whatever it hears. Without IPv6 there is
    /// nothing to keep it from.
    pub fn refuse_router_advertisements(&self, name: &str) {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        if let Err(error) = std::fs::write(&path, "0") {
            tracing::debug!(path, %error, "not written");
        }
    }

    /// Brings an interface up.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.request(&format!("bring interface {ifindex} up"), RouteNetlinkMessage::NewLink(message), 0).await
    }
}

/// The kernel answers a look-up that finds nothing with `ENODEV`; that is an answer, not an error.
fn one(found: Result<Vec<RouteNetlinkMessage>, Error>) -> Result<Option<Link>, Error> {
    match found {
        Ok(messages) => Ok(messages.first().and_then(parse)),
        Err(error) if error.errno() == nix::errno::Errno::ENODEV as i32 => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        peer: None,
        peer_elsewhere: false,
        vxlan: None,
        tunnel_local: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(ifindex) => link.master = Some(*ifindex),
            LinkAttribute::Link(ifindex) => link.peer = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(parts) => parse_info(parts, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(parts: &[LinkInfo], link: &mut Link) {
    for part in parts {
        match part {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(settings)) => link.vxlan = Some(parse_vxlan(settings)),
            LinkInfo::Data(InfoData::IpTunnel(settings)) => {
                link.tunnel_local = settings.iter().find_map(|setting| match setting {
                    InfoIpTunnel::Local(IpAddr::V4(local)) => Some(*local),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

fn parse_vxlan(settings: &[InfoVxlan]) -> VxlanLink {
    let mut vxlan = VxlanLink::default();
    for setting in settings {
        match setting {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Link(ifindex) => vxlan.dev = Some(*ifindex).filter(|ifindex| *ifindex != 0),
            InfoVxlan::Local(ip) => vxlan.local = Some(IpAddr::V4(*ip)),
            InfoVxlan::Local6(ip) => vxlan.local = Some(IpAddr::V6(*ip)),
            InfoVxlan::Group(ip) => vxlan.group = Some(IpAddr::V4(*ip)),
            InfoVxlan::Group6(ip) => vxlan.group = Some(IpAddr::V6(*ip)),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::L2Miss(on) => vxlan.l2miss = *on,
            InfoVxlan::CollectMetadata(on) => vxlan.external = *on,
            InfoVxlan::Gbp => vxlan.gbp = true,
            _ => {}
        }
    }
    vxlan
}
