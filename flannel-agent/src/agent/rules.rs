//! Keeps the masquerade and forward rules in place, in a task of its own: a slow iptables must not delay routes.

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    events::EventLog,
    kernel::firewall::{Firewall, FirewallError, Report},
    state::Warning,
};

/// The task, and what it last had to say. The rules stay when it ends.
pub(super) struct RulesTask {
    task: JoinHandle<()>,
    warnings: watch::Receiver<Vec<Warning>>,
}

impl RulesTask {
    /// Puts the rules in place once, then watches over them.
    pub(super) async fn start(mut firewall: Firewall, events: EventLog) -> Self {
        let mut before = look(&mut firewall, &events, &[]).await;
        let (sender, warnings) = watch::channel(before.clone());
        let task = tokio::spawn(async move {
            loop {
                firewall.disturbed().await;
                before = look(&mut firewall, &events, &before).await;
                sender.send_replace(before.clone());
            }
        });
        Self { task, warnings }
    }

    /// What an operator should know of the rules.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        self.warnings.borrow().clone()
    }
}

impl Drop for RulesTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where no rules are wanted: takes away, once, those of a run with other flags. Nothing is left to watch over.
pub(super) async fn clear(mut firewall: Firewall, events: &EventLog) {
    match firewall.ensure().await {
        Ok(report) => {
            for change in report.changes {
                events.record("rules", change);
            }
        }
        Err(FirewallError::Missing { .. }) => {}
        Err(error) => events.fault("rules", format!("no rules are wanted, but some may be left: {error}")),
    }
}

/// One look: repairs what is missing, and says what is new since `before`.
async fn look(firewall: &mut Firewall, events: &EventLog, before: &[Warning]) -> Vec<Warning> {
    let warnings = match firewall.ensure().await {
        Ok(Report { changes, warnings }) => {
            for change in changes {
                events.record("rules", change);
            }
            warnings.into_iter().map(|text| warning(text, "flannelctl doctor")).collect()
        }
        Err(error) => vec![warning(
            error.to_string(),
            "mend that; the rules are put in place as soon as it works, and traffic between containers goes on meanwhile",
        )],
    };
    for new in warnings.iter().filter(|warning| !before.contains(warning)) {
        events.fault("rules", new.text.clone());
    }
    warnings
}

fn warning(text: String, remedy: &str) -> Warning {
    Warning { code: "rules".to_owned(), text, remedy: remedy.to_owned() }
}
