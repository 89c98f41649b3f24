//! `cargo xtask dist`: a Debian package, an RPM and a tarball, each with the binaries, units and settings of a node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{Profile, binaries},
    setup,
    shell::{cargo, check, output_of, root, target_dir, which},
};

/// What builds the packages: the cargo subcommand and the crate it comes from.
const TOOLS: [&str; 2] = ["cargo-deb", "cargo-generate-rpm"];

/// Files of the tarball: where they are in the repository, where they go below the root, and whether they are programs.
const FILES: [(&str, &str, bool); 6] = [
    ("flannel-agent/dist/flanneld-start", "usr/bin/flanneld-start", true),
    ("flannel-agent/dist/mk-docker-opts.sh", "usr/libexec/flannel/mk-docker-opts.sh", true),
    ("flannel-agent/dist/flanneld.service", "usr/lib/systemd/system/flanneld.service", false),
    ("flannel-agent/dist/docker-flannel.conf", "usr/lib/systemd/system/docker.service.d/flannel.conf", false),
    ("flannel-agent/dist/sysconfig-flanneld", "etc/sysconfig/flanneld", false),
    ("README.md", "usr/share/doc/flannel/README.md", false),
];

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    setup::ensure_ready(false)?;
    for tool in TOOLS {
        let verb = tool.trim_start_matches("cargo-");
        if which(tool).is_none() && output_of(&mut cargo([verb, "--version"])).is_none() {
            println!("installing {tool}");
            check(cargo(["install", "--locked", tool]).current_dir("/"))?;
        }
    }
    let built = binaries(Profile::Release, &["-p", "flannel-agent", "--bins"])?;
    // Line numbers of a backtrace are not worth four times the size of a package.
    check(Command::new("strip").arg("--strip-debug").args(["flanneld", "flannelctl"].map(|name| built.join(name))))?;
    let out = target_dir().join("dist");
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let tarball = tarball(&built, &out)?;
    let name = |suffix: &str| out.join(format!("flannel{suffix}"));
    let (deb, rpm) = (name(".deb"), name(".rpm"));
    check(cargo(["deb", "--no-build", "--package", "flannel-agent", "--output"]).arg(&deb))?;
    check(cargo(["generate-rpm", "--package", "flannel-agent", "--output"]).arg(&rpm))?;
    for package in [tarball, deb, rpm] {
        println!("{}", package.display());
    }
    Ok(())
}

/// The tarball holds the files as they lie below `/`.
fn tarball(built: &Path, out: &Path) -> Result<PathBuf> {
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    for binary in ["flanneld", "flannelctl"] {
        install(&built.join(binary), &tree.join("usr/bin").join(binary), true)?;
    }
    for (from, to, program) in FILES {
        install(&root().join(from), &tree.join(to), program)?;
    }
    let tarball = out.join("flannel.tar.gz");
    let owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-czf"];
    check(Command::new("tar").args(owner).arg(&tarball).arg("-C").arg(&tree).arg("."))?;
    Ok(tarball)
}

fn install(from: &Path, to: &Path, program: bool) -> Result<()> {
    let Some(folder) = to.parent() else { bail!("{} has no folder", to.display()) };
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mode = if program { "0755" } else { "0644" };
    check(Command::new("install").args(["-m", mode]).arg(from).arg(to))
}
