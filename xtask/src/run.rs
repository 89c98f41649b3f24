//! `cargo xtask run`: flanneld on this host, with an etcd and a configuration if there are none.

mod etcd;
mod report;

use std::{env, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{Profile, binaries},
    setup,
    shell::{as_root, mount_bpffs, shown},
};

/// Where flanneld writes subnet.env unless told otherwise.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
/// flannel's own default prefix in etcd.
const PREFIX: &str = "/coreos.com/network";

/// Options of the verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Flags for flanneld, after `--`.
    #[arg(last = true)]
    flanneld: Vec<String>,
    /// Internal: wait until flanneld has its lease, print the summary, end.
    #[arg(long, hide = true)]
    report: bool,
}

/// Runs the verb. It becomes flanneld, so that Ctrl-C and the exit code are flanneld's own.
pub(crate) fn run(args: &Args) -> Result<()> {
    let flags = Flags(&args.flanneld);
    let subnet_file = flags.value("subnet-file").unwrap_or_else(|| SUBNET_FILE.to_owned());
    if args.report {
        return report::print(&subnet_file);
    }
    setup::ensure_ready(false)?;
    let folder = binaries(Profile::Release, &["-p", "flannel-agent", "--bins"])?;
    mount_bpffs()?;
    let prefix = flags.value("etcd-prefix").unwrap_or_else(|| PREFIX.to_owned());
    let store = etcd::ready(&flags)?;
    etcd::write_default_config(&store, &prefix)?;
    Command::new(env::current_exe()?)
        .args(["run", "--report", "--"])
        .args(&args.flanneld)
        .spawn()
        .context("start the process that prints the summary")?;
    let mut flanneld = as_root(folder.join("flanneld"));
    flanneld.args(&args.flanneld);
    println!("flanneld:  {}", shown(&flanneld));
    bail!("start flanneld: {}", flanneld.exec());
}

/// flanneld's flags as they stand on the command line.
pub(crate) struct Flags<'a>(&'a [String]);

impl Flags<'_> {
    /// The last value of a flag (`-name=value`, `--name value`), or of its environment variable.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let is_name = |word: &str| word.starts_with('-') && word.trim_start_matches('-') == name;
        let at = |(index, word): (usize, &String)| match word.split_once('=') {
            Some((flag, value)) if is_name(flag) => Some(value.to_owned()),
            None if is_name(word) => self.0.get(index + 1).cloned(),
            _ => None,
        };
        let variable = format!("FLANNELD_{}", name.replace('-', "_").to_uppercase());
        self.0.iter().enumerate().filter_map(at).next_back().or_else(|| env::var(variable).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    #[test]
    fn flags_are_read_as_flanneld_reads_them() {
        let words = ["-etcd-prefix=/a", "--etcd-endpoints", "http://x:1", "-iface=eth0", "--etcd-prefix=/b"];
        let words = words.map(ToOwned::to_owned);
        let flags = Flags(&words);
        assert_eq!(flags.value("etcd-prefix").as_deref(), Some("/b"), "the last one wins");
        assert_eq!(flags.value("etcd-endpoints").as_deref(), Some("http://x:1"));
        assert_eq!(flags.value("subnet-file"), None);
    }
}
