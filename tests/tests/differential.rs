//! What comes out of a host with the fast path on equals, byte for byte, what comes out with it off: thousands of random frames
//! through a real kernel, captured on every wire, per hook and mode.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod differential_lab;
mod packets_common;

use std::collections::BTreeMap;

use flannel_common::abi::{Endpoint, Peer, Settings, peer_kind, program};
use flannel_common::reason::Reason;
use flannel_tests::{require, skip::Feature};

use differential_lab::{
    BRIDGE_MAC, CONTAINER_MAC, GATEWAY, HOST, Lab, NEIGHBOUR, NEIGHBOUR_MAC, SIBLING, UPLINK_MAC, Way,
};
use packets_common::random::{self, Ends, Random};
use packets_common::rig::{LOCAL, NOBODY, OUTSIDE, REMOTE, Rig, TUNNELLED, peer, settings};

const BATCHES: u64 = 40;
const BATCH: u64 = 50;

/// The batches of a way: good packets of every flow, then anything.
fn batches(way: Way, inner_mtu: u32, outer_mtu: u32) -> Vec<Vec<Vec<u8>>> {
    let mut random = Random::new(way as u64 + 1);
    let ends = match way {
        Way::Out => Ends { src: LOCAL, dst: REMOTE, dst_mac: BRIDGE_MAC, src_mac: CONTAINER_MAC },
        Way::In => Ends { src: REMOTE, dst: LOCAL, dst_mac: UPLINK_MAC, src_mac: NEIGHBOUR_MAC },
        Way::Transit => Ends { src: TUNNELLED, dst: REMOTE, dst_mac: UPLINK_MAC, src_mac: NEIGHBOUR_MAC },
    };
    let strangers = [
        LOCAL,
        SIBLING,
        REMOTE,
        TUNNELLED,
        NOBODY,
        OUTSIDE,
        GATEWAY,
        HOST,
        NEIGHBOUR,
        [127, 0, 0, 1],
        [0; 4],
        [224, 0, 0, 5],
        [255; 4],
        [172, 16, 1, 255],
        [240, 0, 0, 1],
    ];
    let put_mtu = if way == Way::Out { inner_mtu } else { outer_mtu };
    let largest = u64::from(put_mtu) - 28;
    let mut id = 0_u16;
    (0..BATCHES)
        .map(|_| {
            let mut frames = random::primers(ends, 1500);
            for _ in 0..BATCH {
                id += 1;
                let frame = random::frame(&mut random, id, ends, &strangers, largest);
                // The sender's own interface takes no more than this.
                if frame.len() <= put_mtu as usize + 14 {
                    frames.push(frame);
                }
            }
            frames
        })
        .collect()
}

/// One mode at one host: how to attach it.
type Attach = fn(&mut Rig, &Lab);

fn verified(rig: &mut Rig, lab: &Lab) {
    rig.attach(&lab.host, program::TO_UPLINK, "eth0");
    rig.attach(&lab.host, program::TO_PORT, "port0");
    rig.attach(&lab.host, program::FROM_UPLINK, "eth0");
    rig.attach(&lab.host, program::FROM_PORT, "port0");
}

fn verified_at_bridge(rig: &mut Rig, lab: &Lab) {
    rig.attach(&lab.host, program::TO_UPLINK, "eth0");
    rig.attach(&lab.host, program::TO_BRIDGE, "docker0");
    rig.attach(&lab.host, program::FROM_UPLINK, "eth0");
    rig.attach(&lab.host, program::FROM_PORT, "docker0");
}

fn verified_with_xdp(rig: &mut Rig, lab: &Lab) {
    verified(rig, lab);
    rig.attach(&lab.host, program::TRANSIT, "eth0");
}

fn trusted(rig: &mut Rig, lab: &Lab) {
    rig.attach(&lab.host, program::TRUSTED_FROM_PORT, "port0");
    rig.attach(&lab.host, program::TRUSTED_FROM_UPLINK, "eth0");
}

