//! The endless watch over configuration and leases.
//!
//! It reconnects for ever. After a short break it resumes where it was; where the history is gone, or the data was
//! replaced by a backup, it lists again. Either way it also lists again a while later, because a store that was replaced
//! may have grown past the revision that would have given it away. A subnet that a replaced store has forgotten is still
//! in use by its owner, so it is kept until the owner had time to claim it again.

mod known;
mod stream;

use std::time::Duration;

use tokio::{
    sync::mpsc::{self, Sender, error::SendError},
    time::{Instant, sleep_until},
};

use self::{
    known::Known,
    stream::{Ended, Stream},
};
use super::{
    Error, Store, Update,
    read::{Entry, Seen, text},
};

/// Updates that may wait for the agent; beyond that etcd keeps them.
const QUEUE: usize = 256;

/// How patient the watch is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Pause before the first new attempt; doubled for each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub last_pause: Duration,
    /// When to list everything again after a resumed connection: somewhere between this and twice this.
    pub audit: Duration,
    /// How long a lease is kept that a replaced store has forgotten.
    pub forgotten: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            last_pause: Duration::from_secs(5),
            audit: Duration::from_secs(30),
            forgotten: Duration::from_secs(30),
        }
    }
}

impl Store {
    /// Begins to watch: a `Snapshot` and the `Config`, then every change. Ends when the receiver is dropped, and only then.
    pub fn watch(&self) -> mpsc::Receiver<Update> {
        self.watch_with(Pace::default())
    }

    /// [`Store::watch`] at another pace.
    pub fn watch_with(&self, pace: Pace) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(QUEUE);
        let watch = Watch {
            store: self.clone(),
            updates,
            pace,
            known: Known::default(),
            config: None,
            position: None,
            seen: None,
            audit: None,
            error: None,
        };
        tokio::spawn(watch.run());
        receiver
    }
}

struct Watch {
    store: Store,
    updates: Sender<Update>,
    pace: Pace,
    known: Known,
    /// The configuration as last told, once it was.
    config: Option<Option<String>>,
    /// How far we have read; `None` when only a listing helps.
    position: Option<Position>,
    /// The latest that is known of the store.
    seen: Option<Seen>,
    /// When to list again although nothing seems to be missing.
    audit: Option<Instant>,
    /// The outage as last told, while it lasts.
    error: Option<String>,
}

/// How far each half of the watch has read.
#[derive(Clone, Copy, Debug)]
struct Position {
    leases: i64,
    config: i64,
}

/// Nobody listens any more.
struct Closed;

impl From<SendError<Update>> for Closed {
    fn from(_: SendError<Update>) -> Self {
        Self
    }
}

impl Watch {
    async fn run(mut self) {
        let mut pause = self.pace.first_pause;
        loop {
            let start = Instant::now();
            let updates = self.updates.clone();
            let ended = tokio::select! {
                () = updates.closed() => return,
                ended = self.session() => ended,
            };
            let Ok(ended) = ended else { return };
            if start.elapsed() > self.pace.last_pause {
                pause = self.pace.first_pause;
            }
            match ended {
                // The next session lists; no need to wait for that once.
                Ended::Gone if pause == self.pace.first_pause => {}
                Ended::Gone => sleep_until(Instant::now() + pause).await,
                Ended::Broken(error) => {
                    if self.disconnected(error).await.is_err() {
                        return;
                    }
                    let jitter = rand::random_range(0.5..1.0);
                    sleep_until(Instant::now() + pause.mul_f64(jitter)).await;
                }
            }
            pause = (pause * 2).min(self.pace.last_pause);
        }
    }

