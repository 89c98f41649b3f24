//! Keeps a fault that repeats from filling the disk: it is said at once, then ever more rarely, and how often it was not said is counted.

use std::{collections::BTreeMap, time::Duration};

/// First pause after a fault was said.
const FIRST: Duration = Duration::from_secs(10);
/// Longest pause; a fault that lasts is repeated this often, so that the end of a log always shows it.
const LONGEST: Duration = Duration::from_mins(10);
/// Faults that are told apart. More than that share one entry, so that faults named after input cannot take the memory.
const KEYS: usize = 256;
const OTHERS: &str = "(others)";

/// Decides which of several equal faults are said. Pure: the caller passes the time, from any clock that only goes forward.
#[derive(Debug, Default)]
pub struct Repeats {
    faults: BTreeMap<String, Fault>,
}

#[derive(Debug)]
struct Fault {
    pause: Duration,
    quiet_until: Duration,
    unsaid: u64,
}

impl Repeats {
    /// No fault so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to say the fault `key` now: `Some` of how often it was left unsaid since it was last said, or `None` to stay silent.
    pub fn admit(&mut self, key: &str, now: Duration) -> Option<u64> {
        let key = if self.faults.len() < KEYS || self.faults.contains_key(key) { key } else { OTHERS };
        let Some(fault) = self.faults.get_mut(key) else {
            self.faults.insert(key.to_owned(), Fault { pause: FIRST, quiet_until: now + FIRST, unsaid: 0 });
            return Some(0);
        };
        if now < fault.quiet_until {
            fault.unsaid += 1;
            return None;
        }
        fault.pause = (fault.pause * 2).min(LONGEST);
        fault.quiet_until = now + fault.pause;
        Some(std::mem::take(&mut fault.unsaid))
    }

    /// Forgets the fault `key`, which is over: whether there was one to be over.
    pub fn clear(&mut self, key: &str) -> bool {
        self.faults.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{KEYS, Repeats};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fault_is_said_at_once_then_ever_more_rarely() {
        let mut repeats = Repeats::new();
        let said: Vec<u64> = (0..100_000).filter(|second| repeats.admit("store", at(*second)).is_some()).collect();
        assert_eq!(said[..8], [0, 10, 30, 70, 150, 310, 630, 1230]);
        assert!(said.len() < 180, "{} lines in 100,000 s", said.len());
        assert_eq!(said[said.len() - 1] - said[said.len() - 2], 600);
    }

    #[test]
    fn what_was_not_said_is_counted() {
        let mut repeats = Repeats::new();
        assert_eq!(repeats.admit("store", at(0)), Some(0));
        assert_eq!(repeats.admit("store", at(1)), None);
        assert_eq!(repeats.admit("store", at(2)), None);
        assert_eq!(repeats.admit("store", at(10)), Some(2));
    }

    #[test]
    fn faults_are_told_apart_and_start_again_after_their_end() {
        let mut repeats = Repeats::new();
        assert_eq!(repeats.admit("store", at(0)), Some(0));
        assert_eq!(repeats.admit("route", at(0)), Some(0));
        assert!(repeats.clear("store"));
        assert!(!repeats.clear("store"));
        assert_eq!(repeats.admit("store", at(1)), Some(0));
        assert_eq!(repeats.admit("route", at(1)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::new();
        let said = (0..10_000).filter(|number| repeats.admit(&format!("key {number}"), at(0)).is_some()).count();
        assert_eq!(said, KEYS + 1);
    }
}
