//! What the store tells the agent, in one small language: every recovery is another snapshot.

use super::{Lease, Subnet};

/// News from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// All leases there are: at the start, and whenever events may have been missed.
    Snapshot {
        /// Every readable lease, in key order.
        leases: Vec<Lease>,
        /// The store's revision at which this was true.
        revision: i64,
    },
    /// A lease was made, renewed or changed.
    Put(Lease),
    /// A lease was deleted or ended.
    Delete(Subnet),
    /// The text of the configuration key; `None` if there is none.
    Config(Option<String>),
    /// The store answers and will tell of every change after this revision.
    Connected {
        /// The store's revision.
        revision: i64,
    },
    /// The store does not answer. Nothing is known to have changed.
    Disconnected {
        /// Why, without credentials.
        error: String,
    },
}
