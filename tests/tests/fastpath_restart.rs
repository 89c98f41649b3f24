//! An agent that takes over from a dead one: of the same version, of another, in another mode; and two that share a
//! BPF file system.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use aya::maps::{
    MapData, MapInfo,
    lpm_trie::{Key, LpmTrie},
};
use fastpath_common::{PinRoot, attached, entries, expect_attached, inputs, options, start, subnet, sync, two_hosts};
use flannel_agent::{
    backend::Way,
    fastpath::{FastPath, Inputs, Mode, Object, Options, PeerInput, Reader, cleanup},
};
use flannel_common::abi::{ABI_VERSION, Peer, PeerKey, map};
use flannel_tests::{netns::Netns, require, skip::Feature, wait::wait_until};

/// The ids of the maps pinned under a pin root, by name.
fn maps(pins: &PinRoot) -> BTreeMap<String, u32> {
    let is_map =
        |name: &String| name.rsplit('/').next().is_some_and(|file| file.chars().all(|c| c.is_uppercase() || c == '_'));
    let id = |name: &String| MapInfo::from_pin(pins.path().join(name)).unwrap().id();
    pins.listing()
        .into_iter()
        .filter(is_map)
        .map(|name| (name.rsplit('/').next().unwrap().to_owned(), id(&name)))
        .collect()
}

/// The ids of the pinned links, by file name.
fn links(pins: &PinRoot) -> BTreeMap<String, u32> {
    let links = pins.listing().into_iter().filter(|name| name.contains("/link-"));
    let id = |name: &str| {
        let link = aya::programs::links::PinnedLink::from_pin(pins.path().join(name)).unwrap();
        aya::programs::links::FdLink::from(link).info().unwrap().id()
    };
    links.map(|name| (name.rsplit('/').next().unwrap().to_owned(), id(&name))).collect()
}

/// What the trie says to an address of this /24.
fn looked_up(pins: &PinRoot, third: u8) -> Option<Peer> {
    let path = pins.listing().into_iter().find(|name| name.ends_with("/PEERS")).unwrap();
    let data = MapData::from_pin(pins.path().join(path)).unwrap();
    let trie: LpmTrie<_, PeerKey, Peer> = aya::maps::Map::LpmTrie(data).try_into().unwrap();
    trie.get(&Key::new(32, PeerKey { addr: [172, 16, third, 9] }), 0).ok()
}

fn with_peer(mut inputs: Inputs, third: u8) -> Inputs {
    let way = Way { ifindex: inputs.uplinks[0].ifindex, next_hop: Ipv4Addr::new(192, 0, 2, 99), mtu: 1500 };
    inputs.peers.insert(subnet(third), PeerInput { host: way.next_hop, way: Some(way) });
    inputs
}

fn start_as(ns: &Netns, options: &Options, abi: u32, inputs: &Inputs) -> FastPath {
    ns.enter(|| {
        let mut fastpath = FastPath::start_object(options, &Object { abi, ..Object::built_in() }).unwrap();
        assert_eq!(fastpath.sync(inputs), []);
        fastpath
    })
    .unwrap()
}

#[test]
fn the_next_agent_adopts_maps_and_links() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let fastpath = start(ns, &options(&pins), &with_peer(inputs.clone(), 7));
    let (first_maps, first_links, shown) = (maps(&pins), links(&pins), attached(ns));
    let (index, epoch) = (fastpath.peer_index(subnet(7)), fastpath.state().epoch);
    assert_eq!((first_maps.len(), first_links.len()), (7, 6));
    drop(fastpath);

    // A start alone, without a sync, changes nothing that carries traffic.
    let programs = entries(ns);
    drop(ns.enter(|| FastPath::start(&options(&pins)).unwrap()).unwrap());
    assert_eq!(entries(ns), programs);

    let fastpath = start(ns, &options(&pins), &with_peer(inputs, 7));
    assert_eq!((maps(&pins), links(&pins), attached(ns)), (first_maps, first_links, shown));
    assert_eq!(fastpath.peer_index(subnet(7)), index);
    assert_eq!(fastpath.state().epoch, epoch + 1, "what changed while no agent looked is unknown");
}

