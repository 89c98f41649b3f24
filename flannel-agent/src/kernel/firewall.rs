//! Rules for masquerading and forwarding, kept by iptables or nftables.
//!
//! Only our own rules are looked at, added and repaired: another flannel on the host shares the chains. They stay when
//! the agent ends, because a restart must not interrupt traffic.

mod chain;
mod command;
mod ensure;
mod events;
mod iptables;
mod nft;
mod rules;

use std::{ffi::OsString, time::Duration};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::{Instant, sleep, sleep_until};

use self::{
    command::Programs,
    events::{Events, Notice},
};

use crate::subnet_file::Previous;

/// Which of the kernel's two interfaces holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the binaries `iptables` and `ip6tables`, so that the rules land where the host's other rules are.
    Iptables,
    /// By `nft`, in tables of our own (`EnableNFTables`).
    Nftables,
}

/// Which rules there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The IPv4 network and our subnet in it.
    pub v4: Option<Overlay<Ipv4Net>>,
    /// The IPv6 network and our subnet in it.
    pub v6: Option<Overlay<Ipv6Net>>,
    /// Masquerade what leaves the network (`-ip-masq`).
    pub masquerade: bool,
    /// Accept forwarded packets from and to the network (`-iptables-forward-rules`).
    pub forward: bool,
    /// Choose source ports fully at random, where iptables or nft can.
    pub random_fully: bool,
    /// Sources and destinations that are never masqueraded (`-masq-exempt`).
    pub exempt: Vec<IpNet>,
}

impl Rules {
    /// Whether there should be any.
    pub const fn are_wanted(&self) -> bool {
        self.masquerade || self.forward
    }
}

/// A network and our subnet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlay<N> {
    /// The whole network.
    pub network: N,
    /// Our own subnet, by its base address.
    pub subnet: N,
}

/// What one look at the rules led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was changed, one line each; empty if everything was in place.
    pub changes: Vec<String>,
    /// What an operator should know although it stops nothing.
    pub warnings: Vec<String>,
}

/// Why the rules cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// A program is missing.
    #[error("{program} is not installed or not in PATH: install the package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// What holds it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{command}: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// A rule is written, and then listed otherwise.
    #[error(
        "{command} shows other rules than were written ({difference}): they are in place, but are not watched any \
         more; report the version of {command}"
    )]
    Unreadable {
        /// The program that lists the rules.
        command: &'static str,
        /// What would have to be written again.
        difference: String,
    },
}

/// The keeper of our rules.
#[derive(Debug)]
pub struct Firewall {
    mode: Mode,
    rules: Rules,
    previous: Previous,
    resync: Duration,
    programs: Programs,
    /// Found out by the first look.
    known: Option<Known>,
    events: Option<Events>,
    /// Whether the rules were all right when we last looked, so that only an event can have changed that.
    settled: bool,
    /// Whether writing again would only repeat what is there: see [`FirewallError::Unreadable`].
    unreadable: bool,
    /// When to look although nothing happened.
    due: Instant,
    /// When to look because something happened.
    disturbed: Option<Instant>,
}

/// What this host's programs can do.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Whether changes are told: not by iptables' legacy variant.
    tells: bool,
    /// Whether source ports can be chosen fully at random.
    random_fully: bool,
    /// Whether programs wait for the lock of the tables.
    waits: bool,
}

/// Changes come in bursts: wait for the end of one before looking.
const QUIET: Duration = Duration::from_millis(50);

impl Firewall {
    /// Makes a keeper; the first [`Firewall::ensure`] takes away what the unused [`Mode`] and the previous subnet left,
    /// and puts the rules in place. `resync` is the time between looks where the kernel does not tell of changes.
    pub fn new(mode: Mode, rules: Rules, previous: &Previous, resync: Duration) -> Self {
        Self {
            mode,
            rules,
            previous: *previous,
            resync,
            programs: Programs::default(),
            known: None,
            events: None,
            settled: false,
            unreadable: false,
            due: Instant::now(),
            disturbed: None,
        }
    }

    /// Looks for programs in these directories instead of the agent's own `PATH`.
    #[must_use]
    pub fn search(mut self, path: impl Into<OsString>) -> Self {
        self.programs.path = Some(path.into());
        self
    }

    /// Gives a program this long, instead of 20 seconds, to end.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.programs.patience = patience;
        self
    }

    /// Reads the rules once, and writes what is missing. On an error the caller goes on, shows it, and calls again after
    /// the next [`Firewall::disturbed`].
    pub async fn ensure(&mut self) -> Result<Report, FirewallError> {
        // Events from before the look are answered by it; those that arrive meanwhile lead to another.
        self.disturbed = None;
        if self.unreadable {
            self.due = Instant::now() + self.resync;
            return Ok(Report::default());
        }
        self.settled = false;
        let outcome = self.look().await;
        self.settled = outcome.is_ok();
        self.unreadable = matches!(outcome, Err(FirewallError::Unreadable { .. }));
        self.due = Instant::now() + self.resync;
        outcome
    }

    /// Waits until there is reason to look: rules of ours were touched, or, where the kernel tells nothing and after an
    /// error, the resync interval is over. May be dropped and called again at any time.
    pub async fn disturbed(&mut self) {
        loop {
            let until = self.disturbed.map_or(self.due, |at| at.min(self.due));
            let Some(events) = &mut self.events else { return sleep_until(until).await };
            tokio::select! {
                () = sleep_until(until) => if self.is_time() { return },
                notices = events.next() => self.hear(notices).await,
            }
        }
    }

    /// Whether to look now that a deadline has passed.
    fn is_time(&mut self) -> bool {
        let tells = self.known.is_some_and(|known| known.tells);
        if self.disturbed.is_some() || !self.settled || !tells {
            return true;
        }
        // The safety net: the kernel numbers its changes, and asking for the number costs next to nothing.
        self.due = Instant::now() + self.resync;
        self.events.as_mut().is_none_or(|events| events.missed().unwrap_or(true))
    }

    async fn hear(&mut self, notices: std::io::Result<Vec<Notice>>) {
        let concerned = match notices {
            Ok(notices) => notices.iter().any(|notice| self.concerns(notice)),
            Err(error) => {
                tracing::debug!(%error, "notices of the kernel's tables were lost");
                // An error that stays must not make a busy loop.
                sleep(QUIET).await;
                true
            }
        };
        if concerned {
            self.disturbed = Some(Instant::now() + QUIET);
        }
    }

    /// Whether rules of ours may be touched.
    fn concerns(&self, notice: &Notice) -> bool {
        const CHAINS: [&str; 4] = ["POSTROUTING", "FORWARD", "FLANNEL-POSTRTG", "FLANNEL-FWD"];
        match (self.mode, notice) {
            (Mode::Iptables, Notice::TableGone(table)) => table == "nat" || table == "filter",
            (Mode::Iptables, Notice::RuleGone(_, chain) | Notice::ChainGone(_, chain)) => {
                CHAINS.contains(&chain.as_str())
            }
            // What a neighbour adds to the chains does not concern us.
            (_, Notice::RuleNew(..)) => false,
            (Mode::Nftables, Notice::TableGone(table) | Notice::RuleGone(table, _) | Notice::ChainGone(table, _)) => {
                table == "flannel-ipv4" || table == "flannel-ipv6"
            }
        }
    }
}
