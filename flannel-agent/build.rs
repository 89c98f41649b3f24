//! Builds the BPF programs of `flannel-ebpf` and leaves the object where `fastpath` includes it from (`OUT_DIR`).
//!
//! The BPF target has no precompiled `core`, so the compiler must be one that may build it: a nightly with `rust-src`,
//! or, where none can be fetched, any compiler with its own sources that is linked as the rustup toolchain `ebpf`.
//! `cargo xtask setup` provides one of the two.

use std::process::{Command, Stdio};

use anyhow::Context as _;
use aya_build::{Package, Toolchain, build_ebpf};

/// Name under which `cargo xtask setup` links a distribution's compiler that comes with its own sources.
const LINKED_TOOLCHAIN: &str = "ebpf";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../flannel-common/src");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    // Every line of the inner cargo would be shown as a warning of this package, and so would rustup's remark that a linked
    // toolchain takes the cargo of another.
    set("CARGO_TERM_QUIET", "true");
    set("RUSTUP_LOG", "warn");
    let toolchain = if toolchain_works(LINKED_TOOLCHAIN) {
        set("RUSTC_BOOTSTRAP", "1");
        Toolchain::Custom(LINKED_TOOLCHAIN)
    } else {
        Toolchain::Nightly
    };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-ebpf");
    let package = Package { name: "flannel-ebpf", root_dir: root, ..Default::default() };
    build_ebpf([package], toolchain).context("building the BPF programs (cargo xtask setup installs what they need)")
}

/// Sets a variable for the compiler that is started below.
fn set(name: &str, value: &str) {
    // SAFETY: a build script has a single thread until it starts the compiler.
    unsafe { std::env::set_var(name, value) };
}

/// Whether rustup knows the toolchain and its compiler runs.
fn toolchain_works(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
