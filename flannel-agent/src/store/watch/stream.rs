//! One connection of the watch: two watchers, for leases and for the configuration, over one stream.

use std::collections::VecDeque;

use etcd_client::{Client, Event, WatchOptions, WatchResponse, WatchStream};

use super::super::{
    Error, Store,
    error::brief,
    read::{MAX_MESSAGE, Seen},
};

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The connection broke, or the store said so.
    Broken(String),
    /// What we have not read yet is no longer in the store's history: list again.
    Gone,
}

pub(super) struct Stream {
    responses: WatchStream,
    /// Id of the watcher of the configuration.
    config: i64,
    /// What came before both watchers were confirmed.
    early: VecDeque<WatchResponse>,
    /// The store as of the confirmation.
    pub(super) seen: Seen,
}

/// Events of one watcher.
pub(super) struct Batch {
    response: WatchResponse,
    pub(super) is_config: bool,
    /// Everything up to this revision has now been told to this watcher.
    pub(super) reached: i64,
}

impl Batch {
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.response.events().iter()
    }
}

impl Stream {
    /// Starts both watchers at their revisions and waits until the store confirms them.
    pub(super) async fn open(store: &Store, leases_from: i64, config_from: i64) -> Result<Self, Error> {
        let (config, prefix) = (&store.inner.config_key, &store.inner.lease_prefix);
        let open = |client: Client| async move {
            let mut watch = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
            let from = |revision| WatchOptions::new().with_start_revision(revision).with_progress_notify();
            let mut stream = watch.watch(prefix.as_str(), Some(from(leases_from).with_prefix())).await?;
            stream.watch(config.as_str(), Some(from(config_from))).await?;
            Self::confirmed(stream).await
        };
        store.inner.members.call("watching the leases", open).await
    }

    async fn confirmed(mut stream: WatchStream) -> Result<Self, etcd_client::Error> {
        let mut early = VecDeque::new();
        let mut ids = Vec::new();
        let mut seen = Seen::default();
        while ids.len() < 2 {
            let Some(response) = stream.message().await? else {
                return Err(etcd_client::Error::WatchError("the stream ended at once".to_owned()));
            };
            if response.created() {
                // The store answers in the order of requests.
                ids.push(response.watch_id());
                seen = Seen::new(response.header());
            }
            if response.canceled() && response.compact_revision() == 0 {
                return Err(etcd_client::Error::WatchError(response.cancel_reason().to_owned()));
            }
            if response.canceled() || !response.created() {
                early.push_back(response);
            }
        }
        Ok(Self { responses: stream, config: ids[1], early, seen })
    }

    /// The next events, or why there will be none.
    pub(super) async fn next(&mut self) -> Result<Batch, Ended> {
        let response = match self.early.pop_front() {
            Some(response) => response,
            None => match self.responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(Ended::Broken("etcd closed the watch".to_owned())),
                Err(error) => return Err(Ended::Broken(brief(&error))),
            },
        };
        if response.canceled() {
            return Err(match response.compact_revision() {
                0 => Ended::Broken(format!("etcd ended the watch: {}", response.cancel_reason())),
                _ => Ended::Gone,
            });
        }
        // The header's revision may run ahead of a batch that was cut, so it counts only when there are no events.
        let last = response.events().last().and_then(Event::kv).map(etcd_client::KeyValue::mod_revision);
        let reached = last.unwrap_or_else(|| response.header().map_or(0, etcd_client::ResponseHeader::revision));
        Ok(Batch { is_config: response.watch_id() == self.config, reached, response })
    }
}
