//! The ways to the peers: routes, next hops, rules.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{broken, note, warning};
use crate::{
    doctor::{Finding, facts::Facts},
    kernel::inspect::{Ping, Route},
    rules::{Hit, Packet},
    state::PeerWay,
};

/// Address number `n` of a subnet.
fn nth(subnet: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(n))
}

/// The route that the kernel would take, going by the main table.
fn best(facts: &Facts, address: Ipv4Addr) -> Option<&Route> {
    let matching = facts.routes.iter().filter(|route| route.net().is_some_and(|net| net.contains(&address)));
    matching.max_by_key(|route| route.net().map(|net| net.prefix_len()))
}

fn shown(route: &Route) -> String {
    let via = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
    let dev = route.dev.as_ref().map_or(String::new(), |dev| format!(" dev {dev}"));
    let kind = route.kind.as_ref().map_or(String::new(), |kind| format!("{kind} "));
    format!("{kind}{}{via}{dev}", route.dst)
}

pub(super) fn routes(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for peer in facts.node.iter().flat_map(|node| &node.peers).filter(|peer| peer.way == PeerWay::Direct) {
        let route = best(facts, nth(peer.subnet, 1));
        if route.is_some_and(|route| route.gateway == Some(peer.public_ip)) {
            continue;
        }
        let uplink = facts.uplink.as_deref().unwrap_or("UPLINK");
        let remedy = format!(
            "ip route replace {} via {} dev {uplink} (flanneld does it by itself: flannelctl events)",
            peer.subnet, peer.public_ip
        );
        let inside =
            |route: &&Route| facts.network.is_some_and(|network| route.net().is_some_and(|net| network.contains(&net)));
        findings.push(match route.filter(inside) {
            None => {
                let what = format!("there is no route to {} of {}", peer.subnet, peer.public_ip);
                broken(
                    "route-missing",
                    what,
                    "packets for its containers leave by the default route, or nowhere",
                    remedy,
                )
            }
            Some(route) => {
                let what = format!("{} of {} is routed otherwise: {}", peer.subnet, peer.public_ip, shown(route));
                broken("route-conflict", what, "packets for its containers go elsewhere", remedy)
            }
        });
    }
    findings.extend(stale(facts));
    findings.extend(gaps(facts));
    findings
}

/// Routes into the network that no lease asks for.
fn stale(facts: &Facts) -> Vec<Finding> {
    let (Some(network), Some(leases)) = (facts.network, &facts.leases) else { return vec![] };
    let stale = facts.routes.iter().filter(|route| {
        route.gateway.is_some()
            && route.net().is_some_and(|net| network.contains(&net) && !leases.iter().any(|row| row.subnet == net))
    });
    stale
        .map(|route| {
            let what = format!("route {} belongs to no lease", shown(route));
            let why = "a node that left: its packets go to a host that no longer has them, and the subnet's next owner is not reached";
            warning("route-stale", what, why, format!("ip route del {}", shown(route)))
        })
        .collect()
}

/// Without an agent: whether this node has any route into the network.
fn gaps(facts: &Facts) -> Vec<Finding> {
    let (None, Some(network)) = (&facts.node, facts.network) else { return vec![] };
    let inside = |route: &&Route| route.gateway.is_some() && route.net().is_some_and(|net| network.contains(&net));
    if facts.routes.iter().any(|route| inside(&route))
        || facts.links.iter().any(|link| link.name.starts_with("flannel"))
    {
        return vec![];
    }
    let what = format!("there is no route into {network} through another host");
    let why = "this node is alone in its cluster, or its routes were deleted";
    vec![warning("route-missing", what, why, "systemctl restart flanneld")]
}

pub(super) fn next_hops(facts: &Facts) -> Vec<Finding> {
    let silent = facts.pings.iter().filter(|(_, ping)| **ping == Ping::Silent).map(|(host, _)| *host);
    silent.flat_map(|host| dead(facts, host)).collect()
}

/// Hosts that get small packets but not those as large as this node's uplink sends.
pub(super) fn sizes(facts: &Facts) -> Vec<Finding> {
    let answered = |host| facts.pings.get(host) == Some(&Ping::Answered);
    let refused = facts.large_pings.iter().filter(|(host, (_, large))| answered(host) && *large != Ping::Answered);
    refused
        .map(|(host, (size, _))| {
            let what = format!("{host} answers small packets, but not those of {size} bytes, which this node sends");
            let why = "small packets pass and large ones do not: connections open, then hang";
            let remedy = format!("flannelctl doctor --peer {host} finds the size that passes, and the command");
            broken("mtu-mismatch", what, why, remedy)
        })
        .collect()
}

