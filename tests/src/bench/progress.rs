//! What one sees while it runs: progress and time left on one line, and each table as soon as it is complete.

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    time::{Duration, Instant},
};

use super::{arm::Arm, row::Row, run::Plan, table, workload::Case};

/// Progress of a run.
pub struct Progress {
    start: Instant,
    total: usize,
    done: usize,
    is_terminal: bool,
    rounds: usize,
}

impl Progress {
    /// Of a run that is about to begin.
    pub fn new(plan: &Plan) -> Self {
        let total = plan.cases.len() * plan.arms.len() * plan.rounds;
        Self { start: Instant::now(), total, done: 0, is_terminal: stderr().is_terminal(), rounds: plan.rounds }
    }

    /// Something that takes time but is no sample.
    pub fn note(&self, text: &str) {
        self.line(text);
    }

    /// A sample is about to be taken.
    pub fn step(&mut self, case: &Case, arm: Arm, round: usize) {
        self.line(&format!("{} {arm}, round {round} of {}", case.title(), self.rounds));
        self.done += 1;
    }

    /// All samples of a case are taken.
    pub fn table(&self, case: &Case, rows: &[Row]) {
        self.clear();
        let text = table::of_case(case, rows);
        let percent = self.done * 100 / self.total.max(1);
        writeln!(stdout(), "{text}").ok();
        if !self.is_terminal {
            writeln!(stderr(), "[{percent} %, {} left]", show(self.left())).ok();
        }
    }

    /// Everything is done.
    pub fn end(&self) {
        self.clear();
        writeln!(stderr(), "took {}", show(self.start.elapsed())).ok();
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            let percent = self.done * 100 / self.total.max(1);
            self.clear();
            write!(stderr(), "[{percent:3} %, {} left] {text}", show(self.left())).ok();
            stderr().flush().ok();
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            write!(stderr(), "\r\x1b[K").ok();
        }
    }

    fn left(&self) -> Duration {
        let todo = self.total.saturating_sub(self.done);
        self.start.elapsed() * u32::try_from(todo).unwrap_or(u32::MAX) / u32::try_from(self.done.max(1)).unwrap_or(1)
    }
}

fn show(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}
