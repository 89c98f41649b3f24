//! Folders for the files of one test, and the sweep of what dead processes left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{netns, process::kill_tree};

/// What every name that we make starts with: `fl-<pid>-<n>-<label>`.
pub const PREFIX: &str = "fl-";

/// A file system in memory that most machines have.
const MEMORY: &str = "/dev/shm";

static NEXT: AtomicU32 = AtomicU32::new(1);
static SWEEP: Once = Once::new();
static ENDING: AtomicBool = AtomicBool::new(false);

/// A name that no other live process or test uses; the first call sweeps what dead processes left behind.
pub fn unique_name(label: &str) -> String {
    SWEEP.call_once(sweep);
    while is_ending() {
        thread::park();
    }
    format!("{PREFIX}{}-{}-{label}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A folder under the system's temporary one, removed when dropped unless [`keep_everything`] was called.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty folder whose name ends with `label`.
    pub fn new(label: &str) -> Result<Self> {
        Self::below(&std::env::temp_dir(), label)
    }

    /// The same in memory where there is a file system for that: no other process's disk use makes it wait.
    pub fn in_memory(label: &str) -> Result<Self> {
        let memory = Path::new(MEMORY);
        if memory.is_dir() { Self::below(memory, label) } else { Self::new(label) }
    }

    fn below(parent: &Path, label: &str) -> Result<Self> {
        let path = parent.join(unique_name(label));
        fs::create_dir(&path).with_context(|| format!("make folder {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !is_kept(process::id()) {
            remove_folder(&self.path);
        }
    }
}

/// Leaves everything that this process made in place, now and in later sweeps (`demo --keep`).
pub fn keep_everything() -> Result<()> {
    fs::create_dir_all(KEEP_DIR)?;
    fs::write(keep_marker(process::id()), "").context("write the marker that keeps the cluster")
}

const KEEP_DIR: &str = "/run/flannel-tests";

fn keep_marker(pid: u32) -> PathBuf {
    Path::new(KEEP_DIR).join(format!("{pid}.keep"))
}

/// Whether the process `pid` asked that its things stay.
pub fn is_kept(pid: u32) -> bool {
    keep_marker(pid).exists()
}

/// Removes what the process `pid` made: the processes in its namespaces, the namespaces and the folders.
pub fn remove_leftovers_of(pid: u32) {
    for name in names_in(Path::new(netns::DIR)).filter(|name| owner(name) == Some(pid)) {
        kill_tree(&netns::processes_in(&name));
        netns::delete(&name);
    }
    for parent in [std::env::temp_dir(), MEMORY.into()] {
        for name in names_in(&parent).filter(|name| owner(name) == Some(pid)) {
            remove_folder(&parent.join(name));
        }
    }
    fs::remove_file(keep_marker(pid)).ok();
}

/// Whether [`remove_everything`] is at work: whatever fails now fails because of it.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// Removes everything that this process made, from a thread that then ends the process: the others make nothing new.
pub fn remove_everything() {
    ENDING.store(true, Ordering::Relaxed);
    remove_leftovers_of(process::id());
    // What another thread was just making while the flag went up.
    thread::sleep(Duration::from_millis(100));
    remove_leftovers_of(process::id());
}

/// Removes what every process with a keep marker made.
pub fn remove_kept() {
    let pids = names_in(Path::new(KEEP_DIR)).filter_map(|name| name.strip_suffix(".keep")?.parse().ok());
    pids.for_each(remove_leftovers_of);
}

fn sweep() {
    let dirs = [PathBuf::from(netns::DIR), std::env::temp_dir(), MEMORY.into()];
    let mut pids: Vec<u32> = dirs.iter().flat_map(|dir| names_in(dir)).filter_map(|name| owner(&name)).collect();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        if !Path::new("/proc").join(pid.to_string()).exists() && !is_kept(pid) {
            remove_leftovers_of(pid);
        }
    }
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Removes a folder and, before it, whatever a killed dockerd left mounted below it.
fn remove_folder(path: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|t| Path::new(t).starts_with(path)) {
        Command::new("umount").args(["-l", target]).status().ok();
    }
    fs::remove_dir_all(path).ok();
}
