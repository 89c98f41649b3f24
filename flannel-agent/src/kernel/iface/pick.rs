//! The choice as a pure function.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;

use super::{
    super::netlink::{Address, Link, Lookup},
    IfaceSpec, Stack, Uplink,
};

/// What the kernel lists.
pub(super) struct Facts {
    /// Interfaces, by index.
    pub(super) links: Vec<Link>,
    /// Addresses, in the kernel's order.
    pub(super) addresses: Vec<Address>,
    /// Interfaces of the IPv4 default routes, the best first; `None` for one with several next hops.
    pub(super) default_v4: Vec<Option<u32>>,
    /// The same for IPv6.
    pub(super) default_v6: Vec<Option<u32>>,
    /// The kernel's answer for `-iface-can-reach`.
    pub(super) reach: Option<Result<Lookup, String>>,
}

/// An interface and its addresses, while it is being chosen.
struct Found<'a> {
    link: &'a Link,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

/// Chooses; on failure says of each specification why it does not fit.
pub(super) fn pick(spec: &IfaceSpec, stack: Stack, facts: &Facts) -> Result<Uplink, Vec<String>> {
    let none_given = spec.iface.is_empty() && spec.iface_regex.is_empty() && spec.iface_can_reach.is_none();
    let mut tried = Vec::new();
    let mut attempt = |found: Result<Found<'_>, String>| match found.and_then(|f| finish(f, spec, stack, facts)) {
        Ok(uplink) => Some(uplink),
        Err(why) => {
            tried.push(why);
            None
        }
    };
    if none_given {
        let found = match (spec.public_ip, spec.public_ipv6) {
            (Some(ip), _) => by_address("-public-ip", IpAddr::V4(ip), facts),
            (None, Some(ip)) => by_address("-public-ipv6", IpAddr::V6(ip), facts),
            (None, None) => by_default_route(stack, facts),
        };
        return attempt(found).ok_or(tried);
    }
    let names = spec.iface.iter().map(|iface| by_word(iface, facts));
    let patterns = spec.iface_regex.iter().map(|pattern| by_pattern(pattern, stack, facts));
    let reach = spec.iface_can_reach.iter().map(|ip| by_reach(*ip, facts));
    let chosen = names.chain(patterns).chain(reach).find_map(&mut attempt);
    chosen.ok_or(tried)
}

/// `-iface`: an address or a name.
fn by_word<'a>(word: &str, facts: &'a Facts) -> Result<Found<'a>, String> {
    if let Ok(ip) = word.parse() {
        return by_address("-iface", ip, facts);
    }
    match facts.links.iter().find(|link| link.name == word) {
        Some(link) => Ok(Found { link, v4: None, v6: None }),
        None => Err(format!("-iface={word}: there is no such interface (there are: {})", names(facts))),
    }
}

/// Any address that an interface has will do here, loopback and deprecated ones included.
fn by_address<'a>(flag: &str, ip: IpAddr, facts: &'a Facts) -> Result<Found<'a>, String> {
    let owner = facts.addresses.iter().find(|address| address.ip == ip);
    let link = owner.and_then(|owner| link_at(owner.ifindex, facts));
    match (link, ip) {
        (Some(link), IpAddr::V4(v4)) => Ok(Found { link, v4: Some(v4), v6: None }),
        (Some(link), IpAddr::V6(v6)) => Ok(Found { link, v4: None, v6: Some(v6) }),
        (None, _) if flag == "-iface" => Err(format!("-iface={ip}: no interface has this address")),
        (None, _) => Err(format!(
            "{flag}={ip}: no interface has this address; if it is that of a NAT device before this host, also name the \
             interface with -iface"
        )),
    }
}

fn by_default_route(stack: Stack, facts: &Facts) -> Result<Found<'_>, String> {
    let v4 = default_link("IPv4", &facts.default_v4, facts)?;
    if stack == Stack::Dual {
        let v6 = default_link("IPv6", &facts.default_v6, facts)?;
        if v4.ifindex != v6.ifindex {
            return Err(format!(
                "the default routes leave by two interfaces, {} (IPv4) and {} (IPv6); name one with -iface",
                v4.name, v6.name
            ));
        }
    }
    Ok(Found { link: v4, v4: None, v6: None })
}

fn default_link<'a>(family: &str, routes: &[Option<u32>], facts: &'a Facts) -> Result<&'a Link, String> {
    match routes.first() {
        None => Err(format!("there is no {family} default route whose interface could be taken; name one with -iface")),
        Some(None) => Err(format!("the {family} default route has several next hops; name an interface with -iface")),
        Some(Some(ifindex)) => link_at(*ifindex, facts)
            .ok_or_else(|| format!("interface {ifindex} of the {family} default route has just gone")),
    }
}

