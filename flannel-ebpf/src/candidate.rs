//! Reads a packet as far as the fast path needs it.

use flannel_common::abi::Settings;
use flannel_common::header::{ETH_LEN, Frame, Ipv4, Packet, is_ipv4};
use flannel_common::reason::Reason;

use crate::packet::{Bytes, Head, Skb, Xdp};

/// An IPv4 packet with an end in the flannel network.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// Its bytes.
    pub head: Head,
    /// Its Ethernet and IPv4 headers.
    pub frame: Frame,
    /// What they say.
    pub ip: Ipv4,
    /// Whether Ethernet has padded it.
    pub padded: bool,
    /// Payload of each segment if it is a GSO packet, else 0.
    pub gso_size: u32,
    /// The rest, or why the fast path may not touch it.
    pub packet: Result<Packet, Reason>,
}

/// Reads a packet at a TC hook.
#[inline(always)]
pub fn at_tc(skb: &Skb, settings: &Settings) -> Result<Candidate, Reason> {
    if skb.vlan_present() != 0 {
        return Err(Reason::NotIpv4);
    }
    read(skb.bytes(), |_| skb.len(), skb.gso_size(), settings)
}

/// Reads a frame at an XDP hook.
#[inline(always)]
pub fn at_xdp(xdp: &Xdp, settings: &Settings) -> Result<Candidate, Reason> {
    // A frame in several buffers is told apart only where the first does not hold the packet: asking costs a call.
    let len = |packet_len| {
        let linear = xdp.bytes().len();
        if linear >= packet_len { linear } else { xdp.len() }
    };
    read(xdp.bytes(), len, 0, settings)
}

#[inline(always)]
fn read(bytes: Bytes, len: impl FnOnce(u32) -> u32, gso_size: u32, settings: &Settings) -> Result<Candidate, Reason> {
    let Some(head) = bytes.head() else {
        let ipv4 = bytes.ethertype().is_some_and(is_ipv4);
        return Err(if ipv4 { Reason::Malformed } else { Reason::NotIpv4 });
    };
    let frame = head.frame();
    let ip = Ipv4::read(&frame, settings)?;
    let packet_len = ETH_LEN + u32::from(ip.len);
    let len = len(packet_len);
    let packet = transport(&head, &frame, &ip, len, gso_size);
    Ok(Candidate { head, frame, ip, padded: len > packet_len, gso_size, packet })
}

#[inline(always)]
fn transport(head: &Head, frame: &Frame, ip: &Ipv4, len: u32, gso_size: u32) -> Result<Packet, Reason> {
    ip.check(frame, len)?;
    let transport = head.transport(ip.is_tcp()).ok_or(Reason::Malformed)?;
    ip.packet(transport, gso_size)
}
