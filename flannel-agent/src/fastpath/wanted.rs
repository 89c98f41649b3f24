//! Which hooks should be attached where. Pure.

use std::collections::BTreeSet;

use flannel_common::abi::Hook;

use super::{
    inputs::{Bridge, Inputs, Link},
    options::{Attach, Options, Xdp},
    programs,
};

/// A hook at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) hook: Hook,
    pub(super) link: Link,
    /// The program that is to run there.
    pub(super) program: &'static str,
    /// Why it is not even tried.
    pub(super) refusal: Option<&'static str>,
}

const NO_ETHERNET: &str = "its packets have no Ethernet header; the kernel's routes carry them";
const VETH_XDP: &str = "on a veth it would cost its other end segmentation offload; -xdp=on";

const VLANS: &str = "VLANs are made of it, and network cards take the tags away before XDP could tell their packets apart; TC carries transit";

/// In the order of attaching: what verifies flows comes before what uses them, so that a mode never runs half.
const ORDER: [Hook; 5] = [Hook::ToUplink, Hook::ToPort, Hook::FromUplink, Hook::FromPort, Hook::Transit];

/// Every hook that the mode runs at every interface that has a part in it.
pub(super) fn wanted(options: &Options, inputs: &Inputs) -> Vec<Want> {
    let mut seen = BTreeSet::new();
    let mut wants = Vec::new();
    for hook in ORDER {
        for link in places(hook, options, inputs) {
            if let Some(program) = programs::name(options.mode, hook, link.has_peer())
                && seen.insert((hook, link.ifindex))
            {
                let refusal = refusal(hook, options, &link);
                wants.push(Want { hook, link, program, refusal });
            }
        }
    }
    wants
}

fn places(hook: Hook, options: &Options, inputs: &Inputs) -> Vec<Link> {
    let is_uplink = |link: &Link| inputs.uplinks.iter().any(|uplink| uplink.ifindex == link.ifindex);
    let ports = || inputs.bridges.iter().flat_map(|bridge| &bridge.ports).filter(|port| !is_uplink(port));
    match (hook, options.attach) {
        (Hook::Transit, _) if options.xdp == Xdp::Off => Vec::new(),
        (Hook::FromUplink | Hook::ToUplink | Hook::Transit, _) => inputs.uplinks.clone(),
        (Hook::FromPort | Hook::ToPort, Attach::Ports) => ports().cloned().collect(),
        (Hook::FromPort | Hook::ToPort, Attach::Bridge) => inputs.bridges.iter().map(bridge_itself).collect(),
    }
}

/// The bridge as an interface of its own. Its MTU follows its ports' and says nothing about ours.
fn bridge_itself(bridge: &Bridge) -> Link {
    Link {
        ifindex: bridge.ifindex,
        name: bridge.name.clone(),
        mtu: 0,
        mac: Some(bridge.mac),
        kind: "bridge".to_owned(),
        peer_elsewhere: false,
        has_vlans: false,
    }
}

fn refusal(hook: Hook, options: &Options, link: &Link) -> Option<&'static str> {
    if link.mac.is_none() {
        return Some(NO_ETHERNET);
    }
    if hook == Hook::Transit && link.has_vlans {
        return Some(VLANS);
    }
    (hook == Hook::Transit && link.kind == "veth" && options.xdp == Xdp::Auto).then_some(VETH_XDP)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fastpath::Mode;

    fn link(ifindex: u32, kind: &str) -> Link {
        let (name, kind) = (format!("i{ifindex}"), kind.to_owned());
        Link { ifindex, name, mtu: 1500, mac: Some([2; 6]), kind, peer_elsewhere: ifindex != 12, has_vlans: false }
    }

    /// Uplinks 2 (veth) and 3 (tun); bridge 10 with ports 11, 12 (whose other end is here) and the uplink 2.
    fn check(options: &Options, expected: &str) {
        let uplinks = vec![link(2, "veth"), Link { mac: None, ..link(3, "tun") }];
        let ports = vec![link(11, "veth"), link(12, "veth"), link(2, "veth")];
        let bridges = vec![Bridge { ifindex: 10, name: "docker0".to_owned(), mac: [4; 6], ports }];
        let subnet = "10.5.1.0/24".parse().unwrap();
        let inputs = Inputs { subnet, peers: BTreeMap::new(), uplinks, bridges, endpoints: BTreeMap::new() };
        let show = |want: &Want| {
            let refused = if want.refusal.is_some() { "!" } else { "" };
            format!("{}@{}{refused}", want.program, want.link.ifindex)
        };
        let shown: Vec<String> = wanted(options, &inputs).iter().map(show).collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn verified_at_ports() {
        let expected = "to_uplink@2 to_uplink@3! to_port@11 to_bridge@12 from_uplink@2 from_uplink@3! \
                        from_port@11 from_port@12 transit@2! transit@3!";
        check(&Options::default(), expected);
    }

    #[test]
    fn verified_at_bridges_without_xdp() {
        let options = Options { attach: Attach::Bridge, xdp: Xdp::Off, ..Options::default() };
        check(&options, "to_uplink@2 to_uplink@3! to_bridge@10 from_uplink@2 from_uplink@3! from_port@10");
    }

    #[test]
    fn trusted_with_xdp_on_a_veth() {
        let options = Options { mode: Mode::Trusted, xdp: Xdp::On, ..Options::default() };
        let expected = "trusted_from_uplink@2 trusted_from_uplink@3! trusted_from_port@11 trusted_from_port@12 \
                        trusted_transit@2 trusted_transit@3!";
        check(&options, expected);
    }

    #[test]
    fn no_xdp_where_there_are_vlans() {
        for (xdp, has_vlans, is_refused) in [(Xdp::On, true, true), (Xdp::On, false, false), (Xdp::Auto, true, true)] {
            let link = Link { has_vlans, ..link(2, "veth") };
            let refusal = refusal(Hook::Transit, &Options { xdp, ..Options::default() }, &link);
            assert_eq!(refusal.is_some(), is_refused, "{xdp:?} {has_vlans}");
        }
        let link = Link { has_vlans: true, ..link(2, "") };
        assert_eq!(refusal(Hook::FromUplink, &Options::default(), &link), None, "TC sees the tags");
    }

    #[test]
    fn off_wants_nothing() {
        check(&Options { mode: Mode::Off, ..Options::default() }, "");
    }
}
