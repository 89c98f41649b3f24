//! What the agent did and why: a bounded ring of [`Event`]s, each of which is also one line of the log.
//!
//! The ring is what `flannelctl events` shows; its size bounds the memory of an agent that runs for years.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::state::Event;

/// Events that are kept; a busy node's last hour, at less than 256 bytes each.
const CAPACITY: usize = 1024;

/// The events of one agent. Clones share the ring: the agent writes, the admin socket reads.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sequence number of the event that comes next; the first is 1.
    next: u64,
    events: VecDeque<Event>,
}

/// Part of the log, and where the rest will begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Pass this as `since` to get what comes later.
    pub next: u64,
    /// Events that fell out of the ring before they could be shown.
    pub lost: u64,
    /// Oldest first.
    pub events: Vec<Event>,
}

impl EventLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records something that was done, and why, and writes it to the log at level info.
    ///
    /// `kind` is a stable word (`lease-acquired`, `route-put`, …), `text` a sentence without a full stop.
    pub fn record(&self, kind: &str, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(event = kind, "{text}");
        self.push(Event { at: now(), kind: kind.to_owned(), text });
    }

    /// Records something that went wrong; as [`Self::record`], at level warn.
    pub fn fault(&self, kind: &str, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!(event = kind, "{text}");
        self.push(Event { at: now(), kind: kind.to_owned(), text });
    }

    /// The events from sequence number `since` on; 0 for all that are kept.
    pub fn since(&self, since: u64) -> Page {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.next - ring.events.len() as u64;
        let skip = since.clamp(oldest, ring.next) - oldest;
        let lost = if since == 0 { 0 } else { oldest.saturating_sub(since) };
        Page { next: ring.next, lost, events: ring.events.iter().skip(skip as usize).cloned().collect() }
    }

    fn push(&self, event: Event) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.events.len() == CAPACITY {
            ring.events.pop_front();
        }
        ring.next = ring.next.max(1) + 1;
        ring.events.push_back(event);
    }
}

/// Seconds since the Unix epoch; 0 on a host whose clock stands before it.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, EventLog};

    fn texts(log: &EventLog, since: u64) -> (Vec<String>, u64, u64) {
        let page = log.since(since);
        (page.events.into_iter().map(|event| event.text).collect(), page.next, page.lost)
    }

    #[test]
    fn an_empty_log_has_an_empty_page() {
        assert_eq!(texts(&EventLog::new(), 0), (vec![], 0, 0));
        assert_eq!(texts(&EventLog::new(), 7), (vec![], 0, 0));
    }

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let log = EventLog::new();
        log.record("route-put", "one");
        let (first, next, lost) = texts(&log, 0);
        assert_eq!((first, lost), (vec!["one".to_owned()], 0));
        assert_eq!(texts(&log, next), (vec![], next, 0));
        log.fault("route-failed", "two");
        assert_eq!(texts(&log, next).0, vec!["two".to_owned()]);
    }

    #[test]
    fn what_falls_out_of_the_ring_is_counted() {
        let log = EventLog::new();
        log.record("a", "first");
        let (_, next, _) = texts(&log, 0);
        for number in 0..CAPACITY + 10 {
            log.record("a", number.to_string());
        }
        let (events, _, lost) = texts(&log, next);
        assert_eq!((events.len(), lost), (CAPACITY, 10));
        assert_eq!(events[0], "10");
    }
}
