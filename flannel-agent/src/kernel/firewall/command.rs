//! Running `iptables` and `nft`.

use std::{ffi::OsString, io, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::FirewallError;

/// Longer than anybody holds the lock of the tables in good health.
const PATIENCE: Duration = Duration::from_secs(20);

/// How programs are run.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// Where they are looked for, instead of the agent's own `PATH`.
    pub path: Option<OsString>,
    /// How long one may take.
    pub patience: Duration,
}

impl Default for Programs {
    fn default() -> Self {
        Self { path: None, patience: PATIENCE }
    }
}

impl Programs {
    /// Runs one to its end, feeds it a text, and returns what it prints.
    pub(super) async fn run(&self, program: &'static str, args: &[&str], input: &str) -> Result<String, FirewallError> {
        let line = std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
        let failed = |message: String| FirewallError::Failed { command: line.clone(), message };
        let mut command = Command::new(program);
        command.args(args).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FirewallError::Missing { program, package: package(program) },
            _ => failed(error.to_string()),
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends before it has read everything says why by itself.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = timeout(self.patience, child.wait_with_output()).await.map_err(|_elapsed| {
            failed(format!("did not end within {:?}; is somebody holding the lock of the tables?", self.patience))
        })?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(failed(match complaint.trim() {
            "" => output.status.to_string(),
            complaint => complaint.lines().map(str::trim).collect::<Vec<_>>().join(" "),
        }))
    }
}

fn package(program: &str) -> &'static str {
    if program == "nft" { "nftables" } else { "iptables" }
}
