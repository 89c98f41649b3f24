//! The one place that changes routes, neighbours and forwarding entries.

use futures::future::join_all;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::{Error, Netlink, neighbour, route};
use crate::backend::{Change, Slot};

/// Requests under way at once: enough to keep the kernel busy, few enough for the acknowledgements to fit in our buffer.
const BATCH: usize = 128;

impl Netlink {
    /// Makes the changes in their order and returns those that failed, each with what the kernel said. A failure stops
    /// nothing: what hangs on it fails too, and the next pass sees the rest.
    pub async fn apply(&self, changes: &[Change]) -> Vec<(Change, Error)> {
        let mut failed = Vec::new();
        for batch in changes.chunks(BATCH) {
            // The requests of a batch go into one socket in order, so that their order holds.
            let done = join_all(batch.iter().map(|change| self.change(change))).await;
            failed.extend(batch.iter().zip(done).filter_map(|(change, done)| Some((*change, done.err()?))));
        }
        failed
    }

    async fn change(&self, change: &Change) -> Result<(), Error> {
        let what = change.to_string();
        let Some((message, flags)) = message(change) else {
            return Err(Error::Refused { what, why: "the place and the object do not fit".into(), errno: 0 });
        };
        match self.request(&what, message, flags).await {
            // Somebody was faster: what should be gone is gone.
            Err(error) if matches!(change, Change::Remove(..)) && is_gone(error.errno()) => Ok(()),
            done => done,
        }
    }
}

fn message(change: &Change) -> Option<(RouteNetlinkMessage, u16)> {
    let (slot, object, flags) = match change {
        Change::Put(slot, object) => (slot, object, NLM_F_CREATE | NLM_F_EXCL),
        Change::Replace { slot, new, .. } => (slot, new, NLM_F_CREATE | NLM_F_REPLACE),
        Change::Remove(slot, object) => (slot, object, 0),
    };
    let remove = matches!(change, Change::Remove(..));
    if let Slot::Route(_) = slot {
        let message = route::message(slot, object)?;
        return Some(if remove {
            (RouteNetlinkMessage::DelRoute(message), flags)
        } else {
            (RouteNetlinkMessage::NewRoute(message), flags)
        });
    }
    let message = neighbour::message(slot, object)?;
    Some(if remove { (RouteNetlinkMessage::DelNeighbour(message), 0) } else { neighbour::put(message) })
}

/// How the kernel says that what was to be removed is not there.
fn is_gone(errno: i32) -> bool {
    use nix::errno::Errno;
    [Errno::ESRCH, Errno::ENOENT, Errno::ENODEV].iter().any(|gone| *gone as i32 == errno)
}
