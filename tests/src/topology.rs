//! Clusters of hosts: a switch in a namespace of its own, hosts with eth0 and docker0, containers behind docker0.
//!
//! The address plan uses the documentation networks of RFC 5737, inside namespaces only: the first segment is
//! 192.0.2.0/24, the second 198.51.100.0/24; hosts count from .11, `.1` is the gateway, `.2` and up are etcd members.
//! The "internet" is 203.0.113.1.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use crate::netns::Netns;

/// Networks of the segments.
pub const SEGMENTS: [&str; 2] = ["192.0.2.0/24", "198.51.100.0/24"];
/// Address of the host that plays the internet.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// One L2 segment: a bridge `sw0` in a namespace of its own, so that nothing of the host's firewall sees its frames.
#[derive(Debug)]
pub struct Switch {
    /// The namespace of the bridge.
    pub ns: Netns,
    /// The IPv4 network of the segment.
    pub network: Ipv4Net,
    mtu: u32,
}

impl Switch {
    /// Makes a segment.
    pub fn new(network: Ipv4Net, mtu: u32) -> Result<Self> {
        let ns = Netns::new("switch")?;
        ns.run(&format!("ip link add sw0 mtu {mtu} up type bridge forward_delay 0 stp_state 0"))?;
        Ok(Self { ns, network, mtu })
    }

    /// The address of number `n` in this segment.
    pub fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network.network()) + u32::from(n))
    }

    /// Connects a namespace: its new interface `ifname` gets the address of number `n`.
    pub fn plug(&self, ns: &Netns, ifname: &str, n: u8) -> Result<Ipv4Addr> {
        let (address, mtu, prefix) = (self.address(n), self.mtu, self.network.prefix_len());
        let port = format!("p{n}");
        self.ns
            .run(&format!("ip link add {port} mtu {mtu} type veth peer name {ifname} mtu {mtu} netns {}", ns.name()))?;
        self.ns.run(&format!("ip link set {port} master sw0 up"))?;
        ns.run(&format!("ip addr add {address}/{prefix} dev {ifname}"))?;
        ns.run(&format!("ip link set {ifname} up"))?;
        Ok(address)
    }
}

/// A container: a namespace with `eth0` behind a host's docker0.
#[derive(Debug)]
pub struct Container {
    /// Its namespace.
    pub ns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
    /// Name of its veth on the host.
    pub port: String,
}

/// A host: eth0 in a segment, an empty docker0, forwarding on.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub ns: Netns,
    /// Short name (`host1`).
    pub name: String,
    /// Address of eth0.
    pub address: Ipv4Addr,
    /// Subnet of docker0, once [`Host::give_subnet`] was called.
    pub subnet: Option<Ipv4Net>,
    /// Its containers, in order of creation.
    pub containers: Vec<Container>,
}

impl Host {
    /// Makes a host named `name` with address number `n` of the segment.
    pub fn new(name: &str, switch: &Switch, n: u8) -> Result<Self> {
        let ns = Netns::new(name)?;
        ns.sysctl("net/ipv4/ip_forward", "1")?;
        let address = switch.plug(&ns, "eth0", n)?;
        ns.run("ip link add docker0 up type bridge forward_delay 0 stp_state 0")?;
        Ok(Self { ns, name: name.to_owned(), address, subnet: None, containers: Vec::new() })
    }

    /// Gives docker0 the first address of `subnet`, as Docker does with `--bip` and `--mtu`; replaces a former one.
    pub fn give_subnet(&mut self, subnet: Ipv4Net, mtu: u32) -> Result<()> {
        let gateway = nth(subnet, 1);
        self.ns.run("ip addr flush dev docker0 scope global")?;
        self.ns.run(&format!("ip addr add {gateway}/{} dev docker0", subnet.prefix_len()))?;
        self.ns.run(&format!("ip link set docker0 mtu {mtu}"))?;
        self.subnet = Some(subnet);
        Ok(())
    }

    /// Adds a container in the subnet of docker0, with the default route through it and docker0's MTU.
    pub fn add_container(&mut self) -> Result<&Container> {
        let subnet = self.subnet.context("give_subnet comes before add_container")?;
        let number = self.containers.len() + 2;
        let (address, port) = (nth(subnet, number as u32), format!("veth{number}"));
        let ns = Netns::new(&format!("{}c{}", self.name, number - 1))?;
        let mtu = self.link_mtu("docker0")?;
        let peer = ns.name();
        self.ns.run(&format!("ip link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}"))?;
        self.ns.run(&format!("ip link set {port} master docker0 up"))?;
        ns.run(&format!("ip addr add {address}/{} dev eth0", subnet.prefix_len()))?;
        ns.run("ip link set eth0 up")?;
        ns.run(&format!("ip route add default via {}", nth(subnet, 1)))?;
        self.containers.push(Container { ns, address, port });
        self.containers.last().context("just pushed")
    }

