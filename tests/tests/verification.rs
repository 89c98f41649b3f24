//! Entry and exit hooks together: what the kernel forwarded unchanged is verified, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod packets_common;

use flannel_common::abi::{Flow, FlowKey, Tally, path, program};
use flannel_common::reason::Reason;
use flannel_tests::{require, skip::Feature};

use packets_common::frame::{ACK, FIN, Frame, RST, SYN, TCP, UDP};
use packets_common::rig::{
    Context, LOCAL, MACS, OUTSIDE, REMOTE, Rig, TC_ACT_REDIRECT, TC_ACT_UNSPEC, TUNNELLED, key, verified,
};

fn udp() -> Frame {
    Frame::udp(LOCAL, REMOTE)
}

fn udp_key() -> FlowKey {
    key(LOCAL, REMOTE, UDP)
}

fn out() -> Flow {
    verified(path::OUT)
}

/// An entry hook sees `frame`, then an exit hook sees what `forward` made of it.
fn pass(
    rig: &mut Rig,
    entry: &str,
    exit: &str,
    frame: &Frame,
    context: Context,
    forward: impl FnOnce(&mut Frame),
) -> Reason {
    rig.run(entry, &frame.bytes(), Context::default());
    let left = frame.clone().with(|frame| {
        frame.ttl -= 1;
        frame.dst_mac.copy_from_slice(&MACS[..6]);
        frame.src_mac.copy_from_slice(&MACS[6..]);
        forward(frame);
    });
    let ran = rig.run(exit, &left.bytes(), context);
    assert_eq!((ran.verdict, ran.packet), (TC_ACT_UNSPEC, left.bytes()), "{exit}");
    assert_eq!(ran.peers, [], "{exit}");
    ran.counted.1
}

const FORWARDED: Context = Context { mark: 0, priority: 6, ingress_ifindex: 1, gso_size: 0, gso_segs: 0 };

#[test]
fn what_leaves_as_it_came_is_verified() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    for (entry, exit, src, dst, flow_path) in [
        (program::FROM_PORT, program::TO_UPLINK, LOCAL, REMOTE, path::OUT),
        (program::FROM_UPLINK, program::TO_PORT, REMOTE, LOCAL, path::IN),
        (program::FROM_UPLINK, program::TO_BRIDGE, REMOTE, LOCAL, path::IN_BRIDGE),
        (program::FROM_UPLINK, program::TO_UPLINK, OUTSIDE, REMOTE, path::TRANSIT),
        (program::FROM_UPLINK, program::TO_UPLINK, REMOTE, OUTSIDE, path::TRANSIT_FROM),
    ] {
        rig.reset();
        assert_eq!(
            pass(rig, entry, exit, &Frame::udp(src, dst), FORWARDED, |_| {}),
            Reason::Verified,
            "{entry}, {exit}"
        );
        let flow = rig.flow(key(src, dst, UDP)).unwrap();
        let expected = Flow { verified_at: flow.verified_at, priority: 6, max_len: 35, ..verified(flow_path) };
        assert_eq!(flow, expected, "{entry}, {exit}");
        let fast = rig.run(entry, &Frame::udp(src, dst).bytes(), Context::default());
        assert_eq!(
            (fast.verdict, fast.counted.2),
            (TC_ACT_REDIRECT, Tally { packets: 1, bytes: 35 }),
            "{entry}, {exit}"
        );
        let side = if path::is_from_peer(flow_path) { "fast_from" } else { "fast_to" };
        assert_eq!(fast.peers, [(1, side, Tally { packets: 1, bytes: 35 })], "{entry}, {exit}");
        let flow = rig.flow(key(src, dst, UDP)).unwrap();
        assert_eq!((flow.packets, flow.bytes), (1, 35), "{entry}, {exit}");
    }
}

#[test]
fn what_leaves_changed_is_not_verified() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    let mut check = |name, exit, context, reason, change: fn(&mut Frame)| {
        rig.reset();
        assert_eq!(pass(rig, program::FROM_PORT, exit, &udp(), context, change), reason, "{name}");
        assert_eq!(rig.flow(udp_key()), None, "{name}");
    };
    let out = program::TO_UPLINK;
    check("TTL kept", out, FORWARDED, Reason::Rewritten, |frame| frame.ttl += 1);
    check("TTL mangled", out, FORWARDED, Reason::Rewritten, |frame| frame.ttl = 200);
    check("DSCP", out, FORWARDED, Reason::Rewritten, |frame| frame.tos = 0x20);
    check("length", out, FORWARDED, Reason::Rewritten, |frame| frame.payload.push(0));
    check("fragmented", out, FORWARDED, Reason::Fragment, |frame| frame.fragment = 0x2000);
    check("SNAT", out, FORWARDED, Reason::NotSeen, |frame| frame.src = [192, 0, 2, 11]);
    check("DNAT", out, FORWARDED, Reason::NotSeen, |frame| frame.dst = TUNNELLED);
    check("port NAT", out, FORWARDED, Reason::NotSeen, |frame| frame.sport = 1024);
    check("marked", out, Context { mark: 1, ..FORWARDED }, Reason::Rewritten, |_| {});
    check("the host's own", out, Context { ingress_ifindex: 0, ..FORWARDED }, Reason::NotSeen, |_| {});
    check("back to a port", program::TO_PORT, FORWARDED, Reason::Rewritten, |_| {});
    check("never seen", out, FORWARDED, Reason::NotSeen, |frame| frame.dport = 54);
}

