//! A real host with an agent that exists only in memory.

use std::{net::Ipv4Addr, sync::Arc};

use flannel_agent::{
    admin::LeaseRow,
    events::now,
    state::{FastPath, NodeState, OwnLease, PeerState, PeerWay, StoreState, Uplink},
};
use flannel_tests::topology::Topology;

use super::{
    MemoryStore,
    agent::{Agent, ctl_in},
};

/// Two hosts with a container each and routes to each other; on the first one, an agent that knows of both.
pub struct Site {
    pub topology: Topology,
    pub agent: Agent,
    pub store: Arc<MemoryStore>,
}

pub fn lease(subnet: &str, host: Ipv4Addr, own: bool) -> LeaseRow {
    let subnet = subnet.parse().unwrap();
    LeaseRow {
        subnet,
        subnet_v6: None,
        public_ip: host,
        backend: "host-gw".into(),
        ttl: Some(80_000),
        revision: 3,
        own,
    }
}

pub fn peer(subnet: &str, host: Ipv4Addr) -> PeerState {
    PeerState {
        subnet: subnet.parse().unwrap(),
        public_ip: host,
        backend: "host-gw".into(),
        way: PeerWay::Direct,
        index: Some(1),
        problem: None,
    }
}

impl Site {
    pub fn new() -> Self {
        let mut topology = Topology::flat(2).unwrap();
        topology.wire_statically(1).unwrap();
        let (here, there) = (topology.hosts[0].address, topology.hosts[1].address);
        let node = NodeState {
            version: 1,
            agent: "test".into(),
            started_at: now(),
            ready: true,
            lease: Some(OwnLease {
                subnet: "172.16.1.0/24".parse().unwrap(),
                expires_at: Some(now() + 80_000),
                public_ip: here,
            }),
            store: StoreState {
                connected: true,
                heard_at: now(),
                prefix: "/flannel/network".into(),
                ..StoreState::default()
            },
            backend: "host-gw".into(),
            network: Some("172.16.0.0/16".parse().unwrap()),
            uplink: Some(Uplink { name: "eth0".into(), ifindex: 2, address: here, mtu: 1500 }),
            mtu: 1500,
            fastpath: FastPath { mode: "off".into(), ..FastPath::default() },
            peers: vec![peer("172.16.2.0/24", there)],
            ..NodeState::default()
        };
        let store = Arc::new(MemoryStore::default());
        *store.leases.lock().unwrap() = vec![lease("172.16.1.0/24", here, true), lease("172.16.2.0/24", there, false)];
        let agent = Agent::start(node);
        agent.context.store.set(store.clone());
        Self { topology, agent, store }
    }

    pub fn change(&self, change: impl FnOnce(&mut NodeState)) {
        let mut node = NodeState::clone(&self.agent.context.node());
        change(&mut node);
        self.agent.state.send(Arc::new(node)).unwrap();
    }

    /// Runs flannelctl on the first host.
    pub fn ctl(&self, args: &[&str]) -> (i32, String) {
        ctl_in(&self.topology.hosts[0].ns, &self.agent.socket, args)
    }

    /// The line of doctor's report about `code`, with its remedy; exactly one must be there.
    pub fn diagnosis(&self, code: &str, args: &[&str]) -> String {
        let (exit, text) = self.ctl(&[&["doctor"], args].concat());
        assert_eq!(exit, 1, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let found: Vec<usize> = (0..lines.len()).filter(|n| lines[*n].contains(&format!(" {code}: "))).collect();
        assert_eq!(found.len(), 1, "{code} in:\n{text}");
        format!("{}\n{}", lines[found[0]], lines[found[0] + 2])
    }

    pub fn explain(&self) -> (i32, String) {
        let (here, there) = (self.container(0), self.container(1));
        self.ctl(&["explain", &here, &there, "tcp", "40000", "80"])
    }

    pub fn container(&self, host: usize) -> String {
        self.topology.hosts[host].containers[0].address.to_string()
    }

    pub fn run(&self, host: usize, line: &str) {
        self.topology.hosts[host].ns.run(line).unwrap();
    }
}
