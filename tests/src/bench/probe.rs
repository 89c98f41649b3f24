//! How much of a core others took: beside every sample, so that a busy neighbour is seen in the result.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// A pause between two looks at the clock that is longer than this was taken by somebody else.
const GAP: Duration = Duration::from_micros(20);
/// How long the probe looks.
const LOOK: Duration = Duration::from_millis(5);

/// Share of the calling thread's core that others took while the probe looked, from 0 to 1.
pub fn stolen_share() -> f64 {
    let start = Instant::now();
    let (mut last, mut lost) = (start, Duration::ZERO);
    loop {
        let now = Instant::now();
        let pause = now - last;
        if pause > GAP {
            lost += pause;
        }
        last = now;
        let elapsed = now - start;
        if elapsed >= LOOK {
            return lost.as_secs_f64() / elapsed.as_secs_f64();
        }
    }
}

/// Time that all cores together spent working, and that the hypervisor took from them, since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// User, system and interrupt time.
    pub busy: Duration,
    /// Time in which a core was ready but the hypervisor ran something else.
    pub stolen: Duration,
}

/// Reads `/proc/stat`.
pub fn cpu_time() -> Result<CpuTime> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse_cpu_time(&text).context("/proc/stat has no line of all cores")
}

fn parse_cpu_time(text: &str) -> Option<CpuTime> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else { return None };
    // The kernel counts in ticks of 1/100 s, whatever its own clock (USER_HZ).
    let ticks = |count: u64| Duration::from_millis(count * 10);
    Some(CpuTime { busy: ticks(user + nice + system + irq + softirq), stolen: ticks(steal) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_all_cores() {
        let text = "cpu  10 1 20 900 5 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let expected = CpuTime { busy: Duration::from_millis(360), stolen: Duration::from_millis(40) };
        assert_eq!(parse_cpu_time(text), Some(expected));
        assert_eq!(parse_cpu_time("intr 5\n"), None);
    }
}
