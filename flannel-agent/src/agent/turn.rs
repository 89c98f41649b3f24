//! One turn of the loop after the other: take in what happened, and make another pass when it could matter.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Error,
    node::Node,
    pace::{AUDIT, Pace},
    rules::RulesTask,
    start, stopped, systemd,
};
use crate::{
    admin::Context,
    cli::flanneld::Flags,
    events::EventLog,
    keeper::{Keeper, KeeperEvent},
    kernel::netlink::{KernelEvent, Kind, Netlink},
    lease::{Lease, Update},
    plan::table::Table,
    state::{NodeState, Warning},
    store::Store,
};

/// How long the first snapshot may take before systemd is told that we are ready without it: routes of an earlier run, if
/// there are any, are in place anyway.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(5);

/// Everything the loop owns.
pub(super) struct Agent<'a> {
    pub(super) flags: &'a Flags,
    pub(super) store: Store,
    pub(super) node: Node,
    pub(super) table: Table,
    pub(super) keeper: Keeper,
    pub(super) rules: Option<RulesTask>,
    pub(super) events: EventLog,
    pub(super) publisher: watch::Sender<Arc<NodeState>>,
    /// Warnings that do not come from a pass.
    pub(super) standing: Vec<Warning>,
    /// Whether the store last said that it cannot be reached.
    pub(super) store_down: bool,
    /// Whether a snapshot told us all leases: before that, nothing may be removed.
    pub(super) complete: bool,
    /// Whether interfaces or addresses changed since the uplink was last chosen.
    pub(super) links_changed: bool,
    /// Whether the subnet file says what it should.
    pub(super) written: bool,
    pub(super) ready: bool,
    pub(super) pace: Pace,
}

/// Starts, then turns until something ends it.
pub(super) async fn run(
    flags: &Flags,
    context: Context,
    publisher: watch::Sender<Arc<NodeState>>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let kernel = Netlink::events()?;
    let (mut agent, updates, keeper_events) = tokio::select! {
        begun = super::begin::begin(flags, &context, publisher) => begun?,
        () = stopped(&mut shutdown) => return Ok(()),
    };
    tokio::select! {
        result = agent.turn(updates, kernel, keeper_events) => return result,
        () = stopped(&mut shutdown) => {}
    }
    agent.release().await;
    Ok(())
}

impl Agent<'_> {
    async fn turn(
        &mut self,
        mut updates: mpsc::Receiver<Update>,
        mut kernel: mpsc::Receiver<KernelEvent>,
        mut keeper: mpsc::UnboundedReceiver<KeeperEvent>,
    ) -> Result<(), Error> {
        let beat = systemd::watchdog().unwrap_or(AUDIT);
        let mut heart = tokio::time::interval(beat);
        let patience = Instant::now() + FIRST_SNAPSHOT;
        loop {
            tokio::select! {
                Some(update) = updates.recv() => self.store_says(update).await,
                Some(event) = kernel.recv() => self.kernel_says(event),
                Some(event) = keeper.recv() => self.keeper_says(event).await?,
                () = sleep_until(self.pace.due()), if self.complete => self.pass().await,
                () = sleep_until(patience), if !self.ready && !self.complete => self.say_ready(),
                _ = heart.tick() => systemd::alive(),
            }
        }
    }

    async fn store_says(&mut self, update: Update) {
        match &update {
            Update::Connected { revision } => self.connected(*revision),
            Update::Disconnected { error } => self.disconnected(error),
            Update::Config(text) => self.config_says(text.as_deref()).await,
            Update::Snapshot { revision, .. } => {
                self.connected(*revision);
                self.complete = true;
            }
            Update::Put(_) | Update::Delete(_) => {}
        }
        self.keeper.observe(&update);
        if self.table.apply(update) || !self.ready {
            self.hurry();
        }
    }

    /// Gives the lease back, if that is asked for; otherwise it stays, so that a node that comes back within a day gets
    /// its subnet again.
    async fn release(&self) {
        if !self.flags.lease.release_on_exit {
            return;
        }
        let lease = self.keeper.held().lease;
        match self.store.release(&lease).await {
            Ok(true) => self.events.record("lease-released", format!("lease of {} given back", lease.subnet)),
            Ok(false) => self.events.record("lease-released", format!("lease of {} was gone already", lease.subnet)),
            Err(error) => self.events.fault("lease-released", format!("cannot give {} back: {error}", lease.subnet)),
        }
    }

    fn kernel_says(&mut self, event: KernelEvent) {
        if let (Some(neighbour), Some(fastpath)) = (event.neighbour, &mut self.node.fastpath) {
            fastpath.neighbours(event.ifindex, [neighbour]);
        }
        match event.kind {
            Kind::Link | Kind::Address | Kind::LookAgain => self.links_changed = true,
            // In trusted mode the fast path knows who is behind which port.
            _ if self.node.trusted || self.node.backend.concerns(&event) => {}
            _ => return,
        }
        self.hurry();
    }

    /// Asks for a pass soon.
    pub(super) fn hurry(&mut self) {
        self.pace.hurry(Instant::now());
    }

    /// The other nodes' leases.
    pub(super) fn peers(&self) -> Vec<&Lease> {
        self.table.peers(Some(&self.node.own)).collect()
    }

    async fn pass(&mut self) {
        if std::mem::take(&mut self.links_changed) {
            self.look_for_uplink().await;
        }
        let peers: Vec<&Lease> = self.table.peers(Some(&self.node.own)).collect();
        self.node.pass(&peers).await;
        self.advertise();
        self.pace.passed(Instant::now(), Duration::from_micros(self.node.reconcile.last_us));
        self.say_ready();
        self.publish();
    }

    /// Lets our lease say what is true: after an uplink or a device changed, that may be something else than before.
    fn advertise(&self) {
        let attrs = start::attrs(&self.node.backend, &self.node.uplink);
        if attrs != self.keeper.held().lease.attrs {
            self.keeper.advertise(attrs);
        }
    }

    /// Takes another look at the interface towards other nodes. A failure changes nothing: the interface may be on its way back.
    async fn look_for_uplink(&mut self) {
        let uplink = match start::uplink(self.flags, &self.node.config, &self.node.netlink).await {
            Ok(uplink) => uplink,
            Err(error) => return tracing::debug!(%error, "the uplink stays as it was"),
        };
        if uplink == self.node.uplink {
            return;
        }
        self.events
            .record("uplink", format!("the uplink is now {} ({}, MTU {})", uplink.name, uplink.address, uplink.mtu));
        match self.node.rebuild(self.node.config.clone(), uplink).await {
            Ok(()) => self.written = self.write_subnet_file(),
            Err(error) => self.events.fault("uplink", format!("{error}; carrying on with the old one")),
        }
    }
}
