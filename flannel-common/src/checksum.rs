//! The IPv4 header checksum: ones' complement arithmetic of RFC 1071, updated in place as RFC 1624 says.
//!
//! Words are in memory order (the ones' complement sum does not care, RFC 1071 section 2 B), so nothing is swapped on the way.

/// Whether the checksum of a 20-byte IPv4 header is right. The kernel drops a packet whose is not.
#[inline(always)]
pub const fn is_valid(header: &[u32; 5]) -> bool {
    let sum = header[0] as u64 + header[1] as u64 + header[2] as u64 + header[3] as u64 + header[4] as u64;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
}

/// The third word of an IPv4 header (TTL, protocol, checksum) with the TTL one less and the checksum updated.
///
/// Gives the bits that the kernel's own forwarding gives, which never leaves 0xffff where 0 says the same.
#[inline(always)]
pub const fn decrement_ttl(word: u32) -> u32 {
    let [ttl, protocol, high, low] = word.to_ne_bytes();
    // The header's word (TTL, protocol) becomes 0x0100 less, so its complement becomes 0x0100 more.
    let sum = u16::from_be_bytes([high, low]) as u32 + 0x0100;
    let sum = (sum + (sum >= 0xffff) as u32) as u16;
    let [high, low] = sum.to_be_bytes();
    u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    fn rfc1624(check: u16, old: u16, new: u16) -> u16 {
        let mut sum = u32::from(!check) + u32::from(!old) + u32::from(new);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn every_ttl_and_checksum_is_updated_as_rfc_1624_says() {
        for ttl in 1..=u8::MAX {
            for check in 0..=u16::MAX {
                let [high, low] = check.to_be_bytes();
                let got = decrement_ttl(u32::from_ne_bytes([ttl, 17, high, low])).to_ne_bytes();
                let word = |ttl| u16::from_be_bytes([ttl, 17]);
                let [high, low] = rfc1624(check, word(ttl), word(ttl - 1)).to_be_bytes();
                assert_eq!(got, [ttl - 1, 17, high, low], "ttl {ttl}, checksum {check:#06x}");
            }
        }
    }

    /// A header that is valid for exactly one value of its checksum field.
    fn header(check: u16) -> [u32; 5] {
        let [high, low] = check.to_be_bytes();
        [
            u32::from_ne_bytes([0x45, 0, 0, 28]),
            u32::from_ne_bytes([0x12, 0x34, 0x40, 0]),
            u32::from_ne_bytes([64, 17, high, low]),
            u32::from_ne_bytes([172, 16, 1, 2]),
            u32::from_ne_bytes([172, 16, 2, 2]),
        ]
    }

    #[test]
    fn exactly_one_checksum_is_valid_and_stays_so_until_the_ttl_is_used_up() {
        let valid: Vec<u16> = (0..=u16::MAX).filter(|check| is_valid(&header(*check))).collect();
        assert_eq!(valid.len(), 1, "{valid:x?}");
        let mut words = header(valid[0]);
        for _ in 0..64 {
            words[2] = decrement_ttl(words[2]);
            assert!(is_valid(&words), "{words:x?}");
        }
        assert_eq!(words[2].to_ne_bytes()[0], 0);
    }
}
