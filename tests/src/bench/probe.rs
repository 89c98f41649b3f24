//! How much of a core others took: beside every sample, so that a busy neighbour is seen in the result.

use std::time::{Duration, Instant};

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