/// What a host that does not answer leads nowhere.
fn dead(facts: &Facts, host: Ipv4Addr) -> Vec<Finding> {
    let failed = facts.neighbours.iter().any(|neighbour| {
        neighbour.dst == host && neighbour.state.iter().any(|state| matches!(state.as_str(), "FAILED" | "INCOMPLETE"))
    });
    let leases = facts.leases.iter().flatten().filter(|row| row.public_ip == host).map(|row| (row.subnet, row.ttl));
    let mut subnets: Vec<(Ipv4Net, Option<u64>)> = leases.collect();
    if subnets.is_empty() {
        let routes = facts.routes.iter().filter(|route| route.gateway == Some(host));
        subnets = routes.filter_map(|route| Some((route.net()?, None))).collect();
    }
    let judge = |(subnet, ttl): (Ipv4Net, Option<u64>)| {
        let left =
            ttl.map_or(String::new(), |ttl| format!("; its lease has {} left", crate::ctl::table::duration(ttl)));
        if failed {
            let what = format!("{host}, the next hop to {subnet}, does not answer ARP{left}");
            let why = "the host is down or has left: packets for its containers are lost";
            broken("dead-next-hop", what, why, format!("start the host, or flannelctl lease release {subnet}"))
        } else {
            let what = format!("{host}, the next hop to {subnet}, does not answer a ping{left}");
            let why = "the host is busy, or filters ICMP: then this is harmless";
            note("silent-next-hop", what, why, format!("flannelctl doctor --peer {host}"))
        }
    };
    subnets.into_iter().map(judge).collect()
}

/// A packet between our containers and another subnet, both ways.
fn packets(facts: &Facts) -> Option<[(Packet, &'static str); 2]> {
    let (subnet, network, uplink) = (facts.subnet?, facts.network?, facts.uplink.clone()?);
    let known = facts.node.iter().flat_map(|node| &node.peers).find(|peer| peer.way != PeerWay::Ignored);
    let other = known.map_or_else(|| any_other(network, subnet), |peer| peer.subnet);
    let oif = best(facts, nth(other, 2))
        .filter(|route| route.net() != Some(Ipv4Net::default()))
        .and_then(|route| route.dev.clone());
    let far = oif.unwrap_or(uplink);
    let packet = |src, dst, iif: &str, oif: &str| Packet {
        src,
        dst,
        proto: Some(6),
        sport: None,
        dport: None,
        iif: iif.to_owned(),
        oif: oif.to_owned(),
    };
    Some([
        (packet(nth(subnet, 2), nth(other, 2), &facts.bridge, &far), "from containers to other hosts"),
        (packet(nth(other, 2), nth(subnet, 2), &far, &facts.bridge), "from other hosts to containers"),
    ])
}

/// A subnet of the network that is not ours.
fn any_other(network: Ipv4Net, subnet: Ipv4Net) -> Ipv4Net {
    let length = subnet.prefix_len().max(network.prefix_len());
    let mut subnets = network.subnets(length).into_iter().flatten();
    subnets.find(|other| *other != subnet).unwrap_or(subnet)
}

pub(super) fn firewall(facts: &Facts) -> Vec<Finding> {
    let dropped =
        packets(facts).into_iter().flatten().filter_map(|(packet, words)| Some((facts.rules.dropped(&packet)?, words)));
    let mut findings: Vec<Finding> = dropped.map(|(hit, words)| judge(facts, &hit, words)).collect();
    findings.extend(direct_access(facts));
    findings
}

fn judge(facts: &Facts, hit: &Hit, words: &str) -> Finding {
    let network = facts.network.map_or_else(|| "NETWORK".to_owned(), |network| network.to_string());
    if hit.rule.starts_with("the policy") {
        let what = format!("packets {words} are dropped by the policy of {}", hit.chain);
        let why = "Docker sets FORWARD to DROP, and no rule lets the flannel network pass";
        let remedy = format!(
            "start flanneld with -iptables-forward-rules=true; or iptables -I FORWARD -s {network} -j ACCEPT && iptables -I FORWARD -d {network} -j ACCEPT"
        );
        return broken("forward-drop", what, why, remedy);
    }
    let what = format!("packets {words} are dropped by a rule of {}: {}", hit.chain, hit.rule);
    let remedy = hit.rule.strip_prefix("-A ").map_or_else(
        || format!("nft -a list ruleset shows the handle of the rule in {}; nft delete rule removes it", hit.chain),
        |rule| format!("iptables -t {} -D {rule}", hit.chain.split(' ').next().unwrap_or("filter")),
    );
    broken("drop-rule", what, "fast or slow, no packet passes a rule that drops it", remedy)
}

/// Docker from 28 on drops packets that come for a container's own address from another host, one rule for each container.
fn direct_access(facts: &Facts) -> Option<Finding> {
    let (subnet, uplink) = (facts.subnet?, facts.uplink.clone()?);
    let network = facts.network?;
    let container = facts.rules.guarded(subnet)?;
    let src = nth(any_other(network, subnet), 2);
    let packet = Packet {
        src,
        dst: container,
        proto: Some(6),
        sport: None,
        dport: None,
        iif: uplink,
        oif: facts.bridge.clone(),
    };
    let hit = facts.rules.dropped(&packet).filter(|hit| hit.chain.contains("PREROUTING"))?;
    let what = format!("packets from other hosts to {container} are dropped before routing: {}", hit.rule);
    let why = "Docker from 28 on forbids direct access to containers from outside their host";
    let remedy = "start dockerd with --allow-direct-routing (28.2 and later), or make the network with -o com.docker.network.bridge.trusted_host_interfaces";
    Some(broken("docker-direct-access", what, why, remedy))
}
