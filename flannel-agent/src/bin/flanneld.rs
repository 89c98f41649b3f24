//! The node agent: parses, sets up logging, runs, and says by its exit code how it ended.
#![forbid(unsafe_code)]

use std::{env, io, path::Path, process::ExitCode};

use flannel_agent::{
    agent,
    cli::flanneld::{Flags, Parsed},
    docker_opts, logging,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit code for a command line or environment that makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = if args.is_empty() { String::new() } else { args.remove(0) };
    let name = Path::new(&name).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("mk-docker-opts") {
        return docker_options(&args);
    }
    if args.first().is_some_and(|verb| verb == "mk-docker-opts") {
        return docker_options(&args[1..]);
    }
    let environment =
        env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    match Flags::parse(args, environment) {
        Ok(Parsed::Help(text)) => say(io::stdout(), &text, ExitCode::SUCCESS),
        Ok(Parsed::Version) => say(io::stderr(), concat!(env!("CARGO_PKG_VERSION"), "\n"), ExitCode::SUCCESS),
        Ok(Parsed::Run(flags)) => run(*flags),
        Err(error) => say(io::stderr(), &format!("flanneld: {error}\n"), ExitCode::from(USAGE)),
    }
}

fn run(flags: Flags) -> ExitCode {
    if let Err(error) = logging::init(flags.log.format, &flags.log.filter) {
        return say(io::stderr(), &format!("flanneld: {error}\n"), ExitCode::from(USAGE));
    }
    for warning in &flags.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(until_signal(flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the agent until SIGINT or SIGTERM; a second one ends the process at once.
async fn until_signal(flags: Flags) -> Result<(), agent::Error> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return tracing::error!("cannot listen for signals: only SIGKILL will end this process");
        };
        for turn in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if turn > 0 {
                std::process::exit(1);
            }
            tracing::info!("stopping; routes, rules and BPF programs stay");
            stop.send_replace(true);
        }
    });
    agent::run(flags, stopped).await
}

fn docker_options(args: &[String]) -> ExitCode {
    let environment =
        env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    match docker_opts::run(args, &environment.collect(), docker_opts::kernel_routes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(io::stderr(), &format!("{error}\n"), ExitCode::FAILURE),
    }
}

/// Prints a text and gives the exit code back; a closed pipe is nobody's fault.
fn say(mut stream: impl io::Write, text: &str, code: ExitCode) -> ExitCode {
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Ok(()) => code,
        Err(_closed) => code,
    }
}
