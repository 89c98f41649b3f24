//! What the programs need to know of a packet, and whether the fast path may touch it at all (rule 1 of the design).
//!
//! Headers come as words in memory order, so that a program loads each of them once. Nothing here can panic.

use crate::abi::{FlowKey, Settings};
use crate::checksum;
use crate::reason::Reason;

/// Length of an Ethernet header.
pub const ETH_LEN: u32 = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: u32 = 20;
/// Bytes of a frame that [`Frame`] holds.
pub const FRAME_LEN: u32 = ETH_LEN + IPV4_LEN;
/// Length of a UDP header, and as much of a TCP header as [`Transport::Udp`] reads.
pub const UDP_LEN: u32 = 8;
/// Length of a TCP header without options.
pub const TCP_LEN: u32 = 20;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

const ETHERTYPE_IPV4: u16 = u16::from_ne_bytes([0x08, 0x00]);
/// More-fragments flag and fragment offset, in the second half of an IPv4 header's second word.
const FRAGMENT_BITS: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A MAC address as one number, for comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(u64);

impl Mac {
    /// From its first four and its last two bytes, in memory order.
    #[inline(always)]
    pub const fn from_words(first: u32, last: u16) -> Self {
        Self(first as u64 | (last as u64) << 32)
    }

    /// From its bytes.
    #[inline(always)]
    pub const fn from_bytes(mac: &[u8; 6]) -> Self {
        Self::from_words(u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]), u16::from_ne_bytes([mac[4], mac[5]]))
    }

    /// As bytes.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 6] {
        let first = (self.0 as u32).to_ne_bytes();
        let last = ((self.0 >> 32) as u16).to_ne_bytes();
        [first[0], first[1], first[2], first[3], last[0], last[1]]
    }
}

/// The addresses of an Ethernet header as words in memory order, cut where an IPv4 header's alignment puts word boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// Bytes 0 and 1.
    pub head: u16,
    /// Bytes 2 to 9.
    pub middle: [u32; 2],
    /// Bytes 10 and 11.
    pub tail: u16,
}

impl Macs {
    /// From its bytes.
    #[inline(always)]
    pub const fn from_bytes(macs: &[u8; 12]) -> Self {
        Self {
            head: u16::from_ne_bytes([macs[0], macs[1]]),
            middle: [
                u32::from_ne_bytes([macs[2], macs[3], macs[4], macs[5]]),
                u32::from_ne_bytes([macs[6], macs[7], macs[8], macs[9]]),
            ],
            tail: u16::from_ne_bytes([macs[10], macs[11]]),
        }
    }

    /// From destination and source.
    #[inline(always)]
    pub const fn new(dst: &[u8; 6], src: &[u8; 6]) -> Self {
        Self::from_bytes(&[
            dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], src[0], src[1], src[2], src[3], src[4], src[5],
        ])
    }
}

/// The Ethernet and IPv4 headers of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Destination MAC address.
    pub mac: Mac,
    /// Ethernet type, in memory order.
    pub ethertype: u16,
    /// IPv4 header, in memory order.
    pub ip: [u32; 5],
}

/// The part of a transport header that is looked at. Fields are in memory order.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    /// UDP: ports, length.
    Udp {
        /// Source and destination port.
        ports: u32,
        /// Length field.
        len: u16,
    },
    /// TCP: ports, data offset and flags.
    Tcp {
        /// Source and destination port.
        ports: u32,
        /// Header length in 32-bit words (upper four bits of the byte).
        offset: u8,
        /// The lower eight flags.
        flags: u8,
    },
}

/// An IPv4 packet with at least one end in the flannel network.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4 {
    /// Source address, in memory order.
    pub src: u32,
    /// Destination address, in memory order.
    pub dst: u32,
    /// Total length.
    pub len: u16,
    /// TTL.
    pub ttl: u8,
    /// TOS.
    pub tos: u8,
    /// IP protocol number.
    pub protocol: u8,
}

/// A packet that the fast path may carry, if it belongs to a verified flow.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Source and destination port, in memory order.
    pub ports: u32,
    /// Largest IPv4 packet that it becomes on the wire: its own length, or a GSO segment's.
    pub segment: u16,
    /// Whether TCP opens or closes a connection with it (SYN, FIN, RST).
    pub control: bool,
}

