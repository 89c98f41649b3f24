//! What comes out of a host with the fast path on equals, byte for byte, what comes out with it off: thousands of random frames
//! through a real kernel, captured on every wire, per hook and mode.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod packets_common;

use std::{collections::BTreeMap, time::Duration};

use flannel_common::abi::{Endpoint, Peer, Settings, peer_kind, program};
use flannel_common::reason::Reason;
use flannel_tests::{netns::Netns, packets::Wire, require, skip::Feature};
use nix::net::if_::if_nametoindex;

use packets_common::frame::Frame;
use packets_common::random::{self, Ends, Random};
use packets_common::rig::{LOCAL, NOBODY, OUTSIDE, REMOTE, Rig, TUNNELLED, peer, settings};

const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xe0];
const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xf2];
const GATEWAY: [u8; 4] = [172, 16, 1, 1];
const HOST: [u8; 4] = [192, 0, 2, 11];
const NEIGHBOUR: [u8; 4] = [192, 0, 2, 12];
/// Another container of ours, of which the agent knows nothing.
const SIBLING: [u8; 4] = [172, 16, 1, 3];

const BATCHES: u64 = 40;
const BATCH: u64 = 50;

/// Which way frames go, and so where they are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    In,
    Transit,
}

/// A host between two wires, on which nobody answers but the host.
struct Lab {
    host: Netns,
    wire: Netns,
    /// Where frames of the container's side go in and out.
    inner: Wire,
    /// Where frames of the uplink's side go in and out.
    outer: Wire,
    /// Held for its interface.
    _container: Netns,
}

impl Lab {
    /// `inner_mtu` and `outer_mtu` are of the port and the bridge, and of the uplink.
    fn new(inner_mtu: u32, outer_mtu: u32) -> Self {
        let [host, container, wire] = ["host", "container", "wire"].map(|label| Netns::new(label).unwrap());
        for ns in [&host, &container, &wire] {
            for conf in ["all", "default"] {
                ns.sysctl(&format!("net/ipv6/conf/{conf}/disable_ipv6"), "1").unwrap();
                ns.sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0").unwrap();
                ns.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "1").unwrap();
            }
        }
        host.sysctl("net/ipv4/ip_forward", "1").unwrap();
        host.sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
        // Where the limit is the machine's and not the namespace's, it is high enough for a batch.
        host.sysctl("net/ipv4/icmp_msgs_per_sec", "1000000").ok();
        let (inside, outside) = (container.name(), wire.name());
        let script = format!(
            "set -e
            ip link add docker0 address 02:00:00:00:00:01 type bridge mcast_snooping 0 forward_delay 0
            ip link add port0 mtu {inner_mtu} type veth peer name eth0 mtu {inner_mtu} netns {inside}
            ip link set port0 master docker0 up
            ip link set docker0 mtu {inner_mtu} up
            ip addr add 172.16.1.1/24 dev docker0
            ip link add eth0 address 02:00:00:00:00:e0 mtu {outer_mtu} type veth peer name eth0 mtu {outer_mtu} netns {outside}
            ip addr add 192.0.2.11/24 dev eth0
            ip link set eth0 up
            bridge fdb replace 02:00:00:00:00:c1 dev port0 master static
            for near in 172.16.1.2 172.16.1.3; do ip neigh replace $near lladdr 02:00:00:00:00:c1 nud permanent dev docker0; done
            ip neigh replace 192.0.2.12 lladdr 02:00:00:00:00:f2 nud permanent dev eth0
            ip neigh replace 192.0.2.13 lladdr 02:00:00:00:00:f3 nud permanent dev eth0
            ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:f1 nud permanent dev eth0
            ip route add 172.16.2.0/24 via 192.0.2.12
            ip route add 172.16.3.0/24 via 192.0.2.13
            ip route add default via 192.0.2.1"
        );
        container.run("ip link set lo up").unwrap();
        host.sh(&script).unwrap();
        for ns in [&container, &wire] {
            ns.run("ip link set eth0 arp off up").unwrap();
        }
        let (inner, outer) = (Wire::open(&container, "eth0").unwrap(), Wire::open(&wire, "eth0").unwrap());
        Self { host, wire, inner, outer, _container: container }
    }

    fn ifindex(&self, name: &str) -> u32 {
        self.host.enter(|| if_nametoindex(name).unwrap()).unwrap()
    }

    /// Puts frames in, and gives all that comes out on either wire until the host has answered what was sent last.
    fn batch(&self, way: Way, frames: &[Vec<u8>]) -> BTreeMap<(&'static str, Vec<u8>), usize> {
        let (put, src, dst, mac) = match way {
            Way::Out => (&self.inner, LOCAL, REMOTE, BRIDGE_MAC),
            Way::In => (&self.outer, REMOTE, LOCAL, UPLINK_MAC),
            Way::Transit => (&self.outer, TUNNELLED, REMOTE, UPLINK_MAC),
        };
        for frame in frames {
            put.send(frame).unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
        }
        // The last but one is forwarded, the last is answered: both always by the kernel.
        let echo = |src, dst| {
            Frame::udp(src, dst).with(|frame| {
                (frame.dst_mac, frame.protocol, frame.ttl) = (mac, 1, 77);
                frame.payload = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
            })
        };
        put.send(&echo(src, dst).bytes()).unwrap();
        let (own, asker) = if way == Way::Out { (GATEWAY, LOCAL) } else { (HOST, NEIGHBOUR) };
        put.send(&echo(asker, own).bytes()).unwrap();
        let forwarded = |frame: &[u8]| frame.len() >= 34 && frame[22..24] == [76, 1] && frame[26..30] == src;
        let answered = |frame: &[u8]| frame.len() >= 35 && frame[23] == 1 && frame[26..30] == own && frame[34] == 0;
        let mut out = BTreeMap::new();
        for (name, wire, last) in [("inner", &self.inner, way == Way::In), ("outer", &self.outer, way == Way::Out)] {
            if name == "inner" && way == Way::Transit {
                continue;
            }
            let end = |frame: &[u8]| {
                if !is_noise(frame) {
                    *out.entry((name, normal(frame))).or_default() += 1;
                }
                if last { forwarded(frame) } else { answered(frame) }
            };
            let seen = wire.capture(Duration::from_secs(10), end).unwrap();
            assert!(seen.is_some(), "{way:?}: the last frame of a batch did not come out on the {name} wire");
        }
        out
    }
}

