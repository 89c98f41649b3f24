//! What the benchmark's generator and sink programs are told, and what they count. Not part of flannel's ABI.

use bytemuck::{Pod, Zeroable};

/// Value of every generated packet's IPv4 identification: how a sink knows the benchmark's packets from ARP and the like.
pub const MARKER: u16 = 0xf1a7;

/// Names of maps and programs in the benchmark's object file.
pub mod name {
    /// `ARRAY` of one [`super::Frames`].
    pub const FRAMES: &str = "FRAMES";
    /// `PERCPU_ARRAY` of one [`super::Cursor`].
    pub const CURSOR: &str = "CURSOR";
    /// `PERCPU_ARRAY` of one [`super::Counts`].
    pub const COUNTS: &str = "COUNTS";
    /// XDP program that makes frames; run with live frames.
    pub const GENERATE: &str = "generate";
    /// TC program that counts and drops the benchmark's packets.
    pub const SINK_TC: &str = "sink_tc";
    /// XDP program that counts and drops the benchmark's packets.
    pub const SINK_XDP: &str = "sink_xdp";
    /// XDP program that sends the benchmark's packets back as they are.
    pub const BOUNCE: &str = "bounce";
    /// TC program that does nothing: what calling a program costs.
    pub const FLOOR_TC: &str = "floor_tc";
    /// XDP program that does nothing: what calling a program costs.
    pub const FLOOR_XDP: &str = "floor_xdp";
}

/// Frames to make. Numbers are in host order unless they are byte arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Frames {
    /// Interface by which the frames leave, in the namespace that runs the program.
    pub ifindex: u32,
    /// Number of flows less one; flows are a power of two, at most 65,536.
    pub flow_mask: u32,
    /// Number of destinations less one; a power of two. Flow `f` goes to destination `f & dest_mask`.
    pub dest_mask: u32,
    /// Source address.
    pub src: u32,
    /// Address of destination 0; the next ones follow in steps of [`Self::dest_step`].
    pub dst: u32,
    /// Distance of two destinations: 256 puts each into a /24 of its own.
    pub dest_step: u32,
    /// 1: exchange sources and destinations, which makes the replies of the same flows.
    pub reverse: u32,
    /// Sum of the 16-bit words (big endian) of the IPv4 header without its addresses and checksum.
    pub header_sum: u32,
    /// 1: [`Self::outer`] stands in front of the frame.
    pub encapsulated: u32,
    /// IPv4 total length.
    pub total_len: u16,
    /// Ethernet header, as words in network order.
    pub l2: [u16; 7],
    /// Ethernet, IPv4, UDP and VXLAN headers of an encapsulated frame, as words in network order.
    pub outer: [u16; OUTER / 2],
    /// Zero.
    pub reserved: u16,
}

/// Length of what vxlan puts in front of a frame: Ethernet, IPv4, UDP and VXLAN headers.
pub const OUTER: usize = 14 + 20 + 8 + 8;

/// How far the generator of one CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cursor {
    /// Frames made so far.
    pub made: u64,
    /// When the first frame was made (`bpf_ktime_get_ns`); 0 if none was.
    pub first: u64,
    /// When the last frame whose number is a multiple of [`CLOCK_EVERY`] was made.
    pub last: u64,
    /// Number of that frame.
    pub last_frame: u64,
}

/// The generator looks at the clock once in so many frames: a power of two.
pub const CLOCK_EVERY: u64 = 64;

/// What a sink counted on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counts {
    /// Packets that bear the marker.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
}

/// Lowest port of the side that sends, of 16,384.
pub const FIRST_SPORT: u16 = 16_384;
/// Lowest port of the side that receives, of 4.
pub const FIRST_DPORT: u16 = 40_000;

/// The two ports of flow `flow`.
#[inline(always)]
pub const fn ports(flow: u32) -> (u16, u16) {
    (FIRST_SPORT + (flow & 0x3fff) as u16, FIRST_DPORT + (flow >> 14) as u16)
}

/// The IPv4 header checksum from the sum of the other words.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !(twice as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_own_ports() {
        let mut seen: [u64; 1024] = [0; 1024];
        for flow in 0..65_536_u32 {
            let (sport, dport) = ports(flow);
            let slot = (usize::from(sport - FIRST_SPORT)) | (usize::from(dport - FIRST_DPORT) << 14);
            assert_eq!(seen[slot / 64] & (1 << (slot % 64)), 0, "flow {flow} repeats {sport}->{dport}");
            seen[slot / 64] |= 1 << (slot % 64);
        }
    }

    #[test]
    fn checksum_of_the_textbook_header() {
        let words = [0x4500, 0x0073, 0x0000, 0x4000, 0x4011, 0xc0a8, 0x0001, 0xc0a8, 0x00c7_u32];
        assert_eq!(finish(words.iter().sum()), 0xb861);
    }
}
