//! The steps, from facts. Pure.

use std::net::Ipv4Addr;

use super::{Question, Step};
use crate::{
    doctor::facts::Facts,
    kernel::inspect::{Link, Route},
    rules::{Effect, Hit, Packet},
    state::PeerWay,
    traffic::FlowRow,
};

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// One of our containers'.
    Container,
    /// This host's.
    Host,
    /// A container's of the peer with this host address.
    Peer(Ipv4Addr),
    /// Inside the network, but in no lease that is known.
    Nobody,
    /// Outside the network.
    Outside,
}

fn owner(facts: &Facts, address: Ipv4Addr) -> Owner {
    if facts.links.iter().flat_map(Link::nets).any(|net| net.addr() == address) {
        return Owner::Host;
    }
    if facts.subnet.is_some_and(|subnet| subnet.contains(&address)) {
        return Owner::Container;
    }
    match facts.holder(address) {
        Some((_, host)) => Owner::Peer(host),
        None if facts.network.is_some_and(|network| network.contains(&address)) => Owner::Nobody,
        None => Owner::Outside,
    }
}

/// The interface by which packets from an address come into this host; `None` if it is this host's own.
pub(super) fn incoming(facts: &Facts, src: Ipv4Addr) -> Option<String> {
    match owner(facts, src) {
        Owner::Host => None,
        Owner::Container => {
            let bridge = facts.links.iter().find(|link| link.nets().any(|net| net.contains(&src)));
            Some(bridge.map_or_else(|| facts.bridge.clone(), |link| link.name.clone()))
        }
        Owner::Peer(_) | Owner::Nobody | Owner::Outside => {
            // A tunnel's packets come out of its device.
            let tunnel = facts.links.iter().find(|link| link.name.starts_with("flannel."));
            tunnel.map(|link| link.name.clone()).or_else(|| facts.uplink.clone())
        }
    }
}

/// The way of a packet.
pub fn steps(facts: &Facts, question: &Question) -> Vec<Step> {
    let ends = (owner(facts, question.src), owner(facts, question.dst));
    let mut steps = vec![lease(facts, question.src, ends.0), lease(facts, question.dst, ends.1)];
    steps.push(route(facts, question, ends.1));
    let oif = question.route.as_ref().ok().and_then(|route| route.dev.clone());
    if let (Some(iif), Some(oif)) = (&question.iif, &oif) {
        steps.push(rules(facts, question, iif, oif));
    }
    let hook = hooks(facts, ends);
    let flow = flow(question);
    steps.extend(hook.iter().cloned());
    steps.push(flow);
    steps.push(verdict(facts, &steps, ends, question));
    steps
}

fn step(step: &'static str, says: impl Into<String>) -> Step {
    Step { step, says: says.into(), remedy: None }
}

