//! Network namespaces: made under unique names, entered by `nsenter` or by a thread, removed when dropped.
//!
//! Never entered with `ip netns exec`: that mounts a fresh /sys, without the pins of bpffs and without cgroups.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{
    process::{Process, all_pids, kill_tree, output},
    scratch,
    wait::wait_for,
};

/// How long an address may stay taken after its socket was closed.
const FREE: Duration = Duration::from_secs(20);

/// Where `ip netns` keeps its handles.
pub const DIR: &str = "/run/netns";

/// Where flanneld pins what outlives it, by the inode number of the network namespace.
const PIN_ROOT: &str = "/sys/fs/bpf/flannel";

/// A network namespace. Clones are handles of the same one; the last to go kills what runs inside and removes it.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
}

impl Netns {
    /// Makes an empty namespace (loopback up) named `fl-<pid>-<n>-<label>`.
    pub fn new(label: &str) -> Result<Self> {
        let name = scratch::unique_name(label);
        ip(&["netns", "add", &name])?;
        let ns = Self { inner: Arc::new(Inner { name }) };
        ns.run("ip link set lo up")?;
        Ok(ns)
    }

    /// Its name, as `ip -n NAME` takes it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its handle in the file system.
    pub fn path(&self) -> PathBuf {
        Path::new(DIR).join(self.name())
    }

    /// A command that will run `program` inside; the process that it starts is `program` itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a command line (split at blanks) inside and gives its standard output; an exit code other than 0 is an error.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("an empty command line")?);
        command.args(words);
        output(command)
    }

    /// Runs a shell script inside.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("sh");
        command.args(["-euc", script]);
        output(command)
    }

    /// Starts a command line (split at blanks) inside, with its output appended to the file `log`.
    pub fn spawn(&self, line: &str, log: &Path) -> Result<Process> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("an empty command line")?);
        command.args(words);
        Process::spawn(command, log)
    }

    /// Writes a setting of the namespace: `net/ipv4/ip_forward`, `1`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sh(&format!("echo {value} > /proc/sys/{key}")).map(drop)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = File::open(self.path()).with_context(|| format!("open {}", self.path().display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name()))?;
                Ok(work())
            });
            inside.join().map_err(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                anyhow!("panic inside {}: {text}", self.name())
            })?
        })
    }

    /// Opens a socket inside, as soon as its address is free: of one that has just been closed, a process that is being started by
    /// somebody else holds a copy until it runs its program.
    pub fn bind<S: Send>(&self, open: impl Fn() -> io::Result<S> + Send + Sync) -> Result<S> {
        self.enter(|| wait_for("the socket's address to be free", FREE, || open().ok()))?
    }

    /// Runs a future to its end on a single-threaded runtime inside the namespace.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> Result<T> {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work()))
        })?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !scratch::is_kept(std::process::id()) {
            kill_tree(&processes_in(&self.name));
            delete(&self.name);
        }
    }
}

/// The processes whose main thread lives in the namespace `name`.
pub fn processes_in(name: &str) -> Vec<u32> {
    let Ok(inode) = fs::metadata(Path::new(DIR).join(name)).map(|meta| meta.ino()) else { return Vec::new() };
    let lives_there = |pid: &u32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| meta.ino() == inode);
    all_pids().filter(lives_there).collect()
}

/// Removes the namespace `name`, if it is there, and what a flanneld inside it pinned: the kernel gives its inode number,
/// by which pins are found, to a later namespace.
pub fn delete(name: &str) {
    if let Ok(meta) = fs::metadata(Path::new(DIR).join(name)) {
        fs::remove_dir_all(Path::new(PIN_ROOT).join(meta.ino().to_string())).ok();
    }
    ip(&["netns", "del", name]).ok();
}

/// Runs `ip` outside of any namespace of ours.
pub fn ip(args: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(args);
    output(command)
}
