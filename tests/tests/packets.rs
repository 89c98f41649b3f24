//! Every program on single packets: what comes in, what the verdict is, what comes out, and which counter moves.
//!
//! Two hooks in a row, which make a verified flow, are in `verification.rs`.
//!
//! `AlreadyFast` needs a packet that was redirected (see the differential suite), and an LRU map takes in every flow, so
//! `FlowTableFull` cannot be had; every other reason is here.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod packets_common;

use flannel_common::abi::{Endpoint, Flow, FlowKey, Hook, Settings, path, program};
use flannel_common::reason::Reason;
use flannel_tests::{require, skip::Feature};

use packets_common::frame::{ACK, FIN, Frame, PSH, RST, SYN, TCP, UDP};
use packets_common::rig::{
    Context, LOCAL, MACS, NOBODY, OUTSIDE, REMOTE, Ran, Rig, TC_ACT_REDIRECT, TC_ACT_UNSPEC, TUNNELLED, XDP_PASS,
    XDP_TX, key, settings, verified,
};

/// One packet at one program.
struct Case {
    name: &'static str,
    flow: Option<(FlowKey, Flow)>,
    settings: Settings,
    packet: Vec<u8>,
    context: Context,
    reason: Reason,
    /// The packet afterwards if it is carried.
    out: Vec<u8>,
}

/// A case with a frame and what the kernel would make of it.
fn case(name: &'static str, frame: &Frame, reason: Reason) -> Case {
    let forwarded = frame.clone().with(|frame| {
        frame.ttl = frame.ttl.wrapping_sub(1);
        frame.dst_mac.copy_from_slice(&MACS[..6]);
        frame.src_mac.copy_from_slice(&MACS[6..]);
        frame.padding = 0;
    });
    let (packet, out, context) = (frame.bytes(), forwarded.bytes(), Context::default());
    Case { name, flow: None, settings: settings(), packet, context, reason, out }
}

impl Case {
    fn flow(mut self, key: FlowKey, flow: Flow) -> Self {
        self.flow = Some((key, flow));
        self
    }

    fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn packet(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.packet);
        self
    }
}

/// Runs cases at a program; every one starts with no flow but its own.
fn check(rig: &mut Rig, program: &str, hook: Hook, cases: impl IntoIterator<Item = Case>) {
    let xdp = program.ends_with("transit");
    for case in cases {
        rig.reset();
        rig.set(case.settings);
        if let Some((key, flow)) = case.flow {
            rig.put_flow(key, flow);
        }
        let Ran { verdict, packet, counted, peers } = rig.run(program, &case.packet, case.context);
        let place = format!("{program}: {}", case.name);
        assert_eq!((counted.0, counted.1), (hook, case.reason), "{place}");
        if case.reason.is_fast() {
            assert_eq!(verdict, if xdp { XDP_TX } else { TC_ACT_REDIRECT }, "{place}");
            assert_eq!(packet, case.out, "{place}");
            let [(_, name, tally)] = peers[..] else { panic!("{place}: {peers:?}") };
            assert!(name.starts_with("fast_"), "{place}: {name}");
            assert_eq!(tally, counted.2, "{place}");
        } else {
            assert_eq!(verdict, if xdp { XDP_PASS } else { TC_ACT_UNSPEC }, "{place}");
            assert_eq!(packet, case.packet, "{place}");
            assert!(peers.iter().all(|(_, name, _)| name.starts_with("slow_")), "{place}: {peers:?}");
        }
    }
}

fn udp() -> Frame {
    Frame::udp(LOCAL, REMOTE)
}

fn udp_key() -> FlowKey {
    key(LOCAL, REMOTE, UDP)
}

fn out() -> Flow {
    verified(path::OUT)
}

