//! Progress: a line that is rewritten on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    time::Instant,
};

/// Says what is being done, and how long it took.
#[derive(Debug)]
pub struct Progress {
    to_stderr: bool,
    rewrites: bool,
    step: Option<(String, Instant)>,
}

impl Progress {
    /// Progress on standard output, or on standard error if standard output is for something else.
    pub fn new(to_stderr: bool) -> Self {
        let rewrites = if to_stderr { stderr().is_terminal() } else { stdout().is_terminal() };
        Self { to_stderr, rewrites, step: None }
    }

    /// Begins a step.
    pub fn start(&mut self, what: &str) {
        self.step = Some((what.to_owned(), Instant::now()));
        if self.rewrites {
            self.write(&format!("  …  {what}"));
        }
    }

    /// Ends the step.
    pub fn done(&mut self) {
        if let Some((what, start)) = self.step.take() {
            let begin = if self.rewrites { "\r\x1b[K" } else { "" };
            self.write(&format!("{begin}{:>4.1}s {what}\n", start.elapsed().as_secs_f64()));
        }
    }

    /// Ends the step that has failed, so that the error stands on a line of its own.
    pub fn failed(&mut self) {
        if let Some((what, _)) = self.step.take() {
            let begin = if self.rewrites { "\r\x1b[K" } else { "" };
            self.write(&format!("{begin}FAILED {what}\n"));
        }
    }

    fn write(&self, text: &str) {
        let written = if self.to_stderr {
            stderr().write_all(text.as_bytes())
        } else {
            stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush())
        };
        // A closed pipe is no reason to stop: the cluster still has to be taken down.
        written.ok();
    }
}
