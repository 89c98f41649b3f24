//! `cargo xtask build`: flanneld and flannelctl, with their BPF programs inside.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    setup,
    shell::{cargo, check, target_dir},
};

/// Options of the verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build for development: faster to build, slower to run.
    #[arg(long)]
    debug: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(false)?;
    let profile = if args.debug { Profile::Dev } else { Profile::Release };
    let folder = binaries(profile, &["-p", "flannel-agent", "--bins"])?;
    println!("built {} and {}", folder.join("flanneld").display(), folder.join("flannelctl").display());
    Ok(())
}

/// How to build.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// As tests are built.
    Dev,
    /// As it is shipped.
    Release,
}

/// Builds what the cargo flags in `what` select and gives the folder of the binaries.
pub(crate) fn binaries(profile: Profile, what: &[&str]) -> Result<PathBuf> {
    let mut command = cargo(["build"]);
    command.args(what);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    check(&mut command)?;
    Ok(target_dir().join(folder))
}