/// What no program carries, whatever it knows of the flow.
fn never_fast(src: [u8; 4], dst: [u8; 4]) -> Vec<Case> {
    let udp = || Frame::udp(src, dst);
    let tcp = |flags| Frame::tcp(src, dst, flags);
    let arp = |bytes: &mut Vec<u8>| bytes[12..14].copy_from_slice(&[0x08, 0x06]);
    let ipv6 = |bytes: &mut Vec<u8>| {
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        bytes.extend([0; 40]);
    };
    vec![
        case("switched off", &udp(), Reason::Disabled).settings(|settings| settings.enabled = 0),
        case("elsewhere", &Frame::udp(OUTSIDE, OUTSIDE), Reason::NotOurs),
        case("ARP", &udp(), Reason::NotIpv4).packet(arp),
        case("IPv6", &udp(), Reason::NotIpv4).packet(ipv6),
        case("VLAN", &udp().with(|frame| frame.vlan = Some(5)), Reason::NotIpv4),
        case("no ports", &udp(), Reason::Malformed).packet(|bytes| bytes.truncate(34)),
        case("half a UDP header", &udp(), Reason::Malformed).packet(|bytes| bytes.truncate(41)),
        case("truncated payload", &udp(), Reason::Malformed).packet(|bytes| bytes.truncate(45)),
        case("half a TCP header", &tcp(ACK), Reason::Malformed).packet(|bytes| bytes.truncate(50)),
        case("IP version 5", &udp().with(|frame| frame.wrong.version = 1), Reason::Malformed),
        case("header of four words", &udp().with(|frame| frame.wrong.ihl = -1), Reason::Malformed),
        case("total length beyond the frame", &udp().with(|frame| frame.wrong.total_len = 1), Reason::Malformed),
        case("total length of nothing", &udp().with(|frame| frame.wrong.total_len = -15), Reason::Malformed),
        case("IP checksum", &udp().with(|frame| frame.wrong.ip_checksum = 1), Reason::Malformed),
        case("UDP length beyond the packet", &udp().with(|frame| frame.wrong.udp_len = 1), Reason::Malformed),
        case("UDP length below its header", &udp().with(|frame| frame.wrong.udp_len = -8), Reason::Malformed),
        case("TCP header of four words", &tcp(ACK).with(|frame| frame.tcp_offset = 4), Reason::Malformed),
        case("TCP header beyond the packet", &tcp(ACK).with(|frame| frame.tcp_offset = 15), Reason::Malformed),
        case("TCP without flags", &tcp(0), Reason::Malformed),
        case("IP options", &udp().with(|frame| frame.options = vec![1; 4]), Reason::Options),
        case("first fragment", &udp().with(|frame| frame.fragment = 0x2000), Reason::Fragment),
        case("last fragment", &udp().with(|frame| frame.fragment = 100), Reason::Fragment),
        case("TTL 1", &udp().with(|frame| frame.ttl = 1), Reason::TtlExpired),
        case("TTL 0", &udp().with(|frame| frame.ttl = 0), Reason::TtlExpired),
        case("ICMP", &udp().with(|frame| (frame.protocol, frame.payload) = (1, vec![8; 16])), Reason::Protocol),
    ]
}

/// Too short for a TC program to be run on at all by `BPF_PROG_TEST_RUN`.
fn too_short() -> Vec<Case> {
    let frame = Frame::udp(OUTSIDE, REMOTE);
    vec![
        case("Ethernet header only", &frame, Reason::Malformed).packet(|bytes| bytes.truncate(15)),
        case("half an IPv4 header", &frame, Reason::Malformed).packet(|bytes| bytes.truncate(33)),
    ]
}

fn control(src: [u8; 4], dst: [u8; 4], flow: Flow) -> Vec<Case> {
    let with = |name, flags| {
        let case = case(name, &Frame::tcp(src, dst, flags), Reason::TcpControl);
        case.flow(key(src, dst, TCP), flow)
    };
    vec![
        with("SYN", SYN),
        with("SYN and ACK", SYN | ACK),
        with("FIN", FIN | ACK),
        with("RST", RST),
        with("RST, ACK", RST | ACK),
    ]
}

