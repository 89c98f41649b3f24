//! What the health paths answer: flannel's own words first, then what is wrong.

use axum::http::StatusCode;
use flannel_common::abi::program;

use crate::state::{HookState, NodeState, PeerWay};

/// Seconds without a word from the store after which the node is called unwell; twice the longest pause between keepalives and
/// progress notices of a healthy watch is far less.
const STORE_SILENCE: u64 = 120;

/// `/readyz`: 200 once the node forwards, 503 before.
pub(super) fn ready(node: &NodeState) -> (StatusCode, String) {
    if node.ready {
        return (StatusCode::OK, "flanneld is ready".to_owned());
    }
    let mut text = "flanneld is not ready yet".to_owned();
    if let Some(error) = &node.store.error {
        text.push_str(&format!("\nstore: {error}"));
    } else if node.lease.is_none() {
        text.push_str("\nno lease yet");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

/// `/livez`: 503 if the node itself is at fault (store, lease), 200 otherwise; either way a line for each thing that is wrong.
pub(super) fn live(node: &NodeState, now: u64) -> (StatusCode, String) {
    let own = own_faults(node, now);
    let code = if own.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let faults = faults(node, now);
    (code, if faults.is_empty() { "ok\n".to_owned() } else { faults.join("\n") + "\n" })
}

/// What is wrong with the node's hold on its subnet, a line each.
fn own_faults(node: &NodeState, now: u64) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(error) = &node.store.error {
        faults.push(format!("store: {error}"));
    } else if node.store.heard_at > 0 && now.saturating_sub(node.store.heard_at) > STORE_SILENCE {
        faults.push(format!("store: no word for {} s", now - node.store.heard_at));
    }
    match &node.lease {
        None => faults.push("lease: none".to_owned()),
        Some(lease) if lease.expires_at.is_some_and(|at| at <= now) => {
            faults.push(format!("lease: {} has ended", lease.subnet));
        }
        Some(_) => {}
    }
    faults
}

/// Everything that is wrong with the node, its peers and its fast path, a line each.
pub fn faults(node: &NodeState, now: u64) -> Vec<String> {
    let mut faults = own_faults(node, now);
    for peer in node.peers.iter().filter(|peer| peer.way == PeerWay::Unreachable) {
        let problem = peer.problem.as_deref().unwrap_or("unreachable");
        faults.push(format!("peer {} at {}: {problem}", peer.subnet, peer.public_ip));
    }
    // XDP is a bonus that most drivers do not give: without it nothing is wrong.
    let missing = |hook: &&HookState| hook.rung == "none" && !hook.program.ends_with(program::TRANSIT);
    for hook in node.fastpath.hooks.iter().filter(missing) {
        let reason = hook.reason.as_deref().unwrap_or("not attached");
        faults.push(format!("fast path: {} on {}: {reason}", hook.program, hook.interface));
    }
    faults
        .extend(node.warnings.iter().map(|warning| format!("{}: {}; {}", warning.code, warning.text, warning.remedy)));
    faults
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{STORE_SILENCE, faults, live, ready};
    use crate::state::{NodeState, OwnLease, PeerState, PeerWay, StoreState};

    fn healthy() -> NodeState {
        let subnet = "172.16.5.0/24".parse().unwrap();
        NodeState {
            ready: true,
            lease: Some(OwnLease { subnet, expires_at: Some(5000), public_ip: Ipv4Addr::new(192, 0, 2, 1) }),
            store: StoreState { connected: true, heard_at: 1000, ..StoreState::default() },
            ..NodeState::default()
        }
    }

    #[test]
    fn a_healthy_node_says_ok_and_upstream_s_words() {
        assert_eq!(live(&healthy(), 1001), (axum::http::StatusCode::OK, "ok\n".to_owned()));
        assert_eq!(ready(&healthy()).1, "flanneld is ready");
    }

    #[test]
    fn a_node_that_is_not_ready_says_why_below_upstream_s_words() {
        let mut node = NodeState::default();
        assert_eq!(
            ready(&node),
            (axum::http::StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet\nno lease yet".to_owned())
        );
        node.store.error = Some("authentication failed".to_owned());
        assert_eq!(ready(&node).1, "flanneld is not ready yet\nstore: authentication failed");
    }

    #[test]
    fn its_own_faults_make_a_node_unwell_and_those_of_others_are_only_told() {
        let mut node = healthy();
        node.peers.push(PeerState {
            subnet: "172.16.9.0/24".parse().unwrap(),
            public_ip: Ipv4Addr::new(198, 51, 100, 7),
            backend: "host-gw".to_owned(),
            way: PeerWay::Unreachable,
            index: None,
            problem: Some("not on this link".to_owned()),
        });
        let (code, text) = live(&node, 1001);
        assert_eq!((code.as_u16(), text.as_str()), (200, "peer 172.16.9.0/24 at 198.51.100.7: not on this link\n"));
        assert_eq!(live(&node, 1000 + STORE_SILENCE + 1).0.as_u16(), 503);
        assert_eq!(faults(&healthy(), 5000), vec!["store: no word for 4000 s", "lease: 172.16.5.0/24 has ended"]);
    }
}
