//! A node that exists only in memory, for the tests of everything that shows a node.
#![allow(dead_code, unreachable_pub, reason = "each suite uses its own part")]

pub mod agent;
pub mod site;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use flannel_agent::{
    admin::{Context, LeaseRow, OpsError, StoreOps},
    events::{EventLog, now},
    state::{FastPath, HookState, NodeState, OwnLease, PeerState, PeerWay, Reconcile, StoreState, Uplink, Warning},
    traffic::{Count, FlowFilter, FlowRow, Traffic},
};
use flannel_common::abi::{PeerTally, Tally};
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::sync::watch;

/// A context around `node` without traffic and store. The sender must be kept: it is the agent.
pub fn context(node: NodeState) -> (watch::Sender<Arc<NodeState>>, Context) {
    let (sender, state) = watch::channel(Arc::new(node));
    (sender, Context::new(state, EventLog::new()))
}

/// Subnet number `n` of 10.0.0.0/8, a /24.
pub fn subnet(n: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + (n << 8)), 24).unwrap()
}

/// A node with `peers` peers, most of them well.
pub fn node(peers: u32) -> NodeState {
    let uplink = Uplink { name: "eth0".into(), ifindex: 2, address: Ipv4Addr::new(192, 0, 2, 11), mtu: 1500 };
    NodeState {
        version: 1,
        agent: "0.1.0".into(),
        started_at: now() - 3600,
        ready: true,
        lease: Some(OwnLease { subnet: subnet(0), expires_at: Some(now() + 82_000), public_ip: uplink.address }),
        store: store(),
        backend: "host-gw".into(),
        network: Some("10.0.0.0/8".parse().unwrap()),
        uplink: Some(uplink),
        subnet_file: "/run/flannel/subnet.env".into(),
        mtu: 1500,
        fastpath: fastpath(),
        peers: (1..=peers).map(peer).collect(),
        warnings: vec![Warning {
            code: "docker0-address".into(),
            text: "docker0 has 172.17.0.1/16, the lease is 10.0.0.0/24".into(),
            remedy: "systemctl restart docker".into(),
        }],
        reconcile: Reconcile { passes: 12, changes: 9, failures: 1, last_us: 1500 },
        carrier_lost: None,
    }
}

fn store() -> StoreState {
    StoreState {
        endpoints: vec!["http://192.0.2.1:2379".into(), "http://192.0.2.2:2379".into()],
        prefix: "/flannel/network".into(),
        connected: true,
        revision: 4711,
        heard_at: now() - 3,
        error: None,
    }
}

fn fastpath() -> FastPath {
    let hook = |interface: &str, program: &str, rung: &str, reason: Option<&str>| HookState {
        interface: interface.into(),
        ifindex: 2,
        program: program.into(),
        rung: rung.into(),
        reason: reason.map(str::to_owned),
    };
    FastPath {
        mode: "verified".into(),
        reason: None,
        hooks: vec![
            hook("eth0", "from_uplink", "tcx", None),
            hook("eth0", "to_uplink", "tcx", None),
            hook("eth0", "transit", "none", Some("the driver has no native XDP")),
            hook("veth1", "from_port", "tcx", None),
            hook("veth1", "to_port", "tcx", None),
        ],
        epoch: 7,
        flows_capacity: 65_536,
        pin_dir: "/sys/fs/bpf/flannel/test".into(),
    }
}

fn peer(n: u32) -> PeerState {
    let (way, problem) = match n % 50 {
        7 => (PeerWay::Unreachable, Some("192.0.2.200 is not on eth0's link".to_owned())),
        8 => (PeerWay::Tunnel, None),
        _ => (PeerWay::Direct, None),
    };
    PeerState {
        subnet: subnet(n),
        public_ip: Ipv4Addr::from(0xc612_0000 + n),
        backend: "host-gw".into(),
        way,
        index: Some(n),
        problem,
    }
}

/// Traffic from memory: peer in slot `n` has `n`-fold amounts.
#[derive(Default)]
pub struct Memory {
    pub counts: Vec<Count>,
    pub flows: Vec<FlowRow>,
}

impl Traffic for Memory {
    fn counts(&self) -> Result<Vec<Count>, String> {
        Ok(self.counts.clone())
    }

    fn peers(&self, slots: &[u32]) -> Result<Vec<PeerTally>, String> {
        let tally = |packets: u32| Tally { packets: packets.into(), bytes: u64::from(packets) * 100 };
        Ok(slots
            .iter()
            .map(|n| PeerTally {
                fast_to: tally(4 * n),
                fast_from: tally(3 * n),
                slow_to: tally(2 * n),
                slow_from: tally(*n),
            })
            .collect())
    }

    fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>, String> {
        Ok(self.flows.iter().filter(|flow| filter.admits(flow.src, flow.dst)).cloned().collect())
    }

    fn flow_count(&self) -> Result<u64, String> {
        Ok(self.flows.len() as u64)
    }
}

/// A few counts and flows.
pub fn memory() -> Memory {
    let count = |hook: &str, reason: &str, packets| Count {
        hook: hook.into(),
        reason: reason.into(),
        packets,
        bytes: packets * 1000,
    };
    let flow = |n: u8, path: &str, packets: u64| FlowRow {
        src: Ipv4Addr::new(10, 0, 0, n),
        sport: 40_000 + u16::from(n),
        dst: Ipv4Addr::new(10, 0, 1, 2),
        dport: 80,
        proto: if n.is_multiple_of(2) { 6 } else { 17 },
        path: path.into(),
        slow: (path == "transit").then(|| "flow_stale".into()),
        packets,
        bytes: packets * 1400,
        verified_ms: 700,
        max_len: 1500,
        in_ifindex: 5,
        out_ifindex: 2,
    };
    Memory {
        counts: vec![
            count("from_port", "fast_out", 9000),
            count("from_port", "flow_new", 12),
            count("from_uplink", "fast_in", 8000),
        ],
        flows: vec![flow(2, "out", 9000), flow(3, "in", 50), flow(4, "transit", 0)],
    }
}

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    pub config: Mutex<Option<String>>,
    pub leases: Mutex<Vec<LeaseRow>>,
}

fn absent(subnet: Ipv4Net) -> OpsError {
    OpsError::NotFound(format!("no lease of {subnet}"))
}

impl StoreOps for MemoryStore {
    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseRow>, OpsError>> {
        Box::pin(async { Ok(self.leases.lock().unwrap().clone()) })
    }

    fn config(&self) -> BoxFuture<'_, Result<Option<String>, OpsError>> {
        Box::pin(async { Ok(self.config.lock().unwrap().clone()) })
    }

    fn set_config(&self, text: String) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async {
            *self.config.lock().unwrap() = Some(text);
            Ok(())
        })
    }

    fn reserve(&self, subnet: Ipv4Net, _host: Option<Ipv4Addr>) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            leases.iter_mut().find(|lease| lease.subnet == subnet).ok_or_else(|| absent(subnet))?.ttl = None;
            Ok(())
        })
    }

    fn release(&self, subnet: Ipv4Net) -> BoxFuture<'_, Result<(), OpsError>> {
        Box::pin(async move {
            let mut leases = self.leases.lock().unwrap();
            let found = leases.iter().position(|lease| lease.subnet == subnet).ok_or_else(|| absent(subnet))?;
            leases.remove(found);
            Ok(())
        })
    }
}

/// Sends a request and gives the status code and the body.
pub fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.0\r\nhost: test\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), body.to_owned())
}
