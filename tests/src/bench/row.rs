//! The result: one row per workload, parameters and arm.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    arm::Arm,
    machine::Machine,
    sample::{Better, Sample, Spread},
    workload::Case,
};

/// Everything that a run found: what `--json` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Raised when a field changes its meaning or goes.
    pub version: u32,
    /// Where it was measured, and how.
    pub machine: Machine,
    /// The figures.
    pub rows: Vec<Row>,
}

/// Fewer samples than this have no spread worth the name.
const ROUNDS_MIN: usize = 3;

/// One workload with its parameters in one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the workload (`pps-out`).
    pub workload: String,
    /// Parameters (`bytes`, `flows`, `peers`).
    pub params: BTreeMap<String, String>,
    /// The arm (`kernel-rules`).
    pub arm: String,
    /// Unit of the three values.
    pub unit: String,
    /// Which direction is better.
    pub better: Better,
    /// Median of the valid samples.
    pub median: Option<f64>,
    /// Smallest valid sample.
    pub min: Option<f64>,
    /// Largest valid sample.
    pub max: Option<f64>,
    /// The valid samples in the order in which they were taken.
    #[serde(default)]
    pub samples: Vec<f64>,
    /// Number of valid samples.
    pub rounds: usize,
    /// Number of samples that did not count.
    pub invalid: usize,
    /// Median divided by the median of `kernel-rules`.
    pub ratio: Option<f64>,
    /// Compared with `kernel-rules`: `better`, `worse` or `no difference` (the spreads overlap).
    pub verdict: Option<String>,
    /// Why there are no figures.
    pub skipped: Option<String>,
    /// Whether there should be figures: the arm can do the workload here, but no sample of it counts.
    #[serde(default)]
    pub failed: bool,
    /// Medians of what was measured beside the value.
    pub extras: BTreeMap<String, f64>,
}

impl Row {
    /// The row of these samples, still without comparison.
    pub fn of(case: &Case, arm: Arm, samples: &[Sample]) -> Self {
        let valid: Vec<&Sample> = samples.iter().filter(|sample| sample.invalid.is_none()).collect();
        let values: Vec<f64> = valid.iter().map(|sample| sample.value).collect();
        let spread = Spread::of(&values);
        let reason = samples.iter().find_map(|sample| sample.invalid.clone());
        let skipped = match spread {
            Some(_) => None,
            None => Some(format!("no valid sample: {}", reason.unwrap_or_else(|| "none was taken".to_owned()))),
        };
        Self {
            median: spread.map(|spread| spread.median),
            min: spread.map(|spread| spread.min),
            max: spread.map(|spread| spread.max),
            rounds: valid.len(),
            samples: values,
            invalid: samples.len() - valid.len(),
            failed: skipped.is_some(),
            skipped,
            extras: medians(&valid),
            ..Self::skipped(case, arm, "")
        }
    }

    /// The row of an arm that was not measured.
    pub fn skipped(case: &Case, arm: Arm, why: &str) -> Self {
        Self {
            workload: case.workload.to_owned(),
            params: case.params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            arm: arm.label().to_owned(),
            unit: case.unit.to_owned(),
            better: case.better,
            median: None,
            min: None,
            max: None,
            samples: Vec::new(),
            rounds: 0,
            invalid: 0,
            ratio: None,
            verdict: None,
            skipped: Some(why.to_owned()),
            failed: false,
            extras: BTreeMap::new(),
        }
    }

    /// The row of an arm whose measurement ended in an error.
    pub fn failed(case: &Case, arm: Arm, why: &str) -> Self {
        Self { failed: true, ..Self::skipped(case, arm, &format!("failed: {why}")) }
    }

    /// Median and spread, if it was measured.
    pub fn spread(&self) -> Option<Spread> {
        Some(Spread { median: self.median?, min: self.min?, max: self.max? })
    }

    /// What two rows must share to be of one table.
    pub fn title(&self) -> String {
        let params = self.params.iter().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.workload.clone()).chain(params).collect()
    }
}

/// What `new` is compared with `old`: `better`, `worse`, or `no difference` if their spreads overlap.
pub fn verdict(new: &Spread, old: &Spread, better: Better) -> &'static str {
    if !new.differs_from(old) {
        "no difference"
    } else if (new.median > old.median) == (better == Better::Higher) {
        "better"
    } else {
        "worse"
    }
}

/// Fills in how the rows of one case compare with the arm `kernel-rules`.
pub fn compare_with_baseline(rows: &mut [Row]) {
    let baseline = rows.iter().find(|row| row.arm == Arm::KernelRules.label());
    let Some((baseline, rounds)) = baseline.and_then(|row| Some((row.spread()?, row.rounds))) else { return };
    for row in rows {
        let Some(spread) = row.spread() else { continue };
        row.ratio = (baseline.median != 0.0).then(|| spread.median / baseline.median);
        if row.arm != Arm::KernelRules.label() && rounds.min(row.rounds) >= ROUNDS_MIN {
            row.verdict = Some(verdict(&spread, &baseline, row.better).to_owned());
        }
    }
}

fn medians(samples: &[&Sample]) -> BTreeMap<String, f64> {
    let mut columns: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in samples.iter().flat_map(|sample| &sample.extras) {
        columns.entry(name.clone()).or_default().push(*value);
    }
    columns.into_iter().filter_map(|(name, values)| Some((name, Spread::of(&values)?.median))).collect()
}

impl Outcome {
    /// What should have been measured and was not, a line each.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.rows.iter().filter(|row| row.failed);
        failed
            .map(|row| format!("{} {}: {}", row.title(), row.arm, row.skipped.as_deref().unwrap_or_default()))
            .collect()
    }

    /// Reads what `--json` wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a result of this benchmark", path.display()))
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}