/// Verified flows, and everything that keeps one from being fast.
fn hits(src: [u8; 4], dst: [u8; 4], flow: Flow, fast: Reason) -> Vec<Case> {
    let udp = || Frame::udp(src, dst);
    let known = |name, frame: &Frame, flow, reason| case(name, frame, reason).flow(key(src, dst, UDP), flow);
    let big = |len: usize| udp().with(|frame| frame.payload = vec![7; len - 28]);
    let data = Frame::tcp(src, dst, ACK | PSH);
    vec![
        known("hit", &udp(), flow, fast),
        known("TTL 2", &udp().with(|frame| frame.ttl = 2), flow, fast),
        known("TTL 255", &udp().with(|frame| frame.ttl = 255), flow, fast),
        known("ECN", &udp().with(|frame| frame.tos = 3), flow, fast),
        known("no payload", &udp().with(|frame| frame.payload.clear()), flow, fast),
        known("padded", &udp().with(|frame| frame.padding = 11), flow, fast),
        known("UDP checksum is the receiver's", &udp().with(|frame| frame.wrong.l4_checksum = 1), flow, fast),
        known("may be fragmented", &udp().with(|frame| frame.fragment = 0), flow, fast),
        known("largest", &big(1500), flow, fast),
        known("larger than seen", &big(1500), Flow { max_len: 1499, ..flow }, Reason::TooBig),
        case("TCP data", &data, fast).flow(key(src, dst, TCP), flow),
        known("too old", &udp(), Flow { verified_at: flow.verified_at - 6_000_000_000, ..flow }, Reason::FlowStale),
        known("being changed", &udp(), Flow { verified_at: 0, ..flow }, Reason::FlowStale),
        known("another epoch", &udp(), Flow { epoch: flow.epoch - 1, ..flow }, Reason::FlowEpoch),
        known("another interface", &udp(), Flow { in_ifindex: 9, ..flow }, Reason::FlowMoved),
        known("another MAC", &udp().with(|frame| frame.dst_mac[5] = 9), flow, Reason::FlowMoved),
        known("another DSCP", &udp().with(|frame| frame.tos = 0xb8), flow, Reason::FlowMoved),
    ]
}

/// Cases that only TC can tell apart.
fn tc_hits(src: [u8; 4], dst: [u8; 4], flow: Flow, fast: Reason) -> Vec<Case> {
    let data = Frame::tcp(src, dst, ACK).with(|frame| frame.payload = vec![1; 2900]);
    let gso = |segment| Context { gso_size: segment, gso_segs: 2, ..Context::default() };
    let known = |name, frame: &Frame, reason| case(name, frame, reason).flow(key(src, dst, TCP), flow);
    vec![
        known("GSO of full segments", &data, fast).context(gso(1460)),
        known("GSO of larger segments", &data, Reason::TooBig).context(gso(1461)),
        known("not GSO", &data, Reason::TooBig),
        known("marked", &Frame::tcp(src, dst, ACK), Reason::FlowMoved)
            .context(Context { mark: 1, ..Context::default() }),
    ]
}

#[test]
fn from_port() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::FROM_PORT);
    check(rig, at, Hook::FromPort, never_fast(LOCAL, REMOTE));
    check(rig, at, Hook::FromPort, control(LOCAL, REMOTE, out()));
    check(rig, at, Hook::FromPort, hits(LOCAL, REMOTE, out(), Reason::FastOut));
    check(rig, at, Hook::FromPort, tc_hits(LOCAL, REMOTE, out(), Reason::FastOut));
    let admission = [
        case("new", &udp(), Reason::FlowNew),
        case("new, by a tunnel", &Frame::udp(LOCAL, TUNNELLED), Reason::FlowNew),
        case("to no lease", &Frame::udp(LOCAL, NOBODY), Reason::NoPeer),
        case("to the same host", &Frame::udp(LOCAL, [172, 16, 1, 3]), Reason::NoPeer),
        case("to the outside", &Frame::udp(LOCAL, OUTSIDE), Reason::NoPeer),
        case("from a peer's subnet", &Frame::udp(TUNNELLED, REMOTE), Reason::SourceMismatch),
        case("from the outside", &Frame::udp(OUTSIDE, REMOTE), Reason::SourceMismatch),
        case("verified the other way", &udp(), Reason::FlowMoved).flow(udp_key(), verified(path::IN)),
    ];
    check(rig, at, Hook::FromPort, admission);
}

