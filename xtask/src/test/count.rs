//! Counting tests by what cargo and the skip log say.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// What the runs of one invocation added up to.
#[derive(Debug, Default)]
pub(super) struct Count {
    passed: u32,
    failed: u32,
    skipped: BTreeSet<String>,
    broken: bool,
}

impl Count {
    /// Runs one `cargo test`, passing its output on.
    pub(super) fn add(&mut self, mut command: Command) -> Result<()> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo test")?;
        let output = child.stdout.take().context("cargo test has no output")?;
        let failed_before = self.failed;
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            self.read(&line);
        }
        self.broken |= !child.wait()?.success() && self.failed == failed_before;
        Ok(())
    }

    /// Adds a line such as `test result: ok. 6 passed; 0 failed; 0 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some((_, numbers)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in numbers.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u32>().unwrap_or_default(),
                Some((number, "failed")) => self.failed += number.parse::<u32>().unwrap_or_default(),
                _ => {}
            }
        }
    }

    /// Prints the skipped tests and, as the last line, the count.
    pub(super) fn report(mut self, skip_log: &Path) -> Result<()> {
        self.skipped.extend(fs::read_to_string(skip_log).unwrap_or_default().lines().map(ToOwned::to_owned));
        for line in &self.skipped {
            println!("{line}");
        }
        // A skipped test returns early, which the test runner takes for a pass.
        let skipped = self.skipped.len() as u32;
        let passed = self.passed.saturating_sub(skipped);
        if self.broken {
            eprintln!("error: a test program did not build, or died before it could report; see above");
        }
        println!("{passed} passed, {} failed, {skipped} skipped", self.failed);
        ensure!(!self.broken && self.failed == 0, "tests failed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn results_of_all_programs_are_added_up() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 8.15s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test somewhere::test result ... ok",
        ] {
            count.read(line);
        }
        assert_eq!((count.passed, count.failed), (8, 3));
    }
}
