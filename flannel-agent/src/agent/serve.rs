//! What others ask of the agent: the admin socket, and health, metrics and status over HTTP.

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet};

use super::{Error, stopped};
use crate::{admin, cli::flanneld::Flags, http};

/// How long open requests may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// How often the peers' counters are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The servers, until they are to end.
pub(super) struct Served(JoinSet<()>);

impl Served {
    /// Waits for open requests, for a while.
    pub(super) async fn finish(mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("requests were cut off");
        }
    }
}

/// Starts the servers. A health port that cannot be had is an error; a node without its admin socket still works.
pub(super) async fn start(
    flags: &Flags,
    context: &admin::Context,
    shutdown: &watch::Receiver<bool>,
) -> Result<Served, Error> {
    let mut tasks = JoinSet::new();
    if let Some(address) = flags.health {
        let listener = http::listen(address).await?;
        let (context, mut stop) = (context.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = http::serve_on(listener, context, async move { stopped(&mut stop).await }).await {
                tracing::warn!("{error}");
            }
        });
    }
    tasks.spawn(look_at_peers(context.clone(), shutdown.clone()));
    match admin::listen(&flags.admin_socket).await {
        Ok(listener) => {
            let (context, mut stop) = (context.clone(), shutdown.clone());
            tasks.spawn(async move {
                if let Err(error) = listener.serve(context, async move { stopped(&mut stop).await }).await {
                    tracing::warn!("{error}");
                }
            });
        }
        Err(error) => tracing::warn!("flannelctl cannot ask this agent: {error}"),
    }
    Ok(Served(tasks))
}

/// Looks at the peers' counters now and then, so that it is known when each was last seen once somebody asks.
async fn look_at_peers(context: admin::Context, mut stop: watch::Receiver<bool>) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = looks.tick() => {}
        }
        let context = context.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || context.peer_rows()).await {
            tracing::debug!(error, "cannot see when peers were last heard of");
        }
    }
}
