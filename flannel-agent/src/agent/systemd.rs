//! What systemd is told: ready, status, watchdog, stopping. Without systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd that subnet.env is written and the node forwards.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub(super) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// Tells systemd that we are about to end.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Tells systemd that the loop still turns.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called: half of what `WatchdogSec=` allows; `None` without a watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
