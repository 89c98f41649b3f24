//! The loop: the only code that knows the store, the backend, the fast path, the rules and the files all at once.
//!
//! Level-triggered: whatever happens (a lease comes or goes, a route is deleted, a link bounces) only says that it is time
//! for another pass over everything; see `node.rs`.

// In reading order: what is made at the start, the loop, what it does, what it shows.
mod begin;
mod desk;
mod error;
mod news;
mod node;
mod pace;
mod publish;
mod rules;
mod serve;
mod start;
mod systemd;
mod turn;
mod warnings;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::error::Error;
pub(crate) use self::start::connect;
use crate::{admin, cli::flanneld::Flags, events::EventLog, state::NodeState};

/// Runs the agent until `shutdown` becomes true (then `Ok`), or until it cannot go on.
///
/// Routes, rules, devices, BPF programs and subnet.env stay as they are when it ends: a restart interrupts nothing.
pub async fn run(flags: Flags, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
    let (publisher, state) = watch::channel(Arc::new(NodeState::default()));
    let context = admin::Context::new(state, EventLog::new());
    let served = serve::start(&flags, &context, &shutdown).await?;
    let result = turn::run(&flags, context, publisher, shutdown).await;
    systemd::stopping();
    served.finish().await;
    result
}

/// Ends when the agent is to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error says that nobody can stop us any more: the process is ending.
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the shutdown signal was dropped");
    }
}
