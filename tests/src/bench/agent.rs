//! Our agent in the arms that have one: real flannelds with a real etcd.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};

use super::{
    arm::Arm,
    lab::{READY, ROUTED_PEERS, Shape},
    leases::Leases,
    net,
};
use crate::{etcd::Etcd, flanneld::Flanneld, netns::Netns, wait::wait_until};

/// Address of etcd in the management network.
const STORE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// One etcd for all arms, in a namespace of its own that hosts are connected to by a management interface.
#[derive(Default)]
pub struct Store {
    running: Option<Running>,
    hosts: u8,
}

struct Running {
    // etcd ends before its namespace does.
    etcd: Etcd,
    ns: Netns,
}

impl Store {
    /// etcd, started when it is first needed.
    pub fn etcd(&mut self) -> Result<&Etcd> {
        Ok(&self.running()?.etcd)
    }

    /// The namespace that etcd runs in, and its address there.
    pub fn place(&mut self) -> Result<(Netns, String)> {
        let running = self.running()?;
        Ok((running.ns.clone(), running.etcd.endpoint(0).to_owned()))
    }

    /// Connects a host to etcd.
    pub fn connect(&mut self, host: &Netns) -> Result<()> {
        self.hosts += 1;
        let n = self.hosts;
        let ns = &self.running()?.ns;
        host.sh(&format!(
            "ip link add mgmt0 type veth peer name m{n} netns {}
             ip addr add 192.0.2.{}/24 dev mgmt0
             ip link set mgmt0 up",
            ns.name(),
            n + 1
        ))?;
        ns.sh(&format!("ip link set m{n} master br0 up")).map(drop)
    }

    fn running(&mut self) -> Result<&Running> {
        if self.running.is_none() {
            let ns = Netns::new("store")?;
            ns.sh(&format!("ip link add br0 up type bridge forward_delay 0; ip addr add {STORE}/24 dev br0"))?;
            let etcd = Etcd::inside(&ns, STORE).context("start etcd")?;
            self.running = Some(Running { etcd, ns });
        }
        self.running.as_ref().context("etcd was just started")
    }
}

/// The agents of one arm.
pub struct Agents {
    /// One per host under test, in order.
    pub flannelds: Vec<Flanneld>,
    /// What the store holds for them.
    pub leases: Leases,
}

impl Agents {
    /// Starts an agent on each host and waits until all of them route.
    pub fn start(arm: Arm, shape: Shape, flows: u32, hosts: &[Netns], store: &mut Store) -> Result<Self> {
        let mut leases = Leases::new(store, &format!("/bench/{arm}/{shape:?}"), arm)?;
        leases.write(ROUTED_PEERS)?;
        let mut agents = Self { flannelds: Vec::new(), leases };
        for host in hosts {
            store.connect(host)?;
            let flanneld = Flanneld::new(host, &store.etcd()?.endpoints())?;
            agents
                .flannelds
                .push(configure(flanneld, arm, shape, &agents.leases.prefix).arg(format!("-flows={flows}")));
        }
        for flanneld in &mut agents.flannelds {
            flanneld.start()?;
        }
        for (index, flanneld) in agents.flannelds.iter_mut().enumerate() {
            let subnet = flanneld.wait_ready(READY)?;
            ensure!(subnet == net::subnet(index as u8 + 1), "the agent took {subnet}");
        }
        agents.wait_routes(hosts)?;
        Ok(agents)
    }

    fn wait_routes(&self, hosts: &[Netns]) -> Result<()> {
        // Of the udp backend one route leads to all peers, so what counts is that there is a way.
        let last = net::peer_container(ROUTED_PEERS - 1);
        for (host, flanneld) in hosts.iter().zip(&self.flannelds) {
            wait_until("routes to all peers", READY, || host.run(&format!("ip route get {last}")).is_ok())
                .with_context(|| format!("flanneld said:\n{}", flanneld.log()))?;
        }
        Ok(())
    }
}

fn configure(flanneld: Flanneld, arm: Arm, shape: Shape, prefix: &str) -> Flanneld {
    let mode = match arm {
        Arm::Verified | Arm::VerifiedBridge => "verified",
        Arm::Trusted | Arm::TrustedBridge => "trusted",
        _ => "off",
    };
    let attach = if matches!(arm, Arm::VerifiedBridge | Arm::TrustedBridge) { "bridge" } else { "ports" };
    // A veth can do native XDP, but that takes segmentation offload from its peer: only where packets pass through.
    let xdp = if shape == Shape::Transit { "on" } else { "off" };
    flanneld
        .arg(format!("-etcd-prefix={prefix}"))
        .arg("-ip-masq")
        .arg(format!("-masq-exempt={}", net::OUTSIDE))
        .arg(format!("-fastpath={mode}"))
        .arg(format!("-attach={attach}"))
        .arg(format!("-xdp={xdp}"))
        .wrapped_by(&["taskset", "-c", "0"])
}
