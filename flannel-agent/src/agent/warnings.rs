//! What an operator should know, each with its remedy. Pure: made from what a pass found.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::node::Found;
use crate::{lease::Lease, state::Warning};

/// Everything that is odd about a node that works.
pub(super) fn warnings(found: &Found, own: Ipv4Net, public_ip: Ipv4Addr, peers: &[&Lease]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (bridge, addresses) in &found.bridges {
        if !addresses.is_empty() && !addresses.iter().any(|address| address.trunc() == own.trunc()) {
            warnings.push(bridge_address(bridge, addresses, own));
        }
    }
    warnings.extend(found.conflicts.iter().map(|foreign| Warning {
        code: "route-conflict".to_owned(),
        text: format!(
            "a route that is not ours leads to {}, a peer's subnet: {}{}",
            foreign.dst,
            foreign.text,
            if foreign.blocks { "; it stands in the place of ours" } else { "" }
        ),
        remedy: format!("ip route del {}", foreign.text),
    }));
    for peer in peers.iter().filter(|peer| peer.attrs.public_ip == public_ip) {
        warnings.push(Warning {
            code: "duplicate-public-ip".to_owned(),
            text: format!("the lease of {} says our own address {public_ip}", peer.subnet),
            remedy: "give each node an address of its own (-iface or -public-ip); if it is an old lease of this node: \
                     flannelctl lease release"
                .to_owned(),
        });
    }
    warnings.extend(found.fastpath.iter().cloned());
    warnings.extend(found.failures.iter().map(|failure| Warning {
        code: "reconcile".to_owned(),
        text: failure.clone(),
        remedy: "flannelctl doctor".to_owned(),
    }));
    warnings
}

fn bridge_address(bridge: &str, addresses: &[Ipv4Net], own: Ipv4Net) -> Warning {
    let has: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Warning {
        code: "bridge-address".to_owned(),
        text: format!("{bridge} has {} but this node leases {own}: its containers are unreachable", has.join(", ")),
        remedy: "restart Docker, so that it takes its options from the subnet file anew: systemctl restart docker"
            .to_owned(),
    }
}
