//! What is measured: each file measures one kind of thing.

pub mod agent;
pub mod pps;
pub mod program;
pub mod roundtrip;
pub mod socket;
pub mod stream;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{
    arm::Arm,
    generator::Generator,
    lab::{Lab, Shape, Tuning},
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
    /// How the interfaces are set for it.
    pub tuning: Tuning,
    /// How to measure it.
    pub kind: Kind,
}

/// How to measure a case.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Packets per second of one core.
    Pps(pps::Spec),
    /// Bulk TCP.
    Stream(stream::Spec),
    /// What one run of a program costs.
    Program(program::Spec),
    /// What the agent itself takes.
    Agent(agent::Spec),
    /// Packets from a socket.
    Socket(socket::Spec),
    /// Round trips and connections.
    RoundTrip(roundtrip::Spec),
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
            Kind::Program(_) => program::Spec::unfit(arm),
            Kind::Agent(spec) => spec.unfit(arm),
            Kind::Socket(spec) => spec.unfit(arm),
            Kind::Stream(_) | Kind::RoundTrip(_) => None,
        }
    }

    /// Takes one sample.
    pub fn measure(&self, lab: &mut Lab, bench: &mut Bench) -> Result<Sample> {
        lab.tune(self.tuning)?;
        match self.kind {
            Kind::Pps(spec) => pps::measure(spec, lab, bench),
            Kind::Stream(spec) => stream::measure(spec, lab, bench),
            Kind::Program(spec) => program::measure(spec, lab, bench),
            Kind::Agent(spec) => agent::measure(spec, lab, bench),
            Kind::Socket(spec) => socket::measure(spec, lab, bench),
            Kind::RoundTrip(spec) => roundtrip::measure(spec, lab, bench),
        }
    }

    /// Workload and parameters in one line.
    pub fn title(&self) -> String {
        let params = self.params.iter().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.workload.to_owned()).chain(params).collect()
    }
}

/// Share of packets that may have gone another way than the arm's name says.
pub const STRAY_LIMIT: f64 = 0.1;

/// Marks a sample whose packets did not go the way that the arm's name says.
pub fn check_way(sample: Sample, arm: Arm, kernel_share: f64) -> Sample {
    let strayed = if arm.bypasses_kernel() { kernel_share } else { 1.0 - kernel_share };
    let why = || format!("the kernel forwarded {:.0} % of the packets", kernel_share * 100.0);
    sample.with("kernel_share", kernel_share).invalid_if(strayed > STRAY_LIMIT, why)
}
