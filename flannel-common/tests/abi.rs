//! The golden table of the ABI: a change of any number here is a change of `ABI_VERSION`.

use core::mem::offset_of;

use flannel_common::abi::{
    ABI_VERSION, COUNTERS_STRIDE, Endpoint, FAST_TAG, Flow, FlowKey, Hook, Peer, PeerKey, PeerTally, SEEN_CAPACITY,
    Seen, Settings, Tally, counter_index, path, peer_kind,
};
use flannel_common::reason::Reason;

macro_rules! layout {
    ($shape:ident: $size:literal, $($field:ident @ $offset:literal),+ $(,)?) => {
        assert_eq!(size_of::<$shape>(), $size, stringify!($shape));
        $(assert_eq!(offset_of!($shape, $field), $offset, concat!(stringify!($shape), ".", stringify!($field)));)+
    };
}

#[test]
fn layouts_of_version_1() {
    assert_eq!(ABI_VERSION, 2);
    layout!(PeerKey: 4, addr @ 0);
    layout!(Peer: 20, next_hop @ 0, host @ 4, ifindex @ 8, index @ 12, mtu @ 16, kind @ 18, reserved @ 19);
    layout!(
        Settings: 40, revalidate_ns @ 0, epoch @ 8, network @ 12, network_mask @ 16, subnet @ 20, subnet_mask @ 24,
        enabled @ 28, bridge_mac @ 32, reserved @ 38,
    );
    layout!(FlowKey: 16, src @ 0, dst @ 4, sport @ 8, dport @ 10, proto @ 12, reserved @ 13);
    layout!(
        Flow: 64, packets @ 0, bytes @ 8, verified_at @ 16, epoch @ 24, in_ifindex @ 28, out_ifindex @ 32, priority @ 36,
        macs @ 40, in_mac @ 52, max_len @ 58, peer @ 60, path @ 62, tos @ 63,
    );
    layout!(
        Seen: 56, key @ 0, at @ 16, epoch @ 24, in_ifindex @ 28, peer @ 32, len @ 36, segment @ 38, in_mac @ 40, ttl @ 46,
        tos @ 47, path @ 48, reserved @ 49,
    );
    layout!(Endpoint: 16, ifindex @ 0, mac @ 4, bridge_mac @ 10);
    layout!(Tally: 16, packets @ 0, bytes @ 8);
    layout!(PeerTally: 64, fast_to @ 0, fast_from @ 16, slow_to @ 32, slow_from @ 48);
}

#[test]
fn numbers_of_version_2() {
    assert_eq!((path::OUT, path::IN, path::TRANSIT, path::IN_BRIDGE, path::TRANSIT_FROM), (1, 2, 3, 4, 5));
    assert_eq!([0, 1, 2, 3, 4, 5].map(path::is_from_peer), [false, false, true, false, true, true]);
    assert_eq!((peer_kind::LOCAL, peer_kind::NEXT_HOP, peer_kind::KERNEL), (0, 1, 2));
    assert_eq!((COUNTERS_STRIDE, SEEN_CAPACITY, FAST_TAG), (32, 256, 0xf1a7));
    assert_eq!(Hook::ALL.map(|hook| hook as u32), [0, 1, 2, 3, 4]);
    assert_eq!(Hook::ALL.map(Hook::label), ["from_port", "to_port", "from_uplink", "to_uplink", "transit"]);
    assert_eq!(counter_index(Hook::FromUplink, Reason::FlowNew), 2 * 32 + 13);
}

#[test]
fn reasons_keep_their_numbers_and_labels() {
    let labels = Reason::ALL.map(Reason::label);
    let golden = [
        "fast_out",
        "fast_in",
        "fast_transit",
        "not_ours",
        "not_ipv4",
        "malformed",
        "options",
        "fragment",
        "ttl_expired",
        "protocol",
        "tcp_control",
        "no_peer",
        "source_mismatch",
        "flow_new",
        "flow_stale",
        "flow_epoch",
        "flow_moved",
        "too_big",
        "verified",
        "rewritten",
        "not_seen",
        "already_fast",
        "no_route",
        "flow_table_full",
        "disabled",
    ];
    assert_eq!(labels, golden);
}
