//! Which programs end up where, that doing it again changes nothing, and that interfaces may come and go.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;

use fastpath_common::{PinRoot, attached, entries, expect_attached, inputs, options, start, sync, two_hosts};
use flannel_agent::fastpath::{Attach, Error, FastPath, Mode, Object, Options, Xdp, cleanup, pinned_hooks, probe};
use flannel_tests::{require, scratch::Scratch, skip::Feature};
use serde_json::Value;

const AT_UPLINK: [&str; 2] = ["eth0 tcx/egress to_uplink", "eth0 tcx/ingress from_uplink"];
const AT_VETH2: [&str; 2] = ["veth2 tcx/egress to_port", "veth2 tcx/ingress from_port"];
const AT_VETH3: [&str; 2] = ["veth3 tcx/egress to_port", "veth3 tcx/ingress from_port"];

fn all() -> Vec<&'static str> {
    [AT_UPLINK, AT_VETH2, AT_VETH3].concat()
}

#[test]
fn the_second_sync_changes_nothing() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let mut fastpath = start(ns, &options(&pins), &inputs);
    let (before, pinned) = (entries(ns), pins.listing());
    expect_attached(ns, &all());
    let epoch = fastpath.state().epoch;
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!((entries(ns), pins.listing()), (before, pinned));
    assert_eq!(fastpath.state().epoch, epoch);
}

#[test]
fn every_mode_and_place_has_its_programs() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let check = |options: Options, expected: &[&str]| {
        let fastpath = start(ns, &options, &inputs);
        expect_attached(ns, expected);
        fastpath
    };
    let bridge = ["docker0 tcx/egress to_bridge", "docker0 tcx/ingress from_port"];
    check(Options { attach: Attach::Bridge, ..options(&pins) }, &[bridge, AT_UPLINK].concat());
    // The kernel keeps 15 characters of a program's name.
    let trusted = [
        "eth0 tcx/ingress trusted_from_up",
        "eth0 xdp1 trusted_transit",
        "veth2 tcx/ingress trusted_from_po",
        "veth3 tcx/ingress trusted_from_po",
    ];
    let fastpath = check(Options { mode: Mode::Trusted, xdp: Xdp::On, ..options(&pins) }, &trusted);
    assert!(fastpath.state().hooks.iter().any(|hook| hook.program == "transit" && hook.rung == "xdp"));
    // An agent that still runs would keep what its successor unpins.
    drop(fastpath);
    check(
        Options { xdp: Xdp::On, ..options(&pins) },
        &[&AT_UPLINK[..], &["eth0 xdp1 transit"], &AT_VETH2, &AT_VETH3].concat(),
    );
    let fastpath = check(options(&pins), &all());
    let transit = fastpath.state().hooks.into_iter().find(|hook| hook.program == "transit").unwrap();
    assert_eq!(transit.rung, "none");
    assert!(transit.reason.unwrap().contains("segmentation offload"));
    drop(fastpath);
    check(Options { mode: Mode::Off, ..options(&pins) }, &[]);
    assert_eq!(pins.listing(), Vec::<String>::new());
}

#[test]
fn ports_come_and_go() {
    require!(Feature::Bpf);
    let (mut topology, pins) = (two_hosts(), PinRoot::new());
    let ns = topology.hosts[0].ns.clone();
    let mut fastpath = start(&ns, &options(&pins), &inputs(&topology, 0));
    let epoch = fastpath.state().epoch;

    topology.hosts[0].add_container().unwrap();
    assert_eq!(sync(&ns, &mut fastpath, &inputs(&topology, 0)), []);
    let added = ["veth4 tcx/egress to_port", "veth4 tcx/ingress from_port"];
    expect_attached(&ns, &[&all()[..], &added].concat());
    assert_eq!(fastpath.state().epoch, epoch, "a new port outdates no flow");

    ns.run("ip link del veth3").unwrap();
    assert_eq!(sync(&ns, &mut fastpath, &inputs(&topology, 0)), []);
    expect_attached(&ns, &[AT_UPLINK, AT_VETH2, added].concat());
    assert_eq!(fastpath.state().epoch, epoch + 1, "the flows of a port that went must verify again");
    let links = pins.listing().into_iter().filter(|name| name.contains("link-")).count();
    assert_eq!(links, 6, "no pin is left of a port that went");
}

#[test]
fn a_link_that_changes_outdates_its_flows() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let mut fastpath = start(ns, &options(&pins), &inputs(&topology, 0));
    let mut epoch = fastpath.state().epoch;
    let mut check = |change: &str, bumps: u32| {
        ns.sh(change).unwrap();
        let before = entries(ns);
        assert_eq!(sync(ns, &mut fastpath, &inputs(&topology, 0)), []);
        assert_eq!(entries(ns), before, "{change}");
        epoch += bumps;
        assert_eq!(fastpath.state().epoch, epoch, "{change}");
    };
    check("ip link set eth0 mtu 1400", 1);
    check("ip link set veth2 address 02:00:00:00:00:77", 1);
    check("ip link set veth2 down; ip link set veth2 name veth9; ip link set veth9 up", 0);
}

#[test]
fn devices_made_again_get_their_hooks_again() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let mut fastpath = start(ns, &options(&pins), &inputs(&topology, 0));
    // The same index: only the link itself tells that its interface has died.
    let index = inputs(&topology, 0).bridges[0].ports[0].ifindex;
    let peer = topology.hosts[0].containers[0].ns.name().to_owned();
    ns.run("ip link del veth2").unwrap();
    ns.run(&format!("ip link add veth2 index {index} type veth peer name eth0 netns {peer}")).unwrap();
    ns.run("ip link set veth2 master docker0 up").unwrap();
    assert_eq!(sync(ns, &mut fastpath, &inputs(&topology, 0)), []);
    expect_attached(ns, &all());

    ns.run("ip link del docker0").unwrap();
    assert_eq!(sync(ns, &mut fastpath, &inputs(&topology, 0)), []);
    expect_attached(ns, &AT_UPLINK);
    ns.sh("ip link add docker0 up type bridge; ip link set veth2 master docker0; ip link set veth3 master docker0")
        .unwrap();
    assert_eq!(sync(ns, &mut fastpath, &inputs(&topology, 0)), []);
    expect_attached(ns, &all());
}

