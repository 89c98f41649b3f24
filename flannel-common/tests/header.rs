//! The header parser against a plain one, on anything that may come in.

use flannel_common::abi::Settings;
use flannel_common::header::{ETH_LEN, Frame, IPV4_LEN, Ipv4, Mac, Macs, Packet, TCP, Transport, UDP};
use flannel_common::reason::Reason;
use proptest::prelude::*;

fn settings() -> Settings {
    Settings {
        revalidate_ns: 5_000_000_000,
        epoch: 1,
        network: [172, 16, 0, 0],
        network_mask: [255, 255, 0, 0],
        subnet: [172, 16, 1, 0],
        subnet_mask: [255, 255, 255, 0],
        enabled: 1,
        bridge_mac: [0; 6],
        reserved: [0; 2],
    }
}

/// The words that a program would load, if they are there.
fn load(bytes: &[u8]) -> Option<(Frame, Option<Transport>)> {
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let frame = Frame {
        mac: Mac::from_words(word(0)?, half(4)?),
        ethertype: half(12)?,
        ip: [word(14)?, word(18)?, word(22)?, word(26)?, word(30)?],
    };
    let transport = || {
        let ports = word(34)?;
        if bytes[23] == TCP {
            bytes.get(53)?;
            return Some(Transport::Tcp { ports, offset: bytes[46], flags: bytes[47] });
        }
        bytes.get(41)?;
        Some(Transport::Udp { ports, len: half(38)? })
    };
    Some((frame, transport()))
}

fn parse(bytes: &[u8], gso_size: u32) -> Result<(Ipv4, Packet), Reason> {
    let (frame, transport) = load(bytes).ok_or(Reason::Malformed)?;
    let ip = Ipv4::read(&frame, &settings())?;
    ip.check(&frame, bytes.len() as u32)?;
    Ok((ip, ip.packet(transport.ok_or(Reason::Malformed)?, gso_size)?))
}

