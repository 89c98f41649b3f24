//! The form of log lines that systemd's journal understands on a service's stderr (sd-daemon(3)).

use std::{env, fmt, io};

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Whether stderr is the stream to the journal that systemd says it made for us.
pub fn is_journal() -> bool {
    let Ok(told) = env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| matches(&told, stat.st_dev, stat.st_ino))
}

/// Whether `JOURNAL_STREAM`'s text (`device:inode`) names this device and inode.
fn matches(told: &str, device: u64, inode: u64) -> bool {
    told.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// The syslog priority that the journal files a line of this level under.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    tracing_subscriber::fmt::layer().event_format(Line).with_ansi(false).with_writer(io::stderr)
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(out, "<{}>", priority(*event.metadata().level()))?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, priority};
    use tracing::Level;

    #[test]
    fn only_the_very_stream_is_the_journal() {
        for (told, expected) in
            [("9:4711", true), ("9:4712", false), ("8:4711", false), ("", false), ("9", false), ("9:", false)]
        {
            assert_eq!(matches(told, 9, 4711), expected, "{told:?}");
        }
    }

    #[test]
    fn levels_become_syslog_priorities() {
        let priorities = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(priority);
        assert_eq!(priorities, [3, 4, 6, 7, 7]);
    }
}
