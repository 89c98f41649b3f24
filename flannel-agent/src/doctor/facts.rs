//! Everything that checks look at, read once. What cannot be read is said, and hides only the checks that need it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
};

use ipnet::Ipv4Net;

use crate::{
    admin::{
        LeaseRow,
        client::{Client, Error},
    },
    cli::flannelctl::Places,
    doctor::store,
    events::now,
    fastpath::{self, Feature},
    kernel::inspect::{self, Link, Neighbour, Ping, Route},
    rules::Ruleset,
    state::{HookState, NodeState, PeerWay},
    subnet_file,
};

/// Hosts that are pinged without being asked for by name: a large cluster's doctor must not be a storm.
const PINGED: usize = 64;
/// A small packet: whatever carries IPv4 carries it (RFC 791).
pub const SMALL: u32 = 84;

/// What is known of this host.
#[derive(Debug, Default)]
pub struct Facts {
    /// Seconds since the Unix epoch.
    pub now: u64,
    /// Whether we are root.
    pub root: bool,
    /// The agent's state.
    pub node: Option<NodeState>,
    /// Why there is no agent, if there is none.
    pub absent: Option<String>,
    /// All leases of the cluster, if the agent could tell.
    pub leases: Option<Vec<LeaseRow>>,
    /// What the store said where no agent asks it: its endpoints, its prefix, the fault.
    pub store_fault: Option<(String, String, String)>,
    /// The flannel network, from the agent or from subnet.env.
    pub network: Option<Ipv4Net>,
    /// This node's subnet, from the agent or from subnet.env.
    pub subnet: Option<Ipv4Net>,
    /// MTU for containers, from the agent or from subnet.env.
    pub mtu: Option<u32>,
    /// Where subnet.env is looked for.
    pub subnet_file: String,
    /// Name of Docker's bridge.
    pub bridge: String,
    /// Name of the interface towards the other nodes.
    pub uplink: Option<String>,
    /// All interfaces.
    pub links: Vec<Link>,
    /// The main table.
    pub routes: Vec<Route>,
    /// The neighbour table.
    pub neighbours: Vec<Neighbour>,
    /// The firewall.
    pub rules: Ruleset,
    /// Settings by their path under /proc/sys.
    pub sysctls: BTreeMap<String, String>,
    /// Where BPF file systems are mounted.
    pub bpffs: Vec<String>,
    /// What the fast path needs of the kernel.
    pub features: Vec<Feature>,
    /// Offloads by interface.
    pub offloads: BTreeMap<String, BTreeMap<String, bool>>,
    /// Networks of which the fast path has something pinned here.
    pub pinned: BTreeSet<Ipv4Net>,
    /// Hooks that should be there: the agent's, or, without one, those that an agent has left behind.
    pub hooks: Vec<HookState>,
    /// Programs attached to each interface that should have some, as links, filters or XDP: direction and name.
    pub attached: BTreeMap<String, Vec<(&'static str, String)>>,
    /// What pings of peers' hosts came to.
    pub pings: BTreeMap<Ipv4Addr, Ping>,
    /// The largest packet of the uplink, and what pings of that size came to.
    pub large_pings: BTreeMap<Ipv4Addr, (u32, Ping)>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// Settings that checks look at; those of interfaces are added.
const SYSCTLS: [&str; 6] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    super::checks::BRIDGE_SWITCH,
    "net/core/bpf_jit_enable",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "kernel/osrelease",
];

/// Reads the host and asks the agent, if there is one. Sends no packet.
pub async fn gather(client: &Client, places: &Places) -> Facts {
    let mut facts = Facts {
        now: now(),
        root: nix::unistd::geteuid().is_root(),
        bridge: places.bridge.clone(),
        subnet_file: places.subnet_file.display().to_string(),
        ..Facts::default()
    };
    facts.ask(client).await;
    if facts.node.is_none() {
        facts.ask_store(&places.env_file).await;
    }
    facts.read_subnet_file(&places.subnet_file);
    facts.read_kernel().await;
    facts.uplink = places.iface.clone().or_else(|| facts.find_uplink());
    facts.read_firewall().await;
    facts.read_settings().await;
    facts.read_hooks().await;
    facts
}

impl Facts {
    /// Keeps a value, or says why there is none.
    fn keep<T: Default>(&mut self, what: &str, read: Result<T, inspect::Error>) -> T {
        read.unwrap_or_else(|error| {
            self.unread.push(format!("{what}: {error}"));
            T::default()
        })
    }

