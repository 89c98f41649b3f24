//! The hosts of one arm, each in a namespace, joined by one veth pair as the wire.
//!
//! Every arm has hosts of its own and all of them stand side by side, so that arms alternate without being rebuilt.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, Result};
use flannel_common::abi::FLOWS_CAPACITY;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    agent::{Agents, Store},
    arm::Arm,
    net::{self, Link, mac},
    rules,
};
use crate::netns::Netns;

/// Peers that are routed to in every arm, whether or not the workload sends to them.
pub const ROUTED_PEERS: u32 = 64;
/// What vxlan takes of the MTU.
const VXLAN_OVERHEAD: u32 = 50;
/// MTU of the wire.
const WIRE_MTU: u32 = 1500;

/// The wire between the containers of the limit.
const SHORTCUT: &str = "short0";

/// Which hosts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One host under test with a container; the other end of its wire only makes and counts packets.
    Single,
    /// [`Self::Single`], and the agent may use XDP on the uplink.
    Transit,
    /// Two hosts under test, each with a container.
    Pair,
    /// No host at all: an empty namespace.
    Empty,
}

/// How the interfaces are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// They take frames that are made in the kernel: frames that are redirected into a veth vanish unless both of its ends
    /// have GRO.
    Frames,
    /// Containers' interfaces as Docker leaves them; the uplink has GRO and segmentation offload, as a NIC.
    Docker,
    /// [`Self::Docker`], but frames on the wire are no larger than its MTU, as with a NIC that does not segment.
    SmallFrames,
}

/// The hosts of one arm.
pub struct Lab {
    /// The arm.
    pub arm: Arm,
    /// Which hosts there are.
    pub shape: Shape,
    // Agents end before their namespaces do.
    /// The agents, if the arm has any.
    pub agents: Option<Agents>,
    /// Containers of the hosts, in order.
    pub containers: Vec<Netns>,
    /// The hosts under test, in order.
    pub hosts: Vec<Netns>,
    /// The other end of host 1's wire: host 2, or what stands for it.
    pub far: Netns,
    tuning: Option<Tuning>,
}

impl Lab {
    /// Builds the hosts of `arm`.
    pub fn build(arm: Arm, shape: Shape, store: &mut Store) -> Result<Self> {
        Self::sized(arm, shape, FLOWS_CAPACITY, store)
    }

    /// Builds the hosts of `arm`, with a flow table of so many entries.
    pub fn sized(arm: Arm, shape: Shape, flows: u32, store: &mut Store) -> Result<Self> {
        Self::try_build(arm, shape, flows, store).with_context(|| format!("build the hosts of arm {arm}"))
    }

    fn try_build(arm: Arm, shape: Shape, flows: u32, store: &mut Store) -> Result<Self> {
        if shape == Shape::Empty {
            let far = Netns::new("empty")?;
            return Ok(Self { arm, shape, agents: None, containers: Vec::new(), hosts: Vec::new(), far, tuning: None });
        }
        let (first, far) = (Netns::new("h1")?, Netns::new("h2")?);
        first.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", far.name()))?;
        let mut lab = Self { arm, shape, agents: None, containers: Vec::new(), hosts: vec![first], far, tuning: None };
        if shape == Shape::Pair {
            lab.hosts.push(lab.far.clone());
        }
        for n in 1..=lab.hosts.len() as u8 {
            lab.add_host(n)?;
        }
        if shape != Shape::Pair {
            lab.far.sh(&uplink_script(2))?;
            lab.far.sh(&format!("ip addr add {}/15 dev lo", net::OUTSIDER))?;
        }
        if lab.is_joined() {
            lab.join_containers().context("join the containers")?;
        }
        if arm.has_agent() {
            lab.agents = Some(Agents::start(arm, shape, flows, &lab.hosts, store)?);
        }
        Ok(lab)
    }

    /// Whether the containers have a wire of their own, for what needs answers: they would get none through a hook that drops.
    fn is_joined(&self) -> bool {
        self.arm == Arm::Limit && self.shape == Shape::Pair
    }

    /// Joins the two containers by one veth, past their hosts.
    fn join_containers(&self) -> Result<()> {
        let (one, two) = (self.container(1)?, self.container(2)?);
        one.sh(&format!("ip link add {SHORTCUT} type veth peer name {SHORTCUT} netns {}", two.name()))?;
        for (container, own, other) in [(one, 1, 2), (two, 2, 1)] {
            let (own, other) = (net::container(own), net::container(other));
            container.sh(&format!("ip link set {SHORTCUT} up; ip route add {other}/32 dev {SHORTCUT} src {own}"))?;
        }
        Ok(())
    }