    /// The MTU of one of its interfaces.
    pub fn link_mtu(&self, ifname: &str) -> Result<u32> {
        let text = self.ns.run(&format!("ip -o link show dev {ifname}"))?;
        let mtu = text.split_whitespace().skip_while(|word| *word != "mtu").nth(1).and_then(|mtu| mtu.parse().ok());
        mtu.with_context(|| format!("no MTU in {text:?}"))
    }

    /// Adds a static route to the subnet of another host, as a host-gw backend would.
    pub fn route_to(&self, other: &Self) -> Result<()> {
        let subnet = other.subnet.context("the other host has no subnet")?;
        self.ns.run(&format!("ip route replace {subnet} via {} dev eth0", other.address)).map(drop)
    }
}

/// A whole cluster.
#[derive(Debug)]
pub struct Topology {
    /// The L2 segments.
    pub segments: Vec<Switch>,
    /// All hosts; those of the first segment come first.
    pub hosts: Vec<Host>,
    /// The router between the segments and towards the internet, if there is more than one segment or an internet.
    pub router: Option<Netns>,
    /// The internet, if there is one: 203.0.113.1, with no route into container networks.
    pub internet: Option<Netns>,
}

impl Topology {
    /// `count` hosts in one segment with an MTU of 1500.
    pub fn flat(count: u8) -> Result<Self> {
        Self::build(&[count], 1500)
    }

    /// Hosts in as many segments as `counts` has entries (two at most), joined by a router.
    pub fn build(counts: &[u8], mtu: u32) -> Result<Self> {
        let mut topology = Self { segments: Vec::new(), hosts: Vec::new(), router: None, internet: None };
        for (count, network) in counts.iter().zip(SEGMENTS) {
            let switch = Switch::new(network.parse()?, mtu)?;
            for n in 0..*count {
                let name = format!("host{}", topology.hosts.len() + 1);
                topology.hosts.push(Host::new(&name, &switch, 11 + n)?);
            }
            topology.segments.push(switch);
        }
        if counts.len() > 1 {
            topology.add_router()?;
        }
        Ok(topology)
    }

    /// Adds a router at `.1` of each segment and makes it every host's default gateway.
    pub fn add_router(&mut self) -> Result<()> {
        let router = Netns::new("router")?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        for (index, segment) in self.segments.iter().enumerate() {
            segment.plug(&router, &format!("eth{index}"), 1)?;
        }
        for host in &self.hosts {
            let segment = self.segments.iter().find(|segment| segment.network.contains(&host.address));
            let gateway = segment.context("a host without a segment")?.address(1);
            host.ns.run(&format!("ip route add default via {gateway}"))?;
        }
        self.router = Some(router);
        Ok(())
    }

    /// Adds a router if there is none, and behind it the internet, which knows no way back to container addresses.
    pub fn add_internet(&mut self) -> Result<()> {
        if self.router.is_none() {
            self.add_router()?;
        }
        let router = self.router.as_ref().context("just made")?;
        let internet = Netns::new("internet")?;
        router.run(&format!("ip link add inet type veth peer name eth0 netns {}", internet.name()))?;
        router.run("ip addr add 203.0.113.254/24 dev inet")?;
        router.run("ip link set inet up")?;
        internet.run(&format!("ip addr add {INTERNET}/24 dev eth0"))?;
        internet.run("ip link set eth0 up")?;
        for segment in &self.segments {
            internet.run(&format!("ip route add {} via 203.0.113.254", segment.network))?;
        }
        self.internet = Some(internet);
        Ok(())
    }

    /// Gives host number `i` the subnet `172.16.<i+1>.0/24` and `containers` containers, and all hosts static routes to one
    /// another: a cluster that needs no flanneld.
    pub fn wire_statically(&mut self, containers: usize) -> Result<()> {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.give_subnet(Ipv4Net::new(Ipv4Addr::new(172, 16, index as u8 + 1, 0), 24)?, 1500)?;
            for _ in 0..containers {
                host.add_container()?;
            }
        }
        for host in &self.hosts {
            for other in self.hosts.iter().filter(|other| other.name != host.name) {
                host.route_to(other)?;
            }
        }
        Ok(())
    }
}

/// Address number `n` of a network.
pub fn nth(network: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + n)
}