/// `-iface-regex`: addresses of all interfaces first, then names.
fn by_pattern<'a>(pattern: &str, stack: Stack, facts: &'a Facts) -> Result<Found<'a>, String> {
    let regex = Regex::new(pattern).map_err(|error| format!("-iface-regex={pattern}: {error}"))?;
    for link in &facts.links {
        let v4 = usable_v4(link, facts).find(|ip| regex.is_match(&ip.to_string()));
        let v6 = usable_v6(link, facts).find(|ip| regex.is_match(&ip.to_string()));
        match stack {
            Stack::V4 if v4.is_some() => return Ok(Found { link, v4, v6: None }),
            Stack::Dual if v4.is_some() && v6.is_some() => return Ok(Found { link, v4, v6 }),
            Stack::V4 | Stack::Dual => {}
        }
    }
    let named = facts.links.iter().filter(|link| regex.is_match(&link.name));
    let fitting = named.clone().find(|link| usable_v4(link, facts).next().is_some());
    match fitting.or_else(|| named.clone().next()) {
        Some(link) => Ok(Found { link, v4: None, v6: None }),
        None => Err(format!("-iface-regex={pattern}: matches no address and no name (of {})", names(facts))),
    }
}

fn by_reach(ip: IpAddr, facts: &Facts) -> Result<Found<'_>, String> {
    let lookup = match &facts.reach {
        Some(Ok(lookup)) => lookup,
        Some(Err(why)) => return Err(format!("-iface-can-reach={ip}: {why}")),
        None => return Err(format!("-iface-can-reach={ip}: the kernel was not asked")),
    };
    let link = link_at(lookup.ifindex, facts)
        .ok_or_else(|| format!("-iface-can-reach={ip}: interface {} has just gone", lookup.ifindex))?;
    Ok(match lookup.source {
        Some(IpAddr::V4(v4)) => Found { link, v4: Some(v4), v6: None },
        Some(IpAddr::V6(v6)) => Found { link, v4: None, v6: Some(v6) },
        None => Found { link, v4: None, v6: None },
    })
}

/// Adds what the specification leaves open: the other addresses, MTU and public addresses.
fn finish(found: Found<'_>, spec: &IfaceSpec, stack: Stack, facts: &Facts) -> Result<Uplink, String> {
    let link = found.link;
    if stack == Stack::V4 && found.v6.is_some() {
        return Err(format!("{} was chosen by an IPv6 address, but the network is IPv4 alone", link.name));
    }
    let address = found.v4.or_else(|| usable_v4(link, facts).next()).ok_or_else(|| {
        format!("{} has no usable IPv4 address (loopback and deprecated ones do not count)", link.name)
    })?;
    let v6 = match stack {
        Stack::V4 => None,
        Stack::Dual => Some(choose_v6(&found, spec, facts)?),
    };
    if link.mtu == 0 {
        return Err(format!("{} has an MTU of 0; set one with `ip link set {} mtu 1500`", link.name, link.name));
    }
    Ok(Uplink {
        ifindex: link.ifindex,
        name: link.name.clone(),
        address,
        v6,
        mtu: link.mtu,
        mac: link.mac.unwrap_or_default(),
        public_ip: spec.public_ip.unwrap_or(address),
        public_ipv6: v6.map(|v6| spec.public_ipv6.unwrap_or(v6)),
    })
}

fn choose_v6(found: &Found<'_>, spec: &IfaceSpec, facts: &Facts) -> Result<Ipv6Addr, String> {
    let link = found.link;
    if let Some(v6) = found.v6 {
        return Ok(v6);
    }
    // A public IPv6 address of this host must be on the same interface; one of a NAT device is only published.
    if let Some(public) = spec.public_ipv6
        && let Some(owner) = facts.addresses.iter().find(|address| address.ip == IpAddr::V6(public))
    {
        if owner.ifindex != link.ifindex {
            return Err(format!("-public-ipv6={public} is not an address of {}", link.name));
        }
        return Ok(public);
    }
    usable_v6(link, facts).next().ok_or_else(|| format!("{} has no usable IPv6 address", link.name))
}

fn usable_v4<'a>(link: &Link, facts: &'a Facts) -> impl Iterator<Item = Ipv4Addr> + use<'a> {
    usable(link, facts).into_iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None })
}

fn usable_v6<'a>(link: &Link, facts: &'a Facts) -> impl Iterator<Item = Ipv6Addr> + use<'a> {
    usable(link, facts).into_iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None })
}

/// Usable addresses, the best first: global before link-local, then permanent before dynamic, then non-temporary
/// before temporary; otherwise in the kernel's order.
fn usable(link: &Link, facts: &Facts) -> Vec<IpAddr> {
    let of_link = facts.addresses.iter().filter(|address| address.ifindex == link.ifindex);
    let mut usable: Vec<&Address> =
        of_link.filter(|address| !address.deprecated && (is_global(address.ip) || is_link_local(address.ip))).collect();
    usable.sort_by_key(|address| (is_link_local(address.ip), !address.permanent, address.temporary));
    usable.into_iter().map(|address| address.ip).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Global unicast in Go's sense, in which private networks count as global.
fn is_global(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip))
}

fn link_at(ifindex: u32, facts: &Facts) -> Option<&Link> {
    facts.links.iter().find(|link| link.ifindex == ifindex)
}

fn names(facts: &Facts) -> String {
    facts.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}
