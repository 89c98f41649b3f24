//! What a load takes of a core, in nanoseconds: the kernel's own accounting counts in ticks of 10 ms.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{lab::pin, sample::Spread};

/// Looks at the load, each between two at the core without it.
const LOOKS: usize = 25;
/// Additions between two looks at the clock of the count: well below a microsecond.
const STEPS: u32 = 500;
/// The lowest priority: a thread that wants to run at the usual one takes all but a hundredth.
const LOWEST: i32 = 19;

/// A thread that counts for as long as nobody else wants its core; ends when dropped.
pub struct Soak {
    count: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Soak {
    /// Starts it on a core.
    pub fn on(core: usize) -> Self {
        let (count, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = (count.clone(), ends.clone());
        let thread = thread::spawn(move || {
            // Without the one or the other the count would be of no use: it stays 0.
            if pin(core).is_ok() && rustix::process::nice(LOWEST).is_ok() {
                spin(&shared.0, &shared.1);
            }
        });
        Self { count, ends, thread: Some(thread) }
    }

    /// Share of the core that `load` takes while it runs: by what it leaves, compared with what is left for `quiet` before and
    /// after it. The median of several looks, because on a machine that is shared a single one tells more of the neighbours.
    pub fn share_of(&self, quiet: Duration, mut load: impl FnMut() -> Result<()>) -> Result<f64> {
        let rest = || {
            thread::sleep(quiet);
            Ok(())
        };
        let mut shares = Vec::new();
        let mut before = self.rate(rest)?;
        for _ in 0..LOOKS {
            let left = self.rate(&mut load)?;
            let after = self.rate(rest)?;
            let idle = f64::midpoint(before, after);
            ensure!(idle > 0.0, "no thread of the lowest priority came to run");
            shares.push((1.0 - left / idle).max(0.0));
            before = after;
        }
        Ok(Spread::of(&shares).map_or(0.0, |spread| spread.median))
    }

    /// What is counted per second while `work` goes on.
    fn rate(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (start, first) = (Instant::now(), self.count.load(Ordering::Relaxed));
        work()?;
        Ok((self.count.load(Ordering::Relaxed) - first) as f64 / start.elapsed().as_secs_f64())
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn spin(count: &AtomicU64, ends: &AtomicBool) {
    let mut sum = 0_u32;
    while !ends.load(Ordering::Relaxed) {
        for step in 0..STEPS {
            sum = black_box(sum.wrapping_add(step));
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}