    /// Host 1 under test.
    pub fn first(&self) -> &Netns {
        &self.hosts[0]
    }

    /// Container of host `n`.
    pub fn container(&self, n: usize) -> Result<&Netns> {
        self.containers.get(n - 1).with_context(|| format!("host {n} of arm {} has no container", self.arm))
    }

    fn add_host(&mut self, n: u8) -> Result<()> {
        let container = Netns::new(&format!("c{n}"))?;
        let host = &self.hosts[usize::from(n) - 1];
        let mtu = self.container_mtu();
        host.sh(&uplink_script(n)).context("uplink")?;
        host.sh(&bridge_script(n, mtu, container.name())).context("docker0")?;
        container.sh(&container_script(n)).context("container")?;
        host.sh(&outside_script(n))?;
        if self.arm.has_rules() && self.arm != Arm::Limit {
            restore(host, &rules::docker())?;
        } else {
            host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-iptables; do [ ! -e $f ] || echo 0 > $f; done")?;
        }
        if !self.arm.has_agent() {
            self.set_kernel_up(n)?;
        }
        self.containers.push(container);
        Ok(())
    }

    /// Routes and rules of the arms that have no agent to set them.
    fn set_kernel_up(&self, n: u8) -> Result<()> {
        let host = &self.hosts[usize::from(n) - 1];
        if self.arm == Arm::KernelVxlan {
            batch(host, &vxlan_commands(n))?;
            // The one thing that flannel's vxlan needs and `ip` cannot set.
            let (vtep, other) = (mac(Link::Vxlan, 3 - n), net::host(3 - n));
            host.run(&format!("bridge fdb replace {vtep} dst {other} dev flannel.1 self permanent"))?;
        } else {
            batch(host, &route_commands(n))?;
        }
        if self.arm.has_rules() && self.arm != Arm::Limit {
            restore(host, &rules::flannel(net::NETWORK.parse()?, net::subnet(n), net::OUTSIDE))?;
        }
        if self.arm == Arm::NftFlowtable {
            anyhow::ensure!(host.sh(FLOWTABLE).is_ok(), "the kernel has no flowtable (nf_flow_table)");
        }
        Ok(())
    }

    fn container_mtu(&self) -> u32 {
        match self.arm {
            Arm::KernelVxlan => WIRE_MTU - VXLAN_OVERHEAD,
            // flannel's udp backend: IPv4 and UDP headers.
            Arm::Udp => WIRE_MTU - 28,
            _ => WIRE_MTU,
        }
    }

    /// Sets the interfaces for a workload.
    pub fn tune(&mut self, tuning: Tuning) -> Result<()> {
        if self.tuning == Some(tuning) || self.hosts.is_empty() {
            return Ok(());
        }
        let segmentation = if tuning == Tuning::SmallFrames { "off" } else { "on" };
        let gro = if tuning == Tuning::Frames { "on" } else { "off" };
        for host in [self.first(), &self.far] {
            host.run(&format!("ethtool -K eth0 gro on tso {segmentation} gso {segmentation}"))?;
        }
        // Like a container's interface, unless the wire has to take frames apart.
        let joined_gro = if tuning == Tuning::SmallFrames { "on" } else { gro };
        for container in self.containers.iter().filter(|_| self.is_joined()) {
            container.run(&format!("ethtool -K {SHORTCUT} gro {joined_gro} tso {segmentation} gso {segmentation}"))?;
        }
        for host in &self.hosts {
            host.run(&format!("ethtool -K veth1 gro {gro}"))?;
        }
        for container in &self.containers {
            container.run(&format!("ethtool -K eth0 gro {gro}"))?;
        }
        self.tuning = Some(tuning);
        Ok(())
    }
}

/// `ip -batch` inside a namespace.
pub fn batch(ns: &Netns, commands: &str) -> Result<()> {
    let dir = crate::scratch::Scratch::new("batch")?;
    let file = dir.join("commands");
    fs::write(&file, commands)?;
    ns.run(&format!("ip -batch {}", file.display())).map(drop)
}

/// `iptables-restore` inside a namespace, leaving what is there.
fn restore(ns: &Netns, rules: &str) -> Result<()> {
    let dir = crate::scratch::Scratch::new("rules")?;
    let file = dir.join("rules");
    fs::write(&file, rules)?;
    ns.run(&format!("iptables-restore --noflush {}", file.display())).map(drop)
}