fn trusted_with_xdp(rig: &mut Rig, lab: &Lab) {
    trusted(rig, lab);
    rig.attach(&lab.host, program::TRUSTED_TRANSIT, "eth0");
}

/// Settings with which no flow grows old.
fn lasting() -> Settings {
    Settings { revalidate_ns: 600_000_000_000, ..settings() }
}

/// Fills the maps as the agent would on this host.
fn fill(rig: &mut Rig, lab: &Lab) {
    let (uplink, port) = (lab.ifindex("eth0"), lab.ifindex("port0"));
    rig.set(lasting());
    let by_uplink =
        |index, next_hop| Peer { next_hop, host: next_hop, ifindex: uplink, ..peer(index, peer_kind::NEXT_HOP) };
    rig.put_peer(REMOTE, by_uplink(1, NEIGHBOUR));
    rig.put_peer(TUNNELLED, by_uplink(2, [192, 0, 2, 13]));
    rig.put_endpoint(LOCAL, Endpoint { ifindex: port, mac: CONTAINER_MAC, bridge_mac: BRIDGE_MAC });
}

/// The same frames through the kernel alone and through the fast path; at least `share` percent must have been fast.
fn check(way: Way, attach: Attach, inner_mtu: u32, outer_mtu: u32, share: u64) {
    check_while(way, attach, [inner_mtu, outer_mtu], share, |_| None);
}

