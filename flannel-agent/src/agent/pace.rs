//! When the next pass over everything is due.

use std::time::Duration;

use tokio::time::Instant;

/// Events come in bursts (a link that goes takes its routes along): wait this long for the rest of one before a pass. Far
/// below the 100 ms within which a deleted route must be back.
const BURST: Duration = Duration::from_millis(5);
/// The longest rest after a short pass.
const REST: Duration = Duration::from_millis(15);
/// A pass happens this often even if nothing asked for it: flannel's own repair interval, here only a safety net.
pub(super) const AUDIT: Duration = Duration::from_secs(10);

/// Soon after something asked for it, but not all the time.
///
/// Where passes follow one another, a quarter of the time goes into short ones and half of it into long ones. What comes
/// after a while of rest is never kept waiting.
pub(super) struct Pace {
    due: Instant,
    ended: Instant,
    /// What the last two passes took.
    took: [Duration; 2],
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + AUDIT, ended: now, took: [Duration::ZERO; 2] }
    }

    /// When the next pass is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Asks for a pass soon.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min((now + BURST).max(self.ended + self.rest()));
    }

    /// A pass is over.
    pub(super) fn passed(&mut self, now: Instant, took: Duration) {
        self.took = [self.took[1], took];
        (self.ended, self.due) = (now, now + AUDIT);
    }

    fn rest(&self) -> Duration {
        // One long pass among short ones attached programs, as the first does and the one for a new bridge: the next will
        // be short again, and a lease that came meanwhile must not wait as long as that took.
        let usual = self.took[0].min(self.took[1]);
        (3 * usual).min(REST.max(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How long after the end of the last pass the next one is due, if it is asked for right away.
    fn wait_after(passes: &[u32]) -> Duration {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for took in passes {
            now += *took * MS;
            pace.passed(now, *took * MS);
        }
        pace.hurry(now);
        pace.due() - now
    }

    #[test]
    fn the_first_pass_may_be_long_without_anything_having_to_wait_for_it() {
        assert_eq!(wait_after(&[60]), BURST);
        assert_eq!(wait_after(&[1, 60]), BURST);
    }

    #[test]
    fn passes_that_follow_one_another_leave_most_of_the_time_to_others() {
        assert_eq!(wait_after(&[1, 1]), BURST, "of short ones, bursts are all that is waited for");
        assert_eq!(wait_after(&[3, 3]), 9 * MS);
        assert_eq!(wait_after(&[8, 9]), REST);
        assert_eq!(wait_after(&[80, 90, 85]), 85 * MS);
    }

    #[test]
    fn who_asks_again_does_not_put_it_off() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.hurry(now);
        let due = pace.due();
        pace.hurry(now + 4 * MS);
        assert_eq!(pace.due(), due);
    }

    #[test]
    fn what_comes_after_a_rest_waits_for_its_burst_only() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.passed(now, 80 * MS);
        pace.passed(now, 80 * MS);
        pace.hurry(now + 500 * MS);
        assert_eq!(pace.due(), now + 500 * MS + BURST);
    }

    #[test]
    fn without_anybody_asking_it_is_the_audit() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.passed(now, MS);
        assert_eq!(pace.due(), now + AUDIT);
    }
}
