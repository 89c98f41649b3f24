//! The task behind [`Keeper`](super::Keeper): one step at a time, and each step may fail and be tried again.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{AcquireError, Held, KeeperEvent, Order, acquire};
use crate::{
    lease::{Attrs, Lease},
    plan::{
        allocate::Range,
        renew::{self, Margin, TTL},
    },
    store::{Create, Renew, Store},
};

/// Longest sleep: timers stand still while a machine is suspended, the lease does not.
const LOOK: Duration = Duration::from_secs(30);
/// Pauses between attempts to get a lost lease back, or to look at it.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What there is to do besides renewing in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    /// Nothing.
    Keep,
    /// Look at the lease: something happened to it.
    Check,
    /// Write our attributes into it now.
    Write,
    /// Get it back: it is lost.
    Regain,
}

pub(super) struct Task {
    store: Store,
    range: Range,
    /// What the lease should say.
    attrs: Attrs,
    margin: Margin,
    lease: Lease,
    /// End of the lease by [`boottime`]; `None` for a reservation.
    ends: Option<Duration>,
    /// The last renewal that failed, by [`boottime`].
    failed: Option<Duration>,
    /// When we last overwrote what somebody else had written with our address, by [`boottime`].
    healed: Option<Duration>,
    todo: Todo,
    /// Before the next attempt at what is to do.
    pause: Duration,
    events: mpsc::UnboundedSender<KeeperEvent>,
    publish: watch::Sender<Held>,
}

impl Task {
    pub(super) fn new(
        store: Store,
        range: Range,
        lease: Lease,
        margin: Margin,
        events: mpsc::UnboundedSender<KeeperEvent>,
        publish: watch::Sender<Held>,
    ) -> Self {
        Self {
            attrs: lease.attrs.clone(),
            ends: lease.ttl_id.map(|_| boottime() + TTL),
            failed: None,
            healed: None,
            todo: Todo::Keep,
            pause: PAUSE.0,
            store,
            range,
            lease,
            margin,
            events,
            publish,
        }
    }

