//! `bench`: what the fast path gains. `cargo xtask bench` builds and runs it.
#![forbid(unsafe_code)]

use std::{
    net::Ipv4Addr,
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
    nodes::{self, Nodes},
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
    /// Measures from this node to a real other one, out of this interface; there, `bench serve` must run.
    #[arg(long, value_name = "IFACE", requires = "peer")]
    uplink: Option<String>,
    /// Address of the other node.
    #[arg(long, value_name = "ADDR", requires = "uplink")]
    peer: Option<Ipv4Addr>,
    /// With --uplink: the bridge that this node's containers are behind.
    #[arg(long, default_value = "docker0")]
    bridge: String,
    /// With --uplink: the socket of this node's flanneld.
    #[arg(long, value_name = "PATH", default_value = flannel_agent::admin::DEFAULT_SOCKET)]
    admin_socket: PathBuf,
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
    /// Is the other node for `--uplink --peer`: counts packets and answers, until interrupted.
    Serve {
        /// Interface towards the measuring node.
        #[arg(long, value_name = "IFACE")]
        uplink: String,
        /// The bridge that this node's containers are behind.
        #[arg(long, default_value = "docker0")]
        bridge: String,
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
        Some(Verb::Serve { uplink, bridge }) => end_on_signals().and_then(|()| nodes::serve(uplink, bridge)),
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
    let cores = std::thread::available_parallelism().context("count the cores")?.get();
    let core = args.core.unwrap_or(cores - 1);
    ensure!(core < cores, "--core {core}: there are {cores} cores, counted from 0");
    let mut bench = Bench { generator: Generator::load()?, sample_time: size.sample_time(), core };
    let machine = Machine::look(args.rounds, bench.sample_time.as_millis() as u64, core);
    println!("{}\n", machine.title());
    end_on_signals()?;
    let rows = match (&args.uplink, args.peer) {
        (Some(uplink), Some(peer)) => {
            let (cases, _) = select(size.node_cases(), &args.only)?;
            let (uplink, bridge, admin_socket) = (uplink.clone(), args.bridge.clone(), args.admin_socket.clone());
            nodes::run(&Nodes { uplink, peer, bridge, admin_socket, rounds: args.rounds }, &cases, &bench)?
        }
        _ => {
            let (cases, arms) = select(size.cases(), &args.only)?;
            run(&Plan { cases, arms, rounds: args.rounds }, &mut bench)?
        }
    };
    let outcome = Outcome { version: 1, machine, rows };
    if let Some(path) = &args.json {
        outcome.write(path)?;
    }
    if let Some(dir) = &args.charts {
        draw(&outcome, dir)?;
    }
    let failures = outcome.failures();
    ensure!(failures.is_empty(), "figures are missing:\n{}", failures.join("\n"));
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
fn select(mut cases: Vec<Case>, only: &[String]) -> Result<(Vec<Case>, Vec<Arm>)> {
    let mut arms = Arm::ALL.to_vec();
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
