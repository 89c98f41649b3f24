//! Which programs end up where, and that doing it again changes nothing.

mod fastpath_common;

use fastpath_common::{PinRoot, attached, entries, inputs, options, start, sync, two_hosts};
use flannel_tests::{require, skip::Feature};

const TCX: [&str; 6] = [
    "eth0 tcx/egress to_uplink",
    "eth0 tcx/ingress from_uplink",
    "veth2 tcx/egress to_port",
    "veth2 tcx/ingress from_port",
    "veth3 tcx/egress to_port",
    "veth3 tcx/ingress from_port",
];

#[test]
fn the_second_sync_changes_nothing() {
    require!(Feature::Bpf, Feature::Tool("bpftool"));
    let (topology, pins) = (two_hosts(), PinRoot::new());
    let ns = &topology.hosts[0].ns;
    let inputs = inputs(&topology, 0);
    let mut fastpath = start(ns, &options(&pins), &inputs);
    let (before, pinned) = (entries(ns), pins.listing());
    assert_eq!(attached(ns), TCX);
    let epoch = fastpath.state().epoch;
    assert_eq!(sync(ns, &mut fastpath, &inputs), []);
    assert_eq!((entries(ns), pins.listing()), (before, pinned));
    assert_eq!(fastpath.state().epoch, epoch);
    println!("{:#?}\n{:#?}", fastpath.state(), pins.listing());
}
