//! One host with two containers, a pin directory of its own, and views of what the kernel holds.
#![allow(dead_code, reason = "each suite uses its part")]

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType};
use flannel_agent::{
    backend::Way,
    fastpath::{Bridge, FastPath, Inputs, Link, Options, PeerInput},
    kernel::netlink::Netlink,
    state::Warning,
};
use flannel_tests::{netns::Netns, scratch, topology::Topology, wait::wait_until};
use ipnet::Ipv4Net;
use nix::net::if_::if_nameindex;
use serde_json::Value;

/// A directory on bpffs for one test.
pub(crate) struct PinRoot(PathBuf);

impl PinRoot {
    pub(crate) fn new() -> Self {
        Self(Path::new("/sys/fs/bpf").join(scratch::unique_name("pins")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Everything under it, relative to it and sorted; directories too.
    pub(crate) fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.0, &mut found);
        let mut names: Vec<String> =
            found.iter().map(|path| path.strip_prefix(&self.0).unwrap().display().to_string()).collect();
        names.sort();
        names
    }
}

impl Drop for PinRoot {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0)).ok();
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        walk(&entry.path(), found);
    }
}

/// Two hosts with two containers each, wired by static routes; the first is the one under test.
pub(crate) fn two_hosts() -> Topology {
    let mut topology = Topology::flat(2).unwrap();
    topology.wire_statically(2).unwrap();
    topology
}

/// Options for a test.
pub(crate) fn options(pins: &PinRoot) -> Options {
    Options { pin_root: pins.path().to_owned(), flows: 1024, ..Options::default() }
}

/// What the agent would tell the fast path of host number `index` now.
pub(crate) fn inputs(topology: &Topology, index: usize) -> Inputs {
    let host = &topology.hosts[index];
    let (eth0, docker0) = look(&host.ns);
    let uplinks: Vec<Link> = eth0.into_iter().collect();
    let ifindex = uplinks.first().map_or(0, |link| link.ifindex);
    let others = topology.hosts.iter().filter(|other| other.name != host.name);
    let peers = others.map(|other| {
        let way = Way { ifindex, next_hop: other.address, mtu: 1500 };
        (other.subnet.unwrap(), PeerInput { host: other.address, way: Some(way) })
    });
    Inputs {
        subnet: host.subnet.unwrap(),
        peers: peers.collect(),
        uplinks,
        bridges: docker0.into_iter().collect(),
        endpoints: BTreeMap::new(),
    }
}

fn look(ns: &Netns) -> (Option<Link>, Option<Bridge>) {
    ns.block_on(|| async {
        let netlink = Netlink::connect().unwrap();
        let links = netlink.links().await.unwrap();
        let eth0 = links.iter().find(|link| link.name == "eth0").map(Link::from);
        (eth0, netlink.bridge("docker0").await.unwrap().as_ref().map(Bridge::from))
    })
    .unwrap()
}

/// Starts and syncs inside the namespace.
pub(crate) fn start(ns: &Netns, options: &Options, inputs: &Inputs) -> FastPath {
    ns.enter(|| {
        let mut fastpath = FastPath::start(options).unwrap();
        assert_eq!(fastpath.sync(inputs), []);
        fastpath
    })
    .unwrap()
}

/// Syncs inside the namespace.
pub(crate) fn sync(ns: &Netns, fastpath: &mut FastPath, inputs: &Inputs) -> Vec<Warning> {
    ns.enter(|| fastpath.sync(inputs)).unwrap()
}

/// What is attached in the namespace: `eth0 tcx/ingress from_uplink`, sorted.
pub(crate) fn attached(ns: &Netns) -> Vec<String> {
    entries(ns).into_iter().map(|(shown, _)| shown).collect()
}

/// Waits until just this is attached: the kernel detaches an unpinned link a moment later.
#[track_caller]
pub(crate) fn expect_attached(ns: &Netns, expected: &[&str]) {
    let settled = wait_until("the hooks to settle", Duration::from_secs(5), || attached(ns) == expected);
    assert!(settled.is_ok(), "attached is {:#?}\nnot {expected:#?}", attached(ns));
}

/// The same with the ids of the programs. (bpftool of Debian 12 knows no tcx, so the kernel is asked directly.)
pub(crate) fn entries(ns: &Netns) -> Vec<(String, u64)> {
    let mut shown = ns.enter(tcx_entries).unwrap();
    for (device, link) in devices(ns) {
        if let (Some(id), Some(name)) = (link["xdp"]["prog"]["id"].as_u64(), link["xdp"]["prog"]["name"].as_str()) {
            shown.push((format!("{device} xdp{} {name}", link["xdp"]["mode"]), id));
        }
        for direction in ["ingress", "egress"] {
            let text = ns.sh(&format!("tc -j filter show dev {device} {direction} 2>/dev/null || true")).unwrap();
            let filters: Value = serde_json::from_str(text.trim()).unwrap_or_default();
            for options in filters.as_array().into_iter().flatten().map(|filter| &filter["options"]) {
                if let Some(id) = options["prog"]["id"].as_u64() {
                    shown.push((format!("{device} clsact/{direction} {}", options["bpf_name"].as_str().unwrap()), id));
                }
            }
        }
    }
    shown.sort();
    shown
}

fn devices(ns: &Netns) -> Vec<(String, Value)> {
    let links: Value = serde_json::from_str(&ns.run("ip -j link").unwrap()).unwrap();
    let links = links.as_array().cloned().unwrap_or_default();
    links.into_iter().map(|link| (link["ifname"].as_str().unwrap().to_owned(), link)).collect()
}

fn tcx_entries() -> Vec<(String, u64)> {
    let mut shown = Vec::new();
    for interface in &if_nameindex().unwrap() {
        let name = interface.name().to_str().unwrap();
        for (direction, label) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
            let (_, programs) = SchedClassifier::query_tcx(name, direction).unwrap();
            for program in programs {
                let line = format!("{name} tcx/{label} {}", program.name_as_str().unwrap());
                shown.push((line, u64::from(program.id())));
            }
        }
    }
    shown
}

/// A /24 of the test network.
pub(crate) fn subnet(third: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(172, 16, third, 0), 24).unwrap()
}