#[test]
fn a_peer_that_went_while_no_agent_looked_goes_from_the_trie() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    drop(start(ns, &options(&pins), &with_peer(with_peer(inputs.clone(), 7), 8)));
    assert!(looked_up(&pins, 7).is_some() && looked_up(&pins, 8).is_some());
    let _fastpath = start(ns, &options(&pins), &with_peer(inputs, 8));
    assert_eq!(looked_up(&pins, 7), None);
    assert_eq!(looked_up(&pins, 8).unwrap().next_hop, [192, 0, 2, 99]);
    assert_eq!(looked_up(&pins, 1).unwrap().ifindex, 0, "our own subnet");
}

#[test]
fn an_upgrade_and_a_downgrade_keep_the_links() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    drop(start(ns, &options(&pins), &inputs));
    let (old_maps, old_links, shown, listing) = (maps(&pins), links(&pins), attached(ns), pins.listing());
    drop(start_as(ns, &options(&pins), ABI_VERSION + 1, &inputs));
    assert_eq!(links(&pins), old_links, "the very same links");
    assert_eq!(attached(ns), shown);
    assert!(maps(&pins).iter().all(|(name, id)| old_maps[name] != *id), "two versions share no map");
    assert!(pins.listing().iter().all(|name| !name.ends_with(&format!("/v{ABI_VERSION}"))));
    drop(start(ns, &options(&pins), &inputs));
    assert_eq!((links(&pins), attached(ns), pins.listing()), (old_links, shown, listing));
}

#[test]
fn another_mode_swaps_the_programs() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    drop(start(ns, &options(&pins), &inputs));
    let (verified, first) = (attached(ns), links(&pins));
    drop(start(ns, &Options { mode: Mode::Trusted, ..options(&pins) }, &inputs));
    let trusted =
        ["eth0 tcx/ingress trusted_from_up", "veth2 tcx/ingress trusted_from_po", "veth3 tcx/ingress trusted_from_po"];
    expect_attached(ns, &trusted);
    assert!(links(&pins).iter().all(|(name, id)| first[name] == *id));
    drop(start(ns, &options(&pins), &inputs));
    assert_eq!(attached(ns), verified);
    drop(start(ns, &Options { mode: Mode::Off, ..options(&pins) }, &inputs));
    expect_attached(ns, &[]);
    assert_eq!(pins.listing(), Vec::<String>::new());
}

#[test]
fn another_flow_table_size_replaces_that_map_alone() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    drop(start(ns, &options(&pins), &inputs));
    let before = maps(&pins);
    drop(start(ns, &Options { flows: 2048, ..options(&pins) }, &inputs));
    let changed: Vec<_> =
        maps(&pins).into_iter().filter(|(name, id)| before[name] != *id).map(|(name, _)| name).collect();
    assert_eq!(changed, [map::FLOWS]);
}

#[test]
fn damaged_pins_are_made_again() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = with_peer(inputs(&topology, 0), 7);
    drop(start(ns, &options(&pins), &inputs));
    let shown = attached(ns);
    for damage in ["PEERS_RECORD", "PEERS", "SETTINGS", "FLOWS", "link-from_port-4", "link-to_uplink-2"] {
        let path = pins.listing().into_iter().find(|name| name.ends_with(&format!("/{damage}"))).unwrap();
        std::fs::remove_file(pins.path().join(path)).unwrap();
        drop(start(ns, &options(&pins), &inputs));
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        expect_attached(ns, &shown);
        assert_eq!(looked_up(&pins, 7).unwrap().next_hop, [192, 0, 2, 99], "{damage}");
        assert_eq!((maps(&pins).len(), links(&pins).len()), (7, 6), "{damage}");
    }
}

