//! `cargo xtask setup`: find out what is missing, say what will be installed, install it.

mod apt;
pub(crate) mod parts;
pub(crate) mod toolchain;

use anyhow::{Result, bail, ensure};

use crate::shell::{check, shown, which};
use parts::PARTS;

/// Options of the verb.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only print what is missing and how to install it.
    #[arg(long)]
    dry_run: bool,
}

/// What is missing, and what brings it.
#[derive(Debug, Default)]
struct Plan {
    missing: Vec<String>,
    packages: Vec<String>,
    link_compiler: bool,
    linker_llvm: Option<u32>,
}

/// What to do where apt has neither Debian's compiler nor an LLVM that is as new as nightly's.
const NO_COMPILER: &str = "`rustup toolchain install nightly --component rust-src`, `cargo install cargo-binstall`, \
                           `cargo binstall bpf-linker`, then run this again";

/// Runs the verb; does nothing, in silence but for one line, if nothing is missing.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !ensure_ready(args.dry_run)? {
        println!("setup: everything is there");
    }
    Ok(())
}

/// What the other verbs call first: silent if nothing is missing. Says whether anything was.
pub(crate) fn ensure_ready(dry_run: bool) -> Result<bool> {
    ensure!(which("rustup").is_some(), "rustup is missing: install it from https://rustup.rs, then run this again");
    let mut plan = missing();
    if plan.missing.is_empty() {
        return Ok(false);
    }
    println!("setup: missing: {}", plan.missing.join(", "));
    if !dry_run && plan.lists_are_too_old() && apt::obstacle().is_none() {
        println!("setup: refreshing apt's lists");
        apt::update()?;
        plan = missing();
    }
    if !dry_run && toolchain::compiler().is_none() && !toolchain::apt_has_compiler() {
        println!("setup: trying rustup for a nightly compiler with its sources");
        toolchain::fetch_nightly();
        plan = missing();
    }
    print_plan(&plan);
    if dry_run {
        bail!("not ready: run `cargo xtask setup`");
    }
    if let Some(obstacle) = plan.needs_apt().then(apt::obstacle).flatten() {
        bail!("{obstacle}: install the above by hand, then run this again");
    }
    install(&plan)?;
    let left = missing().missing;
    ensure!(left.is_empty(), "still missing after the installation: {}", left.join(", "));
    println!("setup: done");
    Ok(true)
}

impl Plan {
    fn needs_apt(&self) -> bool {
        !self.packages.is_empty()
    }

    fn lists_are_too_old(&self) -> bool {
        let can_build = toolchain::compiler().is_some() || self.link_compiler;
        let can_link = self.linker_llvm.is_some() || toolchain::has_linker();
        !can_build || !can_link || !self.packages.iter().all(|package| toolchain::apt_knows(package))
    }
}

fn missing() -> Plan {
    let mut plan = Plan::default();
    for part in PARTS.iter().filter(|part| !part.is_present()) {
        plan.missing.push(part.name().to_owned());
        plan.packages.push(part.package.to_owned());
    }
    if toolchain::compiler().is_none() {
        plan.missing.push("a compiler for BPF".to_owned());
        plan.link_compiler = toolchain::apt_has_compiler();
        if plan.link_compiler {
            plan.packages.extend(toolchain::DEBIAN_COMPILER.map(ToOwned::to_owned));
        }
    }
    if !toolchain::has_linker() {
        plan.missing.push("bpf-linker".to_owned());
        let llvm = toolchain::linker_llvm();
        plan.packages.extend(llvm.map(toolchain::linker_packages).unwrap_or_default());
        plan.linker_llvm = llvm;
    }
    plan.packages.sort();
    plan.packages.dedup();
    plan
}

fn print_plan(plan: &Plan) {
    println!("setup: will install");
    if plan.needs_apt() {
        println!("  by apt:    {}", plan.packages.join(" "));
    }
    if plan.link_compiler {
        println!("  by rustup: {}", shown(&toolchain::link_command()));
    }
    if let Some(llvm) = plan.linker_llvm {
        println!("  by cargo:  LLVM_PREFIX=/usr/lib/llvm-{llvm} {}", shown(&toolchain::linker_command(llvm)));
    }
}

fn install(plan: &Plan) -> Result<()> {
    apt::install(&plan.packages)?;
    if plan.link_compiler {
        check(&mut toolchain::link_command())?;
    }
    ensure!(toolchain::compiler().is_some(), "no compiler for BPF: {NO_COMPILER}");
    if toolchain::has_linker() {
        return Ok(());
    }
    // The lists were refreshed by now if they had to be, and the compiler is there: look again.
    let llvm = plan.linker_llvm.or_else(|| apt::update().ok().and_then(|()| toolchain::linker_llvm()));
    match llvm {
        Some(llvm) => {
            apt::install(&toolchain::linker_packages(llvm))?;
            check(&mut toolchain::linker_command(llvm))
        }
        None if which("cargo-binstall").is_some() => {
            check(std::process::Command::new("cargo").args(["binstall", "--no-confirm", "bpf-linker"]))
        }
        None => bail!("apt has no LLVM that bpf-linker could use: {NO_COMPILER}"),
    }
}
