//! `cargo xtask VERB`: everything that one does with this repository. One file per verb.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod ci;
mod demo;
mod dist;
mod doctor;
mod lint;
mod run;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that one does with this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what building and testing need and this machine lacks.
    Setup(setup::Args),
    /// Report what this machine has and lacks; change nothing.
    Doctor,
    /// Build flanneld and flannelctl with their BPF programs.
    Build(build::Args),
    /// Run flanneld on this host, with an etcd of its own if there is none.
    Run(run::Args),
    /// Show a whole cluster in network namespaces at work.
    Demo(demo::Args),
    /// Measure what the fast path gains over the kernel.
    Bench(bench::Args),
    /// Make a Debian package, an RPM and a tarball for nodes.
    Dist,
    /// Run the tests and count them.
    Test(test::Args),
    /// Check formatting, lints and the rules of the architecture.
    Lint,
    /// Do what the continuous integration does: lint, demo, quick benchmark, test.
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Doctor => doctor::run(),
        Verb::Build(args) => build::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Dist => dist::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
