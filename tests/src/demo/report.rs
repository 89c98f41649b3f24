//! What the demo has shown, as text and as JSON, and whether all of it holds.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, time::Duration};

use anyhow::Result;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::traffic::{Carried, Throughput};

/// A transfer may not stand still for longer, even while its flanneld dies: TCP's first retransmission takes 200 ms.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Everything that was shown.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The leases, in the order of the hosts.
    pub leases: Vec<Lease>,
    /// Pings from host1.
    pub pings: Vec<Ping>,
    /// The transfer from host1 to host2.
    pub transfer: Option<Throughput>,
    /// Who carried host1's packets meanwhile.
    pub carried: Carried,
    /// The transfer in which host1's flanneld died.
    pub after_kill: Option<AfterKill>,
    /// What does not hold; empty if all is well.
    pub failures: Vec<String>,
}

/// A host and its lease.
#[derive(Debug, Serialize)]
pub struct Lease {
    /// Name of the host.
    pub host: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// MTU for its containers.
    pub mtu: u32,
    /// Mode of its fast path.
    pub mode: String,
    /// Why the mode is not what was asked for.
    pub reason: Option<String>,
    /// Where its programs are attached: `interface:program:kind`.
    pub hooks: Vec<String>,
}

/// One ping.
#[derive(Debug, Serialize)]
pub struct Ping {
    /// Whom.
    pub to: Ipv4Addr,
    /// Round trip in milliseconds, if it came back.
    pub ms: Option<f64>,
}

/// What happened when flanneld was killed.
#[derive(Debug, Serialize)]
pub struct AfterKill {
    /// The whole transfer; flanneld died in its middle.
    pub transfer: Throughput,
    /// Who carried host1's packets from then on.
    pub carried: Carried,
    /// A ping from host1 after the kill.
    pub ping: Ping,
    /// Whether the restarted flanneld got its former subnet.
    pub same_lease: bool,
}

impl Ping {
    /// Reads ping's output.
    pub fn new(to: Ipv4Addr, output: Result<String>) -> Self {
        let time = |text: String| text.split("time=").nth(1)?.split(' ').next()?.parse().ok();
        Self { to, ms: output.ok().and_then(time) }
    }
}

impl Report {
    /// Fills in what does not hold.
    pub fn judge(&mut self, nodes: usize) {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                failures.push(what.to_owned());
            }
        };
        let subnets: BTreeSet<_> = self.leases.iter().map(|lease| lease.subnet).collect();
        must(subnets.len() == nodes, "not every host has a subnet of its own");
        must(self.pings.iter().all(|ping| ping.ms.is_some()), "a ping was lost");
        must(self.transfer.as_ref().is_some_and(|run| run.gbit_per_s > 0.0), "the transfer moved nothing");
        must(self.carried.bpf > self.carried.kernel, "BPF did not carry most packets of the transfer");
        must(self.carried.kernel > 0, "no packet was counted as the kernel's, not even the first of the transfer");
        match &self.after_kill {
            Some(kill) => {
                must(
                    kill.transfer.longest_pause() <= LONGEST_PAUSE,
                    "the transfer stood still when flanneld was killed",
                );
                must(kill.carried.bpf > 0, "BPF carried nothing after the kill");
                must(kill.carried.kernel > 0, "the kernel carried nothing after the kill");
                must(kill.ping.ms.is_some(), "a ping after the kill was lost");
                must(kill.same_lease, "the restarted flanneld got another subnet");
            }
            None => must(false, "flanneld was not killed"),
        }
        self.failures = failures;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<8}{:<15}{:<18}{:<6}fast path", "host", "address", "subnet", "MTU")?;
        for lease in &self.leases {
            let mode = lease.reason.as_ref().map_or(lease.mode.clone(), |reason| format!("{} ({reason})", lease.mode));
            let hooks = lease.hooks.iter().filter(|hook| !hook.ends_with(":none")).count();
            let (address, subnet) = (lease.address.to_string(), lease.subnet.to_string());
            writeln!(f, "{:<8}{address:<15}{subnet:<18}{:<6}{mode}, {} hooks", lease.host, lease.mtu, hooks)?;
        }
        writeln!(f)?;
        for ping in &self.pings {
            writeln!(f, "ping {}: {}", ping.to, ping_text(ping))?;
        }
        if let Some(run) = &self.transfer {
            writeln!(f, "iperf3 host1 -> host2: {}", throughput_text(run, self.carried))?;
        }
        if let Some(kill) = &self.after_kill {
            writeln!(f, "\nflanneld of host1 killed with -9 in the middle of a transfer:")?;
            writeln!(
                f,
                "  transfer: {} Gb/s, longest pause {:?}",
                kill.transfer.gbit_per_s,
                kill.transfer.longest_pause()
            )?;
            writeln!(f, "  since the kill: {}", carried_text(kill.carried))?;
            writeln!(f, "  ping {}: {}", kill.ping.to, ping_text(&kill.ping))?;
            writeln!(f, "  restarted: {} subnet", if kill.same_lease { "the same" } else { "ANOTHER" })?;
        }
        for failure in &self.failures {
            writeln!(f, "NOT TRUE: {failure}")?;
        }
        if self.failures.is_empty() { writeln!(f, "\nall of it holds") } else { Ok(()) }
    }
}

fn ping_text(ping: &Ping) -> String {
    ping.ms.map_or("LOST".to_owned(), |ms| format!("{ms} ms"))
}

fn throughput_text(run: &Throughput, carried: Carried) -> String {
    format!("{} Gb/s, {} retransmits; {}", run.gbit_per_s, run.retransmits, carried_text(carried))
}

fn carried_text(carried: Carried) -> String {
    format!("{} packets by BPF, {} by the kernel ({} % by BPF)", carried.bpf, carried.kernel, carried.bpf_percent())
}
