//! A whole flannel cluster: hosts, a real etcd and a real flanneld on each host.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    etcd::Etcd,
    flanneld::{Flanneld, PREFIX},
    netns::Netns,
    topology::{Container, Topology},
};

/// How long a flanneld may take to its lease while others build or test on the same machine.
pub const READY: Duration = Duration::from_secs(30);

/// A cluster; everything ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// One flanneld a host, in the order of the hosts.
    pub nodes: Vec<Flanneld>,
    /// The hosts.
    pub topology: Topology,
    /// The store, at `.2` of the first segment.
    pub etcd: Etcd,
    /// Where the store runs.
    pub etcd_ns: Netns,
}

impl Cluster {
    /// Adds etcd with this cluster configuration to the topology, and a flanneld to each host, not yet started.
    pub fn new(topology: Topology, config: &str) -> Result<Self> {
        let segment = topology.segments.first().context("a topology without a segment")?;
        let etcd_ns = Netns::new("etcd")?;
        let address = segment.plug(&etcd_ns, "eth0", 2)?;
        if topology.router.is_some() {
            etcd_ns.run(&format!("ip route add default via {}", segment.address(1)))?;
        }
        let etcd = Etcd::inside(&etcd_ns, address)?;
        etcd.put(&format!("{PREFIX}/config"), config)?;
        let endpoints = etcd.endpoints();
        let nodes = topology.hosts.iter().map(|host| Flanneld::new(&host.ns, &endpoints)).collect::<Result<_>>()?;
        Ok(Self { nodes, topology, etcd, etcd_ns })
    }

    /// Hosts in one segment with flanneld running and `containers` containers each.
    pub fn running(hosts: u8, containers: usize, config: &str) -> Result<Self> {
        let mut cluster = Self::new(Topology::flat(hosts)?, config)?;
        cluster.start_all()?;
        cluster.add_containers(containers)?;
        Ok(cluster)
    }

    /// Starts every flanneld and waits until each has its lease.
    pub fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        for node in &mut self.nodes {
            node.wait_ready(READY)?;
        }
        Ok(())
    }

    /// Gives each docker0 the address and MTU that `mk-docker-opts` tells Docker, and adds containers.
    pub fn add_containers(&mut self, count: usize) -> Result<()> {
        for (host, node) in self.topology.hosts.iter_mut().zip(&self.nodes) {
            let options = node.docker_opts()?;
            let option = |name: &str| options.get(name).with_context(|| format!("no {name} for Docker: {options:?}"));
            let bip: ipnet::Ipv4Net = option("--bip")?.parse()?;
            host.give_subnet(bip.trunc(), option("--mtu")?.parse()?)?;
            for _ in 0..count {
                host.add_container()?;
            }
        }
        Ok(())
    }

    /// Container number `container` of host number `host`, both from 0.
    pub fn container(&self, host: usize, container: usize) -> &Container {
        &self.topology.hosts[host].containers[container]
    }

    /// Waits until host number `from` can ping an address from its first container.
    pub fn wait_ping(&self, from: usize, to: Ipv4Addr, deadline: Duration) -> Result<Duration> {
        let ns = &self.container(from, 0).ns;
        let what = format!("an answer of {to} to host {}", from + 1);
        crate::wait::wait_until(&what, deadline, || ns.run(&format!("ping -c1 -W1 {to}")).is_ok())
    }
}
