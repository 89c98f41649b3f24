//! `cargo xtask test`: build what tests need, run them, and count passed, failed and skipped ones.

mod count;

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use count::Count;

use crate::{
    build::{Profile, binaries},
    setup,
    shell::{cargo, is_root, mount_bpffs, root, target_dir},
};

/// Suites of `tests/tests` that make whole clusters; the others need the kernel or a store only.
const CLUSTER_SUITES: [&str; 4] = ["cluster", "dropin", "docker", "scale"];

/// Options of the verb.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Which tests; all of them by default.
    kind: Option<Kind>,
    /// What must be testable here: `all` turns skips into failures.
    #[arg(long)]
    require: Option<Required>,
    /// Only tests whose name contains this.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Tests beside the code: they need nothing.
    Unit,
    /// One node: the real kernel, store and programs.
    Kernel,
    /// Many nodes in network namespaces.
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Required {
    /// Everything.
    All,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(false)?;
    let folder = binaries(Profile::Dev, &["-p", "flannel-agent", "--bins"])?;
    if args.kind != Some(Kind::Unit) {
        mount_bpffs()?;
    }
    let mut count = Count::default();
    let skip_log = target_dir().join("skipped-tests");
    fs::remove_file(&skip_log).ok();
    for selection in selections(args.kind)? {
        let mut command = cargo(["test", "--no-fail-fast"]);
        command.args(selection).args(args.name.as_deref());
        command.env("FLANNEL_BIN_DIR", &folder).env("FLANNEL_SKIP_LOG", &skip_log);
        if args.require.is_some() {
            command.env("FLANNEL_REQUIRE", "all");
        }
        if !is_root() {
            command.env(runner_variable(), "sudo -E");
        }
        count.add(command)?;
    }
    count.report(&skip_log)
}

/// The flags of each `cargo test` that the kind asks for.
fn selections(kind: Option<Kind>) -> Result<Vec<Vec<String>>> {
    let words = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
    let unit = words("--workspace --exclude flannel-ebpf --lib --bins");
    let suites = |wanted: &dyn Fn(&str) -> bool| -> Result<Vec<String>> {
        let mut flags = words("-p flannel-agent -p flannel-common -p flannel-tests");
        for suite in suite_names()?.into_iter().filter(|suite| wanted(suite)) {
            flags.extend(["--test".to_owned(), suite]);
        }
        Ok(flags)
    };
    Ok(match kind {
        None => vec![words("--workspace --exclude flannel-ebpf")],
        Some(Kind::Unit) => vec![unit],
        Some(Kind::Kernel) => vec![suites(&|suite| !CLUSTER_SUITES.contains(&suite))?],
        Some(Kind::Cluster) => vec![suites(&|suite| CLUSTER_SUITES.contains(&suite))?],
    })
}

fn suite_names() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for package in ["flannel-agent", "flannel-common", "tests"] {
        let Ok(entries) = fs::read_dir(root().join(package).join("tests")) else { continue };
        for path in entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<PathBuf>, _>>()? {
            if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
    }
    Ok(names)
}

/// The variable that makes cargo start tests through another program: they need root.
fn runner_variable() -> String {
    format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase())
}
