//! Where a result comes from: without this, figures say nothing.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};

/// The machine, its kernel, and how was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release and build.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that we may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Hypervisor, if any.
    pub virtualization: String,
    /// Load of the last minute when the run began.
    pub load: f64,
    /// Version of the iptables that wrote the rules.
    pub iptables: String,
    /// Settings that change the result.
    pub settings: Vec<String>,
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// Version of what was measured.
    pub flannel: String,
    /// Whether everything was compiled with optimisation.
    pub optimised: bool,
    /// Rounds per sample.
    pub rounds: usize,
    /// Length of a sample in milliseconds.
    pub sample_ms: u64,
    /// The core on which single-core workloads ran.
    pub core: usize,
}

impl Machine {
    /// Looks around.
    pub fn look(rounds: usize, sample_ms: u64, core: usize) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            kernel: say("uname", &["-sr"]),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(),
            virtualization: virtualization(),
            load: load(),
            iptables: say("iptables", &["--version"]),
            settings: SETTINGS.iter().map(|path| setting(path)).collect(),
            time: since_epoch.as_secs(),
            flannel: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
            rounds,
            sample_ms,
            core,
        }
    }

    /// One line for table and charts.
    pub fn title(&self) -> String {
        format!(
            "{}, {} cores ({}), {}, {} rounds of {} ms",
            self.cpu, self.cores, self.virtualization, self.kernel, self.rounds, self.sample_ms
        )
    }
}

const SETTINGS: [&str; 5] = [
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/kernel/bpf_stats_enabled",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/sys/net/core/netdev_budget",
    "/sys/devices/system/cpu/vulnerabilities/spectre_v2",
];

fn setting(path: &str) -> String {
    let value = fs::read_to_string(path).unwrap_or_else(|_| "absent".to_owned());
    format!("{path} = {}", value.trim())
}

fn say(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|_| "absent".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_mib() -> u64 {
    let kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn virtualization() -> String {
    let found = say("systemd-detect-virt", &["--vm"]);
    if !found.is_empty() && found != "absent" {
        return found;
    }
    let flags = field("/proc/cpuinfo", "flags").unwrap_or_default();
    if flags.split(' ').any(|flag| flag == "hypervisor") {
        "virtual machine".to_owned()
    } else {
        "bare metal".to_owned()
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