fn lost(name: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Step {
    Step { step: name, says: says.into(), remedy: Some(remedy.into()) }
}

fn lease(facts: &Facts, address: Ipv4Addr, owner: Owner) -> Step {
    match owner {
        Owner::Host => step("lease", format!("{address} is this host's own")),
        Owner::Container => {
            let subnet = facts.subnet.map_or(String::new(), |subnet| format!(" {subnet}"));
            step("lease", format!("{address} is in this node's subnet{subnet}"))
        }
        Owner::Peer(host) => {
            let subnet = facts.holder(address).map_or(String::new(), |(subnet, _)| subnet.to_string());
            step("lease", format!("{address} is in {subnet}, leased to {host}"))
        }
        Owner::Outside => step("lease", format!("{address} is outside the flannel network")),
        Owner::Nobody if facts.node.is_none() => step(
            "lease",
            format!("{address} is in the flannel network; whose it is only a running flanneld could tell"),
        ),
        Owner::Nobody => lost(
            "lease",
            format!("{address} is in the flannel network, but nobody has leased its subnet"),
            "flannelctl leases shows which subnets there are",
        ),
    }
}

fn shown(route: &Route) -> String {
    let via = route.gateway.map_or_else(|| " directly".to_owned(), |gateway| format!(" via {gateway}"));
    let dev = route.dev.as_ref().map_or(String::new(), |dev| format!(" by {dev}"));
    format!("{}{via}{dev}", route.kind.as_ref().map_or(String::new(), |kind| format!("{kind} ")))
}

fn route(facts: &Facts, question: &Question, dst: Owner) -> Step {
    let restart = "systemctl restart flanneld";
    let route = match &question.route {
        Ok(route) => route,
        Err(error) => {
            let says = format!("the kernel has no route to {}: {error}", question.dst);
            let remedy = match dst {
                Owner::Outside => "ip route shows this host's own routes: flannel has no part in this one".to_owned(),
                _ => missing(facts, question.dst).unwrap_or_else(|| restart.to_owned()),
            };
            return lost("route", says, remedy);
        }
    };
    let way = shown(route);
    let inside = matches!(dst, Owner::Peer(_) | Owner::Nobody);
    let by_default = !facts
        .routes
        .iter()
        .any(|one| one.dst != "default" && one.net().is_some_and(|net| net.contains(&question.dst)));
    if inside && by_default {
        let says = format!("there is no route to {}'s subnet: it goes{way}, by the default route", question.dst);
        return lost("route", says, missing(facts, question.dst).unwrap_or_else(|| restart.to_owned()));
    }
    if let (Owner::Peer(host), Some(gateway)) = (dst, route.gateway)
        && gateway != host
        && is_direct(facts, host)
    {
        let says = format!("the kernel sends it{way}, but the lease is {host}'s");
        return lost("route", says, missing(facts, question.dst).unwrap_or_else(|| restart.to_owned()));
    }
    if let Some(gateway) = route.gateway.filter(|gateway| is_dead(facts, *gateway)) {
        let subnet = facts.holder(question.dst).map_or_else(|| "SUBNET".to_owned(), |(subnet, _)| subnet.to_string());
        let says =
            format!("the kernel sends it{way}, but {gateway} does not answer ARP: that host is down or has left");
        return lost("route", says, format!("start that host, or flannelctl lease release {subnet}"));
    }
    step("route", format!("the kernel sends it{way}"))
}

/// The command that makes the route that should be there.
fn missing(facts: &Facts, dst: Ipv4Addr) -> Option<String> {
    let (subnet, host) = facts.holder(dst)?;
    let uplink = facts.uplink.as_deref().unwrap_or("UPLINK");
    Some(format!("ip route replace {subnet} via {host} dev {uplink}; flannelctl events tells why flanneld did not"))
}

fn is_direct(facts: &Facts, host: Ipv4Addr) -> bool {
    facts.node.iter().flat_map(|node| &node.peers).any(|peer| peer.public_ip == host && peer.way == PeerWay::Direct)
}

fn is_dead(facts: &Facts, host: Ipv4Addr) -> bool {
    facts.neighbours.iter().any(|neighbour| {
        neighbour.dst == host && neighbour.state.iter().any(|state| matches!(state.as_str(), "FAILED" | "INCOMPLETE"))
    })
}

fn rules(facts: &Facts, question: &Question, iif: &str, oif: &str) -> Step {
    let packet = Packet {
        src: question.src,
        dst: question.dst,
        proto: Some(question.proto),
        sport: question.sport,
        dport: question.dport,
        iif: iif.to_owned(),
        oif: oif.to_owned(),
    };
    let hits = facts.rules.walk(&packet);
    if let Some(hit) = hits.iter().find(|hit| hit.effect == Effect::Drop && hit.certain) {
        let says = format!("{} drops it: {}", hit.chain, hit.rule);
        return lost("rules", says, remedy(facts, hit));
    }
    let touching = |hit: &&Hit| hit.effect != Effect::Accept;
    let words: Vec<String> = hits.iter().filter(touching).map(describe).collect();
    match words.len() {
        0 => step("rules", format!("in by {iif}, out by {oif}: no rule drops or changes it")),
        _ => step("rules", format!("in by {iif}, out by {oif}: {}", words.join("; "))),
    }
}

fn describe(hit: &Hit) -> String {
    let may = if hit.certain { "" } else { "may " };
    let verb = match (hit.effect, hit.certain) {
        (Effect::Drop, _) => "drop it",
        (Effect::Nat, true) => "rewrites its addresses",
        (Effect::Nat, false) => "rewrite its addresses",
        (Effect::Mangle, true) => "changes it",
        (Effect::Mangle, false) => "change it",
        (Effect::Accept, _) => "accept it",
    };
    format!("{} {may}{verb}: {}", hit.chain, hit.rule)
}

fn remedy(facts: &Facts, hit: &Hit) -> String {
    if let Some(rule) = hit.rule.strip_prefix("-A ") {
        return format!("iptables -t {} -D {rule}", hit.chain.split(' ').next().unwrap_or("filter"));
    }
    let network = facts.network.map_or_else(|| "NETWORK".to_owned(), |network| network.to_string());
    if hit.rule.starts_with("the policy") {
        return format!(
            "start flanneld with -iptables-forward-rules=true; or iptables -I FORWARD -s {network} -j ACCEPT && iptables -I FORWARD -d {network} -j ACCEPT"
        );
    }
    "nft -a list ruleset shows the rule's handle; nft delete rule removes it".to_owned()
}

/// The hooks that a packet between these ends meets.
fn hooks(facts: &Facts, ends: (Owner, Owner)) -> Option<Step> {
    let node = facts.node.as_ref()?;
    let wanted: &[&str] = match ends {
        (Owner::Container, Owner::Peer(_)) => &["from_port", "to_uplink"],
        (Owner::Peer(_), Owner::Container) => &["from_uplink", "to_port"],
        (Owner::Peer(_), Owner::Peer(_)) => &["from_uplink", "to_uplink"],
        _ => {
            return Some(step(
                "hook",
                "the fast path is for packets between containers of different hosts: the kernel carries this one",
            ));
        }
    };
    if node.fastpath.mode == "off" {
        let why = node.fastpath.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        return Some(step("hook", format!("the fast path is off{why}")));
    }
    let is = |program: &str, name: &str| {
        program == name || program == format!("trusted_{name}") || (name == "to_port" && program == "to_bridge")
    };
    let mut words = Vec::new();
    for name in wanted {
        let hooks: Vec<_> = node.fastpath.hooks.iter().filter(|hook| is(&hook.program, name)).collect();
        let detached = hooks.iter().find(|hook| hook.rung == "none" || !facts.is_attached(hook));
        match (hooks.first(), detached) {
            (None, _) if node.fastpath.mode == "trusted" => {}
            (None, _) => words.push(format!("{name} is attached nowhere")),
            (_, Some(hook)) => {
                let reason = hook.reason.as_deref().unwrap_or("the kernel has no such program there");
                words.push(format!("{} is not attached to {} ({reason})", hook.program, hook.interface));
            }
            (Some(hook), None) => words.push(format!("{} by {}", hook.program, hook.rung)),
        }
    }
    Some(step("hook", words.join(", then ")))
}

/// The flow asked about, or the busiest between the addresses if no ports were given.
fn wanted(question: &Question) -> Option<&FlowRow> {
    let same = |flow: &&FlowRow| {
        flow.src == question.src
            && flow.dst == question.dst
            && flow.proto == question.proto
            && question.sport.is_none_or(|port| port == flow.sport)
            && question.dport.is_none_or(|port| port == flow.dport)
    };
    question.flows.iter().filter(same).max_by_key(|flow| flow.packets)
}

fn flow(question: &Question) -> Step {
    let Some(flow) = wanted(question) else {
        return step("flow", "no such flow is verified: its packets go by the kernel until one has passed unchanged");
    };
    let state = flow.slow.as_ref().map_or_else(|| "fast".to_owned(), |reason| format!("slow ({reason})"));
    step(
        "flow",
        format!(
            "{}:{} to {}:{} is {state}: {} packets, {} bytes by the fast path, verified {} ms ago",
            flow.src, flow.sport, flow.dst, flow.dport, flow.packets, flow.bytes, flow.verified_ms
        ),
    )
}

fn verdict(facts: &Facts, steps: &[Step], ends: (Owner, Owner), question: &Question) -> Step {
    if let Some(lost) = steps.iter().find(|step| step.remedy.is_some()) {
        return step("verdict", format!("lost at \"{}\"", lost.step));
    }
    if let Some(flow) = wanted(question) {
        return step(
            "verdict",
            flow.slow.as_ref().map_or_else(
                || "delivered by the fast path".to_owned(),
                |reason| format!("delivered by the kernel: {reason}"),
            ),
        );
    }
    let why = match ends {
        _ if question.proto != 6 && question.proto != 17 => "the fast path is for TCP and UDP",
        (Owner::Host, _) | (_, Owner::Host) => "this host is one of its ends",
        (Owner::Outside, _) | (_, Owner::Outside) => "one end is outside the flannel network",
        (Owner::Container, Owner::Container) => "both ends are on this host: the bridge carries it",
        _ if facts.node.is_none() => "no flanneld runs that could tell of flows",
        _ => "its flow is new, idle, or changed on its way by a rule",
    };
    step("verdict", format!("delivered by the kernel: {why}"))
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