    async fn ask(&mut self, client: &Client) {
        match client.get::<NodeState>("/v1/status").await {
            Ok(node) => {
                self.network = node.network;
                self.subnet = node.lease.as_ref().map(|lease| lease.subnet);
                self.mtu = (node.mtu > 0).then_some(node.mtu);
                self.uplink = node.uplink.as_ref().map(|uplink| uplink.name.clone());
                if !node.subnet_file.is_empty() {
                    self.subnet_file.clone_from(&node.subnet_file);
                }
                self.node = Some(node);
            }
            Err(error @ Error::Forbidden(_)) => self.unread.push(format!("flanneld: {error}")),
            Err(error) => self.absent = Some(error.to_string()),
        }
        match client.get("/v1/leases").await {
            Ok(leases) => self.leases = Some(leases),
            Err(Error::Absent { .. } | Error::Forbidden(_)) => {}
            Err(error) => self.unread.push(format!("the leases of the cluster: {error}")),
        }
    }

    /// Asks the store with flanneld's own options, where no agent tells.
    async fn ask_store(&mut self, env_file: &Path) {
        let asked = store::ask(env_file).await;
        match asked.leases {
            None => self.unread.push(format!(
                "the leases of the cluster: neither a flanneld nor {} says where etcd is",
                env_file.display()
            )),
            Some(Ok(leases)) => self.leases = Some(leases),
            Some(Err(error)) => self.store_fault = Some((asked.endpoints.join(","), asked.prefix, error)),
        }
    }

    /// What flannel left behind, where no agent tells.
    fn read_subnet_file(&mut self, path: &Path) {
        let path = if self.node.is_some() { self.subnet_file.clone() } else { path.display().to_string() };
        match subnet_file::read(Path::new(&path)) {
            Ok(file) => {
                self.network = self.network.or(file.network);
                self.subnet = self.subnet.or(file.subnet);
            }
            Err(error) => self.unread.push(error.to_string()),
        }
        let mut values = BTreeMap::new();
        subnet_file::variables(&std::fs::read_to_string(&path).unwrap_or_default(), &mut values);
        self.mtu = self.mtu.or_else(|| values.get("FLANNEL_MTU")?.parse().ok());
    }

    async fn read_kernel(&mut self) {
        let (links, routes, neighbours) = tokio::join!(inspect::links(), inspect::routes(), inspect::neighbours());
        self.links = self.keep("interfaces", links);
        self.routes = self.keep("routes", routes);
        self.neighbours = self.keep("neighbours", neighbours);
        self.bpffs = inspect::mounts().into_iter().filter(|(kind, _)| kind == "bpf").map(|(_, point)| point).collect();
        self.features = fastpath::probe();
    }

    /// The interface by which most routes into the network go, or else the default route's.
    fn find_uplink(&self) -> Option<String> {
        if let Some(uplink) = &self.uplink {
            return Some(uplink.clone());
        }
        let network = self.network?;
        let inside = |route: &&Route| route.gateway.is_some() && route.net().is_some_and(|net| network.contains(&net));
        let found = self.routes.iter().find(inside).or_else(|| self.routes.iter().find(|route| route.dst == "default"));
        found?.dev.clone()
    }

    async fn read_firewall(&mut self) {
        let (iptables, nftables) = tokio::join!(inspect::iptables(), inspect::nftables());
        if let (Err(iptables), Err(nftables)) = (&iptables, &nftables) {
            self.unread.push(format!("the firewall: {iptables}; {nftables}"));
        }
        self.rules = Ruleset::parse(&iptables.unwrap_or_default(), &nftables.unwrap_or_default());
    }

