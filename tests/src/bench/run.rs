//! The run: builds the hosts, lets the arms take turns, and gathers the rows.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    agent::Store,
    arm::Arm,
    lab::{Lab, Shape},
    progress::Progress,
    row::{Row, compare_with_baseline},
    sample::Sample,
    workload::{Bench, Case},
};

/// A sample that does not count is taken again at once, at most so often.
const RETAKES: usize = 2;

/// Size of the flow table: the 65,536 flows of a case are twice as many entries, one for each direction, and what is
/// measured is the table in use, not the kernel's path of those that found no room.
const FLOWS: u32 = 262_144;

/// What to run.
pub struct Plan {
    /// The table's lines, in order.
    pub cases: Vec<Case>,
    /// The arms, in order.
    pub arms: Vec<Arm>,
    /// Samples of each arm.
    pub rounds: usize,
}

/// Set by the first SIGINT or SIGTERM: the run ends after the sample under way, so that everything it made is removed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets SIGINT and SIGTERM end the run in an orderly way.
pub fn end_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
    Ok(())
}

/// Whether one of the signals has come.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn check_signals() -> Result<()> {
    ensure!(!is_interrupted(), "interrupted; everything that was made is removed");
    Ok(())
}

/// Runs everything. What an arm cannot do is in the rows as skipped, and so is an arm that failed.
pub fn run(plan: &Plan, bench: &mut Bench) -> Result<Vec<Row>> {
    let mut store = Store::default();
    let mut progress = Progress::new(plan);
    let mut rows = Vec::new();
    for shape in shapes(plan) {
        let cases: Vec<&Case> = plan.cases.iter().filter(|case| case.shape == shape).collect();
        let mut labs = build(plan, shape, &cases, &mut store, &progress)?;
        for case in cases {
            rows.extend(run_case(plan, case, &mut labs, bench, &mut progress)?);
        }
    }
    progress.end();
    Ok(rows)
}

/// The hosts of an arm, or why there are none.
type Labs = BTreeMap<Arm, Result<Lab, String>>;

fn shapes(plan: &Plan) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for case in &plan.cases {
        if !shapes.contains(&case.shape) {
            shapes.push(case.shape);
        }
    }
    shapes
}

fn build(plan: &Plan, shape: Shape, cases: &[&Case], store: &mut Store, progress: &Progress) -> Result<Labs> {
    let wanted = plan.arms.iter().filter(|arm| cases.iter().any(|case| case.unfit(**arm).is_none()));
    wanted
        .map(|arm| {
            check_signals()?;
            progress.note(&format!("building the hosts of {arm}"));
            Ok((*arm, Lab::sized(*arm, shape, FLOWS, store).map_err(|error| format!("{error:#}"))))
        })
        .collect()
}

fn run_case(plan: &Plan, case: &Case, labs: &mut Labs, bench: &mut Bench, progress: &mut Progress) -> Result<Vec<Row>> {
    let mut samples: BTreeMap<Arm, Vec<Sample>> = BTreeMap::new();
    let mut missing = unfit(plan, case, labs);
    for round in 1..=plan.rounds {
        for arm in &plan.arms {
            check_signals()?;
            progress.step(case, *arm, round);
            let Some(Ok(lab)) = labs.get_mut(arm) else { continue };
            if missing.contains_key(arm) {
                continue;
            }
            match take(|| case.measure(lab, bench)) {
                Ok(taken) => samples.entry(*arm).or_default().extend(taken),
                Err(error) => {
                    missing.insert(*arm, Row::failed(case, *arm, &format!("{error:#}")));
                }
            }
        }
    }
    let measured = |arm: Arm| Row::of(case, arm, samples.get(&arm).map_or(&[][..], Vec::as_slice));
    let mut rows: Vec<Row> =
        plan.arms.iter().map(|arm| missing.remove(arm).unwrap_or_else(|| measured(*arm))).collect();
    compare_with_baseline(&mut rows);
    progress.table(case, &rows);
    Ok(rows)
}

/// The rows of the arms that cannot do `case`.
fn unfit(plan: &Plan, case: &Case, labs: &Labs) -> BTreeMap<Arm, Row> {
    let why = |arm: &Arm| match (case.unfit(*arm), labs.get(arm)) {
        (Some(why), _) => Some(why.to_owned()),
        (None, Some(Err(why))) => Some(why.clone()),
        _ => None,
    };
    plan.arms.iter().filter_map(|arm| Some((*arm, Row::skipped(case, *arm, &why(arm)?)))).collect()
}

/// Takes a sample, and again while it does not count.
pub fn take(mut measure: impl FnMut() -> Result<Sample>) -> Result<Vec<Sample>> {
    let mut taken = Vec::new();
    loop {
        let sample = measure()?;
        let is_valid = sample.invalid.is_none();
        taken.push(sample);
        if is_valid || taken.len() > RETAKES {
            return Ok(taken);
        }
    }
}
