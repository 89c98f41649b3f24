//! Where log lines go and what they look like: text for people, JSON for collectors, and the journal's own form under systemd.

mod journal;
mod repeats;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use journal::is_journal;
pub use repeats::Repeats;

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// [`Self::Journal`] if systemd connected stderr to the journal, else [`Self::Text`].
    #[default]
    Auto,
    /// Time, level, message and fields; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
    /// Text after the `<level>` that the journal takes off and files the line under; without a time, which the journal knows.
    Journal,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error(
        "log filter {filter:?} is not valid: {source}; write it like \"info\" or \"warn,flannel_agent::store=debug\""
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody was faster.
    #[error("logging is already set up in this process: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends this process's log lines to stderr.
///
/// `filter` is in the syntax of [`EnvFilter`] (`info`, `flannel_agent::store=debug`, …).
pub fn init(format: Format, filter: &str) -> Result<(), Error> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(parsed);
    match format {
        Format::Auto if is_journal() => registry.with(journal::layer()).try_init()?,
        Format::Journal => registry.with(journal::layer()).try_init()?,
        Format::Auto | Format::Text => {
            let colours = io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false)).try_init()?;
        }
        Format::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()?,
    }
    Ok(())
}
