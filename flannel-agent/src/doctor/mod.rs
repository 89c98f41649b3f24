//! Looks for everything that is known to break container networks: gathers facts, then judges them.
//!
//! [`facts`] reads the host and changes nothing; [`checks`] are pure functions from facts to findings, so that each can be
//! tested without the fault. `--peer` sends packets of its own ([`probe`]).

pub mod checks;
pub mod facts;
mod probe;
mod store;

use serde::Serialize;

use crate::{
    admin::client::Client,
    cli::flannelctl::{Doctor, Output},
    ctl::{Outcome, is_table, print, print_json},
};

/// Something that is wrong, or soon will be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A stable word for it.
    pub code: &'static str,
    /// What is wrong, with the object's name.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// The command, or the setting, that mends it.
    pub remedy: String,
}

/// How bad a finding is; the worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Packets are lost, or will be.
    Broken,
    /// It works, but not as it should.
    Warning,
    /// Good to know; nothing is wrong.
    Note,
}

impl Level {
    fn label(self) -> &'static str {
        match self {
            Self::Broken => "BROKEN ",
            Self::Warning => "warning",
            Self::Note => "note   ",
        }
    }
}

/// `flannelctl doctor`.
pub async fn run(client: &Client, output: Output, what: &Doctor) -> anyhow::Result<Outcome> {
    let mut facts = facts::gather(client, &what.places).await;
    facts.ping_peers().await;
    if what.peer.is_some() {
        // The probe finds the largest packet itself.
        facts.large_pings.clear();
    }
    let mut findings = checks::all(&facts);
    if let Some(peer) = what.peer {
        findings.extend(probe::peer(&facts, peer).await);
    }
    findings.sort();
    findings.dedup();
    if is_table(output) {
        print(&report(&findings, &facts))?;
    } else {
        print_json(&findings, false)?;
    }
    let well = findings.iter().all(|finding| finding.level == Level::Note);
    Ok(if well { Outcome::Well } else { Outcome::Wrong })
}

/// The findings for people: what is wrong in a line, then why it matters and what mends it.
fn report(findings: &[Finding], facts: &facts::Facts) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!(
            "{} {}: {}\n        why:    {}\n        remedy: {}\n",
            finding.level.label(),
            finding.code,
            finding.what,
            finding.why,
            finding.remedy
        ));
    }
    if findings.iter().all(|finding| finding.level == Level::Note) {
        text.push_str("nothing is wrong\n");
    }
    for unread in &facts.unread {
        text.push_str(&format!("not checked: {unread}\n"));
    }
    text
}
