//! `cargo xtask lint`: formatting, clippy, and the rules of the architecture.

mod rules;

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    setup::{self, toolchain},
    shell::{cargo, check, root, succeeds},
};

/// Runs the verb: every check, then says which failed.
pub(crate) fn run() -> Result<()> {
    setup::ensure_ready(false)?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    };
    step("rules", rules::run(root()));
    for component in ["rustfmt", "clippy"] {
        step(component, add_component(component));
    }
    step("formatting", check(&mut cargo(["fmt", "--all", "--check"])));
    let clippy =
        ["clippy", "--quiet", "--workspace", "--exclude", "flannel-ebpf", "--all-targets", "--", "-D", "warnings"];
    step("clippy", check(&mut cargo(clippy)));
    step("clippy of flannel-ebpf", lint_ebpf());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("lint: all clean");
    Ok(())
}

/// Clippy for the BPF programs, where their compiler has one; else its plain warnings.
fn lint_ebpf() -> Result<()> {
    let Some(compiler) = toolchain::compiler() else { bail!("no compiler for BPF: run `cargo xtask setup`") };
    let has_clippy = succeeds(Command::new("rustup").args(["run", compiler, "cargo-clippy", "--version"]));
    let verb = if has_clippy { "clippy" } else { "check" };
    let mut command = Command::new("rustup");
    command.current_dir(root()).args(["run", compiler, "cargo", verb, "--quiet", "--package", "flannel-ebpf"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir", "target/lint-ebpf"]);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("--cfg bpf_target_arch=\"{}\" -D warnings", std::env::consts::ARCH));
    check(&mut command)
}

fn add_component(component: &str) -> Result<()> {
    let program = format!("cargo-{}", component.trim_start_matches("rust"));
    if succeeds(Command::new(program).arg("--version")) {
        return Ok(());
    }
    check(Command::new("rustup").args(["component", "add", component]))
}
