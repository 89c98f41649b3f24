//! The compiler and the linker of the BPF target, which has no precompiled `core`.
//!
//! Way 1: Debian's `rustc-web`, which comes with its own sources, linked as the toolchain `ebpf`. Its LLVM is one that apt has
//! for the linker too. Way 2, where apt does not know it: rustup's nightly with `rust-src`, whose LLVM is the newest there is.
//! The linker must be built on an LLVM that is not older than the compiler's.

use std::{path::Path, process::Command};

use crate::shell::{output_of, succeeds, which};

/// Name of the toolchain of way 1; `flannel-agent/build.rs` looks for it.
pub(crate) const LINKED: &str = "ebpf";
/// Debian packages of way 1.
pub(crate) const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];
/// The linker's version, and the LLVM versions that it knows, oldest first.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVMS: [u32; 3] = [21, 22, 23];
/// LLVM version of Debian's `rustc-web`.
const DEBIAN_LLVM: u32 = 22;

/// The toolchain that builds the BPF programs, if there is one that can: one with its sources, and with an LLVM for which
/// there is a linker, or can be.
pub(crate) fn compiler() -> Option<&'static str> {
    let any_linker = has_linker() || which("cargo-binstall").is_some();
    let can_link = |toolchain: &&str| any_linker || llvm_of(toolchain).and_then(apt_llvm).is_some();
    [LINKED, "nightly"].into_iter().filter(|toolchain| has_sources(toolchain)).find(can_link)
}

/// Whether way 1 is open.
pub(crate) fn apt_has_compiler() -> bool {
    DEBIAN_COMPILER.iter().all(|package| apt_knows(package))
}

/// Tries way 2; says nothing, and takes at most as long as rustup needs to find out that it cannot.
pub(crate) fn fetch_nightly() -> bool {
    let rustup = |args: &[&str]| succeeds(Command::new("rustup").env("RUSTUP_MAX_RETRIES", "0").args(args));
    rustup(&["component", "add", "rust-src", "--toolchain", "nightly"])
        || rustup(&["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"])
}

/// Links Debian's compiler for way 1.
pub(crate) fn link_command() -> Command {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "link", LINKED, "/usr"]);
    command
}

/// Whether the linker is there.
pub(crate) fn has_linker() -> bool {
    which("bpf-linker").is_some_and(|path| succeeds(Command::new(path).arg("--version")))
}

/// The LLVM to build the linker on, if apt has one that can read what the compiler writes.
pub(crate) fn linker_llvm() -> Option<u32> {
    apt_llvm(compiler().and_then(llvm_of).unwrap_or(DEBIAN_LLVM))
}

/// The oldest LLVM that apt knows from `needed` on.
fn apt_llvm(needed: u32) -> Option<u32> {
    LINKER_LLVMS.into_iter().find(|llvm| *llvm >= needed && apt_knows(&format!("llvm-{llvm}-dev")))
}

/// Debian packages that building the linker needs.
pub(crate) fn linker_packages(llvm: u32) -> Vec<String> {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".to_owned(), "g++".to_owned()].to_vec()
}

/// Builds and installs the linker on that LLVM.
pub(crate) fn linker_command(llvm: u32) -> Command {
    let mut command = Command::new("cargo");
    command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")).args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
    ]);
    command.args(["--locked", "--no-default-features", "--features", &format!("llvm-{llvm}")]);
    command
}

/// Whether apt's lists contain the package.
pub(crate) fn apt_knows(package: &str) -> bool {
    output_of(Command::new("apt-cache").args(["policy", package])).is_some_and(|text| {
        text.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.ends_with("(none)"))
    })
}

fn has_sources(toolchain: &str) -> bool {
    let sysroot = output_of(Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]));
    sysroot.is_some_and(|dir| Path::new(&dir).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn llvm_of(toolchain: &str) -> Option<u32> {
    let text = output_of(Command::new("rustup").args(["run", toolchain, "rustc", "-vV"]))?;
    text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}
