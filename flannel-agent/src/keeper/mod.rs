//! Keeps this node's lease: renews it in time, notices when it is gone or taken, and gets it back or gets another.
//!
//! It never gives up and never exits; what a loss means for the process is the agent's decision. While the store is
//! silent nothing is lost: the lease is used on, and looked after as soon as there is an answer.

mod acquire;
mod task;

use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

pub use self::acquire::{AcquireError, acquire};
use self::task::Task;
use crate::{
    lease::{Attrs, Lease, Update},
    plan::{
        allocate::Range,
        renew::{Margin, TTL},
    },
    store::Store,
};

/// What became of our lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperEvent {
    /// Renewed in time, or adopted after somebody else wrote it for us.
    Renewed(Lease),
    /// Lost, and the same subnet is ours again.
    Reacquired(Lease),
    /// Lost, and another subnet is ours now.
    Replaced {
        /// What we had.
        old: Lease,
        /// What we have.
        new: Lease,
    },
    /// It is gone. Attempts to get it back follow.
    Lost {
        /// Deleted, ended or taken over, and by whom.
        why: String,
    },
}

/// The lease that we hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lease as last written or read.
    pub lease: Lease,
    /// When it ends unless renewed; `None` for a reservation.
    pub expires_at: Option<SystemTime>,
    /// Whether it is lost and not yet replaced.
    pub lost: bool,
}

/// The task that keeps the lease. Ends when this is dropped; the lease stays.
#[derive(Debug)]
pub struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
    held: watch::Receiver<Held>,
    /// Whether the store was lost since the lease was last looked at.
    was_away: bool,
}

#[derive(Debug)]
enum Order {
    /// Look at the lease.
    Check,
    Advertise(Attrs),
    Range(Range),
}

impl Keeper {
    /// Keeps a lease that was just acquired with [`acquire`].
    pub fn spawn(
        store: Store,
        range: Range,
        lease: Lease,
        margin: Margin,
    ) -> (Self, mpsc::UnboundedReceiver<KeeperEvent>) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let (publish, held) =
            watch::channel(Held { lease: lease.clone(), expires_at: expires_at(&lease, TTL), lost: false });
        tokio::spawn(Task::new(store, range, lease, margin, events, publish).run(inbox));
        (Self { orders, held, was_away: false }, receiver)
    }

    /// The lease as it is now.
    pub fn held(&self) -> Held {
        self.held.borrow().clone()
    }

    /// Takes notice of an update of the watch, if it concerns our lease.
    pub fn observe(&mut self, update: &Update) {
        let concerned = {
            let held = self.held.borrow();
            let own = &held.lease;
            // An echo of what we wrote ourselves is no news.
            let is_news = |lease: &Lease| lease.revision > own.revision || lease.attrs.public_ip != own.attrs.public_ip;
            match update {
                Update::Snapshot { leases, .. } => {
                    leases.iter().find(|lease| lease.subnet == own.subnet).is_none_or(is_news)
                }
                Update::Put(lease) => lease.subnet == own.subnet && is_news(lease),
                Update::Delete(subnet) => *subnet == own.subnet,
                Update::Connected { .. } => std::mem::take(&mut self.was_away) || held.lost,
                Update::Disconnected { .. } => {
                    self.was_away = true;
                    false
                }
                Update::Config(_) => false,
            }
        };
        if concerned {
            self.order(Order::Check);
        }
    }

    /// Tells the other nodes something else from now on, in the same lease: another public address, another device.
    pub fn advertise(&self, attrs: Attrs) {
        self.order(Order::Advertise(attrs));
    }

    /// Takes another range for the next time that a subnet must be found.
    pub fn set_range(&self, range: Range) {
        self.order(Order::Range(range));
    }

    fn order(&self, order: Order) {
        // The task ends only with this handle.
        self.orders.send(order).ok();
    }
}

fn expires_at(lease: &Lease, left: Duration) -> Option<SystemTime> {
    lease.ttl_id.map(|_| SystemTime::now() + left)
}
