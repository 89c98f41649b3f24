//! This host as the lease makes it: one pass reads what is in the kernel, compares it with what should be there, and
//! applies the difference to the routes and to the fast path beside them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use ipnet::{IpNet, Ipv4Net};

use crate::{
    backend::{self, Backend, Change, Foreign, Object, Reached, Slot},
    config::NetworkConfig,
    events::EventLog,
    fastpath::{self, FastPath},
    kernel::{
        iface::Uplink,
        netlink::{self, Netlink},
    },
    lease::{Lease, Subnet},
    logging::Repeats,
    plan::desired::plan,
    state::{Reconcile, Warning},
};

/// The host's side of a lease.
pub(super) struct Node {
    pub(super) netlink: Netlink,
    pub(super) config: NetworkConfig,
    pub(super) uplink: Uplink,
    pub(super) backend: Backend,
    /// `None` where the kernel, our rights or the flags leave only the routes.
    pub(super) fastpath: Option<FastPath>,
    /// Whether the fast path decides by itself, and so must know where each container is.
    pub(super) trusted: bool,
    /// Whether our own subnet gets a route of last resort.
    pub(super) blackhole: bool,
    /// Names of the containers' bridges.
    pub(super) bridges: Vec<String>,
    /// Networks whose routes of ours are cleaned up: the current one and the one of an earlier run.
    pub(super) networks: Vec<IpNet>,
    /// Our own subnet.
    pub(super) own: Subnet,
    /// What the last pass found.
    pub(super) found: Found,
    pub(super) reconcile: Reconcile,
    pub(super) events: EventLog,
    /// Keeps a fault of every pass from filling the log.
    pub(super) repeats: Repeats,
    /// When the agent started: the clock of `repeats`.
    pub(super) started: Instant,
}

/// What a pass found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// How each peer is reached.
    pub(super) peers: BTreeMap<Subnet, Reached>,
    /// Routes of others to peers' subnets.
    pub(super) conflicts: Vec<Foreign>,
    /// What the kernel refused, in words.
    pub(super) failures: Vec<String>,
    /// What the fast path could not do.
    pub(super) fastpath: Vec<Warning>,
    /// The bridges that are there, each with its IPv4 addresses.
    pub(super) bridges: Vec<(String, Vec<Ipv4Net>)>,
}

impl Node {
    /// Makes the kernel hold what the leases ask for. Doing so twice changes nothing.
    pub(super) async fn pass(&mut self, peers: &[&Lease]) {
        let start = Instant::now();
        let mut found = Found::default();
        match self.backend.look(peers, &self.networks, &self.netlink).await {
            Ok(observed) => self.routes(peers, &observed, &mut found).await,
            Err(error) => {
                found.failures.push(error.to_string());
                found.peers = std::mem::take(&mut self.found.peers);
            }
        }
        if self.blackhole {
            for subnet in subnets(self.own) {
                found.failures.extend(self.netlink.put_blackhole(subnet).await.err().map(|error| error.to_string()));
            }
        }
        if let Err(error) = self.shortcut(peers, &mut found).await {
            found.failures.push(format!("fast path: {error}"));
        }
        self.report(&found.failures);
        self.reconcile.passes += 1;
        self.reconcile.failures += found.failures.len() as u64;
        self.reconcile.last_us = start.elapsed().as_micros() as u64;
        self.found = found;
    }

    /// Carries on over another uplink, or with other options of the backend. On an error everything stays as it was.
    pub(super) async fn rebuild(&mut self, config: NetworkConfig, uplink: Uplink) -> Result<(), backend::Error> {
        self.backend.yield_place();
        let mut backend = Backend::prepare(&config, &uplink, &self.netlink).await?;
        backend.lease_acquired(self.own, &self.netlink).await?;
        (self.backend, self.uplink, self.config) = (backend, uplink, config);
        Ok(())
    }

    async fn routes(&mut self, peers: &[&Lease], observed: &backend::Observed, found: &mut Found) {
        let desired = self.backend.desired(peers, observed);
        let plan = plan(&desired.objects, observed);
        let failed = self.netlink.apply(&plan.changes).await;
        for change in plan.changes.iter().filter(|change| failed.iter().all(|(other, _)| other != *change)) {
            self.reconcile.changes += 1;
            self.events.record(kind(change), text(change));
        }
        found.failures.extend(failed.iter().map(|(change, error)| format!("{change}: {error}")));
        found.conflicts = plan.conflicts;
        self.report_peers(&desired.peers);
        found.peers = desired.peers;
    }

