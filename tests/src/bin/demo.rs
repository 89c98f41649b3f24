//! `cargo xtask demo`: parse, run, print, take down; also on Ctrl-C.
#![forbid(unsafe_code)]

use std::{process, process::ExitCode, thread};

use anyhow::{Context as _, Result};
use clap::Parser;
use flannel_tests::{
    cluster::Cluster,
    demo::{self, Progress, Report},
    scratch,
};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A flannel cluster in network namespaces, at work.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Parser)]
struct Args {
    /// Number of hosts.
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Fail unless everything that the demo shows holds.
    #[arg(long)]
    check: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Leave the cluster up and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// Remove the clusters that --keep has left, and do nothing else.
    #[arg(long)]
    remove: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.remove {
        scratch::remove_kept();
        return ExitCode::SUCCESS;
    }
    if let Err(error) = clean_up_on_signals() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let mut progress = Progress::new(args.json);
    match show(&args, &mut progress) {
        Ok(report) if args.check && !report.failures.is_empty() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        // What failed was taken down; the thread that does so ends the process.
        Err(_) if scratch::is_ending() => loop {
            thread::park();
        },
        Err(error) => {
            progress.failed();
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &Args, progress: &mut Progress) -> Result<Report> {
    let (cluster, report) = demo::run(args.nodes, progress)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    if args.keep {
        scratch::keep_everything()?;
        print_how_to_enter(&cluster);
    }
    Ok(report)
}

fn print_how_to_enter(cluster: &Cluster) {
    eprintln!("\nthe cluster stays up; enter it by");
    for (host, node) in cluster.topology.hosts.iter().zip(&cluster.nodes) {
        eprintln!("  {}: nsenter --net={} bash", host.name, host.ns.path().display());
        eprintln!("    flannelctl --socket {} status", node.admin_socket().display());
        for container in &host.containers {
            eprintln!("    container {}: nsenter --net={} bash", container.address, container.ns.path().display());
        }
    }
    eprintln!("remove it by\n  cargo xtask demo --remove");
}

/// On SIGINT, SIGTERM and SIGHUP, takes everything down and ends.
fn clean_up_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let [mut interrupt, mut terminate, mut hangup] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    drop(guard);
    for signal in [&interrupt, &terminate, &hangup] {
        if let Err(error) = signal {
            anyhow::bail!("watch for Ctrl-C: {error}");
        }
    }
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                if let (Ok(interrupt), Ok(terminate), Ok(hangup)) = (&mut interrupt, &mut terminate, &mut hangup) {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                }
            });
            eprintln!("\ntaking the cluster down");
            scratch::remove_everything();
            process::exit(INTERRUPTED);
        })
        .map(drop)
        .context("start the thread that waits for Ctrl-C")
}
