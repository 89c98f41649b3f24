//! The start, step by step, up to a loop that can turn.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};

use super::{
    Error,
    node::{Found, Node},
    pace::Pace,
    publish, start,
    turn::Agent,
};
use crate::{
    admin::Context,
    backend::Backend,
    cli::flanneld::Flags,
    config::NetworkConfig,
    events::EventLog,
    fastpath::{FastPath, Mode},
    keeper::{Keeper, KeeperEvent},
    kernel::{
        netlink::Netlink,
        rights,
        sysctl::{self, Setting},
    },
    lease::{Lease, Update},
    logging::Repeats,
    plan::table::Table,
    state::{NodeState, Reconcile, Warning},
    store::Store,
    subnet_file::Previous,
};

type Begun<'a> = (Agent<'a>, mpsc::Receiver<Update>, mpsc::UnboundedReceiver<KeeperEvent>);

/// Everything up to the loop. Waits as long as it takes for a store and a configuration.
pub(super) async fn begin<'a>(
    flags: &'a Flags,
    context: &Context,
    publisher: watch::Sender<Arc<NodeState>>,
) -> Result<Begun<'a>, Error> {
    let started = Instant::now();
    rights::check()?;
    let store = start::connect(flags)?;
    context.store.set(Arc::new(super::desk::StoreDesk::new(store.clone(), context.state.clone())));
    publisher.send_modify(|state| publish::introduce(Arc::make_mut(state), flags, &store));
    let config = start::config(&store, &context.events, |obstacle| {
        publisher.send_modify(|state| publish::waiting(Arc::make_mut(state), obstacle));
    })
    .await?;
    let netlink = Netlink::connect()?;
    let uplink = start::uplink(flags, &config, &netlink).await?;
    let mut standing = prepare_kernel(flags, &context.events);
    let mut backend = Backend::prepare(&config, &uplink, &netlink).await?;
    let found = format!("Found network config - Backend type: {}, network {}", backend.name(), config.v4.network);
    context.events.record("config", found);
    let using = format!("Using interface with name {} and address {}", uplink.name, uplink.address);
    context.events.record("uplink", using);
    let previous = start::previous(flags);
    let attrs = start::attrs(&backend, &uplink);
    let lease = start::lease(&store, &config, &attrs, &previous, &context.events).await?;
    context.events.record("lease-acquired", format!("Found lease (ip: {}) for {}", lease.subnet, attrs.public_ip));
    backend.lease_acquired(lease.subnet, &netlink).await?;
    let fastpath = shortcut(flags, &config, &mut standing, &publisher, context);
    let node = Node {
        networks: start::networks(&config, &previous),
        config,
        uplink,
        backend,
        netlink,
        trusted: fastpath.is_some() && flags.fastpath.mode == Mode::Trusted,
        fastpath,
        blackhole: flags.blackhole_route,
        bridges: flags.fastpath.bridges.clone(),
        own: lease.subnet,
        found: Found::default(),
        reconcile: Reconcile::default(),
        events: context.events.clone(),
        repeats: Repeats::new(),
        started,
    };
    Ok(assemble(flags, context, publisher, store, node, lease, standing, &previous).await)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one struct, each made by a step of its own")]
async fn assemble<'a>(
    flags: &'a Flags,
    context: &Context,
    publisher: watch::Sender<Arc<NodeState>>,
    store: Store,
    node: Node,
    lease: Lease,
    standing: Vec<Warning>,
    previous: &Previous,
) -> Begun<'a> {
    let updates = store.watch();
    let (keeper, keeper_events) = Keeper::spawn(store.clone(), node.config.range(), lease, flags.lease.renew_margin);
    let mut agent = Agent {
        flags,
        store,
        node,
        table: Table::default(),
        keeper,
        rules: None,
        events: context.events.clone(),
        publisher,
        standing,
        store_down: false,
        complete: false,
        links_changed: false,
        written: false,
        ready: false,
        pace: Pace::new(tokio::time::Instant::now()),
    };
    agent.start_rules(previous).await;
    agent.written = agent.write_subnet_file();
    agent.publish();
    (agent, updates, keeper_events)
}

/// Loads the fast path; without it the kernel's routes carry everything, and the state says why.
fn shortcut(
    flags: &Flags,
    config: &NetworkConfig,
    standing: &mut Vec<Warning>,
    publisher: &watch::Sender<Arc<NodeState>>,
    context: &Context,
) -> Option<FastPath> {
    match start::fastpath(flags, config) {
        Ok(fastpath) => {
            context.traffic.set(Arc::new(fastpath.reader()));
            Some(fastpath)
        }
        Err(error) => {
            let why = error.to_string();
            context.events.fault("routes-alone", format!("no fast path, the kernel's routes carry everything: {why}"));
            standing.push(publish::routes_alone(&why));
            publisher.send_modify(|state| Arc::make_mut(state).fastpath = publish::no_fastpath(why));
            None
        }
    }
}

/// Settings of the kernel without which containers do not reach one another. What cannot be set is reported, not fatal.
fn prepare_kernel(flags: &Flags, events: &EventLog) -> Vec<Warning> {
    let mut wanted = vec![(sysctl::IP_FORWARD, "1".to_owned())];
    if flags.firewall.conntrack_liberal && flags.fastpath.mode != Mode::Off {
        wanted.push((sysctl::TCP_BE_LIBERAL, "1".to_owned()));
        wanted.extend(sysctl::get(sysctl::TCP_ESTABLISHED).map(|life| (sysctl::TCP_UNACKNOWLEDGED, life)));
    }
    let mut warnings = Vec::new();
    for (name, value) in wanted {
        match sysctl::set(name, &value) {
            Ok(Setting::Already | Setting::Absent) => {}
            Ok(Setting::Changed(old)) => events.record("sysctl", format!("{name} set to {value} (was {old})")),
            Err(error) => {
                events.fault("sysctl", error.to_string());
                let remedy = "set it by hand, or let flanneld write to /proc/sys/net".to_owned();
                warnings.push(Warning { code: "sysctl".to_owned(), text: error.to_string(), remedy });
            }
        }
    }
    warnings
}