    /// Tells the fast path what is there now.
    async fn shortcut(&mut self, peers: &[&Lease], found: &mut Found) -> Result<(), netlink::Error> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        for bridge in links.iter().filter(|link| self.bridges.contains(&link.name)) {
            let own = addresses.iter().filter(|address| address.ifindex == bridge.ifindex);
            found.bridges.push((bridge.name.clone(), own.filter_map(v4_net).collect()));
        }
        let Some(fastpath) = &mut self.fastpath else { return Ok(()) };
        let bridges: Vec<fastpath::Bridge> = links
            .iter()
            .filter(|link| self.bridges.contains(&link.name))
            .filter_map(|link| bridge(link, &links))
            .collect();
        let endpoints = if self.trusted { endpoints(&self.netlink, &bridges).await? } else { BTreeMap::new() };
        let uplinks = self.backend.uplinks();
        let inputs = fastpath::Inputs {
            subnet: self.own.v4,
            peers: peers.iter().map(|peer| (peer.subnet.v4.trunc(), peer_input(peer, &found.peers))).collect(),
            uplinks: links
                .iter()
                .filter(|l| uplinks.iter().any(|(index, _)| *index == l.ifindex))
                .map(|link| fastpath::Link::among(&links, link))
                .collect(),
            bridges,
            endpoints,
        };
        let uplinks = inputs.uplinks.iter().map(|link| link.ifindex);
        for ifindex in uplinks.chain(inputs.bridges.iter().map(|bridge| bridge.ifindex)) {
            fastpath.neighbours(ifindex, self.netlink.neighbours(ifindex).await?);
        }
        found.fastpath = fastpath.sync(&inputs);
        Ok(())
    }

    /// Says once what becomes wrong with a peer, and once that it is well again.
    fn report_peers(&self, now: &BTreeMap<Subnet, Reached>) {
        let problem =
            |peers: &BTreeMap<Subnet, Reached>, subnet| peers.get(subnet).and_then(|peer| peer.problem.clone());
        for subnet in now.keys() {
            match (problem(&self.found.peers, subnet), problem(now, subnet)) {
                (before, Some(text)) if before.as_ref() != Some(&text) => {
                    self.events.fault("peer-problem", format!("peer {subnet}: {text}"));
                }
                (Some(_), None) => self.events.record("peer-well", format!("peer {subnet} is well again")),
                _ => {}
            }
        }
    }

    /// Says each fault once, and again ever more rarely while it lasts.
    fn report(&mut self, failures: &[String]) {
        let now = self.started.elapsed();
        for failure in failures {
            if let Some(unsaid) = self.repeats.admit(failure, now) {
                let again =
                    if unsaid > 0 { format!(" ({unsaid} more times since it was last said)") } else { String::new() };
                self.events.fault("reconcile-failed", format!("{failure}{again}"));
            }
        }
        for gone in self.found.failures.iter().filter(|before| !failures.contains(before)) {
            self.repeats.clear(gone);
        }
    }
}

/// The subnets of a lease, one per family.
pub(super) fn subnets(own: Subnet) -> impl Iterator<Item = IpNet> {
    std::iter::once(IpNet::V4(own.v4)).chain(own.v6.map(IpNet::V6))
}

/// One line about a change; for routes it begins with the words that flannel's operators look for.
fn text(change: &Change) -> String {
    match change {
        Change::Put(Slot::Route(dst), Object::Route { gateway: Some(via), .. })
        | Change::Replace { slot: Slot::Route(dst), new: Object::Route { gateway: Some(via), .. }, .. } => {
            format!("Subnet added: {dst} via {via}")
        }
        Change::Remove(Slot::Route(dst), _) => format!("Subnet removed: {dst}"),
        Change::Put(..) | Change::Replace { .. } | Change::Remove(..) => change.to_string(),
    }
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Put(..) => "put",
        Change::Replace { .. } => "replace",
        Change::Remove(..) => "remove",
    }
}

fn v4_net(address: &netlink::Address) -> Option<Ipv4Net> {
    match address.ip {
        IpAddr::V4(ip) => Ipv4Net::new(ip, address.prefix).ok(),
        IpAddr::V6(_) => None,
    }
}

/// A bridge with its ports; something else of that name is none.
fn bridge(link: &netlink::Link, links: &[netlink::Link]) -> Option<fastpath::Bridge> {
    let ports = links.iter().filter(|port| port.master == Some(link.ifindex)).map(fastpath::Link::from).collect();
    Some(fastpath::Bridge { ifindex: link.ifindex, name: link.name.clone(), mac: link.mac?, ports })
}

/// A peer as the fast path sees it; one that is not reached is left to the kernel.
fn peer_input(peer: &Lease, reached: &BTreeMap<Subnet, Reached>) -> fastpath::PeerInput {
    let way = reached.get(&peer.subnet).and_then(|reached| reached.via);
    fastpath::PeerInput { host: peer.attrs.public_ip, way }
}

/// Where each container is, by its address.
async fn endpoints(
    netlink: &Netlink,
    bridges: &[fastpath::Bridge],
) -> Result<BTreeMap<Ipv4Addr, fastpath::Endpoint>, netlink::Error> {
    let mut found = BTreeMap::new();
    for bridge in bridges {
        for endpoint in netlink.endpoints(bridge.ifindex).await? {
            if let (IpAddr::V4(ip), Some(port)) = (endpoint.ip, endpoint.port) {
                found.insert(ip, fastpath::Endpoint { ifindex: port, mac: endpoint.mac, bridge_mac: bridge.mac });
            }
        }
    }
    Ok(found)
}
