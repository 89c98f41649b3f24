//! Which hooks should be attached where. Pure.

use std::collections::BTreeSet;

use flannel_common::abi::Hook;

use super::{
    inputs::{Inputs, Link},
    options::{Attach, Options, Xdp},
    programs,
};

/// A hook at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) hook: Hook,
    pub(super) link: Link,
    /// Why it is not even tried.
    pub(super) refusal: Option<&'static str>,
}

const NO_ETHERNET: &str = "its packets have no Ethernet header; the kernel's routes carry them";
const VETH_XDP: &str =
    "native XDP on a veth would take segmentation offload from its other end (--xdp=on attaches it nevertheless)";

/// In the order of attaching: what verifies flows comes before what uses them, so that a mode never runs half.
const ORDER: [Hook; 5] = [Hook::ToUplink, Hook::ToPort, Hook::FromUplink, Hook::FromPort, Hook::Transit];

/// Every hook that the mode runs at every interface that has a part in it.
pub(super) fn wanted(options: &Options, inputs: &Inputs) -> Vec<Want> {
    let mut seen = BTreeSet::new();
    let mut wants = Vec::new();
    for hook in ORDER.into_iter().filter(|hook| programs::name(options.mode, *hook).is_some()) {
        for link in places(hook, options, inputs) {
            if seen.insert((hook, link.ifindex)) {
                wants.push(Want { hook, link: link.clone(), refusal: refusal(hook, options, link) });
            }
        }
    }
    wants
}

fn places<'a>(hook: Hook, options: &Options, inputs: &'a Inputs) -> Vec<&'a Link> {
    let is_uplink = |link: &Link| inputs.uplinks.iter().any(|uplink| uplink.ifindex == link.ifindex);
    let ports = || inputs.bridges.iter().flat_map(|bridge| &bridge.ports).filter(|port| !is_uplink(port));
    match (hook, options.attach) {
        (Hook::Transit, _) if options.xdp == Xdp::Off => Vec::new(),
        (Hook::FromUplink | Hook::ToUplink | Hook::Transit, _) => inputs.uplinks.iter().collect(),
        (Hook::FromPort | Hook::ToPort, Attach::Ports) => ports().collect(),
        (Hook::FromPort, Attach::Bridge) => inputs.bridges.iter().map(|bridge| &bridge.link).collect(),
        // A flow verified at a bridge's egress would be redirected to the bridge, which has no container behind it
        // to hand the packet to. The way in is the kernel's.
        (Hook::ToPort, Attach::Bridge) => Vec::new(),
    }
}

fn refusal(hook: Hook, options: &Options, link: &Link) -> Option<&'static str> {
    if link.mac.is_none() {
        return Some(NO_ETHERNET);
    }
    let veth = link.kind.as_deref() == Some("veth");
    (hook == Hook::Transit && veth && options.xdp == Xdp::Auto).then_some(VETH_XDP)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fastpath::{Bridge, Mode};

    fn link(ifindex: u32, kind: &str) -> Link {
        Link { ifindex, name: format!("i{ifindex}"), mtu: 1500, mac: Some([2; 6]), kind: Some(kind.to_owned()) }
    }

    fn check(options: &Options, expected: &[&str]) {
        let uplinks = vec![link(2, "veth"), Link { mac: None, ..link(3, "tun") }];
        // An uplink that is also a port is an uplink.
        let ports = vec![link(11, "veth"), link(12, "veth"), link(2, "veth")];
        let bridges = vec![Bridge { link: link(10, "bridge"), ports }];
        let subnet = "10.5.1.0/24".parse().unwrap();
        let inputs = Inputs { subnet, peers: BTreeMap::new(), uplinks, bridges, endpoints: BTreeMap::new() };
        let shown: Vec<String> = wanted(options, &inputs)
            .iter()
            .map(|want| {
                format!("{}@{}{}", want.hook.label(), want.link.ifindex, if want.refusal.is_some() { "!" } else { "" })
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn verified_at_ports() {
        let expected = [
            "to_uplink@2",
            "to_uplink@3!",
            "to_port@11",
            "to_port@12",
            "from_uplink@2",
            "from_uplink@3!",
            "from_port@11",
            "from_port@12",
            "transit@2!",
            "transit@3!",
        ];
        check(&Options::default(), &expected);
    }

    #[test]
    fn verified_at_bridges_without_xdp() {
        let options = Options { attach: Attach::Bridge, xdp: Xdp::Off, ..Options::default() };
        check(&options, &["to_uplink@2", "to_uplink@3!", "from_uplink@2", "from_uplink@3!", "from_port@10"]);
    }

    #[test]
    fn trusted_with_xdp_on_veth() {
        let options = Options { mode: Mode::Trusted, xdp: Xdp::On, ..Options::default() };
        let expected = ["from_uplink@2", "from_uplink@3!", "from_port@11", "from_port@12", "transit@2", "transit@3!"];
        check(&options, &expected);
    }

    #[test]
    fn off_wants_nothing() {
        check(&Options { mode: Mode::Off, ..Options::default() }, &[]);
    }
}
