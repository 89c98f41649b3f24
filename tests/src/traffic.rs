//! Traffic between containers, and who carried it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use flannel_agent::{
    fastpath::{PIN_ROOT, Reader},
    state::NodeState,
};
use serde::Serialize;

use crate::{
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
    topology::Container,
};

/// Packets between one host and its peers, by who carried them. A GSO packet counts as its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// By the BPF programs.
    pub bpf: u64,
    /// By the kernel's routes.
    pub kernel: u64,
}

impl Carried {
    /// What has been carried since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { bpf: self.bpf.saturating_sub(before.bpf), kernel: self.kernel.saturating_sub(before.kernel) }
    }

    /// Share of BPF in percent; 0 if nothing was carried.
    pub fn bpf_percent(self) -> u64 {
        (self.bpf * 100).checked_div(self.bpf + self.kernel).unwrap_or_default()
    }
}

/// Reads the counters of one host's fast path, also while its flanneld is dead.
pub struct Meter {
    reader: Reader,
    slots: Vec<u32>,
}

impl Meter {
    /// Of the host in `ns` whose flanneld says `state` of itself.
    pub fn new(ns: &Netns, state: &NodeState) -> Result<Self> {
        let reader = ns.enter(|| Reader::open(PIN_ROOT.as_ref(), None))?.context("open the pinned maps")?;
        Ok(Self { reader, slots: state.peers.iter().filter_map(|peer| peer.index).collect() })
    }

    /// What has been carried so far.
    pub fn read(&self) -> Result<Carried> {
        let mut sum = Carried::default();
        for slot in &self.slots {
            let tally = self.reader.peer_tally(*slot)?;
            sum.bpf += tally.fast_to.packets + tally.fast_from.packets;
            sum.kernel += tally.slow_to.packets + tally.slow_from.packets;
        }
        Ok(sum)
    }
}

/// Detaches by hand every program that a flanneld has pinned in `ns`, and removes the pins; says how many there were.
///
/// The flanneld there must be dead, or it attaches them again.
pub fn detach_everything(ns: &Netns) -> Result<usize> {
    let inode = fs::metadata(ns.path())?.ino();
    let mut folders = vec![Path::new(PIN_ROOT).join(inode.to_string())];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link-")) {
                let mut detach = Command::new("bpftool");
                detach.args(["link", "detach", "pinned"]).arg(&path);
                output(detach)?;
                fs::remove_file(&path)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// An iperf3 server in a container.
#[derive(Debug)]
pub struct Iperf {
    address: String,
    _server: Process,
    _dir: Scratch,
}

/// What an iperf3 run measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Gigabits per second that arrived.
    pub gbit_per_s: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Gigabits per second in each tenth of a second.
    pub tenths: Vec<f64>,
}

impl Throughput {
    /// The longest time in which nothing was sent.
    pub fn longest_pause(&self) -> Duration {
        let pauses = self.tenths.split(|rate| *rate > 0.0).map(<[f64]>::len);
        Duration::from_millis(100) * pauses.max().unwrap_or_default() as u32
    }
}

impl Iperf {
    /// Starts the server.
    pub fn serve(container: &Container) -> Result<Self> {
        let dir = Scratch::new("iperf")?;
        let mut server = container.ns.spawn("iperf3 --server --forceflush", &dir.join("log"))?;
        server.wait_log("Server listening", Duration::from_secs(10))?;
        Ok(Self { address: container.address.to_string(), _server: server, _dir: dir })
    }

    /// Runs a TCP stream from `container` for some seconds.
    pub fn run(&self, container: &Container, seconds: u32) -> Result<Throughput> {
        let mut command = container.ns.command("iperf3");
        command.args(["--client", &self.address, "--json", "--interval", "0.1", "--time", &seconds.to_string()]);
        read_report(&output(command)?)
    }
}

fn read_report(text: &str) -> Result<Throughput> {
    let report: serde_json::Value = serde_json::from_str(text).with_context(|| format!("iperf3 said {text}"))?;
    let gbit = |value: &serde_json::Value| value["bits_per_second"].as_f64().map(|bits| (bits / 1e7).round() / 100.0);
    let intervals = report["intervals"].as_array().context("no intervals in iperf3's report")?;
    Ok(Throughput {
        gbit_per_s: gbit(&report["end"]["sum_received"]).context("no sum in iperf3's report")?,
        retransmits: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or_default(),
        tenths: intervals.iter().filter_map(|interval| gbit(&interval["sum"])).collect(),
    })
}
