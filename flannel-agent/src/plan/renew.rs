//! When to renew a lease, from times that are passed in.

use std::time::Duration;

/// Time to live of a lease. A node that comes back within a day gets its subnet back.
pub const TTL: Duration = Duration::from_hours(24);

/// How long to wait after a renewal that failed.
pub const RETRY: Duration = Duration::from_mins(1);

/// How long before its end a lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin(Duration);

/// A margin that is not between 1 minute and a minute less than the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a renew margin of {0} minutes is outside 1 to 1439: a lease lives for 24 hours and must be renewed before its end"
)]
pub struct BadMargin(pub i64);

impl Margin {
    /// From minutes, as flannel's flag has it.
    pub fn from_minutes(minutes: i64) -> Result<Self, BadMargin> {
        match u64::try_from(minutes) {
            Ok(n @ 1..=1439) => Ok(Self(Duration::from_mins(n))),
            _ => Err(BadMargin(minutes)),
        }
    }
}

impl Default for Margin {
    fn default() -> Self {
        Self(Duration::from_hours(1))
    }
}

/// How long to wait before the next renewal.
///
/// `left` is the time to the lease's end: `None` for a reservation, which is never renewed, so the answer is `None`.
/// `failed` is the time since the last renewal that failed, if one did since the last that went well.
pub fn wait(left: Option<Duration>, margin: Margin, failed: Option<Duration>) -> Option<Duration> {
    let due = left?.saturating_sub(margin.0);
    Some(failed.map_or(due, |failed| due.max(RETRY.saturating_sub(failed))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_due_a_margin_before_the_end() {
        let (min, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let check = |left, margin, failed, expected| {
            let margin = Margin::from_minutes(margin).unwrap();
            assert_eq!(wait(left, margin, failed), expected, "{left:?} {margin:?} {failed:?}");
        };
        check(None, 60, None, None);
        check(None, 60, Some(min), None);
        check(Some(TTL), 60, None, Some(23 * hour));
        check(Some(TTL), 1439, None, Some(min));
        check(Some(TTL), 1, None, Some(1439 * min));
        check(Some(hour), 60, None, Some(Duration::ZERO));
        check(Some(Duration::ZERO), 60, None, Some(Duration::ZERO));
        check(Some(hour), 60, Some(Duration::ZERO), Some(min));
        check(Some(hour), 60, Some(min / 4), Some(min * 3 / 4));
        check(Some(hour), 60, Some(2 * min), Some(Duration::ZERO));
        check(Some(TTL), 60, Some(Duration::ZERO), Some(23 * hour));
    }

    #[test]
    fn margins() {
        assert_eq!(Margin::from_minutes(60), Ok(Margin::default()));
        for bad in [0, -1, 1440, i64::MIN, i64::MAX] {
            assert_eq!(Margin::from_minutes(bad), Err(BadMargin(bad)));
        }
    }
}