#[test]
fn one_packet_verifies_once_and_sizes_add_up_until_the_flow_grows_old() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    let verify = |rig: &mut Rig, len: usize| {
        let frame = udp().with(|frame| frame.payload = vec![1; len - 28]);
        pass(rig, program::FROM_PORT, program::TO_UPLINK, &frame, FORWARDED, |_| {})
    };
    assert_eq!(verify(rig, 100), Reason::Verified);
    let again = udp().with(|frame| (frame.ttl, frame.payload) = (63, vec![1; 72]));
    assert_eq!(rig.run(program::TO_UPLINK, &again.bytes(), FORWARDED).counted.1, Reason::NotSeen);
    assert_eq!(verify(rig, 900), Reason::Verified);
    assert_eq!(rig.flow(udp_key()).unwrap().max_len, 900);
    let old = rig.flow(udp_key()).unwrap();
    rig.put_flow(udp_key(), Flow { verified_at: old.verified_at - 6_000_000_000, packets: 3, ..old });
    assert_eq!(verify(rig, 200), Reason::Verified);
    let renewed = rig.flow(udp_key()).unwrap();
    assert_eq!((renewed.max_len, renewed.packets), (200, 3));
    assert!(renewed.verified_at > old.verified_at);
}

#[test]
fn a_flow_that_leaves_otherwise_is_replaced_whole() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    let old = Flow { epoch: 1, out_ifindex: 9, macs: [9; 12], packets: 5, ..out() };
    rig.put_flow(udp_key(), old);
    assert_eq!(pass(rig, program::FROM_PORT, program::TO_UPLINK, &udp(), FORWARDED, |_| {}), Reason::Verified);
    let flow = rig.flow(udp_key()).unwrap();
    let expected = Flow { verified_at: flow.verified_at, priority: 6, max_len: 35, packets: 5, ..out() };
    assert_eq!(flow, expected);
}

#[test]
fn control_packets_end_both_directions_and_do_not_bring_them_back() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    for flags in [SYN, FIN | ACK, RST] {
        let (there, back) = (key(LOCAL, REMOTE, TCP), FlowKey { src: REMOTE, dst: LOCAL, ..key(LOCAL, REMOTE, TCP) });
        let back = FlowKey { sport: there.dport, dport: there.sport, ..back };
        rig.put_flow(there, out());
        rig.put_flow(back, verified(path::IN));
        let frame = Frame::tcp(LOCAL, REMOTE, flags);
        let reason = pass(rig, program::FROM_PORT, program::TO_UPLINK, &frame, FORWARDED, |_| {});
        assert_eq!(reason, Reason::TcpControl, "flags {flags}");
        assert_eq!((rig.flow(there), rig.flow(back)), (None, None), "flags {flags}");
    }
}

#[test]
fn slow_packets_count_for_their_peer() {
    require!(Feature::Bpf);
    let rig = &mut Rig::load();
    let tally = |packets, bytes| Tally { packets, bytes };
    let icmp = udp().with(|frame| (frame.protocol, frame.payload) = (1, vec![8; 16]));
    assert_eq!(rig.run(program::FROM_PORT, &icmp.bytes(), Context::default()).peers, [(1, "slow_to", tally(1, 36))]);
    let to_tunnel = Frame::udp(LOCAL, TUNNELLED).bytes();
    assert_eq!(rig.run(program::FROM_PORT, &to_tunnel, Context::default()).peers, [(2, "slow_to", tally(1, 35))]);
    let inward = Frame::udp(REMOTE, LOCAL).bytes();
    assert_eq!(rig.run(program::FROM_UPLINK, &inward, Context::default()).peers, [(1, "slow_from", tally(1, 35))]);
    assert_eq!(rig.run(program::TRANSIT, &Frame::udp(OUTSIDE, REMOTE).bytes(), Context::default()).peers, []);
    let gso = Context { gso_size: 1000, gso_segs: 3, ..Context::default() };
    let data = Frame::tcp(LOCAL, REMOTE, ACK).with(|frame| frame.payload = vec![1; 2900]).bytes();
    let ran = rig.run(program::FROM_PORT, &data, gso);
    assert_eq!((ran.counted.2, ran.peers), (tally(3, 2940), vec![(1, "slow_to", tally(3, 2940))]));
}
