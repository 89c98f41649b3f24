//! vxlan: a tunnel device, and per peer a permanent neighbour, a forwarding entry and an onlink route; with
//! `DirectRouting` a plain route to peers on the uplink's link.

mod device;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use self::device::Device;
use super::{Advert, Desired, Error, Object, Objects, Observed, Reached, Slot, Way, display::Mac, peers};
use crate::{
    config::NetworkConfig,
    kernel::{
        iface::Uplink,
        netlink::{self, Netlink, VxlanLink},
    },
    lease::{Lease, Subnet},
    state::PeerWay,
};

pub(super) const NAME: &str = "vxlan";

/// Outer headers over IPv4: Ethernet 14, IP 20, UDP 8, VXLAN 8 bytes.
const OVERHEAD: u32 = 50;

/// The same over IPv6.
const OVERHEAD_V6: u32 = 70;

/// Options of the backend, as in the cluster configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) mtu: Option<u32>,
    pub(super) gbp: bool,
    pub(super) learning: bool,
    pub(super) direct_routing: bool,
}

/// The backend's state: our devices and where we stand.
#[derive(Clone, Debug)]
pub struct Vxlan {
    pub(super) here: peers::Here,
    options: Options,
    v4: Device,
    v6: Option<Device>,
}

impl Vxlan {
    pub(super) async fn prepare(
        options: Options,
        config: &NetworkConfig,
        uplink: &Uplink,
        netlink: &Netlink,
    ) -> Result<Self, Error> {
        let outer = options.mtu.map_or(uplink.mtu, |mtu| mtu.min(uplink.mtu));
        // The outer source is the interface's own address: the kernel cannot send from that of a NAT device before us.
        let settings = |local| VxlanLink {
            vni: options.vni,
            dev: Some(uplink.ifindex),
            local: Some(local),
            port: options.port,
            learning: options.learning,
            gbp: options.gbp,
            ..VxlanLink::default()
        };
        let v4 = Device::prepare(
            format!("flannel.{}", options.vni),
            settings(IpAddr::V4(uplink.address)),
            outer.saturating_sub(OVERHEAD),
            IpNet::V4(config.v4.network),
            netlink,
        );
        let v4 = v4.await.map_err(refused)?;
        let mut v6 = None;
        if let (Some(network), Some(local)) = (config.v6, uplink.v6) {
            let name = format!("flannel-v6.{}", options.vni);
            let mtu = outer.saturating_sub(OVERHEAD_V6);
            let device =
                Device::prepare(name, settings(IpAddr::V6(local)), mtu, IpNet::V6(network.network), netlink).await;
            v6 = Some(device.map_err(refused)?);
        }
        Ok(Self { here: peers::Here { uplink: uplink.clone(), own: None }, options, v4, v6 })
    }

    pub(super) async fn lease_acquired(&mut self, own: Subnet, netlink: &Netlink) -> Result<(), Error> {
        self.here.own = Some(own);
        self.v4.address = Some(IpAddr::V4(own.v4.network()));
        if let (Some(device), Some(subnet)) = (&mut self.v6, own.v6) {
            device.address = Some(IpAddr::V6(subnet.network()));
        }
        self.ensure(netlink).await
    }

    /// Brings the devices back, with their MAC addresses.
    pub(super) async fn ensure(&mut self, netlink: &Netlink) -> Result<(), Error> {
        self.v4.ensure(netlink).await.map_err(refused)?;
        if let Some(device) = &mut self.v6 {
            device.ensure(netlink).await.map_err(refused)?;
        }
        Ok(())
    }

    pub(super) fn mtu(&self) -> u32 {
        self.v4.mtu
    }

    pub(super) fn advert(&self) -> Advert {
        let data = |device: &Device| format!(r#"{{"VNI":{},"VtepMAC":"{}"}}"#, self.options.vni, Mac(device.mac));
        Advert {
            backend_type: NAME.into(),
            backend_data: Some(data(&self.v4)),
            backend_v6_data: self.v6.as_ref().map(data),
        }
    }

    pub(super) fn uplinks(&self) -> Vec<(u32, String)> {
        let mut found = vec![(self.v4.ifindex, self.v4.name.clone())];
        if self.options.direct_routing {
            found.push((self.here.uplink.ifindex, self.here.uplink.name.clone()));
        }
        found
    }

    pub(super) fn devices(&self) -> Vec<u32> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().map(|device| device.ifindex).collect()
    }

