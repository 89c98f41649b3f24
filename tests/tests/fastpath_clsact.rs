//! Kernels before 6.6 have no tcx: filters of the clsact qdisc, found again by priority and handle.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;

use fastpath_common::{PinRoot, attached, entries, expect_attached, inputs, options, start, sync, two_hosts};
use flannel_agent::fastpath::{HookKind, Options, cleanup};
use flannel_tests::{netns::Netns, require, skip::Feature};

const CLSACT: [&str; 6] = [
    "eth0 clsact/egress to_uplink",
    "eth0 clsact/ingress from_uplink",
    "veth2 clsact/egress to_port",
    "veth2 clsact/ingress from_port",
    "veth3 clsact/egress to_port",
    "veth3 clsact/ingress from_port",
];

fn clsact(pins: &PinRoot) -> Options {
    Options { hook: HookKind::Clsact, ..options(pins) }
}

fn qdiscs(ns: &Netns) -> usize {
    ns.run("tc qdisc show").unwrap().matches("clsact").count()
}

#[test]
fn filters_are_put_once_and_outlive_the_agent() {
    require!(Feature::Bpf, Feature::Tool("tc"));
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let mut fastpath = start(ns, &clsact(&pins), &inputs);
    expect_attached(ns, &CLSACT);
    let before = entries(ns);
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!(entries(ns), before);
    drop(fastpath);
    assert_eq!(entries(ns), before);
    let _fastpath = start(ns, &clsact(&pins), &inputs);
    assert_eq!(attached(ns), CLSACT, "replaced, not added to");
}

#[test]
fn a_port_that_left_the_bridge_loses_its_filters() {
    require!(Feature::Bpf, Feature::Tool("tc"));
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let mut fastpath = start(ns, &clsact(&pins), &inputs(&topology, 0));
    ns.run("ip link set veth3 nomaster").unwrap();
    assert_eq!(sync(ns, &mut fastpath, &inputs(&topology, 0)), []);
    expect_attached(ns, &CLSACT[..4]);
    drop(fastpath);
    // The same while no agent looked.
    ns.run("ip link set veth2 nomaster").unwrap();
    let _fastpath = start(ns, &clsact(&pins), &inputs(&topology, 0));
    expect_attached(ns, &CLSACT[..2]);
}

#[test]
fn the_two_rungs_take_over_from_each_other() {
    require!(Feature::Bpf, Feature::Tool("tc"));
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    drop(start(ns, &clsact(&pins), &inputs));
    drop(start(ns, &options(&pins), &inputs));
    let tcx: Vec<String> = CLSACT.iter().map(|line| line.replace("clsact", "tcx")).collect();
    expect_attached(ns, &tcx.iter().map(String::as_str).collect::<Vec<_>>());
    drop(start(ns, &clsact(&pins), &inputs));
    expect_attached(ns, &CLSACT);
}

#[test]
fn cleanup_takes_our_filters_and_qdiscs_only() {
    require!(Feature::Bpf, Feature::Tool("tc"));
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    // Somebody else's qdisc, and somebody else's filter in a qdisc of ours.
    ns.run("tc qdisc add dev eth0 clsact").unwrap();
    let fastpath = start(ns, &clsact(&pins), &inputs(&topology, 0));
    let (foreign, program) = (PinRoot::new(), entries(ns)[0].1);
    ns.run(&format!("bpftool prog pin id {program} {}", foreign.path().display())).unwrap();
    let filter = format!("tc filter add dev veth2 ingress prio 7 bpf da object-pinned {}", foreign.path().display());
    ns.run(&filter).unwrap();
    assert_eq!(qdiscs(ns), 3);
    drop(fastpath);
    let removed = ns.enter(|| cleanup(pins.path(), None)).unwrap().unwrap();
    assert_eq!((removed.filters, removed.qdiscs, removed.directories), (6, 1, 1));
    assert_eq!(attached(ns).len(), 1, "somebody else's filter");
    assert!(ns.run("tc filter show dev veth2 ingress").unwrap().contains("pref 7 "));
    assert_eq!(qdiscs(ns), 2);
    assert_eq!(pins.listing(), Vec::<String>::new());
}
