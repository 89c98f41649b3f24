//! What upstream's udp proxy does to a packet: one off the TTL on each side, and an ICMP error where there is no way.

use std::net::Ipv4Addr;

/// Length of an IPv4 header without options.
const HEADER: usize = 20;

/// TTL of the errors we send, as upstream's.
const ERROR_TTL: u8 = 8;

const PROTOCOL_ICMP: u8 = 1;

/// Destination of an IPv4 packet; `None` if it is none.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    header(packet).map(|header| Ipv4Addr::new(header[16], header[17], header[18], header[19]))
}

/// Takes one off the TTL and patches the checksum; `false` if the packet ends here.
pub(super) fn take_ttl(packet: &mut [u8]) -> bool {
    if header(packet).is_none() || packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    // RFC 1624, equation 3, for a field that became smaller by 0x0100.
    let checksum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
    let folded = (checksum & 0xffff) + (checksum >> 16);
    packet[10..12].copy_from_slice(&(folded as u16).to_be_bytes());
    true
}

/// The ICMP error "network unreachable" about a packet; none about ICMP, nor about a later fragment.
pub(super) fn unreachable(offender: &[u8], source: Ipv4Addr) -> Option<Vec<u8>> {
    const TYPE_UNREACHABLE: u8 = 3;
    const OFFSET_MASK: u16 = 0x1fff;
    let head = header(offender)?;
    let later_fragment = u16::from_be_bytes([head[6], head[7]]) & OFFSET_MASK != 0;
    if head[9] == PROTOCOL_ICMP || later_fragment {
        return None;
    }
    // The offender's header and eight bytes of its payload tell its sender which packet it was.
    let quoted = &offender[..offender.len().min(usize::from(head[0] & 0x0f) * 4 + 8)];
    let total = HEADER + 8 + quoted.len();
    let mut error = vec![0; HEADER + 8];
    error[0] = 0x45;
    error[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    error[8] = ERROR_TTL;
    error[9] = PROTOCOL_ICMP;
    error[12..16].copy_from_slice(&source.octets());
    error[16..20].copy_from_slice(&head[12..16]);
    error[HEADER] = TYPE_UNREACHABLE;
    error.extend_from_slice(quoted);
    let checksum = sum(&error[..HEADER]);
    error[10..12].copy_from_slice(&checksum.to_be_bytes());
    let checksum = sum(&error[HEADER..]);
    error[HEADER + 2..HEADER + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(error)
}

/// The whole header, if it is an IPv4 packet.
fn header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    (packet[0] >> 4 == 4 && length >= HEADER).then(|| packet.get(..length)).flatten()
}

/// The Internet checksum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ttl: u8, protocol: u8, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0x12, 0x34, 0, 0, ttl, protocol, 0, 0, 10, 5, 1, 2, 10, 5, 2, 2];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        let checksum = sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend([7; 12]);
        packet
    }

    #[test]
    fn ttl_goes_down_and_the_checksum_stays_right() {
        for ttl in 2..=255 {
            for protocol in [0, 6, 17, 255] {
                let mut packet = packet(ttl, protocol, 0);
                assert!(take_ttl(&mut packet));
                assert_eq!((packet[8], sum(&packet[..20])), (ttl - 1, 0), "ttl {ttl}, protocol {protocol}");
            }
        }
        assert!(!take_ttl(&mut packet(1, 6, 0)));
        assert!(!take_ttl(&mut packet(0, 6, 0)));
    }

    #[test]
    fn what_is_no_packet_has_no_destination() {
        assert_eq!(destination(&packet(64, 6, 0)), Some(Ipv4Addr::new(10, 5, 2, 2)));
        let cases: [&[u8]; 5] = [&[], &[0x45], &[0x45; 19], &[0x44; 20], &[0x60; 40]];
        for bytes in cases {
            assert_eq!(destination(bytes), None, "{bytes:?}");
            assert!(!take_ttl(&mut bytes.to_vec()));
            assert_eq!(unreachable(bytes, Ipv4Addr::LOCALHOST), None);
        }
        let mut options_cut_off = packet(64, 6, 0);
        options_cut_off[0] = 0x4f;
        assert_eq!(destination(&options_cut_off), None);
    }

    #[test]
    fn unreachable_is_said_of_what_may_be_answered() {
        let source = Ipv4Addr::new(10, 5, 1, 0);
        let offender = packet(64, 17, 0);
        let error = unreachable(&offender, source).unwrap();
        assert_eq!(error[..2], [0x45, 0]);
        assert_eq!((error[8], error[9]), (8, 1));
        assert_eq!(error[12..20], [10, 5, 1, 0, 10, 5, 1, 2], "from the tunnel to the sender");
        assert_eq!(error[20..22], [3, 0], "network unreachable");
        assert_eq!(error[28..], offender[..28]);
        assert_eq!((sum(&error[..20]), sum(&error[20..])), (0, 0));
        assert_eq!(unreachable(&packet(64, 1, 0), source), None, "not about ICMP");
        assert_eq!(unreachable(&packet(64, 17, 1), source), None, "not about a later fragment");
        assert!(unreachable(&packet(64, 17, 0x2000), source).is_some(), "about a first fragment");
    }
}
