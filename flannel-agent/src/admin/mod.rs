//! The local admin socket: HTTP and JSON on a Unix socket that only root may open, asked by `flannelctl`.
//!
//! Everything that explains the node (this socket, `http`, `metrics`) reads one [`Context`], which the agent fills.

mod api;
pub mod client;
mod ops;
mod peers;
mod socket;

use std::{
    future::Future,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::{events::EventLog, state::NodeState, traffic::Traffic};

pub use ops::{LeaseRow, OpsError, StoreOps};
pub use peers::{Amount, LastSeen, PeerRow};
pub use socket::{Error, Listener, listen};

/// Where the agent listens and `flannelctl` asks unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/flannel/flanneld.sock";

/// What the agent shows of itself. Clones share everything.
#[derive(Clone)]
pub struct Context {
    /// The latest snapshot of the node.
    pub state: watch::Receiver<Arc<NodeState>>,
    /// What the agent did.
    pub events: EventLog,
    /// What the fast path counted; empty until it is loaded.
    pub traffic: Late<dyn Traffic>,
    /// Operations on the store; empty until there is a connection.
    pub store: Late<dyn StoreOps>,
    /// When each peer's counters last moved.
    pub(crate) seen: Arc<std::sync::Mutex<LastSeen>>,
}

impl Context {
    /// A context without traffic and store, which the agent sets once it has them.
    pub fn new(state: watch::Receiver<Arc<NodeState>>, events: EventLog) -> Self {
        Self { state, events, traffic: Late::default(), store: Late::default(), seen: Arc::default() }
    }

    /// The latest snapshot.
    pub fn node(&self) -> Arc<NodeState> {
        self.state.borrow().clone()
    }
}

/// A part of the context that comes later than the context, and may be replaced.
pub struct Late<T: ?Sized>(Arc<RwLock<Option<Arc<T>>>>);

impl<T: ?Sized> Late<T> {
    /// Sets or replaces it.
    pub fn set(&self, part: Arc<T>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(part);
    }

    /// Takes it away.
    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The part, if it is there by now.
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T: ?Sized> Default for Late<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: ?Sized> Clone for Late<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Serves the admin socket at `path` until `shutdown` ends; the socket file is removed at the end.
///
/// Returns an error at once if the socket cannot be made or a living agent owns it: the agent warns and goes on without it.
pub async fn serve(
    path: &Path,
    context: Context,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    listen(path).await?.serve(context, shutdown).await
}