    /// Connects, catches up and passes on events until the connection ends.
    async fn session(&mut self) -> Result<Ended, Closed> {
        let resumed = self.position;
        let position = match resumed {
            Some(position) => position,
            None => match self.list().await? {
                Ok(position) => position,
                Err(error) => return Ok(Ended::Broken(error.to_string())),
            },
        };
        let mut stream = match Stream::open(&self.store, position.leases + 1, position.config + 1).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Ended::Broken(error.to_string())),
        };
        if resumed.is_some() {
            // A member may lag behind, so this is only a suspicion; the listing goes through the leader and decides.
            if self.seen.is_some_and(|seen| seen.is_replaced_by(&stream.seen)) {
                self.position = None;
                return Ok(Ended::Gone);
            }
            self.audit = Some(Instant::now() + self.pace.audit.mul_f64(rand::random_range(1.0..2.0)));
        }
        self.connected(stream.seen.revision.max(position.leases)).await?;
        let ended = loop {
            let batch = tokio::select! {
                batch = stream.next() => batch,
                () = until(self.audit) => {
                    if let Err(error) = self.list().await? {
                        break Ended::Broken(error.to_string());
                    }
                    continue;
                }
            };
            match batch {
                Ok(batch) => self.take_in(&batch).await?,
                Err(ended) => break ended,
            }
        };
        if matches!(ended, Ended::Gone) {
            self.position = None;
        } else {
            self.store.inner.members.move_on();
        }
        Ok(ended)
    }

    /// Reads everything and tells it.
    async fn list(&mut self) -> Result<Result<Position, Error>, Closed> {
        let listing = match self.store.list().await {
            Ok(listing) => listing,
            Err(error) => return Ok(Err(error)),
        };
        let seen = listing.seen;
        let replaced = self.seen.replace(seen).is_some_and(|before| before.is_replaced_by(&seen));
        self.audit = replaced.then(|| Instant::now() + self.pace.forgotten);
        if replaced {
            tracing::warn!(
                revision = seen.revision,
                "the store's data was replaced: keeping forgotten leases for a while"
            );
        }
        let leases = self.known.replace(listing.leases, &listing.unreadable, replaced);
        if self.config.as_ref() != Some(&listing.config) {
            self.config = Some(listing.config.clone());
            self.updates.send(Update::Config(listing.config)).await?;
        }
        self.updates.send(Update::Snapshot { leases, revision: seen.revision }).await?;
        let position = Position { leases: seen.revision, config: seen.revision };
        self.position = Some(position);
        Ok(Ok(position))
    }

    /// Passes on one batch of events; what a listing has already told is left out.
    async fn take_in(&mut self, batch: &stream::Batch) -> Result<(), Closed> {
        let Some(position) = &mut self.position else { return Ok(()) };
        let reached = if batch.is_config { &mut position.config } else { &mut position.leases };
        let already = std::mem::replace(reached, (*reached).max(batch.reached));
        if let Some(seen) = &mut self.seen {
            seen.revision = seen.revision.max(batch.reached);
        }
        for event in batch.events().filter(|event| event.kv().is_some_and(|kv| kv.mod_revision() > already)) {
            let Some(kv) = event.kv() else { continue };
            let put = event.event_type() == etcd_client::EventType::Put;
            if batch.is_config {
                let config = put.then(|| text(kv.value()));
                self.config = Some(config.clone());
                self.updates.send(Update::Config(config)).await?;
                continue;
            }
            let updates = match put.then(|| self.store.entry(kv)) {
                Some(Entry::Lease(key, lease)) => self.known.put(key, lease),
                // The old lease stays: its owner is still there, and deleting the key takes it away.
                Some(Entry::Unreadable(key)) => self.known.touch(&key, kv.mod_revision()),
                Some(Entry::Stray) => Vec::new(),
                None => self.known.delete(&text(kv.key())),
            };
            for update in updates {
                self.updates.send(update).await?;
            }
        }
        Ok(())
    }

    async fn connected(&mut self, revision: i64) -> Result<(), Closed> {
        if self.error.take().is_some() {
            tracing::debug!(endpoint = self.store.endpoint(), revision, "the store answers again");
        }
        Ok(self.updates.send(Update::Connected { revision }).await?)
    }

    async fn disconnected(&mut self, error: String) -> Result<(), Closed> {
        if self.error.as_ref() == Some(&error) {
            return Ok(());
        }
        if self.error.is_none() {
            tracing::debug!(%error, "lost the store: keeping what is known and trying again");
        }
        self.error = Some(error.clone());
        Ok(self.updates.send(Update::Disconnected { error }).await?)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
