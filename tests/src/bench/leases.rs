//! The leases of one arm's cluster, written straight into etcd.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use etcd_client::{Client, Txn, TxnOp};
use ipnet::Ipv4Net;

use super::{agent::Store, arm::Arm, net};
use crate::netns::Netns;

/// Operations of one transaction: etcd takes 128.
const TXN: usize = 100;

/// The leases of one cluster.
#[derive(Debug)]
pub struct Leases {
    /// Key prefix of the cluster.
    pub prefix: String,
    backend: &'static str,
    ns: Netns,
    endpoint: String,
    peers: u32,
    spared: u32,
}

type Pair = (String, String);

impl Leases {
    /// Of the cluster of `arm`, under a prefix of its own.
    pub fn new(store: &mut Store, prefix: &str, arm: Arm) -> Result<Self> {
        let (ns, endpoint) = store.place()?;
        let backend = if arm == Arm::Udp { "udp" } else { "host-gw" };
        Ok(Self { prefix: prefix.to_owned(), backend, ns, endpoint, peers: 0, spared: 0 })
    }

    /// Writes the cluster configuration, the leases of both hosts and those of `peers` peers. An agent finds the lease that
    /// bears its address and takes it for its own.
    pub fn write(&mut self, peers: u32) -> Result<()> {
        let config =
            format!(r#"{{"Network":"{}","SubnetLen":24,"Backend":{{"Type":"{}"}}}}"#, net::NETWORK, self.backend);
        let mut pairs = vec![(format!("{}/config", self.prefix), config)];
        pairs.extend((1..=2).map(|n| self.lease(net::subnet(n), net::host(n))));
        self.put_all(pairs)?;
        self.fill(peers)
    }

    /// Number of peers that do not run.
    pub const fn peers(&self) -> u32 {
        self.peers
    }

    /// Adds peers until there are `peers`.
    pub fn fill(&mut self, peers: u32) -> Result<()> {
        let pairs = (self.peers..peers).map(|k| self.lease(net::peer_subnet(k), net::peer_host(k))).collect();
        self.put_all(pairs)?;
        self.peers = self.peers.max(peers);
        Ok(())
    }

    /// A peer that has no lease and had none before.
    pub const fn spare(&mut self) -> u32 {
        self.spared += 1;
        net::PEERS_MAX - self.spared
    }

    /// Writes the lease of one peer.
    pub fn put(&self, k: u32) -> Result<()> {
        self.put_all(vec![self.lease(net::peer_subnet(k), net::peer_host(k))])
    }

    /// Deletes the lease of one peer.
    pub fn delete(&self, k: u32) -> Result<()> {
        let (key, _) = self.lease(net::peer_subnet(k), net::peer_host(k));
        let endpoint = self.endpoint.clone();
        self.ns
            .block_on(|| async move { Client::connect([endpoint], None).await?.delete(key, None).await.map(drop) })?
            .context("delete a lease")
    }

    fn put_all(&self, pairs: Vec<Pair>) -> Result<()> {
        let endpoint = self.endpoint.clone();
        self.ns.block_on(|| write_all(endpoint, pairs))?.context("write leases")
    }

    fn lease(&self, subnet: Ipv4Net, host: Ipv4Addr) -> Pair {
        let key = format!("{}/subnets/{}-{}", self.prefix, subnet.network(), subnet.prefix_len());
        // flannel's udp backend leaves its name out.
        let kind = if self.backend == "udp" { String::new() } else { format!(r#","BackendType":"{}""#, self.backend) };
        (key, format!(r#"{{"PublicIP":"{host}","PublicIPv6":null{kind}}}"#))
    }
}

async fn write_all(endpoint: String, pairs: Vec<Pair>) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect([endpoint], None).await?;
    for chunk in pairs.chunks(TXN) {
        let puts = chunk.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
    }
    Ok(())
}