    pub(super) fn desired<'a>(
        &self,
        leases: impl IntoIterator<Item = &'a Lease> + Clone,
        observed: &Observed,
    ) -> Desired {
        let shared = peers::by_address(leases.clone());
        let mut desired = Desired::default();
        let mut macs = BTreeMap::new();
        for peer in leases {
            let reached = self.here.refuse(peer, Some(NAME)).unwrap_or_else(|| {
                let mut reached = if self.is_direct(peer, observed) {
                    self.here.direct(peer, observed, &mut desired.objects)
                } else {
                    self.tunnel(peer, &mut macs, &mut desired.objects)
                };
                peers::note_shared_address(peer, &shared, &mut reached);
                reached
            });
            desired.peers.insert(peer.subnet, reached);
        }
        desired
    }

    /// Whether the kernel's route to the peer leads out of the uplink without a gateway.
    fn is_direct(&self, peer: &Lease, observed: &Observed) -> bool {
        let reach = observed.routes.reach(IpAddr::V4(peer.attrs.public_ip));
        let on_uplink =
            |reach: super::Reach| reach.gateway.is_none() && reach.ifindex == Some(self.here.uplink.ifindex);
        self.options.direct_routing && reach.is_some_and(on_uplink)
    }

    fn tunnel(&self, peer: &Lease, macs: &mut BTreeMap<[u8; 6], Ipv4Addr>, objects: &mut Objects) -> Reached {
        let outer = peer.attrs.public_ip;
        let mac = match vtep_mac(peer.attrs.backend_data.as_deref()) {
            Ok(mac) if mac == self.v4.mac => Err(format!("its VtepMAC {} is our own device's", Mac(mac))),
            Ok(mac) => match macs.insert(mac, outer) {
                Some(other) if other != outer => {
                    macs.insert(mac, other);
                    Err(format!("its VtepMAC {} is also that of {other}", Mac(mac)))
                }
                _ => Ok(mac),
            },
            Err(problem) => Err(problem),
        };
        let mac = match mac {
            Ok(mac) => mac,
            Err(problem) => {
                return Reached { way: PeerWay::Unreachable, via: None, problem: Some(problem) };
            }
        };
        put(&self.v4, IpNet::V4(peer.subnet.v4), mac, IpAddr::V4(outer), objects);
        let next_hop = peer.subnet.v4.network();
        let via = Way { ifindex: self.v4.ifindex, next_hop, mtu: self.v4.mtu };
        Reached { way: PeerWay::Tunnel, via: Some(via), problem: self.tunnel_v6(peer, objects) }
    }

    fn tunnel_v6(&self, peer: &Lease, objects: &mut Objects) -> Option<String> {
        let (device, subnet) = (self.v6.as_ref()?, peer.subnet.v6?);
        let Some(outer) = peer.attrs.public_ipv6 else {
            return Some(format!("its lease has the IPv6 subnet {subnet}, but no IPv6 address to reach it by"));
        };
        match vtep_mac(peer.attrs.backend_v6_data.as_deref()) {
            Ok(mac) if mac != device.mac => put(device, IpNet::V6(subnet), mac, IpAddr::V6(outer), objects),
            Ok(mac) => return Some(format!("the VtepMAC {} of its IPv6 device is our own", Mac(mac))),
            Err(problem) => return Some(format!("IPv6: {problem}")),
        }
        None
    }
}

/// What the kernel needs to send to a peer: the frame's destination is the peer's device, which else ignores it.
fn put(device: &Device, subnet: IpNet, mac: [u8; 6], outer: IpAddr, objects: &mut Objects) {
    let base = subnet.network();
    objects.insert(Slot::Neighbour(device.ifindex, base), Object::Neighbour(mac));
    objects.insert(Slot::Fdb(device.ifindex, mac), Object::Fdb(outer));
    let route = Object::Route { gateway: Some(base), ifindex: device.ifindex, onlink: true };
    objects.insert(Slot::Route(subnet.trunc()), route);
}

/// The MAC address in a lease's `BackendData`: `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`; names in any case, as Go.
fn vtep_mac(data: Option<&str>) -> Result<[u8; 6], String> {
    let data = data.ok_or("its lease has no BackendData, in which vxlan says its VtepMAC")?;
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(data).map_err(|error| format!("its BackendData {data:?} is no JSON object: {error}"))?;
    let member = members.iter().find(|(name, _)| name.eq_ignore_ascii_case("VtepMAC"));
    let text = member.and_then(|(_, value)| value.as_str()).unwrap_or_default();
    let bytes: Vec<u8> = text.split([':', '-']).map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
    mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
        .ok_or_else(|| format!("the VtepMAC {text:?} in its BackendData is no unicast MAC address"))
}

fn refused(source: netlink::Error) -> Error {
    Error::Kernel { backend: NAME, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vtep_mac_is_read_as_upstream_writes_it_and_wrote_it() {
        let mac = Ok([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
        assert_eq!(vtep_mac(Some(r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#)), mac);
        assert_eq!(vtep_mac(Some(r#"{"VtepMAC":"c6:d2:32:6f:8f:44"}"#)), mac, "as v0.x, without VNI");
        assert_eq!(vtep_mac(Some(r#"{"vtepmac":"C6-D2-32-6F-8F-44"}"#)), mac, "Go takes this too");
    }

    #[test]
    fn broken_backend_data_is_named() {
        let cases = [
            (None, "no BackendData"),
            (Some("null"), "no JSON object"),
            (Some(r#""x""#), "no JSON object"),
            (Some("{}"), r#"VtepMAC """#),
            (Some(r#"{"VtepMAC":7}"#), r#"VtepMAC """#),
            (Some(r#"{"VtepMAC":"c6:d2:32:6f:8f"}"#), "no unicast"),
            (Some(r#"{"VtepMAC":"c6:d2:32:6f:8f:44:55"}"#), "no unicast"),
            (Some(r#"{"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#), "no unicast"),
            (Some(r#"{"VtepMAC":"00:00:00:00:00:00"}"#), "no unicast"),
        ];
        for (data, expected) in cases {
            let problem = vtep_mac(data).unwrap_err();
            assert!(problem.contains(expected), "{data:?}: {problem}");
        }
    }
}