/// The same question asked of single bytes, as RFC 791, 768 and 793 draw them.
fn reference(bytes: &[u8]) -> Result<bool, Reason> {
    if bytes.len() < 34 {
        return Err(Reason::Malformed);
    }
    if bytes[12..14] != [8, 0] {
        return Err(Reason::NotIpv4);
    }
    let ip = &bytes[14..];
    let ours = |addr: &[u8]| addr[..2] == [172, 16];
    if !ours(&ip[12..16]) && !ours(&ip[16..20]) {
        return Err(Reason::NotOurs);
    }
    match (ip[0] >> 4, ip[0] & 15) {
        (4, 5) => {}
        (4, 6..) => return Err(Reason::Options),
        _ => return Err(Reason::Malformed),
    }
    if ip[6] & 0x20 != 0 || ip[6] & 0x1f != 0 || ip[7] != 0 {
        return Err(Reason::Fragment);
    }
    if ip[9] != TCP && ip[9] != UDP {
        return Err(Reason::Protocol);
    }
    if ip[8] < 2 {
        return Err(Reason::TtlExpired);
    }
    let total = usize::from(ip[2]) << 8 | usize::from(ip[3]);
    let sum: u32 = ip[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    if total < 28 || total > ip.len() || (sum & 0xffff) + (sum >> 16) != 0xffff {
        return Err(Reason::Malformed);
    }
    let l4 = &ip[20..];
    if ip[9] == UDP {
        let len = usize::from(l4[4]) << 8 | usize::from(l4[5]);
        return if (8..=total - 20).contains(&len) { Ok(false) } else { Err(Reason::Malformed) };
    }
    if l4.len() < 20 {
        return Err(Reason::Malformed);
    }
    let header = usize::from(l4[12] >> 4) * 4;
    let control = l4[13] & 7 != 0;
    if header < 20 || header > total - 20 || (!control && l4[13] & 16 == 0) {
        return Err(Reason::Malformed);
    }
    Ok(control)
}

/// Frames that are wrong in at most a few places.
fn almost_valid() -> impl Strategy<Value = Vec<u8>> {
    let fields = (any::<bool>(), 0..3_u8, 0..3_u8, 0..4_u8, any::<u8>(), any::<u8>(), 0..40_usize);
    let damage = proptest::collection::vec((0..60_usize, any::<u8>()), 0..3);
    (fields, damage, any::<bool>()).prop_map(|((tcp, src, dst, ttl, offset, flags, payload), damage, mend)| {
        let mut bytes = vec![0; 14 + 20 + if tcp { 20 } else { 8 } + payload];
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14] = 0x45;
        let total = bytes.len() - 14;
        bytes[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        bytes[22] = ttl;
        bytes[23] = if tcp { TCP } else { UDP };
        bytes[26..30].copy_from_slice(&[172, 16 + src / 2, src, 2]);
        bytes[30..34].copy_from_slice(&[172, 16 + dst / 2, dst, 2]);
        if tcp {
            bytes[46] = 0x50 | offset & 0x3f;
            bytes[47] = flags & 0x1f;
        } else {
            bytes[38..40].copy_from_slice(&((total - 20) as u16).to_be_bytes());
        }
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if mend {
            bytes[24..26].copy_from_slice(&[0, 0]);
            let sum: u32 = bytes[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            bytes[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        }
        bytes
    })
}

fn check(bytes: &[u8], gso_size: u32) -> Result<(), TestCaseError> {
    let parsed = parse(bytes, gso_size);
    prop_assert_eq!(parsed.as_ref().map(|(_, packet)| packet.control).map_err(|reason| *reason), reference(bytes));
    if let Ok((ip, packet)) = parsed {
        let header = if bytes[23] == UDP { 8 } else { u32::from(bytes[46] >> 4) * 4 };
        let len = u16::from_be_bytes([bytes[16], bytes[17]]);
        let segment = if gso_size == 0 { len } else { u16::try_from(IPV4_LEN + header + gso_size).unwrap_or(u16::MAX) };
        prop_assert_eq!((ip.len, ip.ttl, ip.tos, ip.protocol), (len, bytes[22], bytes[15], bytes[23]));
        prop_assert_eq!(packet.segment, segment);
        let key = ip.key(packet.ports);
        prop_assert_eq!((&key.src[..], &key.dst[..]), (&bytes[26..30], &bytes[30..34]));
        prop_assert_eq!((&key.sport[..], &key.dport[..]), (&bytes[34..36], &bytes[36..38]));
        prop_assert_eq!((key.proto, key.reserved), (bytes[23], [0; 3]));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        check(&bytes, 0)?;
    }

    #[test]
    fn frames_that_are_almost_right(bytes in almost_valid(), gso_size in prop_oneof![Just(0_u32), 1..1461_u32]) {
        check(&bytes, gso_size)?;
    }

    #[test]
    fn words_and_bytes_are_the_same_addresses(mac: [u8; 6], src: [u8; 6]) {
        prop_assert_eq!(Mac::from_bytes(&mac).to_bytes(), mac);
        let macs = Macs::new(&mac, &src);
        let bytes = [&macs.head.to_ne_bytes()[..], &macs.middle.map(u32::to_ne_bytes).concat(), &macs.tail.to_ne_bytes()].concat();
        prop_assert_eq!(bytes, [mac, src].concat());
    }
}

#[test]
fn the_strategy_reaches_both_ends() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5_000 {
        let bytes = almost_valid().new_tree(&mut runner).expect("a frame").current();
        seen.insert(match parse(&bytes, 0) {
            Ok((_, packet)) => {
                if packet.control {
                    "control"
                } else {
                    "candidate"
                }
            }
            Err(reason) => reason.label(),
        });
    }
    let all =
        ["candidate", "control", "fragment", "malformed", "not_ipv4", "not_ours", "options", "protocol", "ttl_expired"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
    assert_eq!(ETH_LEN, 14);
}
