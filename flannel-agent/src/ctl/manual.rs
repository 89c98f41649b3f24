//! Completions and manual pages.

use std::{fs, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{Outcome, print};
use crate::cli::flannelctl::Flannelctl;

pub(super) fn completions(shell: clap_complete::Shell) -> anyhow::Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Flannelctl::command(), "flannelctl", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Well)
}

/// Writes a page for the program and one for each verb.
pub(super) fn pages(folder: &Path) -> anyhow::Result<Outcome> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    clap_mangen::generate_to(Flannelctl::command(), folder)
        .with_context(|| format!("writing manual pages to {}", folder.display()))?;
    print(&format!("manual pages are in {}; read one with man -l\n", folder.display()))?;
    Ok(Outcome::Well)
}
