//! Frames, built field by field. What is not said is a valid UDP packet with checksums that are right.

/// An Ethernet frame to be built.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) dst_mac: [u8; 6],
    pub(crate) src_mac: [u8; 6],
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and fragment offset; DF unless said otherwise.
    pub(crate) fragment: u16,
    pub(crate) tcp_flags: u8,
    /// TCP data offset in words.
    pub(crate) tcp_offset: u8,
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the IPv4 packet.
    pub(crate) padding: usize,
    /// 802.1Q tag.
    pub(crate) vlan: Option<u16>,
    /// Added to the right values, to make them wrong.
    pub(crate) wrong: Wrong,
}

/// How much a field is off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wrong {
    pub(crate) version: u8,
    pub(crate) ihl: i8,
    pub(crate) total_len: i16,
    pub(crate) ip_checksum: u16,
    pub(crate) udp_len: i16,
    pub(crate) l4_checksum: u16,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

impl Frame {
    /// A UDP packet between two addresses.
    pub(crate) fn udp(src: [u8; 4], dst: [u8; 4]) -> Self {
        Self {
            dst_mac: [2, 0, 0, 0, 0, 1],
            src_mac: [2, 0, 0, 0, 0, 2],
            src,
            dst,
            sport: 4000,
            dport: 53,
            protocol: UDP,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            fragment: 0x4000,
            tcp_flags: ACK,
            tcp_offset: 5,
            options: Vec::new(),
            payload: b"flannel".to_vec(),
            padding: 0,
            vlan: None,
            wrong: Wrong::default(),
        }
    }

    /// A TCP segment with these flags between two addresses.
    pub(crate) fn tcp(src: [u8; 4], dst: [u8; 4], flags: u8) -> Self {
        Self { protocol: TCP, tcp_flags: flags, ..Self::udp(src, dst) }
    }

    /// The same with a change.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let l4 = self.transport();
        let header_len = 20 + self.options.len();
        let total = (header_len + l4.len()) as i32 + i32::from(self.wrong.total_len);
        let mut ip = vec![0; 20];
        ip[0] = (4 + self.wrong.version) << 4 | ((header_len / 4) as i8 + self.wrong.ihl) as u8 & 0xf;
        ip[1] = self.tos;
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ip[4..6].copy_from_slice(&self.id.to_be_bytes());
        ip[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        ip[8] = self.ttl;
        ip[9] = self.protocol;
        ip[12..16].copy_from_slice(&self.src);
        ip[16..20].copy_from_slice(&self.dst);
        ip.extend(&self.options);
        let sum = checksum(&ip, 0).wrapping_add(self.wrong.ip_checksum);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = [self.dst_mac, self.src_mac].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
        frame.extend(l4);
        frame.extend(vec![0; self.padding]);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        if self.protocol != TCP && self.protocol != UDP {
            return self.payload.clone();
        }
        l4.extend(self.sport.to_be_bytes());
        l4.extend(self.dport.to_be_bytes());
        let at = if self.protocol == UDP {
            let len = (8 + self.payload.len()) as i32 + i32::from(self.wrong.udp_len);
            l4.extend((len as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        } else {
            l4.extend(1_u32.to_be_bytes());
            l4.extend(2_u32.to_be_bytes());
            l4.extend([self.tcp_offset << 4, self.tcp_flags, 0x20, 0, 0, 0, 0, 0]);
            16
        };
        l4.extend(&self.payload);
        let pseudo = u32::from(self.protocol) + l4.len() as u32 + words(&self.src) + words(&self.dst);
        let sum = checksum(&l4, pseudo).wrapping_add(self.wrong.l4_checksum);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
