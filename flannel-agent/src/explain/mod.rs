//! The way of a packet through this node, step by step.

use crate::{
    admin::client::Client,
    cli::flannelctl::{Explain, Output},
    ctl::Outcome,
};

/// `flannelctl explain`.
pub async fn run(_client: &Client, _output: Output, _packet: &Explain) -> anyhow::Result<Outcome> {
    Ok(Outcome::Well)
}