/// What the host's kernel says by itself: ARP, IGMP.
fn is_noise(frame: &[u8]) -> bool {
    frame.len() < 34 || frame[12..14] == [8, 6] || frame[23] == 2
}

/// A frame without what differs from one run to the next: the IP id (and so the checksum) of the host's own packets.
fn normal(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[26..30] == GATEWAY || frame[26..30] == HOST {
        frame[18..20].copy_from_slice(&[0, 0]);
        frame[24..26].copy_from_slice(&[0, 0]);
    }
    frame
}

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
    let largest = u64::from(put_mtu.min(3000)) - 28;
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

/// Fills the maps as the agent would on this host.
fn fill(rig: &mut Rig, lab: &Lab) {
    let (uplink, port) = (lab.ifindex("eth0"), lab.ifindex("port0"));
    rig.set(Settings { revalidate_ns: 600_000_000_000, ..settings() });
    let by_uplink =
        |index, next_hop| Peer { next_hop, host: next_hop, ifindex: uplink, ..peer(index, peer_kind::NEXT_HOP) };
    rig.put_peer(REMOTE, by_uplink(1, NEIGHBOUR));
    rig.put_peer(TUNNELLED, by_uplink(2, [192, 0, 2, 13]));
    rig.put_endpoint(LOCAL, Endpoint { ifindex: port, mac: CONTAINER_MAC, bridge_mac: BRIDGE_MAC });
}

/// The same frames through the kernel alone and through the fast path; at least `share` percent must have been fast.
fn check(way: Way, attach: Attach, inner_mtu: u32, outer_mtu: u32, share: u64) {
    let lab = Lab::new(inner_mtu, outer_mtu);
    let batches = batches(way, inner_mtu, outer_mtu);
    let plain: Vec<_> = batches.iter().map(|frames| lab.batch(way, frames)).collect();
    // XDP_TX on a veth needs a program at the other end as well; this one is switched off, and so passes everything.
    let mut other_end = Rig::load();
    other_end.set(Settings { enabled: 0, ..settings() });
    other_end.attach(&lab.wire, program::TRANSIT, "eth0");
    let mut rig = Rig::load();
    fill(&mut rig, &lab);
    attach(&mut rig, &lab);
    for (number, (frames, expected)) in batches.iter().zip(&plain).enumerate() {
        let out = lab.batch(way, frames);
        assert_same(number, frames, expected, &out);
    }
    let fast: u64 =
        [Reason::FastOut, Reason::FastIn, Reason::FastTransit].map(|reason| rig.packets(reason)).iter().sum();
    let sent: u64 = batches.iter().map(|frames| frames.len() as u64).sum();
    println!(
        "{way:?}: {sent} frames in, {fast} of them fast, {} out",
        plain.iter().flat_map(BTreeMap::values).sum::<usize>()
    );
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