/// Runs `work` inside a namespace on one core, which everything that its packets cause then uses too.
pub fn pinned<T: Send>(ns: &Netns, core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    ns.enter(|| {
        pin(core)?;
        work()
    })?
}

/// Ties the calling thread to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pin to core {core}"))
}

fn uplink_script(n: u8) -> String {
    let other = 3 - n;
    let (own_mac, other_mac) = (mac(Link::Uplink, n), mac(Link::Uplink, other));
    let mut script = format!(
        "for f in all default; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/$f/send_redirects; done
         echo 0 > /proc/sys/net/ipv4/conf/eth0/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects
         echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
         echo 1 > /proc/sys/net/ipv4/ip_forward
         ip link set eth0 address {own_mac} mtu {WIRE_MTU} up
         ip addr add {}/15 dev eth0
         ip neigh replace {} lladdr {other_mac} nud permanent dev eth0\n",
        net::host(n),
        net::host(other),
    );
    for k in 0..ROUTED_PEERS {
        writeln!(script, "ip neigh replace {} lladdr {other_mac} nud permanent dev eth0", net::peer_host(k)).ok();
    }
    script
}

fn bridge_script(n: u8, mtu: u32, container: &str) -> String {
    let (gateway, address) = (net::gateway(n), net::container(n));
    let (bridge_mac, container_mac) = (mac(Link::Bridge, n), mac(Link::Container, n));
    format!(
        "ip link add docker0 address {bridge_mac} type bridge forward_delay 0 stp_state 0
         ip addr add {gateway}/24 dev docker0
         ip link add veth1 mtu {mtu} type veth peer name eth0 mtu {mtu} address {container_mac} netns {container}
         ip link set veth1 master docker0 up
         ip link set docker0 mtu {mtu} up
         ip neigh replace {address} lladdr {container_mac} nud permanent dev docker0
         bridge fdb replace {container_mac} dev veth1 master static"
    )
}

fn container_script(n: u8) -> String {
    let (gateway, address, bridge_mac) = (net::gateway(n), net::container(n), mac(Link::Bridge, n));
    format!(
        "ip addr add {address}/24 dev eth0
         ip link set eth0 up
         ip neigh replace {gateway} lladdr {bridge_mac} nud permanent dev eth0
         ip route add default via {gateway}"
    )
}

/// Machines outside the flannel network are behind the other host.
fn outside_script(n: u8) -> String {
    format!("ip route replace {} via {} dev eth0", net::OUTSIDE, net::host(3 - n))
}

fn route_commands(n: u8) -> String {
    let other = 3 - n;
    let mut text = format!("route replace {} via {} dev eth0\n", net::subnet(other), net::host(other));
    for k in 0..ROUTED_PEERS {
        writeln!(text, "route replace {} via {} dev eth0", net::peer_subnet(k), net::peer_host(k)).ok();
    }
    text
}

/// flannel's vxlan: one device, and for each peer a route and a neighbour.
fn vxlan_commands(n: u8) -> String {
    let other = 3 - n;
    let own = net::subnet(n).network();
    let mut text = format!(
        "link add flannel.1 address {} mtu {} type vxlan id 1 local {} dev eth0 dstport 8472 nolearning\n\
         addr add {own}/32 dev flannel.1\nlink set flannel.1 up\n",
        mac(Link::Vxlan, n),
        WIRE_MTU - VXLAN_OVERHEAD,
        net::host(n),
    );
    let vtep = mac(Link::Vxlan, other);
    let subnets = std::iter::once(net::subnet(other)).chain((0..ROUTED_PEERS).map(net::peer_subnet));
    for subnet in subnets {
        let base = subnet.network();
        writeln!(text, "neigh replace {base} lladdr {vtep} nud permanent dev flannel.1").ok();
        writeln!(text, "route replace {subnet} via {base} dev flannel.1 onlink").ok();
    }
    text
}

/// The kernel's flowtable for every established flow.
const FLOWTABLE: &str = "nft -f - <<END
table inet bench {
  flowtable fast { hook ingress priority 0; devices = { eth0, veth1 }; }
  chain forward { type filter hook forward priority -1; meta l4proto { tcp, udp } flow add @fast; }
}
END";

/// How long an agent may take to carry everything.
pub const READY: Duration = Duration::from_secs(30);