#[test]
fn what_is_detached_by_hand_comes_back() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let mut fastpath = start(ns, &Options { xdp: Xdp::On, ..options(&pins) }, &inputs);
    let before = attached(ns);
    let programs: Vec<u64> = entries(ns).into_iter().map(|(_, id)| id).collect();
    let links: Value = serde_json::from_str(&ns.run("bpftool -j link").unwrap()).unwrap();
    for link in links.as_array().unwrap() {
        if link["prog_id"].as_u64().is_some_and(|id| programs.contains(&id)) {
            ns.run(&format!("bpftool link detach id {}", link["id"])).unwrap();
        }
    }
    expect_attached(ns, &[]);
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!(attached(ns), before);
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!(attached(ns), before);
}

#[test]
fn an_interface_that_has_gone_is_said_and_harms_no_other() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    ns.run("ip link del veth2").unwrap();
    let (mut fastpath, warnings) = ns
        .enter(|| {
            let mut fastpath = FastPath::start(&options(&pins)).unwrap();
            let warnings = fastpath.sync(&inputs);
            (fastpath, warnings)
        })
        .unwrap();
    let codes: Vec<&str> = warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(codes, ["fastpath-from-port", "fastpath-to-port"], "{warnings:#?}");
    assert!(warnings[0].text.contains("veth2: the interface has gone"), "{warnings:#?}");
    expect_attached(ns, &[AT_UPLINK, AT_VETH3].concat());
    assert_eq!(sync(ns, &mut fastpath, &fastpath_common::inputs(&topology, 0)), []);
}

#[test]
fn cleanup_leaves_nothing() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let fastpath = start(ns, &Options { xdp: Xdp::On, ..options(&pins) }, &inputs(&topology, 0));
    let programs: Vec<u64> = entries(ns).into_iter().map(|(_, id)| id).collect();
    drop(fastpath);
    assert_eq!(attached(ns).len(), 7, "a dead agent changes nothing");
    assert_eq!(ns.enter(|| pinned_hooks(pins.path(), None)).unwrap().unwrap().len(), 7);
    let removed = ns.enter(|| cleanup(pins.path(), None)).unwrap().unwrap();
    assert_eq!((removed.links, removed.directories), (7, 1));
    expect_attached(ns, &[]);
    assert_eq!(pins.listing(), Vec::<String>::new());
    for id in programs {
        let gone = || ns.run(&format!("bpftool prog show id {id}")).is_err();
        flannel_tests::wait::wait_until("the program to be freed", std::time::Duration::from_secs(5), gone).unwrap();
    }
    let again = ns.enter(|| cleanup(pins.path(), None)).unwrap().unwrap();
    assert_eq!(again, flannel_agent::fastpath::Removed::default());
}

#[test]
fn without_a_bpf_file_system_it_works_until_the_agent_ends() {
    require!(Feature::Bpf);
    let topology = two_hosts();
    let ns = &topology.hosts[0].ns;
    let folder = Scratch::new("nopins").unwrap();
    let fastpath =
        start(ns, &Options { pin_root: folder.join("flannel"), ..Options::default() }, &inputs(&topology, 0));
    expect_attached(ns, &all());
    let state = fastpath.state();
    assert!(state.reason.unwrap().contains("not on a BPF file system"));
    assert_eq!(state.pin_dir, "");
    assert!(fastpath.reader().settings().unwrap().is_some());
    drop(fastpath);
    expect_attached(ns, &[]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_object_that_does_not_load_leaves_nothing_attached() {
    require!(Feature::Bpf);
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    drop(start(ns, &options(&pins), &inputs(&topology, 0)));
    let broken = Object { bytes: b"no ELF file at all".as_slice().into(), ..Object::built_in() };
    let error = ns.enter(|| FastPath::start_object(&options(&pins), &broken).err().unwrap()).unwrap();
    assert!(matches!(error, Error::Object { .. }), "{error}");
    expect_attached(ns, &[]);
    assert_eq!(pins.listing(), Vec::<String>::new());
}

/// Set in the process that has no rights.
const WITHOUT_RIGHTS: &str = "FLANNEL_TEST_WITHOUT_RIGHTS";

#[test]
fn without_rights_it_says_so() {
    require!(Feature::Bpf, Feature::Tool("setpriv"));
    if std::env::var_os(WITHOUT_RIGHTS).is_some() {
        let error = FastPath::start(&Options { pin_root: "/nowhere".into(), ..Options::default() }).err().unwrap();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains("run as root, or choose --fastpath=off"), "{error}");
        let features = probe();
        assert!(features[0].found.as_ref().is_err_and(|why| why.contains("no right")), "{features:?}");
        return;
    }
    let status = std::process::Command::new("setpriv")
        .arg("--bounding-set=-sys_admin,-bpf,-perfmon,-net_admin")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "without_rights_it_says_so"])
        .env(WITHOUT_RIGHTS, "1")
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
}

#[test]
fn this_kernel_has_what_it_takes() {
    require!(Feature::Bpf);
    let missing: Vec<_> = probe().into_iter().filter(|feature| feature.needed && feature.found.is_err()).collect();
    assert_eq!(missing, []);
}
