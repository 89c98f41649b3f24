//! `cargo xtask ci`: what the continuous integration does. Every step runs, whatever became of the one before; the
//! tests come last, so that the last line counts them.

use anyhow::{Result, bail};

use crate::{bench, demo, lint, test};

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    let lint = ("lint", lint::run());
    let demo = ("demo", demo::run(&demo::Args::CI));
    // That it works and every arm is counted; times are not judged.
    let bench = ("bench", bench::run(&bench::Args::smoke()));
    let test = ("test", test::run(&test::Args::default()));
    let mut failed = Vec::new();
    for (name, result) in [lint, demo, bench, test] {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
