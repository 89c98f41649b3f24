//! What is measured: each file measures one kind of thing.

pub mod pps;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{
    arm::Arm,
    generator::Generator,
    lab::{Lab, Shape},
    sample::{Better, Sample},
};

/// One line of the table: a workload with its parameters.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the workload.
    pub workload: &'static str,
    /// Parameters, as they stand in table and JSON.
    pub params: BTreeMap<&'static str, String>,
    /// Unit of the values.
    pub unit: &'static str,
    /// Which direction is better.
    pub better: Better,
    /// The hosts it needs.
    pub shape: Shape,
    /// How to measure it.
    pub kind: Kind,
}

/// How to measure a case.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Packets per second of one core.
    Pps(pps::Spec),
}

/// What all measurements share.
pub struct Bench {
    /// The frame generator.
    pub generator: Generator,
    /// How long one sample takes.
    pub sample_time: Duration,
    /// The core that does all the work of single-core workloads.
    pub core: usize,
}

impl Case {
    /// Why this arm cannot do this workload on any kernel, if so.
    pub fn unfit(&self, arm: Arm) -> Option<&'static str> {
        match self.kind {
            Kind::Pps(spec) => spec.unfit(arm),
        }
    }

    /// Takes one sample.
    pub fn measure(&self, lab: &mut Lab, bench: &mut Bench) -> Result<Sample> {
        match self.kind {
            Kind::Pps(spec) => pps::measure(spec, lab, bench),
        }
    }

    /// Workload and parameters in one line.
    pub fn title(&self) -> String {
        let params = self.params.iter().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.workload.to_owned()).chain(params).collect()
    }
}
