//! Addresses of interfaces.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use super::{Error, Netlink};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface that has it.
    pub ifindex: u32,
    /// The address itself (the local end of a point-to-point link).
    pub ip: IpAddr,
    /// Prefix length of its network.
    pub prefix: u8,
    /// Past its preferred lifetime.
    pub deprecated: bool,
    /// Set by hand, not by autoconfiguration.
    pub permanent: bool,
    /// A secondary address (IPv4), or a privacy address (IPv6): the kernel gives both the same flag.
    pub temporary: bool,
}

impl Netlink {
    /// All addresses of this namespace, in the kernel's order.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = AddressMessage::default();
            all.header.family = family;
            let listed = self.dump("list addresses", RouteNetlinkMessage::GetAddress(all)).await?;
            found.extend(listed.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => parse(message),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Gives an interface an address, unless it has it: the kernel tells of an address also when it was there before,
    /// and whoever then looks again would do so for ever.
    pub async fn ensure_address(&self, ifindex: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        let there = |found: &Address| (found.ifindex, found.ip, found.prefix) == (ifindex, ip, prefix);
        if self.addresses().await?.iter().any(there) {
            return Ok(());
        }
        let what = format!("add address {ip}/{prefix} to interface {ifindex}");
        let message = RouteNetlinkMessage::NewAddress(message(ifindex, ip, prefix));
        self.request(&what, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Takes an address from an interface.
    pub async fn remove_address(&self, ifindex: u32, ip: IpAddr, prefix: u8) -> Result<(), Error> {
        let what = format!("remove address {ip}/{prefix} from interface {ifindex}");
        self.request(&what, RouteNetlinkMessage::DelAddress(message(ifindex, ip, prefix)), 0).await
    }
}

fn message(ifindex: u32, ip: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut far = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        ip: local.or(far)?,
        prefix: message.header.prefix_len,
        deprecated: flags.contains(AddressFlags::Deprecated),
        permanent: flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
    })
}