#[test]
fn from_uplink() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::FROM_UPLINK);
    check(rig, at, Hook::FromUplink, never_fast(REMOTE, LOCAL));
    for (flow_path, dst, fast) in [
        (path::IN, LOCAL, Reason::FastIn),
        (path::IN_BRIDGE, LOCAL, Reason::FastIn),
        (path::TRANSIT, TUNNELLED, Reason::FastTransit),
        (path::TRANSIT_FROM, OUTSIDE, Reason::FastTransit),
    ] {
        check(rig, at, Hook::FromUplink, control(REMOTE, dst, verified(flow_path)));
        check(rig, at, Hook::FromUplink, hits(REMOTE, dst, verified(flow_path), fast));
        check(rig, at, Hook::FromUplink, tc_hits(REMOTE, dst, verified(flow_path), fast));
    }
    let admission = [
        case("new", &Frame::udp(REMOTE, LOCAL), Reason::FlowNew),
        case("new transit", &Frame::udp(REMOTE, TUNNELLED), Reason::FlowNew),
        case("new transit from outside", &Frame::udp(OUTSIDE, REMOTE), Reason::FlowNew),
        case("new transit to outside", &Frame::udp(REMOTE, OUTSIDE), Reason::FlowNew),
        case("from outside to us", &Frame::udp(OUTSIDE, LOCAL), Reason::NoPeer),
        case("from no lease to us", &Frame::udp(NOBODY, LOCAL), Reason::NoPeer),
        case("from our own subnet", &Frame::udp([172, 16, 1, 3], LOCAL), Reason::SourceMismatch),
        case("from our own subnet to a peer", &Frame::udp([172, 16, 1, 3], REMOTE), Reason::SourceMismatch),
        case("from no lease to a peer", &Frame::udp(NOBODY, REMOTE), Reason::SourceMismatch),
        case("between no leases", &Frame::udp(NOBODY, OUTSIDE), Reason::NoPeer),
    ];
    check(rig, at, Hook::FromUplink, admission);
}

#[test]
fn transit() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::TRANSIT);
    check(rig, at, Hook::Transit, never_fast(OUTSIDE, REMOTE));
    check(rig, at, Hook::Transit, too_short());
    check(rig, at, Hook::Transit, control(OUTSIDE, REMOTE, verified(path::TRANSIT)));
    check(rig, at, Hook::Transit, hits(OUTSIDE, REMOTE, verified(path::TRANSIT), Reason::FastTransit));
    check(rig, at, Hook::Transit, hits(REMOTE, OUTSIDE, verified(path::TRANSIT_FROM), Reason::FastTransit));
    let transit_key = key(OUTSIDE, REMOTE, UDP);
    let elsewhere = Flow { out_ifindex: 9, ..verified(path::TRANSIT) };
    let cases = [
        case("new", &Frame::udp(OUTSIDE, REMOTE), Reason::FlowNew),
        case("for a container of ours", &Frame::udp(REMOTE, LOCAL), Reason::NotOurs),
        case("out by another uplink", &Frame::udp(OUTSIDE, REMOTE), Reason::NoRoute).flow(transit_key, elsewhere),
        case("verified as inward", &Frame::udp(OUTSIDE, REMOTE), Reason::NoRoute).flow(transit_key, verified(path::IN)),
        case("verified as outward", &Frame::udp(OUTSIDE, REMOTE), Reason::FlowMoved).flow(transit_key, out()),
    ];
    check(rig, at, Hook::Transit, cases);
}

#[test]
fn trusted_from_port() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::TRUSTED_FROM_PORT);
    check(rig, at, Hook::FromPort, never_fast(LOCAL, REMOTE));
    // The neighbour's Ethernet header is put in front once the program has ended.
    let carried = |name, frame: &Frame| {
        let mut case = case(name, frame, Reason::FastOut);
        case.out[..12].copy_from_slice(&case.packet[..12]);
        case
    };
    let big = Frame::tcp(LOCAL, REMOTE, ACK).with(|frame| frame.payload = vec![1; 2900]);
    let gso = |segment| Context { gso_size: segment, gso_segs: 2, ..Context::default() };
    let other_mac = udp().with(|frame| frame.dst_mac[5] = 9);
    let cases = [
        carried("first packet", &udp()),
        carried("SYN", &Frame::tcp(LOCAL, REMOTE, SYN)),
        carried("FIN", &Frame::tcp(LOCAL, REMOTE, FIN | ACK)),
        carried("padded", &udp().with(|frame| frame.padding = 11)),
        carried("GSO of full segments", &big).context(gso(1460)),
        case("GSO of larger segments", &big, Reason::TooBig).context(gso(1461)),
        case("too big", &big, Reason::TooBig),
        case("marked", &udp(), Reason::FlowMoved).context(Context { mark: 1, ..Context::default() }),
        case("to a tunnel", &Frame::udp(LOCAL, TUNNELLED), Reason::NoRoute),
        case("to no lease", &Frame::udp(LOCAL, NOBODY), Reason::NoPeer),
        case("from elsewhere", &Frame::udp(OUTSIDE, REMOTE), Reason::SourceMismatch),
        case("from the subnet itself", &Frame::udp([172, 16, 1, 0], REMOTE), Reason::SourceMismatch),
        case("from the bridge", &Frame::udp([172, 16, 1, 1], REMOTE), Reason::SourceMismatch),
        case("from everybody", &Frame::udp([172, 16, 1, 255], REMOTE), Reason::SourceMismatch),
        case("to another container's MAC", &other_mac, Reason::FlowMoved),
    ];
    check(rig, at, Hook::FromPort, cases);
    rig.put_endpoint(LOCAL, Endpoint { ifindex: 1, mac: [2, 0, 0, 0, 0, 2], bridge_mac: [2, 0, 0, 0, 0, 9] });
    let known = carried("to the MAC of its own bridge", &other_mac);
    check(rig, at, Hook::FromPort, [known]);
}

