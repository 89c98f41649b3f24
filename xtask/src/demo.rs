//! `cargo xtask demo`: build, and hand over to the demo program of `tests`.

use anyhow::Result;

use crate::{
    build::{Profile, binaries},
    setup,
    shell::{as_root, check, mount_bpffs},
};

/// Options of the verb.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of hosts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    nodes: u8,
    /// Fail unless everything that the demo shows holds.
    #[arg(long)]
    check: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Leave the cluster up and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// Remove the clusters that --keep has left, and do nothing else.
    #[arg(long)]
    remove: bool,
}

impl Args {
    /// What the continuous integration runs.
    pub(crate) const CI: Self = Self { nodes: 3, check: true, json: false, keep: false, remove: false };
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(false)?;
    let folder = binaries(Profile::Release, &["-p", "flannel-agent", "-p", "flannel-tests", "--bins"])?;
    mount_bpffs()?;
    let mut demo = as_root(folder.join("demo"));
    demo.env("FLANNEL_BIN_DIR", &folder).args(["--nodes", &args.nodes.to_string()]);
    for (flag, is_set) in
        [("--check", args.check), ("--json", args.json), ("--keep", args.keep), ("--remove", args.remove)]
    {
        if is_set {
            demo.arg(flag);
        }
    }
    check(&mut demo)
}