    /// Works until the handle is dropped.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        loop {
            let mut news = true;
            tokio::select! {
                order = inbox.recv() => match order {
                    None => return,
                    Some(order) => news = self.obey(order),
                },
                () = sleep(self.wait().min(LOOK)) => {}
            }
            // Updates come in bursts; one look answers them all.
            while let Ok(order) = inbox.try_recv() {
                news |= self.obey(order);
            }
            if news {
                self.step().await;
            }
        }
    }

    /// Whether there is something to do at once.
    fn obey(&mut self, order: Order) -> bool {
        let todo = match order {
            Order::Check if self.todo == Todo::Keep => Todo::Check,
            Order::Check => self.todo,
            Order::Range(range) => {
                self.range = range;
                if self.todo != Todo::Regain {
                    return false;
                }
                self.todo
            }
            Order::Advertise(attrs) if attrs == self.attrs => return false,
            Order::Advertise(attrs) => {
                self.attrs = attrs;
                if self.todo == Todo::Regain { self.todo } else { Todo::Write }
            }
        };
        self.todo = todo;
        self.pause = PAUSE.0;
        true
    }

    /// Time to the next step.
    fn wait(&self) -> Duration {
        if self.todo == Todo::Keep { self.until_renewal().unwrap_or(LOOK) } else { self.pause }
    }

    fn until_renewal(&self) -> Option<Duration> {
        let now = boottime();
        renew::wait(
            self.ends.map(|ends| ends.saturating_sub(now)),
            self.margin,
            self.failed.map(|failed| now.saturating_sub(failed)),
        )
    }

    async fn step(&mut self) {
        let todo = match self.todo {
            Todo::Keep if self.until_renewal() == Some(Duration::ZERO) => Todo::Write,
            todo => todo,
        };
        let done = match todo {
            Todo::Keep => return,
            Todo::Check => self.check().await,
            Todo::Write => self.write().await,
            Todo::Regain => self.regain().await,
        };
        if let Err(error) = done {
            self.failed = Some(boottime());
            self.pause = (self.pause * 2).min(PAUSE.1);
            tracing::warn!(subnet = %self.lease.subnet, %error, "could not look after our lease; using it on and trying again");
        } else if self.todo == todo {
            self.todo = Todo::Keep;
            self.pause = PAUSE.0;
        }
    }

    /// Looks at the lease as it is in the store.
    async fn check(&mut self) -> Result<(), AcquireError> {
        match self.store.lease(&self.lease.subnet).await? {
            Some(lease) if self.is_ours(&lease) => self.adopt(lease).await,
            Some(lease) => {
                let why = format!("subnet {} was taken over by {}", lease.subnet, lease.attrs.public_ip);
                self.lose(why).await
            }
            // Unreadable or gone: writing it finds out.
            None => self.write().await,
        }
    }

    /// Goes on with a lease that somebody else wrote with our address: an operator, or a host that wrongly shares it. What
    /// it says is put right, but not so often that two such hosts keep each other busy.
    async fn adopt(&mut self, lease: Lease) -> Result<(), AcquireError> {
        let recently = self.healed.is_some_and(|healed| boottime().saturating_sub(healed) < renew::RETRY);
        if lease.attrs != self.attrs && !recently {
            self.healed = Some(boottime());
            return self.write().await;
        }
        if lease.attrs != self.attrs {
            tracing::warn!(
                subnet = %lease.subnet, ip = %lease.attrs.public_ip,
                "another host writes our lease: give each host a public address of its own (-public-ip)"
            );
        }
        let left = self.store.time_left(&lease).await?;
        if lease != self.lease {
            self.keep(lease.clone(), left);
            self.tell(KeeperEvent::Renewed(lease));
        }
        Ok(())
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        [self.attrs.public_ip, self.lease.attrs.public_ip].contains(&lease.attrs.public_ip)
    }

    /// Writes the lease again, for its full time.
    async fn write(&mut self) -> Result<(), AcquireError> {
        match self.store.renew(&self.lease, &self.attrs).await? {
            Renew::Renewed(lease) => {
                self.failed = None;
                self.keep(lease.clone(), lease.ttl_id.map(|_| TTL));
                tracing::debug!(subnet = %lease.subnet, "renewed our lease");
                self.tell(KeeperEvent::Renewed(lease));
                Ok(())
            }
            Renew::Lost => {
                let why = match self.store.lease(&self.lease.subnet).await {
                    Ok(Some(lease)) => format!("subnet {} was taken over by {}", lease.subnet, lease.attrs.public_ip),
                    _ => format!("the lease of {} ended or was deleted", self.lease.subnet),
                };
                self.lose(why).await
            }
        }
    }

    async fn lose(&mut self, why: String) -> Result<(), AcquireError> {
        tracing::debug!(subnet = %self.lease.subnet, why, "lost our lease; getting it back, or another");
        self.todo = Todo::Regain;
        self.publish.send_modify(|held| held.lost = true);
        self.tell(KeeperEvent::Lost { why });
        self.regain().await
    }

    /// Gets the same subnet again if nobody has it, otherwise another one.
    async fn regain(&mut self) -> Result<(), AcquireError> {
        let old = self.lease.clone();
        let new = match self.reclaim(&old).await? {
            Some(lease) => lease,
            None => acquire(&self.store, &self.range, &self.attrs, None).await?,
        };
        self.failed = None;
        self.todo = Todo::Keep;
        self.keep(new.clone(), new.ttl_id.map(|_| TTL));
        if new.subnet == old.subnet {
            tracing::debug!(subnet = %new.subnet, "our lease is ours again");
            self.tell(KeeperEvent::Reacquired(new));
        } else {
            tracing::debug!(old = %old.subnet, new = %new.subnet, "our subnet is another now; containers must be started anew");
            self.tell(KeeperEvent::Replaced { old, new });
        }
        Ok(())
    }

    async fn reclaim(&self, old: &Lease) -> Result<Option<Lease>, AcquireError> {
        let (leases, unreadable) = self.store.claims().await?;
        let mut taken = leases.iter().map(|lease| lease.subnet).chain(unreadable);
        if taken.any(|subnet| subnet.overlaps(&old.subnet)) {
            return Ok(None);
        }
        Ok(match self.store.create(&old.subnet, &self.attrs, TTL).await? {
            Create::Granted(lease) => Some(lease),
            Create::Taken => None,
        })
    }

    fn keep(&mut self, lease: Lease, left: Option<Duration>) {
        self.ends = left.map(|left| boottime() + left);
        self.lease = lease.clone();
        let expires_at = left.map(|left| SystemTime::now() + left);
        self.publish.send_replace(Held { lease, expires_at, lost: false });
    }

    fn tell(&self, event: KeeperEvent) {
        // Nobody listening is no reason to stop keeping.
        self.events.send(event).ok();
    }
}

/// Time since boot, including suspension.
fn boottime() -> Duration {
    // The clock exists on every kernel that we run on; without it the lease would be renewed at once, and often.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
