//! A real etcd: one member or three, on loopback or in namespaces.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
    wait::wait_until,
};

/// How long a member may take to answer; two busy cores were seen to take four seconds.
const START: Duration = Duration::from_secs(30);

/// An etcd cluster with its data in memory; gone when dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    dir: Scratch,
}

#[derive(Debug)]
struct Member {
    name: String,
    place: Place,
    client_url: String,
    peer_url: String,
    process: Option<Process>,
}

/// Where a member listens.
#[derive(Clone, Debug)]
pub enum Place {
    /// On free ports of 127.0.0.1 in our own namespace.
    Loopback,
    /// On ports 2379 and 2380 of an address in a namespace.
    Inside(Netns, Ipv4Addr),
}

impl Etcd {
    /// One member on free ports of 127.0.0.1.
    pub fn loopback() -> Result<Self> {
        Self::start_at(&[Place::Loopback])
    }

    /// One member inside a namespace, on port 2379 of `address` (and of every other address there).
    pub fn inside(ns: &Netns, address: Ipv4Addr) -> Result<Self> {
        Self::start_at(&[Place::Inside(ns.clone(), address)])
    }

    /// A cluster with one member at each place; waits until all of them answer.
    pub fn start_at(places: &[Place]) -> Result<Self> {
        let dir = Scratch::in_memory("etcd")?;
        let members = places.iter().enumerate().map(|(i, place)| Member::new(i, place)).collect::<Result<_>>()?;
        let mut etcd = Self { members, dir };
        for index in 0..etcd.members.len() {
            etcd.spawn(index)?;
        }
        etcd.wait_healthy()?;
        Ok(etcd)
    }

    /// The client URLs, comma separated, as flanneld's `-etcd-endpoints` takes them.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| member.client_url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The client URL of one member.
    pub fn endpoint(&self, index: usize) -> &str {
        &self.members[index].client_url
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.members[index].process.take().context("the member is not running")?.kill()
    }

    /// Freezes a member (SIGSTOP): it keeps its connections and answers nothing.
    pub fn stop(&self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen member go on.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::SIGCONT)
    }

    /// Starts a killed member again on its data and ports, and waits until the cluster answers.
    pub fn start(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait_healthy()
    }

    /// Starts every member that is not running, all at once, and waits until the cluster answers.
    pub fn start_all(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].process.is_none() {
                self.spawn(index)?;
            }
        }
        self.wait_healthy()
    }

    /// Saves the data as it is now under a name.
    pub fn backup(&self, name: &str) -> Result<()> {
        let member = self.members.iter().find(|member| member.process.is_some()).context("no member is running")?;
        let mut command = member.place.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &member.client_url, "snapshot", "save"]);
        command.arg(self.dir.join(name));
        output(command).map(drop)
    }

    /// Kills every member, replaces the data by what [`Etcd::backup`] saved, and starts them again: the revision of the
    /// store goes backwards.
    pub fn restore(&mut self, name: &str) -> Result<()> {
        let initial = self.initial_cluster();
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                process.kill()?;
            }
            let data = self.dir.join(&member.name);
            std::fs::remove_dir_all(&data)?;
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(self.dir.join(name));
            command.args(["--name", &member.name, "--initial-cluster", &initial, "--data-dir"]).arg(data);
            command.args(["--initial-advertise-peer-urls", &member.peer_url]);
            output(command)?;
        }
        self.start_all()
    }

    /// Runs `etcdctl` against the running members and gives its output.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let alive: Vec<&Member> = self.members.iter().filter(|member| member.process.is_some()).collect();
        let urls: Vec<&str> = alive.iter().map(|member| member.client_url.as_str()).collect();
        let mut command = alive.first().context("no member is running")?.place.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(urls.join(",")).args(args);
        output(command)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(&["put", "--", key, value]).map(drop)
    }

    /// Reads a key; empty if it is not there.
    pub fn get(&self, key: &str) -> Result<String> {
        Ok(self.ctl(&["get", "--print-value-only", "--", key])?.trim_end_matches('\n').to_owned())
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(&["del", "--", key]).map(drop)
    }

    /// All keys that start with `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", "--", prefix])?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect())
    }

    /// The current revision of the store.
    pub fn revision(&self) -> Result<i64> {
        let text = self.ctl(&["get", "-w", "fields", "--", "x"])?;
        let line = text.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        line.and_then(|number| number.parse().ok()).with_context(|| format!("no revision in {text:?}"))
    }

    /// Compacts the history up to the current revision and returns it.
    pub fn compact(&self) -> Result<i64> {
        let revision = self.revision()?;
        self.ctl(&["compact", &revision.to_string()])?;
        Ok(revision)
    }

    fn process(&self, index: usize) -> Result<&Process> {
        self.members[index].process.as_ref().context("the member is not running")
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let initial = self.initial_cluster();
        let member = &mut self.members[index];
        ensure!(member.process.is_none(), "{} is already running", member.name);
        let mut command = member.place.command("etcd");
        command.args(["--name", &member.name, "--data-dir"]).arg(self.dir.join(&member.name));
        command.args(["--listen-client-urls", &member.place.listen_url(&member.client_url)]);
        command.args(["--advertise-client-urls", &member.client_url]);
        command.args(["--listen-peer-urls", &member.peer_url, "--initial-advertise-peer-urls", &member.peer_url]);
        command.args(["--initial-cluster", &initial, "--logger", "zap", "--log-level", "warn"]);
        member.process = Some(Process::spawn(command, &self.dir.join(format!("{}.log", member.name)))?);
        Ok(())
    }

    fn initial_cluster(&self) -> String {
        self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect::<Vec<_>>().join(",")
    }

    fn wait_healthy(&self) -> Result<()> {
        let healthy = || self.ctl(&["endpoint", "health"]).is_ok();
        let logs = || self.members.iter().filter_map(|m| m.process.as_ref()).map(Process::log).collect::<String>();
        wait_until("etcd to answer", START, healthy).map(drop).with_context(logs)
    }
}

impl Member {
    fn new(index: usize, place: &Place) -> Result<Self> {
        let (client, peer) = match place {
            Place::Loopback => (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?)),
            Place::Inside(_, address) => (format!("{address}:2379"), format!("{address}:2380")),
        };
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        Ok(Self { name: format!("etcd{}", index + 1), place: place.clone(), client_url, peer_url, process: None })
    }
}

impl Place {
    fn command(&self, program: &str) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Inside(ns, _) => ns.command(program),
        }
    }

    fn listen_url(&self, client_url: &str) -> String {
        match self {
            Self::Loopback => client_url.to_owned(),
            Self::Inside(..) => "http://0.0.0.0:2379".to_owned(),
        }
    }
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
