//! Frames at random: mostly what the fast path would carry, with a few fields wrong, odd or hostile.

use super::frame::{ACK, Frame, TCP};

/// A sequence of numbers that is the same in every run (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed * 2 + 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// Between whom frames go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) src_mac: [u8; 6],
}

/// Ports of the flows between two ends, so that some frames belong to flows that earlier ones have made.
pub(crate) const PORTS: [u16; 3] = [4000, 4001, 4002];

/// One good packet of `len` bytes of every flow.
pub(crate) fn primers(ends: Ends, len: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for sport in PORTS {
        for protocol in [TCP, super::frame::UDP] {
            let header = if protocol == TCP { 40 } else { 28 };
            let frame = plain(ends).with(|frame| (frame.sport, frame.protocol) = (sport, protocol));
            frames.push(frame.with(|frame| frame.payload = vec![0x55; len - header]).bytes());
        }
    }
    frames
}

fn plain(ends: Ends) -> Frame {
    Frame::udp(ends.src, ends.dst).with(|frame| (frame.dst_mac, frame.src_mac) = (ends.dst_mac, ends.src_mac))
}

/// A frame of one of the flows, with up to two things changed. `strangers` are addresses that may stand in for an end.
pub(crate) fn frame(random: &mut Random, id: u16, ends: Ends, strangers: &[[u8; 4]], max_payload: u64) -> Vec<u8> {
    let mut frame = plain(ends);
    frame.id = id;
    frame.sport = random.pick(&PORTS);
    if random.below(2) == 0 {
        (frame.protocol, frame.tcp_flags) = (TCP, ACK);
    }
    let sizes = [0, 1, 7, 18, 512, 1400, 1460, 1472];
    let size = if random.below(4) == 0 { random.below(max_payload) } else { random.pick(&sizes) };
    frame.payload = (0..size).map(|byte| byte as u8).collect();
    for _ in 0..random.pick(&[0, 0, 1, 1, 1, 2]) {
        change(random, &mut frame, strangers);
    }
    let mut bytes = frame.bytes();
    match random.below(60) {
        0 => bytes[12..14].copy_from_slice(&[0x86, 0xdd]),
        1 => bytes[12..14].copy_from_slice(&[0x08, 0x06]),
        2 => bytes.truncate(14 + random.below(bytes.len() as u64 - 13) as usize),
        3 => {
            let at = 14 + random.below(28) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        _ => {}
    }
    bytes
}

fn change(random: &mut Random, frame: &mut Frame, strangers: &[[u8; 4]]) {
    match random.below(20) {
        0 => frame.ttl = random.pick(&[0, 1, 2, 3, 128, 255]),
        1 => frame.tos = random.pick(&[1, 2, 3, 0x10, 0xb8, 0xff]),
        2 => frame.tcp_flags = random.below(256) as u8,
        3 => frame.tcp_offset = random.pick(&[0, 4, 5, 6, 15]),
        4 => frame.fragment = random.pick(&[0, 0x2000, 0x2001, 0x0010, 0x6000, 0x8000]),
        5 => frame.options = random.pick(&[vec![1; 4], vec![7, 7, 4, 0, 0, 0, 0, 0], vec![0x94, 4, 0, 0], vec![1; 40]]),
        6 => frame.padding = 1 + random.below(30) as usize,
        7 => frame.vlan = Some(random.below(4096) as u16),
        8 => frame.wrong.version = 1 + random.below(10) as u8,
        9 => frame.wrong.ihl = random.pick(&[-5, -1, 1, 5]),
        10 => frame.wrong.total_len = random.pick(&[-30, -9, -1, 1, 9, 600]),
        11 => frame.wrong.ip_checksum = 1 + random.below(0xfffe) as u16,
        12 => frame.wrong.udp_len = random.pick(&[-9, -8, -1, 1, 20]),
        13 => frame.wrong.l4_checksum = 1 + random.below(0xfffe) as u16,
        14 => frame.src = random.pick(strangers),
        15 => frame.dst = random.pick(strangers),
        16 => frame.dst_mac = random.pick(&[[0xff; 6], [2, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 5]]),
        17 => frame.protocol = random.pick(&[1, 2, 4, 47, 50, 132, 255]),
        18 => frame.sport = random.below(65536) as u16,
        19 => frame.dport = random.below(65536) as u16,
        _ => unreachable!("below 20"),
    }
}