#[test]
fn trusted_from_uplink() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::TRUSTED_FROM_UPLINK);
    check(rig, at, Hook::FromUplink, never_fast(REMOTE, LOCAL));
    // The loopback device's own address: what is for it is for this host.
    let for_us = |src, dst| Frame::udp(src, dst).with(|frame| frame.dst_mac = [0; 6]);
    // The neighbour's Ethernet header is put in front once the program has ended.
    let by_neighbour = |name, frame: &Frame| {
        let mut case = case(name, frame, Reason::FastTransit);
        case.out[..12].copy_from_slice(&case.packet[..12]);
        case
    };
    let spoofed = for_us([172, 16, 1, 3], LOCAL);
    let cases = [
        by_neighbour("transit", &for_us(TUNNELLED, REMOTE)),
        case("transit from outside", &for_us(OUTSIDE, REMOTE), Reason::SourceMismatch),
        case("transit to a tunnel", &for_us(REMOTE, TUNNELLED), Reason::NoRoute),
        case("transit to outside", &for_us(REMOTE, OUTSIDE), Reason::NoRoute),
        case("unknown container", &for_us(REMOTE, LOCAL), Reason::NoRoute),
        case("for another MAC", &Frame::udp(REMOTE, LOCAL), Reason::FlowMoved),
        case("from nobody", &for_us(NOBODY, LOCAL), Reason::NoPeer),
        case("from ourselves", &spoofed, Reason::SourceMismatch),
        case("too big", &for_us(REMOTE, LOCAL).with(|frame| frame.payload = vec![1; 1473]), Reason::TooBig),
    ];
    check(rig, at, Hook::FromUplink, cases);
    let (mac, bridge_mac) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]);
    rig.put_endpoint(LOCAL, Endpoint { ifindex: 1, mac, bridge_mac });
    check(rig, at, Hook::FromUplink, [case("known container", &for_us(REMOTE, LOCAL), Reason::FastIn)]);
    let tunnelled = case("from a tunnel", &for_us(TUNNELLED, LOCAL), Reason::FastIn);
    check(rig, at, Hook::FromUplink, [tunnelled]);
}

#[test]
fn trusted_transit_asks_the_kernel_for_the_route() {
    require!(Feature::Bpf);
    let (rig, at) = (&mut Rig::load(), program::TRUSTED_TRANSIT);
    check(rig, at, Hook::Transit, never_fast(OUTSIDE, REMOTE));
    check(rig, at, Hook::Transit, too_short());
    // The loopback device has no route: what is carried is in the differential suite.
    let cases = [
        case("no route", &Frame::udp(TUNNELLED, REMOTE), Reason::NoRoute),
        case("to a tunnel", &Frame::udp(REMOTE, TUNNELLED), Reason::NoRoute),
        case("to no lease", &Frame::udp(REMOTE, NOBODY), Reason::NoRoute),
        case("between no leases", &Frame::udp(OUTSIDE, NOBODY), Reason::NoPeer),
        case("from no lease", &Frame::udp(NOBODY, REMOTE), Reason::SourceMismatch),
        case("from outside", &Frame::udp(OUTSIDE, REMOTE), Reason::SourceMismatch),
        case("for a container of ours", &Frame::udp(REMOTE, LOCAL), Reason::NotOurs),
    ];
    check(rig, at, Hook::Transit, cases);
}
