//! The verbs that ask once and print.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Outcome, is_table, lists, print, print_json, status as screen};
use crate::{
    admin::{LeaseRow, PeerRow, client::Client},
    cli::flannelctl::{Flows, Output},
    events::now,
    http::faults,
    state::{NodeState, PeerWay},
    traffic::{Count, FlowRow},
};

/// What one look gives: the text to print, and whether something is wrong.
pub(super) struct Look {
    text: String,
    outcome: Outcome,
}

/// Looks once, or every `seconds` until interrupted.
pub(super) async fn repeat(
    seconds: Option<u64>,
    output: Output,
    look: impl AsyncFn() -> anyhow::Result<Look>,
) -> anyhow::Result<Outcome> {
    let Some(seconds) = seconds else {
        let Look { text, outcome } = look().await?;
        print(&text)?;
        return Ok(outcome);
    };
    // Clears the screen and goes home; a file gets the looks one below the other.
    let clear = if is_table(output) && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    loop {
        let text = match look().await {
            Ok(Look { text, .. }) if is_table(output) => text,
            Ok(Look { text, .. }) => one_line(&text),
            Err(error) => format!("flannelctl: {error:#}\n"),
        };
        print(&format!("{clear}{text}"))?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

/// A JSON document without its line breaks.
fn one_line(text: &str) -> String {
    serde_json::from_str::<Box<serde_json::value::RawValue>>(text)
        .ok()
        .and_then(|raw| serde_json::from_str::<serde_json::Value>(raw.get()).ok())
        .map_or_else(|| text.to_owned(), |value| format!("{value}\n"))
}

fn look<T: Serialize>(output: Output, value: &T, table: impl FnOnce() -> String, well: bool) -> anyhow::Result<Look> {
    let text = if is_table(output) { table() } else { serde_json::to_string_pretty(value)? + "\n" };
    Ok(Look { text, outcome: if well { Outcome::Well } else { Outcome::Wrong } })
}

async fn ask<T: DeserializeOwned>(client: &Client, target: &str) -> anyhow::Result<T> {
    Ok(client.get(target).await?)
}

pub(super) async fn status(client: &Client, output: Output) -> anyhow::Result<Look> {
    let node: NodeState = ask(client, "/v1/status").await?;
    let counts: Vec<Count> = ask(client, "/v1/counts").await.unwrap_or_default();
    let flows: Option<u64> = ask(client, "/v1/flow-count").await.unwrap_or_default();
    let now = now();
    look(output, &node, || screen::screen(&node, &counts, flows, now), faults(&node, now).is_empty())
}

pub(super) async fn leases(client: &Client, output: Output) -> anyhow::Result<Look> {
    let rows: Vec<LeaseRow> = ask(client, "/v1/leases").await?;
    look(output, &rows, || lists::leases(&rows), true)
}

pub(super) async fn peers(client: &Client, output: Output) -> anyhow::Result<Look> {
    let rows: Vec<PeerRow> = ask(client, "/v1/peers").await?;
    let well = rows.iter().all(|row| row.peer.way != PeerWay::Unreachable);
    look(output, &rows, || lists::peers(&rows, now()), well)
}

pub(super) async fn flows(client: &Client, output: Output, which: &Flows) -> anyhow::Result<Look> {
    let filter = which.address.map_or(String::new(), |address| format!("?address={address}"));
    let rows: Vec<FlowRow> = ask(client, &format!("/v1/flows{filter}")).await?;
    let rows = lists::busiest(rows, which.sort, which.limit);
    look(output, &rows, || lists::flows(&rows), true)
}

/// Prints an answer as it is.
pub(super) fn answer<T: Serialize>(output: Output, value: &T, text: &str) -> anyhow::Result<Outcome> {
    if is_table(output) {
        print(text)?;
    } else {
        print_json(value, false)?;
    }
    Ok(Outcome::Well)
}
