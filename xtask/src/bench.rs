//! `cargo xtask bench`: build, and hand over to the benchmark program of `tests`.

use anyhow::Result;

use crate::{
    build::{Profile, binaries},
    setup,
    shell::{as_root, check, mount_bpffs},
};

/// Options of the verb.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the benchmark program is given: `--help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

impl Args {
    /// What the continuous integration runs: everything works and is counted; times are not judged.
    pub(crate) fn smoke() -> Self {
        Self { arguments: vec!["--quick".to_owned(), "--rounds=1".to_owned()] }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(false)?;
    let folder = binaries(Profile::Release, &["-p", "flannel-agent", "-p", "flannel-tests", "--bins"])?;
    mount_bpffs()?;
    let mut bench = as_root(folder.join("bench"));
    check(bench.env("FLANNEL_BIN_DIR", &folder).args(&args.arguments))
}
