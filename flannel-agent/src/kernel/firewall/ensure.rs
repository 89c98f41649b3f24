//! One look at the rules: list them, compare, and write the difference.

use std::{path::Path, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::time::sleep;

use super::{
    Firewall, FirewallError, Known, Mode, Overlay, Report, Rules,
    events::Events,
    iptables::{self, Iptables},
    nft::{self, Nft},
    rules::{Chains, Dialect, Family, chains},
};
use crate::kernel::sysctl;

/// Another agent may write at the same moment; then one of us reads and compares again.
const ATTEMPTS: u32 = 4;

/// The programs of a family.
struct Binaries {
    iptables: &'static str,
    save: &'static str,
    restore: &'static str,
}

const V4: Binaries = Binaries { iptables: "iptables", save: "iptables-save", restore: "iptables-restore" };
const V6: Binaries = Binaries { iptables: "ip6tables", save: "ip6tables-save", restore: "ip6tables-restore" };

impl Firewall {
    pub(super) async fn look(&mut self) -> Result<Report, FirewallError> {
        let mut report = Report::default();
        if let Some(known) = self.known {
            self.apply(known, &mut report).await?;
            return Ok(report);
        }
        self.listen(&mut report);
        self.clean_unused(&mut report).await;
        let known = self.probe(&mut report).await?;
        self.apply(known, &mut report).await?;
        // Not before all went well, so that the warnings come once and with a report.
        self.known = Some(known);
        Ok(report)
    }

    fn listen(&mut self, report: &mut Report) {
        if self.events.is_none() {
            match Events::open() {
                Ok(events) => self.events = Some(events),
                Err(error) => report.warnings.push(format!(
                    "the kernel does not tell of changes of its rules ({error}): they are checked every {} s",
                    self.resync.as_secs()
                )),
            }
        }
    }

    /// Finds out what the programs can do.
    async fn probe(&self, report: &mut Report) -> Result<Known, FirewallError> {
        let tells = self.events.is_some();
        if self.mode == Mode::Nftables {
            let random_fully = self.rules.masquerade && self.rules.random_fully && {
                let scratch = "add table ip flannel-probe\n\
                    add chain ip flannel-probe masqueradeTest { type nat hook postrouting priority srcnat; }\n\
                    add rule ip flannel-probe masqueradeTest masquerade fully-random\n";
                self.programs.run("nft", &["--check", "-f", "-"], scratch).await.is_ok()
            };
            return Ok(Known { tells, random_fully, waits: false });
        }
        if !self.rules.are_wanted() {
            return Ok(Known { tells, random_fully: false, waits: false });
        }
        let version = self.programs.run(V4.iptables, &["--version"], "").await?;
        if !sysctl::bridge_netfilter() {
            report.warnings.push(
                "br_netfilter is not loaded: packets between containers of one bridge do not pass iptables, so they \
                 do not reach published ports or Kubernetes services of their own host; if that matters: modprobe br_netfilter"
                    .to_owned(),
            );
        }
        let new_enough = version_of(&version) >= (1, 6, 2);
        Ok(Known {
            tells: tells && version.contains("nf_tables"),
            random_fully: self.rules.random_fully && new_enough,
            waits: new_enough,
        })
    }

    /// Takes away what the other mode left, as far as it is ours. Its programs need not be there.
    async fn clean_unused(&self, report: &mut Report) {
        let nothing = Rules { masquerade: false, forward: false, exempt: Vec::new(), ..self.rules.clone() };
        let known = Known { tells: false, random_fully: false, waits: false };
        let cleaned = match self.mode {
            Mode::Iptables => self.nftables(&nothing, known, false, report).await,
            Mode::Nftables => self.iptables(&nothing, known, report).await,
        };
        if let Err(error) = cleaned {
            tracing::debug!(%error, "rules of the other mode are not cleaned up");
        }
    }

    async fn apply(&self, known: Known, report: &mut Report) -> Result<(), FirewallError> {
        match self.mode {
            Mode::Iptables => self.iptables(&self.rules, known, report).await,
            Mode::Nftables => self.nftables(&self.rules, known, self.rules.are_wanted(), report).await,
        }
    }

    async fn iptables(&self, rules: &Rules, known: Known, report: &mut Report) -> Result<(), FirewallError> {
        let v4 = self.v4::<Iptables>(rules, known);
        self.restore(&V4, &v4, known, report).await?;
        if rules.v6.is_some() {
            let v6 = self.v6::<Iptables>(rules, known);
            self.restore(&V6, &v6, known, report).await?;
        }
        Ok(())
    }

    async fn restore(
        &self,
        binaries: &Binaries,
        wanted: &Chains,
        known: Known,
        report: &mut Report,
    ) -> Result<(), FirewallError> {
        let mut last = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let text = match self.programs.run(binaries.save, &[], "").await {
                Ok(text) => text,
                // Where nothing is wanted, there is nothing to miss.
                Err(FirewallError::Missing { .. }) if wanted.are_none() => return Ok(()),
                Err(error) => return Err(error),
            };
            let failed = |message| FirewallError::Failed { command: binaries.save.to_owned(), message };
            let saved = iptables::parse(&text).map_err(failed)?;
            let changes = iptables::changes(&saved, wanted);
            if changes.is_empty() {
                return Ok(());
            }
            let lines: Vec<String> = changes
                .iter()
                .flat_map(|(table, lines)| {
                    lines.iter().map(move |line| format!("{} -t {table} {line}", binaries.iptables))
                })
                .collect();
            if lines == last {
                return Err(FirewallError::Unreadable { command: binaries.save, difference: lines.join("; ") });
            }
            let args: &[&str] = if known.waits { &["--noflush", "--wait"] } else { &["--noflush"] };
            match self.programs.run(binaries.restore, args, &iptables::restore(&changes)).await {
                Ok(_) => {
                    report.changes.extend(lines.iter().cloned());
                    last = lines;
                }
                Err(error) if attempt == ATTEMPTS || matches!(error, FirewallError::Missing { .. }) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "rules not written; reading them again");
                    stand_aside(attempt).await;
                }
            }
        }
        Ok(())
    }

    async fn nftables(
        &self,
        rules: &Rules,
        known: Known,
        keep: bool,
        report: &mut Report,
    ) -> Result<(), FirewallError> {
        let (v4, v6) = (self.v4::<Nft>(rules, known), self.v6::<Nft>(rules, known));
        // A kernel without IPv6 has no place for the second table.
        let has_v6 = Path::new("/proc/net/if_inet6").exists();
        let mut last = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let mut script = nft::script::<Ipv4Net>(&self.list::<Ipv4Net>().await?, &v4, keep);
            if has_v6 {
                script.extend(nft::script::<Ipv6Net>(&self.list::<Ipv6Net>().await?, &v6, keep));
            }
            if script.is_empty() {
                return Ok(());
            }
            let rules: Vec<&String> = script.iter().filter(|line| !line.starts_with("delete rule")).collect();
            if !rules.is_empty() && rules.iter().copied().eq(&last) {
                let difference = script.join("; ");
                return Err(FirewallError::Unreadable { command: "nft", difference });
            }
            last = rules.into_iter().cloned().collect();
            match self.programs.run("nft", &["-f", "-"], &(script.join("\n") + "\n")).await {
                Ok(_) => report.changes.extend(script.into_iter().map(|line| format!("nft {line}"))),
                Err(error) if attempt == ATTEMPTS || matches!(error, FirewallError::Missing { .. }) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "rules not written; reading them again");
                    last.clear();
                    stand_aside(attempt).await;
                }
            }
        }
        Ok(())
    }

    async fn list<F: Family>(&self) -> Result<nft::Listed, FirewallError> {
        let mut args = vec!["-a", "list", "table"];
        args.extend(nft::table::<F>().split(' '));
        match self.programs.run("nft", &args, "").await {
            Ok(text) => Ok(Some(nft::parse(&text))),
            Err(FirewallError::Failed { message, .. }) if message.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn v4<D: Dialect>(&self, rules: &Rules, known: Known) -> Chains {
        let previous = self.previous.network.zip(self.previous.subnet);
        let previous = previous.map(|(network, subnet)| Overlay { network, subnet });
        chains::<D, _>(rules, rules.v4, previous, known.random_fully)
    }

    fn v6<D: Dialect>(&self, rules: &Rules, known: Known) -> Chains {
        let previous = self.previous.v6_network.zip(self.previous.v6_subnet);
        let previous = previous.map(|(network, subnet)| Overlay { network, subnet });
        chains::<D, _>(rules, rules.v6, previous, known.random_fully)
    }
}

/// Lets another agent finish; not two of us for the same time.
async fn stand_aside(attempt: u32) {
    let ms = 10 + u64::from(std::process::id().wrapping_mul(attempt) % 64);
    sleep(Duration::from_millis(ms)).await;
}

/// The numbers in `iptables v1.8.9 (nf_tables)`; zeros if there are none.
fn version_of(text: &str) -> (u32, u32, u32) {
    let digits = text.split_once(" v").map_or("", |(_, rest)| rest);
    let end = digits.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut numbers = digits[..end].split('.').map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}
