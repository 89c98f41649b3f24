//! A node on which nothing is wrong does nothing: its passes cause no kernel events, which would cause passes.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod backend_common;

use std::time::Duration;

use backend_common::{NETWORK, Node, lease, pass, subnet};
use flannel_agent::kernel::netlink::{KernelEvent, Netlink};
use flannel_tests::{require, skip::Feature, topology::Topology};

/// A node has settled once the kernel has said nothing for so long.
const QUIET: Duration = Duration::from_millis(1500);
/// How often it may have something of its own to say in the midst of the passes.
const ATTEMPTS: usize = 5;

/// Events of ten passes of a settled node.
fn events(backend: &str) -> Vec<KernelEvent> {
    let topology = Topology::flat(2).unwrap();
    let mut node = Node::start(&topology.hosts[0], backend, 1).unwrap();
    let name = node.backend.advert().backend_type;
    let data = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}"#;
    let peer = lease(2, topology.hosts[1].address, &name, (name == "vxlan").then_some(data));
    node.settle(&[&peer]);
    let (ns, backend) = (node.ns.clone(), &mut node.backend);
    let peer = &peer;
    let watch = move || async move {
        let netlink = Netlink::connect().unwrap();
        let mut events = Netlink::events().unwrap();
        let mut caused = Vec::new();
        // The kernel has something of its own to say for a while (a link that got its carrier, an IPv6 address that nobody else
        // has): passes that cause events cause some every time.
        for _ in 0..ATTEMPTS {
            while tokio::time::timeout(QUIET, events.recv()).await.is_ok() {}
            for _ in 0..10 {
                let pass = pass(backend, &[peer], &[NETWORK.parse().unwrap()], &netlink).await;
                assert_eq!(pass.plan.changes, []);
                assert_eq!(pass.desired.peers[&subnet(2)].problem, None);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            caused = std::iter::from_fn(|| events.try_recv().ok()).collect();
            if caused.is_empty() {
                break;
            }
        }
        caused
    };
    ns.block_on(watch).unwrap()
}

#[test]
fn host_gw() {
    require!(Feature::Root);
    assert_eq!(events(r#"{"Type":"host-gw"}"#), []);
}

#[test]
fn vxlan() {
    require!(Feature::Root, Feature::Link("vxlan"));
    assert_eq!(events(r#"{"Type":"vxlan"}"#), []);
}

#[test]
fn udp() {
    require!(Feature::Root, Feature::Tun);
    assert_eq!(events(r#"{"Type":"udp"}"#), []);
}

#[test]
fn ipip() {
    require!(Feature::Root, Feature::Link("ipip"));
    assert_eq!(events(r#"{"Type":"ipip"}"#), []);
}
