//! The vxlan device of one address family: made, kept and brought back as it should be.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::display::Mac;
use crate::kernel::netlink::{Error, Link, Netlink, VxlanLink};

/// A device of ours, and what it should be.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// `flannel.<VNI>` or `flannel-v6.<VNI>`.
    pub(super) name: String,
    /// Its settings.
    pub(super) settings: VxlanLink,
    /// Its MTU.
    pub(super) mtu: u32,
    /// The flannel network of its family: addresses inside it that are not ours are leftovers.
    pub(super) network: IpNet,
    /// Its MAC address, by which peers address their frames: stable from the first time on, also when somebody
    /// removes the device.
    pub(super) mac: [u8; 6],
    /// Its index; another one after it was made anew.
    pub(super) ifindex: u32,
    /// Its address, once we have a lease: the base of our subnet.
    pub(super) address: Option<IpAddr>,
    /// What the kernel refused at the last look, in words.
    complaint: Option<String>,
}

impl Device {
    /// Finds or makes the device. A MAC address that it has from before (an earlier run, or upstream flannel) stays.
    pub(super) async fn prepare(
        name: String,
        settings: VxlanLink,
        mtu: u32,
        network: IpNet,
        netlink: &Netlink,
    ) -> Result<Self, Error> {
        let before = netlink.link(&name).await?.and_then(|link| link.mac).filter(|mac| *mac != [0; 6]);
        let mac = before.unwrap_or_else(random_mac);
        let mut device = Self { name, settings, mtu, network, mac, ifindex: 0, address: None, complaint: None };
        device.ensure(netlink).await?;
        Ok(device)
    }

    /// Makes the device what it should be. Does nothing, and changes nothing, if it is.
    pub(super) async fn ensure(&mut self, netlink: &Netlink) -> Result<(), Error> {
        let link = match netlink.link(&self.name).await? {
            Some(link) if self.fits(&link)? => link,
            Some(link) => {
                tracing::warn!(device = self.name, found = ?link.vxlan, wanted = ?self.settings, "vxlan device differs");
                netlink.remove_link(link.ifindex).await?;
                self.make(netlink).await?
            }
            None => self.make(netlink).await?,
        };
        self.ifindex = link.ifindex;
        if link.mac != Some(self.mac) {
            netlink.set_mac(self.ifindex, self.mac).await?;
        }
        self.improve(&link, netlink).await;
        self.ensure_address(netlink).await?;
        if !link.up {
            netlink.set_up(self.ifindex).await?;
        }
        Ok(())
    }

    /// Sets what may differ and yet carry packets. A refusal (an interface below with a smaller MTU than it had) is said
    /// once and costs no route.
    async fn improve(&mut self, link: &Link, netlink: &Netlink) {
        let mut refused = None;
        if link.mtu != self.mtu {
            refused = netlink.set_mtu(self.ifindex, self.mtu).await.err();
        }
        if link.vxlan.is_some_and(|found| found.learning != self.settings.learning) {
            refused = netlink.set_vxlan_learning(self.ifindex, self.settings).await.err().or(refused);
        }
        let complaint = refused.map(|error| error.to_string());
        if let Some(text) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            tracing::warn!(device = self.name, "vxlan device stays as it is: {text}");
        }
        self.complaint = complaint;
    }

    async fn make(&self, netlink: &Netlink) -> Result<Link, Error> {
        netlink.add_vxlan(&self.name, self.settings, self.mac, self.mtu).await?;
        netlink.refuse_router_advertisements(&self.name);
        tracing::info!(device = self.name, mac = %Mac(self.mac), mtu = self.mtu, "vxlan device made");
        let made = netlink.link(&self.name).await?;
        made.ok_or_else(|| Error::NoLink { name: self.name.clone() })
    }

    /// Whether a device can stay, by upstream's rules: what the kernel cannot change later must agree where both say.
    fn fits(&self, link: &Link) -> Result<bool, Error> {
        let Some(found) = link.vxlan else {
            return Err(Error::Refused {
                what: format!("use {} as vxlan device", self.name),
                why: format!("there is an interface of that name and it is a {}; rename or remove it", kind(link)),
                errno: 0,
            });
        };
        let wanted = &self.settings;
        let both = |found: Option<u32>, wanted: Option<u32>| found.is_none() || wanted.is_none() || found == wanted;
        Ok(found.vni == wanted.vni
            && both(found.dev, wanted.dev)
            && (found.local.is_none() || wanted.local.is_none() || found.local == wanted.local)
            && found.group == wanted.group
            && found.l2miss == wanted.l2miss
            && (found.port == 0 || wanted.port == 0 || found.port == wanted.port)
            && found.gbp == wanted.gbp
            && found.external == wanted.external)
    }

    async fn ensure_address(&self, netlink: &Netlink) -> Result<(), Error> {
        let Some(wanted) = self.address else { return Ok(()) };
        let width = if wanted.is_ipv4() { 32 } else { 128 };
        let addresses = netlink.addresses().await?;
        let of_device = addresses.iter().filter(|address| address.ifindex == self.ifindex);
        for address in of_device.filter(|address| address.ip != wanted || address.prefix != width) {
            if self.is_leftover(address.ip) {
                netlink.remove_address(self.ifindex, address.ip, address.prefix).await?;
            }
        }
        netlink.ensure_address(self.ifindex, wanted, width).await
    }

    /// IPv4 addresses that somebody put there for other purposes stay; IPv6 has none but ours and the link-local one.
    fn is_leftover(&self, ip: IpAddr) -> bool {
        match (ip, self.network) {
            (IpAddr::V4(_), IpNet::V4(_)) => self.network.contains(&ip),
            (IpAddr::V6(v6), IpNet::V6(_)) => !v6.is_unicast_link_local(),
            _ => false,
        }
    }
}

fn kind(link: &Link) -> &str {
    if link.kind.is_empty() { "physical interface" } else { &link.kind }
}

/// A random, locally administered unicast address: set explicitly, so that udev does not choose another.
fn random_mac() -> [u8; 6] {
    let mut mac: [u8; 6] = rand::random();
    mac[0] = (mac[0] & 0xfe) | 0x02;
    mac
}
