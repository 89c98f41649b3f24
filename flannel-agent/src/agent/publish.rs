//! The snapshot of the node that everything which explains it reads.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{node::Node, rules::RulesTask, turn::Agent, warnings::warnings};
use crate::{
    cli::flanneld::Flags,
    events,
    lease::{Lease, Subnet},
    state::{FastPath, NodeState, OwnLease, PeerState, PeerWay, Uplink, Warning},
    store::Store,
};

/// Version of the form of [`NodeState`].
const VERSION: u32 = 1;

/// Fills in what is known before anything is done.
pub(super) fn introduce(state: &mut NodeState, flags: &Flags, store: &Store) {
    state.version = VERSION;
    env!("CARGO_PKG_VERSION").clone_into(&mut state.agent);
    state.started_at = events::now();
    state.store.endpoints = store.endpoints();
    flags.store.prefix.clone_into(&mut state.store.prefix);
    state.subnet_file = flags.subnet_file.display().to_string();
    state.fastpath.mode = flags.fastpath.mode.to_string();
}

/// Says what the start waits for; `None` once it waits no more.
pub(super) fn waiting(state: &mut NodeState, obstacle: Option<String>) {
    state.store.connected = obstacle.is_none();
    state.store.error = obstacle;
    state.store.heard_at = events::now();
}

impl Agent<'_> {
    /// Makes the current snapshot known.
    pub(super) fn publish(&self) {
        let peers = self.peers();
        self.publisher.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.warnings.clone_from(&self.standing);
            state.warnings.extend(self.rules.iter().flat_map(RulesTask::warnings));
            if state.store.connected {
                // The watch notices a dead connection within seconds, so that silence is good news.
                state.store.heard_at = events::now();
            }
            state.ready = self.ready;
            let held = self.keeper.held();
            state.lease = Some(OwnLease {
                subnet: held.lease.subnet.v4,
                expires_at: held.expires_at.map(seconds),
                public_ip: held.lease.attrs.public_ip,
            });
            describe(state, &self.node, &peers);
        });
    }
}

/// Fills in what the node and its last pass know.
fn describe(state: &mut NodeState, node: &Node, peers: &[&Lease]) {
    node.backend.name().clone_into(&mut state.backend);
    state.network = Some(node.config.v4.network);
    state.mtu = node.backend.mtu();
    state.uplink = Some(Uplink {
        name: node.uplink.name.clone(),
        ifindex: node.uplink.ifindex,
        address: node.uplink.address,
        mtu: node.uplink.mtu,
    });
    state.peers = peers.iter().map(|peer| peer_state(peer, node)).collect();
    if let Some(fastpath) = &node.fastpath {
        state.fastpath = fastpath.state();
    }
    state.reconcile = node.reconcile.clone();
    state.carrier_lost = node.backend.carrier_lost();
    state.warnings.extend(warnings(&node.found, node.own.v4, node.uplink.public_ip, peers));
}

/// The fast path of a node that has none.
pub(super) fn no_fastpath(reason: String) -> FastPath {
    FastPath { mode: "off".to_owned(), reason: Some(reason), ..FastPath::default() }
}

/// The warning that goes with it, where the fast path was asked for.
pub(super) fn routes_alone(reason: &str) -> Warning {
    Warning {
        code: "routes-alone".to_owned(),
        text: format!("no fast path, the kernel's routes carry everything: {reason}"),
        remedy: "flannelctl doctor".to_owned(),
    }
}

fn peer_state(peer: &Lease, node: &Node) -> PeerState {
    let reached = node.found.peers.get::<Subnet>(&peer.subnet);
    PeerState {
        subnet: peer.subnet.v4,
        public_ip: peer.attrs.public_ip,
        backend: peer.attrs.backend_type.clone(),
        way: reached.map_or(PeerWay::Unreachable, |reached| reached.way),
        index: node.fastpath.as_ref().and_then(|fastpath| fastpath.peer_index(peer.subnet.v4.trunc())),
        problem: reached.and_then(|reached| reached.problem.clone()),
    }
}

/// Seconds since the Unix epoch.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
