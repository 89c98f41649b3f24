//! What the packet logic costs without a kernel around it: `cargo bench -p flannel-common`.
//!
//! The numbers of packets grow so that one sees the cost of a packet fall to what the arithmetic takes, and rise again
//! where the packets no longer fit into a cache.

use bytemuck::Zeroable as _;
use divan::{Bencher, black_box, counter::ItemsCount};
use flannel_common::{
    abi::{Flow, Settings, path},
    checksum,
    flow::{self, Arrival, Departure, Entry, Exit, decide, note, verify},
    header::{Frame, Ipv4, Mac, Macs, Packet, Transport},
};

const PACKETS: [usize; 4] = [1, 64, 4_096, 262_144];
/// Length of a UDP packet with 64 bytes of payload.
const LEN: u16 = 92;

fn main() {
    divan::main();
}

fn settings() -> Settings {
    Settings {
        revalidate_ns: 5_000_000_000,
        epoch: 1,
        network: [10, 0, 0, 0],
        network_mask: [255, 0, 0, 0],
        subnet: [10, 0, 1, 0],
        subnet_mask: [255, 255, 255, 0],
        enabled: 1,
        ..Settings::zeroed()
    }
}

/// Frames from one container to as many others as there are frames.
fn frames(count: usize) -> Vec<Frame> {
    (0..count as u32).map(frame).collect()
}

fn frame(number: u32) -> Frame {
    let [_, high, low, last] = number.to_be_bytes();
    let words = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    let [len_high, len_low] = LEN.to_be_bytes();
    let mut ip = [
        words([0x45, 0, len_high, len_low]),
        words([0, 0, 0x40, 0]),
        words([64, 17, 0, 0]),
        words([10, 0, 1, 2]),
        words([10, 2 + high, low, last]),
    ];
    let sum = !ip.iter().fold(0_u32, |sum, word| {
        let sum = sum + (word & 0xffff) + (word >> 16);
        (sum & 0xffff) + (sum >> 16)
    });
    ip[2] |= (sum & 0xffff) << 16;
    Frame { mac: Mac::from_bytes(&[2, 0, 0, 0, 0, 1]), ethertype: u16::from_ne_bytes([8, 0]), ip }
}

fn parse(frame: &Frame, settings: &Settings) -> Option<(Ipv4, Packet)> {
    let ip = Ipv4::read(frame, settings).ok()?;
    ip.check(frame, u32::from(LEN) + 14).ok()?;
    let transport = Transport::Udp { ports: 0x1234_5678, len: (LEN - 20).to_be() };
    Some((ip, ip.packet(transport, 0).ok()?))
}

fn parsed(count: usize) -> Vec<(Ipv4, Packet)> {
    let parsed: Vec<_> = frames(count).iter().filter_map(|frame| parse(frame, &settings())).collect();
    assert_eq!(parsed.len(), count, "every frame is one that the fast path takes");
    parsed
}

fn arrival() -> Arrival {
    Arrival { ifindex: 5, mac: Mac::from_bytes(&[2, 0, 0, 0, 0, 1]), mark: 0, now: 1_000 }
}

fn flow_of(ip: &Ipv4, packet: Packet) -> Option<Flow> {
    let course = flow::Course { path: path::OUT, peer: 3 };
    let seen = note(ip, &packet, &course, &arrival(), &settings());
    let out = Ipv4 { ttl: ip.ttl - 1, ..*ip };
    verify(&seen, &out, &packet, &departure()).ok()
}

fn departure() -> Departure {
    let macs = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];
    Departure { exit: Exit::Uplink, ifindex: 2, ingress_ifindex: 5, mark: 0, priority: 0, macs, now: 1_001 }
}

#[divan::bench(args = PACKETS)]
fn parse_packets(bencher: Bencher<'_, '_>, count: usize) {
    let (frames, settings) = (frames(count), settings());
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for frame in &frames {
            black_box(parse(black_box(frame), &settings));
        }
    });
}

#[divan::bench(args = PACKETS)]
fn decide_flows(bencher: Bencher<'_, '_>, count: usize) {
    let settings = settings();
    let packets: Vec<_> =
        parsed(count).into_iter().filter_map(|(ip, packet)| Some((ip, packet, flow_of(&ip, packet)?))).collect();
    assert_eq!(packets.len(), count, "every flow verifies");
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for (ip, packet, flow) in &packets {
            black_box(decide(black_box(flow), ip, packet, &arrival(), Entry::Port, &settings));
        }
    });
}

#[divan::bench(args = PACKETS)]
fn note_and_verify_flows(bencher: Bencher<'_, '_>, count: usize) {
    let packets = parsed(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for (ip, packet) in &packets {
            black_box(flow_of(black_box(ip), *packet));
        }
    });
}

#[divan::bench(args = PACKETS)]
fn check_header_sums(bencher: Bencher<'_, '_>, count: usize) {
    let frames = frames(count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for frame in &frames {
            black_box(checksum::is_valid(black_box(&frame.ip)));
        }
    });
}

#[divan::bench]
fn build_mac_addresses() -> Macs {
    Macs::new(black_box(&[2, 0, 0, 0, 0, 1]), black_box(&[2, 0, 0, 0, 0, 2]))
}
