//! The operator's tool for a node agent.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use flannel_agent::{cli::flannelctl::Flannelctl, ctl};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ctl::run(Flannelctl::parse()).await.into()
}
