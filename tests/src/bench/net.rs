//! The address plan of the benchmark's hosts, the same in every arm.
//!
//! | what | addresses |
//! |---|---|
//! | wire between hosts | 172.30.0.0/15, host `n` is 172.30.0.n, peer `k` that does not run is 172.31.x.y |
//! | flannel network | 10.0.0.0/8, host `n` has 10.0.n.0/24, peer `k` has the /24 number `k + 3` |
//! | machines outside the flannel network | 198.18.0.0/15, behind host 2 |
//! | management (etcd) | 192.0.2.0/24 |

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the interfaces of host `n` are: the last byte but one of their MAC addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// `eth0`, towards other hosts.
    Uplink = 1,
    /// `docker0`.
    Bridge = 2,
    /// `eth0` of the container.
    Container = 3,
    /// `flannel.1`.
    Vxlan = 4,
}

/// The MAC address of an interface of host `n`.
pub const fn mac(link: Link, n: u8) -> Mac {
    Mac([2, 0xbe, 0, 0, link as u8, n])
}

/// The flannel network.
pub const NETWORK: &str = "10.0.0.0/8";
/// Sources outside the flannel network, which no arm masquerades.
pub const OUTSIDE: &str = "198.18.0.0/15";
/// A machine outside the flannel network.
pub const OUTSIDER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 5);
/// Peers that one network has room for beside the two hosts.
pub const PEERS_MAX: u32 = 65_536 - 3;

/// Subnet of host `n`.
pub fn subnet(n: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, n, 0), 24)
}

/// Address of docker0 of host `n`.
pub const fn gateway(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, n, 1)
}

/// Address of the container of host `n`.
pub const fn container(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, n, 2)
}

/// Address of host `n` on the wire.
pub const fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, n)
}

/// Subnet of peer `k`.
pub fn peer_subnet(k: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | ((k + 3) << 8)), 24)
}

/// A container of peer `k`.
pub fn peer_container(k: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(peer_subnet(k).network()) + 5)
}

/// Address of peer `k` on the wire.
pub fn peer_host(k: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xac1f_0000 + k + 1)
}