impl Ipv4 {
    /// Looks at the addresses: [`Reason::NotIpv4`] and [`Reason::NotOurs`] are the cheap ways out for unrelated traffic.
    #[inline(always)]
    pub const fn read(frame: &Frame, settings: &Settings) -> Result<Self, Reason> {
        if !is_ipv4(frame.ethertype) {
            return Err(Reason::NotIpv4);
        }
        let network = u32::from_ne_bytes(settings.network);
        let mask = u32::from_ne_bytes(settings.network_mask);
        let [_, _, _, src, dst] = frame.ip;
        if (src ^ network) & mask != 0 && (dst ^ network) & mask != 0 {
            return Err(Reason::NotOurs);
        }
        let [_, tos, len_high, len_low] = frame.ip[0].to_ne_bytes();
        let [ttl, protocol, _, _] = frame.ip[2].to_ne_bytes();
        Ok(Self { src, dst, len: u16::from_be_bytes([len_high, len_low]), ttl, tos, protocol })
    }

    /// Checks everything of the IPv4 header that the kernel checks, or that only the kernel can handle. `frame_len` is the
    /// whole frame's length, Ethernet header included.
    #[inline(always)]
    pub const fn check(&self, frame: &Frame, frame_len: u32) -> Result<(), Reason> {
        let version_ihl = frame.ip[0].to_ne_bytes()[0];
        if version_ihl != 0x45 {
            let options = version_ihl >> 4 == 4 && version_ihl & 0xf > 5;
            return Err(if options { Reason::Options } else { Reason::Malformed });
        }
        if frame.ip[1] & FRAGMENT_BITS != 0 {
            return Err(Reason::Fragment);
        }
        if self.protocol != TCP && self.protocol != UDP {
            return Err(Reason::Protocol);
        }
        if self.ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        if (self.len as u32) < IPV4_LEN + UDP_LEN
            || self.len as u32 + ETH_LEN > frame_len
            || !checksum::is_valid(&frame.ip)
        {
            return Err(Reason::Malformed);
        }
        Ok(())
    }

    /// Whether it is TCP; a packet that passes [`Self::check`] is UDP otherwise.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Looks at the transport header. `gso_size` is the payload of each segment of a GSO packet, 0 for any other.
    ///
    /// Headers that conntrack calls invalid are left to the kernel, which may have a rule for them.
    #[inline(always)]
    pub const fn packet(&self, transport: Transport, gso_size: u32) -> Result<Packet, Reason> {
        let payload = (self.len as u32).wrapping_sub(IPV4_LEN);
        let (ports, header, control) = match transport {
            Transport::Udp { ports, len } => {
                let len = u16::from_be(len) as u32;
                if len < UDP_LEN || len > payload {
                    return Err(Reason::Malformed);
                }
                (ports, UDP_LEN, false)
            }
            Transport::Tcp { ports, offset, flags } => {
                let header = (offset >> 4) as u32 * 4;
                let control = flags & (SYN | FIN | RST) != 0;
                if header < TCP_LEN || header > payload || (!control && flags & ACK == 0) {
                    return Err(Reason::Malformed);
                }
                (ports, header, control)
            }
        };
        // A sender in a container chooses the segment size itself: one that no packet can have must not pass for a small one.
        let segment = if gso_size == 0 { self.len as u32 } else { IPV4_LEN + header + gso_size };
        let segment = if segment > u16::MAX as u32 { u16::MAX } else { segment as u16 };
        Ok(Packet { ports, segment, control })
    }

    /// The flow that a packet of these addresses and `ports` belongs to.
    #[inline(always)]
    pub fn key(&self, ports: u32) -> FlowKey {
        // Four whole words: written field by field, it would be stored byte by byte.
        bytemuck::must_cast([self.src, self.dst, ports, u32::from_ne_bytes([self.protocol, 0, 0, 0])])
    }
}

/// Whether an Ethernet type (memory order) says IPv4.
#[inline(always)]
pub const fn is_ipv4(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_IPV4
}

/// Whether `addr` (memory order) is in our own subnet.
#[inline(always)]
pub const fn is_local(addr: u32, settings: &Settings) -> bool {
    (addr ^ u32::from_ne_bytes(settings.subnet)) & u32::from_ne_bytes(settings.subnet_mask) == 0
}

/// Whether `addr` (memory order) is in the flannel network.
#[inline(always)]
pub const fn is_in_network(addr: u32, settings: &Settings) -> bool {
    (addr ^ u32::from_ne_bytes(settings.network)) & u32::from_ne_bytes(settings.network_mask) == 0
}