/// The same while an interface of the host gets another MTU: `change` names both before some of the batches.
fn check_while(
    way: Way,
    attach: Attach,
    [inner_mtu, outer_mtu]: [u32; 2],
    share: u64,
    change: fn(usize) -> Option<(&'static str, u32)>,
) {
    let lab = Lab::new(inner_mtu, outer_mtu);
    let batches = batches(way, inner_mtu, outer_mtu);
    let set_mtu = |number| {
        let (name, mtu) = change(number)?;
        lab.host.run(&format!("ip link set {name} mtu {mtu}")).unwrap();
        Some(())
    };
    let through_kernel = |(number, frames): (usize, &Vec<Vec<u8>>)| {
        set_mtu(number);
        lab.batch(way, frames)
    };
    let plain: Vec<_> = batches.iter().enumerate().map(through_kernel).collect();
    // XDP_TX on a veth needs a program at the other end as well; this one is switched off, and so passes everything.
    let mut other_end = Rig::load();
    other_end.set(Settings { enabled: 0, ..settings() });
    other_end.attach(&lab.wire, program::TRANSIT, "eth0");
    let mut rig = Rig::load();
    fill(&mut rig, &lab);
    attach(&mut rig, &lab);
    let mut epoch = settings().epoch;
    for (number, (frames, expected)) in batches.iter().zip(&plain).enumerate() {
        if set_mtu(number).is_some() {
            // As the agent does when the kernel tells it.
            epoch += 1;
            rig.set(Settings { epoch, ..lasting() });
        }
        let out = lab.batch(way, frames);
        assert_same(number, frames, expected, &out);
    }
    assert_fast(way, &rig, &batches, share);
}

/// At least `share` percent of the frames were fast.
fn assert_fast(way: Way, rig: &Rig, batches: &[Vec<Vec<u8>>], share: u64) {
    let fast: u64 =
        [Reason::FastOut, Reason::FastIn, Reason::FastTransit].map(|reason| rig.packets(reason)).iter().sum();
    let sent: u64 = batches.iter().map(|frames| frames.len() as u64).sum();
    println!("{way:?}: {sent} frames in, {fast} of them fast");
    assert!(fast * 100 >= sent * share, "{way:?}: only {fast} of {sent} frames were fast");
}

fn assert_same(
    number: usize,
    frames: &[Vec<u8>],
    expected: &BTreeMap<(&'static str, Vec<u8>), usize>,
    out: &BTreeMap<(&'static str, Vec<u8>), usize>,
) {
    let lacks = |from: &BTreeMap<(&str, Vec<u8>), usize>, other: &BTreeMap<(&str, Vec<u8>), usize>| {
        let missing = from.iter().filter(|(frame, count)| other.get(*frame) != Some(count));
        missing.map(|((wire, frame), count)| format!("  {count} x {wire} {}\n", hex(frame))).collect::<String>()
    };
    if out != expected {
        let sent: String = frames.iter().map(|frame| format!("  {}\n", hex(&frame[..frame.len().min(80)]))).collect();
        let (missing, added) = (lacks(expected, out), lacks(out, expected));
        panic!("batch {number}: the kernel alone gives\n{missing}and with the fast path there is\n{added}of\n{sent}");
    }
}

fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect();
    format!("{shown} ({} bytes)", bytes.len())
}

#[test]
fn out_verified() {
    require!(Feature::Bpf);
    check(Way::Out, verified, 3000, 1500, 40);
}

#[test]
fn out_verified_at_the_bridge() {
    require!(Feature::Bpf);
    check(Way::Out, verified_at_bridge, 3000, 1500, 40);
}

#[test]
fn out_trusted() {
    require!(Feature::Bpf);
    check(Way::Out, trusted, 3000, 1500, 40);
}

#[test]
fn in_verified() {
    require!(Feature::Bpf);
    check(Way::In, verified, 1500, 3000, 40);
}

#[test]
fn in_verified_at_the_bridge() {
    require!(Feature::Bpf);
    check(Way::In, verified_at_bridge, 1500, 3000, 40);
}

#[test]
fn in_trusted() {
    require!(Feature::Bpf);
    check(Way::In, trusted, 1500, 3000, 40);
}

#[test]
fn transit_verified() {
    require!(Feature::Bpf);
    check(Way::Transit, verified, 1500, 1500, 40);
}

#[test]
fn transit_verified_by_xdp() {
    require!(Feature::Bpf);
    check(Way::Transit, verified_with_xdp, 1500, 1500, 40);
}

#[test]
fn transit_trusted() {
    require!(Feature::Bpf);
    check(Way::Transit, trusted, 1500, 1500, 40);
}

#[test]
fn transit_trusted_by_xdp() {
    require!(Feature::Bpf);
    check(Way::Transit, trusted_with_xdp, 1500, 1500, 40);
}

/// Frames of up to 9000 bytes that no segmentation offload stands behind, with and without the don't-fragment bit.
#[test]
fn jumbo_frames_out_of_a_smaller_uplink() {
    require!(Feature::Bpf);
    for attach in [verified, verified_at_bridge, trusted] {
        check(Way::Out, attach, 9000, 1500, 25);
    }
}

#[test]
fn jumbo_frames_into_a_smaller_port() {
    require!(Feature::Bpf);
    for attach in [verified, verified_at_bridge, trusted] {
        check(Way::In, attach, 1500, 9000, 25);
    }
}

/// The uplink's MTU falls while flows are verified for larger packets, falls again, and rises.
#[test]
fn the_uplink_changes_its_mtu_under_verified_flows() {
    require!(Feature::Bpf);
    let change = |number| match number {
        0 | 30 => Some(("eth0", 1500)),
        10 => Some(("eth0", 1400)),
        20 => Some(("eth0", 600)),
        _ => None,
    };
    for attach in [verified as Attach, verified_at_bridge] {
        check_while(Way::Out, attach, [3000, 1500], 20, change);
    }
}

/// The same with the port of a container.
#[test]
fn a_port_changes_its_mtu_under_verified_flows() {
    require!(Feature::Bpf);
    let change = |number| match number {
        0 | 30 => Some(("docker0", 1500)),
        10 => Some(("docker0", 1400)),
        20 => Some(("docker0", 600)),
        _ => None,
    };
    for attach in [verified as Attach, verified_at_bridge] {
        check_while(Way::In, attach, [1500, 3000], 20, change);
    }
}
