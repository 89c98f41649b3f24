//! What `flannelctl` does with each of its verbs.

mod cleanup;
mod config;
mod events;
mod lease;
mod lists;
mod manual;
mod reasons;
mod show;
mod status;
pub mod table;
mod top;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde::Serialize;

use crate::{
    admin::client::{self, Client},
    cli::flannelctl::{Flannelctl, Output, Verb},
};

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and nothing is wrong.
    Well = 0,
    /// Something is wrong, and was said.
    Wrong = 1,
    /// No flanneld answers.
    Absent = 3,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// Does what was typed; whatever is wrong is said on standard error.
pub async fn run(typed: Flannelctl) -> Outcome {
    match act(&typed).await {
        Ok(outcome) => outcome,
        Err(error) => {
            // The reader of our output has gone (`| head`): not worth a word.
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return Outcome::Well;
            }
            let _unheard = writeln!(io::stderr(), "flannelctl: {error:#}");
            match error.downcast_ref::<client::Error>() {
                Some(client::Error::Absent { .. } | client::Error::Forbidden(_)) => Outcome::Absent,
                _ => Outcome::Wrong,
            }
        }
    }
}

async fn act(typed: &Flannelctl) -> anyhow::Result<Outcome> {
    let client = Client::new(&typed.socket);
    let output = typed.output;
    match &typed.verb {
        Verb::Status(watch) => show::repeat(watch.watch, output, async || show::status(&client, output).await).await,
        Verb::Leases(watch) => show::repeat(watch.watch, output, async || show::leases(&client, output).await).await,
        Verb::Peers(watch) => show::repeat(watch.watch, output, async || show::peers(&client, output).await).await,
        Verb::Flows(which) => {
            show::repeat(which.watch.watch, output, async || show::flows(&client, output, which).await).await
        }
        Verb::Top => top::run(&client).await,
        Verb::Config { verb } => config::run(&client, verb).await,
        Verb::Lease { verb } => lease::run(&client, output, verb).await,
        Verb::Events(follow) => events::run(&client, output, follow.watch).await,
        Verb::Explain(packet) => crate::explain::run(&client, output, packet).await,
        Verb::Doctor(what) => crate::doctor::run(&client, output, what).await,
        Verb::Cleanup(what) => cleanup::run(&client, what).await,
        Verb::Completions { shell } => manual::completions(*shell),
        Verb::Man { folder } => manual::pages(folder),
    }
}

/// Writes text to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a value as JSON to standard output: `lines` for one document a line.
pub(crate) fn print_json<T: Serialize>(value: &T, lines: bool) -> anyhow::Result<()> {
    let text = if lines { serde_json::to_string(value)? } else { serde_json::to_string_pretty(value)? };
    Ok(print(&(text + "\n"))?)
}

/// Whether a person reads.
pub(crate) fn is_table(output: Output) -> bool {
    output == Output::Table
}
