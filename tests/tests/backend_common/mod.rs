//! A node of the slow path alone: a backend and its passes, in a host's namespace, without etcd and without the agent.

#![allow(dead_code, reason = "each suite uses a part")]

use std::{net::Ipv4Addr, time::Duration};

use flannel_agent::{
    backend::{Backend, Change, Desired, Error},
    config::NetworkConfig,
    kernel::{
        iface::{self, IfaceSpec, Stack, Uplink},
        netlink::{Kind, Netlink},
    },
    lease::{Attrs, Lease, Subnet},
    plan::desired::{Plan, plan},
};
use flannel_tests::{netns::Netns, topology::Host};
use ipnet::IpNet;

/// The flannel network of these tests.
pub(crate) const NETWORK: &str = "10.5.0.0/16";

/// Subnet number `n` of the network.
pub(crate) fn subnet(n: u8) -> Subnet {
    Subnet { v4: format!("10.5.{n}.0/24").parse().unwrap(), v6: None }
}

/// The lease of a peer.
pub(crate) fn lease(n: u8, public_ip: Ipv4Addr, backend_type: &str, data: Option<&str>) -> Lease {
    let attrs = Attrs { backend_data: data.map(str::to_owned), ..Attrs::new(public_ip, backend_type) };
    Lease { subnet: subnet(n), attrs, ttl_id: None, revision: 1 }
}

/// The cluster configuration with this `Backend` member.
pub(crate) fn config(backend: &str) -> NetworkConfig {
    NetworkConfig::parse(&format!(r#"{{"Network":"{NETWORK}","Backend":{backend}}}"#)).unwrap()
}

/// The uplink of a host: eth0.
pub(crate) fn uplink(ns: &Netns) -> Uplink {
    let spec = IfaceSpec { iface: vec!["eth0".into()], ..IfaceSpec::default() };
    choose(ns, &spec, Stack::V4).unwrap()
}

pub(crate) fn choose(ns: &Netns, spec: &IfaceSpec, stack: Stack) -> Result<Uplink, iface::IfaceError> {
    ns.block_on(|| async { iface::choose(spec, stack, &Netlink::connect().unwrap()).await }).unwrap()
}

/// What one pass did.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) desired: Desired,
    pub(crate) plan: Plan,
    pub(crate) failures: Vec<(Change, String)>,
}

impl Pass {
    /// The problem of a peer.
    pub(crate) fn problem(&self, n: u8) -> &str {
        self.desired.peers[&subnet(n)].problem.as_deref().unwrap_or_default()
    }
}

/// A backend in a namespace.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ns: Netns,
    pub(crate) backend: Backend,
    pub(crate) number: u8,
}

impl Node {
    /// Prepares the backend on a host and gives it subnet number `number`.
    pub(crate) fn start(host: &Host, backend: &str, number: u8) -> Result<Self, Error> {
        Self::start_in(&host.ns, &config(backend), &uplink(&host.ns), number)
    }

    pub(crate) fn start_in(ns: &Netns, config: &NetworkConfig, uplink: &Uplink, number: u8) -> Result<Self, Error> {
        let started = ns.block_on(|| async {
            let netlink = Netlink::connect().unwrap();
            let mut backend = Backend::prepare(config, uplink, &netlink).await?;
            backend.lease_acquired(subnet(number), &netlink).await?;
            Ok::<_, Error>(backend)
        });
        Ok(Self { ns: ns.clone(), backend: started.unwrap()?, number })
    }

    /// The lease that this node would publish.
    pub(crate) fn lease(&self, public_ip: Ipv4Addr) -> Lease {
        let advert = self.backend.advert();
        lease(self.number, public_ip, &advert.backend_type, advert.backend_data.as_deref())
    }

    /// One pass of the agent.
    pub(crate) fn pass(&mut self, peers: &[&Lease]) -> Pass {
        self.pass_in(peers, &[NETWORK.parse().unwrap()])
    }

    /// One pass of an agent with these networks.
    pub(crate) fn pass_in(&mut self, peers: &[&Lease], networks: &[IpNet]) -> Pass {
        let backend = &mut self.backend;
        self.ns.block_on(|| async { pass(backend, peers, networks, &Netlink::connect().unwrap()).await }).unwrap()
    }

    /// A pass that must succeed and after which there must be nothing left to do.
    pub(crate) fn settle(&mut self, peers: &[&Lease]) -> Pass {
        self.settle_in(peers, &[NETWORK.parse().unwrap()])
    }

    /// The same with these networks.
    pub(crate) fn settle_in(&mut self, peers: &[&Lease], networks: &[IpNet]) -> Pass {
        let first = self.pass_in(peers, networks);
        assert!(first.failures.is_empty(), "{:?}", first.failures);
        let second = self.pass_in(peers, networks);
        assert_eq!(second.plan.changes, [], "the second pass still had something to do");
        first
    }

    /// Runs passes on every kernel event, as the agent does, while `work` runs on this thread.
    pub(crate) fn while_watching<T>(&mut self, peers: &[&Lease], work: impl FnOnce() -> T) -> T {
        let (backend, ns) = (&mut self.backend, self.ns.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::scope(|scope| {
            // Dropping `stop`, also by a panic of `work`, ends the loop.
            let stop = stop;
            scope.spawn(move || ns.block_on(|| watch(backend, peers, stopped)).unwrap());
            let done = work();
            drop(stop);
            done
        })
    }
}

/// What the agent does in a pass.
pub(crate) async fn pass(backend: &mut Backend, peers: &[&Lease], networks: &[IpNet], netlink: &Netlink) -> Pass {
    let observed = backend.look(peers, networks, netlink).await.unwrap();
    let desired = backend.desired(peers, &observed);
    let plan = plan(&desired.objects, &observed);
    let failures = netlink.apply(&plan.changes).await;
    let failures = failures.into_iter().map(|(change, error)| (change, error.to_string())).collect();
    Pass { desired, plan, failures }
}

/// The agent's loop: a pass after each burst of events, until `stop`.
pub(crate) async fn watch(backend: &mut Backend, peers: &[&Lease], mut stop: tokio::sync::oneshot::Receiver<()>) {
    let netlink = Netlink::connect().unwrap();
    let mut events = Netlink::events().unwrap();
    loop {
        pass(backend, peers, &[NETWORK.parse().unwrap()], &netlink).await;
        let event = tokio::select! {
            event = events.recv() => event.unwrap(),
            _ = &mut stop => return,
        };
        if event.kind != Kind::LookAgain {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while events.try_recv().is_ok() {}
    }
}
