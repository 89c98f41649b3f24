//! Daemons that tests start: their output goes to a file, and they end with their handle.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::{scratch, wait::wait_for};

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let file =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned(), status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far, of all runs that share its log file.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.status = self.status.or_else(|| self.child.try_wait().ok().flatten());
        self.status.is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal::kill(Pid::from_raw(self.pid().cast_signed()), signal)
            .with_context(|| format!("send {signal} to {}", self.pid()))
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        if self.is_running() {
            self.child.kill()?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait_exit(deadline)
    }

    /// Waits until it ends by itself.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let pid = self.pid();
        wait_for(&format!("the end of process {pid}"), deadline, || {
            self.is_running();
            self.status
        })
        .with_context(|| self.log())
    }

    /// Waits until its log contains `text`; fails at once if it ends without having said so.
    pub fn wait_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let found = wait_for(&format!("{text:?} in the log"), deadline, || {
            let ended = !self.is_running();
            if self.log().contains(text) { Some(true) } else { ended.then_some(false) }
        })
        .with_context(|| self.log())?;
        if !found {
            bail!("ended without {text:?} in its log:\n{}", self.log());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !scratch::is_kept(std::process::id()) {
            self.kill().ok();
        }
    }
}

/// Runs `command` to its end and gives its standard output; a failure carries all it said.
pub fn output(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{command:?}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
    }
    Ok(stdout)
}

/// Kills these processes and all their descendants with SIGKILL, but never our own process.
pub fn kill_tree(roots: &[u32]) {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all_pids() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut doomed = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = doomed.get(next).copied() {
        next += 1;
        doomed.extend(children.remove(&pid).unwrap_or_default());
    }
    for pid in doomed.into_iter().filter(|pid| *pid != std::process::id()) {
        signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
    }
}

/// The ids of all processes.
pub fn all_pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may itself contain any character.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
