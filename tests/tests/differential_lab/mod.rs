//! A host between two wires, through which frames go.

use std::{collections::BTreeMap, time::Duration};

use flannel_tests::{netns::Netns, packets::Wire};
use nix::net::if_::if_nametoindex;

use crate::packets_common::frame::Frame;
use crate::packets_common::rig::{LOCAL, REMOTE, TUNNELLED};

pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xe0];
pub(crate) const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xf2];
pub(crate) const GATEWAY: [u8; 4] = [172, 16, 1, 1];
pub(crate) const HOST: [u8; 4] = [192, 0, 2, 11];
pub(crate) const NEIGHBOUR: [u8; 4] = [192, 0, 2, 12];
/// Another container of ours, of which the agent knows nothing.
pub(crate) const SIBLING: [u8; 4] = [172, 16, 1, 3];

/// Which way frames go, and so where they are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
    Transit,
}

/// A host between two wires, on which nobody answers but the host.
pub(crate) struct Lab {
    pub(crate) host: Netns,
    pub(crate) wire: Netns,
    /// Where frames of the container's side go in and out.
    pub(crate) inner: Wire,
    /// Where frames of the uplink's side go in and out.
    pub(crate) outer: Wire,
    /// Held for its interface.
    _container: Netns,
}

impl Lab {
    /// `inner_mtu` and `outer_mtu` are of the port and the bridge, and of the uplink.
    pub(crate) fn new(inner_mtu: u32, outer_mtu: u32) -> Self {
        let [host, container, wire] = ["host", "container", "wire"].map(|label| Netns::new(label).unwrap());
        for ns in [&host, &container, &wire] {
            for conf in ["all", "default"] {
                ns.sysctl(&format!("net/ipv6/conf/{conf}/disable_ipv6"), "1").unwrap();
                ns.sysctl(&format!("net/ipv4/conf/{conf}/send_redirects"), "0").unwrap();
                ns.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "1").unwrap();
            }
        }
        host.sysctl("net/ipv4/ip_forward", "1").unwrap();
        host.sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
        // Where the limit is the machine's and not the namespace's, it is high enough for a batch.
        host.sysctl("net/ipv4/icmp_msgs_per_sec", "1000000").ok();
        let (inside, outside) = (container.name(), wire.name());
        let script = format!(
            "set -e
            ip link add docker0 address 02:00:00:00:00:01 type bridge mcast_snooping 0 forward_delay 0
            ip link add port0 mtu {inner_mtu} type veth peer name eth0 mtu {inner_mtu} netns {inside}
            ip link set port0 master docker0 up
            ip link set docker0 mtu {inner_mtu} up
            ip addr add 172.16.1.1/24 dev docker0
            ip link add eth0 address 02:00:00:00:00:e0 mtu {outer_mtu} type veth peer name eth0 mtu {outer_mtu} netns {outside}
            ip addr add 192.0.2.11/24 dev eth0
            ip link set eth0 up
            bridge fdb replace 02:00:00:00:00:c1 dev port0 master static
            for near in 172.16.1.2 172.16.1.3; do ip neigh replace $near lladdr 02:00:00:00:00:c1 nud permanent dev docker0; done
            ip neigh replace 192.0.2.12 lladdr 02:00:00:00:00:f2 nud permanent dev eth0
            ip neigh replace 192.0.2.13 lladdr 02:00:00:00:00:f3 nud permanent dev eth0
            ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:f1 nud permanent dev eth0
            ip route add 172.16.2.0/24 via 192.0.2.12
            ip route add 172.16.3.0/24 via 192.0.2.13
            ip route add default via 192.0.2.1"
        );
        container.run("ip link set lo up").unwrap();
        host.sh(&script).unwrap();
        for ns in [&container, &wire] {
            ns.run("ip link set eth0 arp off up").unwrap();
        }
        let (inner, outer) = (Wire::open(&container, "eth0").unwrap(), Wire::open(&wire, "eth0").unwrap());
        Self { host, wire, inner, outer, _container: container }
    }

    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        self.host.enter(|| if_nametoindex(name).unwrap()).unwrap()
    }

    /// Puts frames in, and gives all that comes out on either wire until the host has answered what was sent last.
    pub(crate) fn batch(&self, way: Way, frames: &[Vec<u8>]) -> BTreeMap<(&'static str, Vec<u8>), usize> {
        let (put, src, dst, mac) = match way {
            Way::Out => (&self.inner, LOCAL, REMOTE, BRIDGE_MAC),
            Way::In => (&self.outer, REMOTE, LOCAL, UPLINK_MAC),
            Way::Transit => (&self.outer, TUNNELLED, REMOTE, UPLINK_MAC),
        };
        for frame in frames {
            put.send(frame).unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
        }
        // The last but one is forwarded, the last is answered: both always by the kernel.
        let echo = |src, dst| {
            Frame::udp(src, dst).with(|frame| {
                (frame.dst_mac, frame.protocol, frame.ttl) = (mac, 1, 77);
                frame.payload = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
            })
        };
        put.send(&echo(src, dst).bytes()).unwrap();
        let (own, asker) = if way == Way::Out { (GATEWAY, LOCAL) } else { (HOST, NEIGHBOUR) };
        put.send(&echo(asker, own).bytes()).unwrap();
        let forwarded = |frame: &[u8]| frame.len() >= 34 && frame[22..24] == [76, 1] && frame[26..30] == src;
        let answered = |frame: &[u8]| frame.len() >= 35 && frame[23] == 1 && frame[26..30] == own && frame[34] == 0;
        let mut out = BTreeMap::new();
        for (name, wire, last) in [("inner", &self.inner, way == Way::In), ("outer", &self.outer, way == Way::Out)] {
            if name == "inner" && way == Way::Transit {
                continue;
            }
            let end = |frame: &[u8]| {
                if !is_noise(frame) {
                    *out.entry((name, normal(frame))).or_default() += 1;
                }
                if last { forwarded(frame) } else { answered(frame) }
            };
            let seen = wire.capture(Duration::from_secs(10), end).unwrap();
            assert!(seen.is_some(), "{way:?}: the last frame of a batch did not come out on the {name} wire");
        }
        out
    }
}

/// What the host's kernel says by itself: ARP, IGMP.
fn is_noise(frame: &[u8]) -> bool {
    frame.len() < 34 || frame[12..14] == [8, 6] || frame[23] == 2
}

/// A frame without what differs from one run to the next: the IP id (and so the checksum) of the host's own packets.
fn normal(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[26..30] == GATEWAY || frame[26..30] == HOST {
        frame[18..20].copy_from_slice(&[0, 0]);
        frame[24..26].copy_from_slice(&[0, 0]);
    }
    frame
}
