//! `bench`: what the fast path gains. `cargo xtask bench` builds and runs it.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use flannel_tests::bench::{
    arm::Arm,
    chart,
    compare::compare,
    generator::Generator,
    machine::Machine,
    row::Outcome,
    run::{Plan, end_on_signals, run},
    suite::Size,
    workload::{Bench, Case},
};

/// Measures our dataplane against the kernel's, in network namespaces that it makes and removes.
#[derive(Debug, Parser)]
#[command(name = "bench", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// A selection that takes under three minutes.
    #[arg(long)]
    quick: bool,
    /// Only workloads and arms whose names contain one of these words (`pps-out,verified`); the baseline always stays.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Samples of each arm; five is the least that says anything.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Writes the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws charts (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// The core on which single-core workloads run; the last one unless given.
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Says what changed between two results beyond their noise.
    Compare {
        /// What `--json` wrote before.
        old: PathBuf,
        /// What `--json` wrote now.
        new: PathBuf,
    },
    /// Draws the charts of a result that `--json` wrote.
    Chart {
        /// What `--json` wrote.
        result: PathBuf,
        /// Folder for the charts.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.verb {
        None => measure(&args),
        Some(Verb::Compare { old, new }) => show_comparison(old, new),
        Some(Verb::Chart { result, dir }) => Outcome::read(result).and_then(|outcome| draw(&outcome, dir)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root, for network namespaces and BPF");
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let size = if args.quick { Size::Quick } else { Size::Full };
    let (cases, arms) = select(size, &args.only)?;
    let cores = std::thread::available_parallelism().context("count the cores")?.get();
    let core = args.core.unwrap_or(cores - 1);
    let plan = Plan { cases, arms, rounds: args.rounds };
    let mut bench = Bench { generator: Generator::load()?, sample_time: size.sample_time(), core };
    let machine = Machine::look(plan.rounds, bench.sample_time.as_millis() as u64, core);
    println!("{}\n", machine.title());
    end_on_signals()?;
    let rows = run(&plan, &mut bench)?;
    let outcome = Outcome { version: 1, machine, rows };
    if let Some(path) = &args.json {
        outcome.write(path)?;
    }
    if let Some(dir) = &args.charts {
        draw(&outcome, dir)?;
    }
    Ok(())
}

fn show_comparison(old: &Path, new: &Path) -> Result<()> {
    print!("{}", compare(&Outcome::read(old)?, &Outcome::read(new)?));
    Ok(())
}

fn draw(outcome: &Outcome, dir: &Path) -> Result<()> {
    let written = chart::draw(outcome, dir)?;
    println!("{} charts in {}", written.len(), dir.display());
    Ok(())
}

/// The cases and arms that `--only` leaves.
fn select(size: Size, only: &[String]) -> Result<(Vec<Case>, Vec<Arm>)> {
    let (mut cases, mut arms) = (size.cases(), Arm::ALL.to_vec());
    let (for_arms, for_cases): (Vec<&String>, Vec<&String>) =
        only.iter().partition(|word| Arm::ALL.iter().any(|arm| arm.label() == word.as_str()));
    if !for_arms.is_empty() {
        arms.retain(|arm| *arm == Arm::KernelRules || for_arms.iter().any(|word| arm.label() == word.as_str()));
    }
    if !for_cases.is_empty() {
        cases.retain(|case| for_cases.iter().any(|word| case.title().contains(word.as_str())));
    }
    if cases.is_empty() {
        bail!("--only={} leaves no workload", only.join(","));
    }
    Ok((cases, arms))
}