#[test]
fn pins_removed_under_a_living_agent_come_back() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = with_peer(inputs(&topology, 0), 7);
    let mut fastpath = start(ns, &options(&pins), &inputs);
    let (first_maps, first_links, shown) = (maps(&pins), links(&pins), attached(ns));
    let dir = fastpath.state().pin_dir;
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(attached(ns), shown, "the agent holds its links");
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!((maps(&pins), links(&pins), attached(ns)), (first_maps, first_links, shown.clone()));

    // With nowhere to pin anything, everything goes on unpinned, and says so.
    ns.enter(|| cleanup(pins.path(), None)).unwrap().unwrap();
    let in_the_way = aya::maps::HashMap::<MapData, u32, u32>::create(1, 0).unwrap();
    in_the_way.pin(pins.path()).unwrap();
    let warnings = sync(ns, &mut fastpath, &inputs);
    assert!(warnings.iter().any(|warning| warning.text.contains("Not a directory")), "{warnings:?}");
    assert_eq!(attached(ns), shown);
}

#[test]
fn namespaces_that_share_a_bpffs_do_not_meet() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let hosts: Vec<&Netns> = topology.hosts.iter().map(|host| &host.ns).collect();
    let first = start(hosts[0], &options(&pins), &inputs(&topology, 0));
    let second = start(hosts[1], &options(&pins), &inputs(&topology, 1));
    assert_ne!(first.state().pin_dir, second.state().pin_dir);
    let (one, two) = (entries(hosts[0]), entries(hosts[1]));
    drop(second);
    hosts[1].enter(|| cleanup(pins.path(), None)).unwrap().unwrap();
    expect_attached(hosts[1], &[]);
    assert_eq!(entries(hosts[0]), one);
    assert_eq!((one.len(), two.len()), (6, 6));
    assert!(std::fs::exists(first.state().pin_dir).unwrap());
}

#[test]
fn pins_of_a_namespace_that_has_gone_are_removed() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let gone = two_hosts();
    drop(start(&gone.hosts[0].ns, &options(&pins), &inputs(&gone, 0)));
    let living = start(&topology.hosts[0].ns, &options(&pins), &inputs(&topology, 0));
    assert_eq!(pins.listing().iter().filter(|name| !name.contains('/')).count(), 2);
    drop(gone);
    // The kernel takes a namespace down a moment after its last user has gone.
    let other = inputs(&topology, 1);
    let settled = wait_until("the dead namespace's pins to go", Duration::from_secs(20), || {
        drop(start(&topology.hosts[1].ns, &options(&pins), &other));
        pins.listing().iter().filter(|name| !name.contains('/')).count() == 2
    });
    assert!(settled.is_ok(), "{:?}", pins.listing());
    assert!(std::fs::exists(living.state().pin_dir).unwrap());
}

#[test]
fn readers_need_no_agent() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let host = &topology.hosts[0];
    let missing = host.ns.enter(|| Reader::open(pins.path(), None).err().unwrap().to_string()).unwrap();
    assert!(missing.contains("is flanneld running"), "{missing}");
    let mut fastpath = start(&host.ns, &options(&pins), &inputs(&topology, 0));
    host.containers[0].ns.run(&format!("ping -c 3 -i 0.05 {}", topology.hosts[1].containers[0].address)).unwrap();
    let (live, reader) = (fastpath.reader(), host.ns.enter(|| Reader::open(pins.path(), None)).unwrap().unwrap());
    let counters = reader.counters().unwrap();
    assert!(!counters.is_empty());
    assert_eq!(live.counters().unwrap(), counters);
    assert_eq!(reader.settings().unwrap().unwrap().epoch, fastpath.state().epoch);
    let index = fastpath.peer_index(topology.hosts[1].subnet.unwrap()).unwrap();
    assert_eq!(reader.peer_tallies([index]).unwrap().len(), 1);
    assert!(reader.flows(10, |_, _| true).unwrap().is_empty(), "ICMP makes no flows");
    assert_eq!(sync(&host.ns, &mut fastpath, &inputs(&topology, 0)), []);
}