    async fn read_settings(&mut self) {
        let mut paths: Vec<String> = SYSCTLS.iter().map(|path| (*path).to_owned()).collect();
        let uplink = self.uplink.clone();
        paths.extend(uplink.iter().map(|name| format!("net/ipv4/conf/{name}/rp_filter")));
        self.sysctls = paths.into_iter().filter_map(|path| inspect::sysctl(&path).map(|value| (path, value))).collect();
        let vxlan = self.links.iter().map(|link| &link.name).filter(|name| name.starts_with("flannel."));
        let devices: Vec<String> = vxlan.cloned().chain(uplink).collect();
        for device in devices {
            let read = inspect::offloads(&device).await;
            let offloads = self.keep(&format!("offloads of {device}"), read);
            self.offloads.insert(device, offloads);
        }
    }

    /// Reads what is attached where a hook should be.
    async fn read_hooks(&mut self) {
        let root = Path::new(fastpath::PIN_ROOT);
        self.pinned = fastpath::pinned_networks(root).unwrap_or_default();
        self.hooks = match &self.node {
            Some(node) => node.fastpath.hooks.clone(),
            None => fastpath::pinned_hooks(root, None).unwrap_or_default(),
        };
        let with_filters = self.hooks.iter().any(|hook| hook.rung == "clsact");
        let names: BTreeSet<String> =
            self.hooks.iter().map(|hook| hook.interface.clone()).filter(|name| self.link(name).is_some()).collect();
        for name in names {
            let mut programs = fastpath::attached(&name);
            if with_filters {
                for direction in ["ingress", "egress"] {
                    let read = inspect::filters(&name, direction).await;
                    let filters = self.keep(&format!("filters of {name}"), read);
                    programs.extend(filters.into_iter().map(|filter| (direction, filter)));
                }
            }
            let xdp = self.link(&name).and_then(|link| link.xdp.as_ref()?.prog.as_ref());
            programs.extend(xdp.and_then(|program| Some(("xdp", fastpath::program_name(program.id)?))));
            self.attached.insert(name, programs);
        }
    }

    /// Whether the kernel has a program of this hook at its interface.
    pub fn is_attached(&self, hook: &HookState) -> bool {
        let there = self.attached.get(&hook.interface);
        there.is_some_and(|programs| programs.iter().any(|(_, name)| fastpath::serves(name, &hook.program)))
    }

    /// Pings the hosts of direct peers, all at once, with small packets and with the largest.
    pub async fn ping_peers(&mut self) {
        let node = self.node.iter().flat_map(|node| &node.peers);
        let hosts: Vec<Ipv4Addr> =
            node.filter(|peer| peer.way == PeerWay::Direct).map(|peer| peer.public_ip).take(PINGED).collect();
        // Without an agent the next hops of the routes are all that is known.
        let gateways = || {
            let network = self.network?;
            let inside = |route: &&Route| route.net().is_some_and(|net| network.contains(&net));
            Some(self.routes.iter().filter(inside).filter_map(|route| route.gateway).take(PINGED).collect())
        };
        let hosts = if self.node.is_some() { hosts } else { gateways().unwrap_or_default() };
        let mtu = self.uplink.as_deref().and_then(|name| self.link(name)).map_or(1500, |link| link.mtu);
        let ping = |size: u32| {
            let hosts = &hosts;
            async move { futures::future::join_all(hosts.iter().map(|host| inspect::ping(*host, size))).await }
        };
        let (pings, large) = tokio::join!(ping(SMALL), ping(mtu));
        let large = hosts.iter().zip(large).filter_map(|(host, ping)| Some((*host, (mtu, ping.ok()?))));
        self.large_pings = large.collect();
        for (host, ping) in hosts.into_iter().zip(pings) {
            match ping {
                Ok(ping) => {
                    self.pings.insert(host, ping);
                }
                Err(error) => self.unread.push(format!("ping of {host}: {error}")),
            }
        }
        self.unread.dedup();
        // The pings have made the kernel look for them.
        let neighbours = inspect::neighbours().await;
        self.neighbours = self.keep("neighbours", neighbours);
    }

    /// The interface of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The lease of the subnet that an address is in: from the store, or else from the agent's peers.
    pub fn holder(&self, address: Ipv4Addr) -> Option<(Ipv4Net, Ipv4Addr)> {
        let leases = self.leases.iter().flatten().map(|lease| (lease.subnet, lease.public_ip));
        let peers = self.node.iter().flat_map(|node| &node.peers).map(|peer| (peer.subnet, peer.public_ip));
        leases.chain(peers).find(|(subnet, _)| subnet.contains(&address))
    }
}
