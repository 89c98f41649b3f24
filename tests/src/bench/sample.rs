//! One measurement, and what several of them say together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One measurement of one workload in one arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// In the workload's unit.
    pub value: f64,
    /// What else was measured beside it (`p50_us`, `retransmits`, …).
    pub extras: BTreeMap<String, f64>,
    /// Why it must not count, if it must not.
    pub invalid: Option<String>,
}

impl Sample {
    /// A valid sample.
    pub const fn new(value: f64) -> Self {
        Self { value, extras: BTreeMap::new(), invalid: None }
    }

    /// Adds something measured beside the value.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.extras.insert(name.to_owned(), value);
        self
    }

    /// Marks it as not to be counted.
    #[must_use]
    pub fn invalid_if(mut self, wrong: bool, why: impl FnOnce() -> String) -> Self {
        if wrong {
            self.invalid = Some(why());
        }
        self
    }
}

/// Whether more or less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and sizes.
    Lower,
}

/// Median and spread of the samples of one arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one (the mean of the two middle ones).
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max })
    }

    /// Whether the two differ by more than their noise: every sample of one is above every sample of the other.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.min > other.max || self.max < other.min
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn spread_of_odd_and_even_counts() {
        let cases = [
            (vec![2.0], [2.0, 2.0, 2.0]),
            (vec![3.0, 1.0, 2.0], [2.0, 1.0, 3.0]),
            (vec![4.0, 1.0, 2.0, 3.0], [2.5, 1.0, 4.0]),
        ];
        for (values, [median, min, max]) in cases {
            assert_eq!(Spread::of(&values), Some(Spread { median, min, max }), "{values:?}");
        }
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn overlapping_spreads_are_no_difference() {
        let spread = |min, max| Spread { median: f64::midpoint(min, max), min, max };
        assert!(!spread(1.0, 3.0).differs_from(&spread(2.0, 4.0)));
        assert!(spread(1.0, 1.9).differs_from(&spread(2.0, 4.0)));
        assert!(spread(5.0, 6.0).differs_from(&spread(2.0, 4.0)));
    }
}
