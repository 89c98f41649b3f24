//! The real flanneld, in a namespace, with its own subnet.env.

use std::{
    collections::BTreeMap, env, fs, net::Ipv4Addr, path::PathBuf, process::Command, sync::OnceLock, time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use flannel_agent::{admin::client::Client, state::NodeState};
use ipnet::Ipv4Net;

use crate::{
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
    wait::wait_until,
};

/// The etcd prefix of all clusters that the harness makes.
pub const PREFIX: &str = "/flannel/network";
/// The cluster configuration of most tests.
pub const HOST_GW: &str = r#"{"Network":"172.16.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// A flanneld in a namespace: how it is started, and the running one.
#[derive(Debug)]
pub struct Flanneld {
    ns: Netns,
    dir: Scratch,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    wrapper: Vec<String>,
    process: Option<Process>,
}

impl Flanneld {
    /// A flanneld for `ns` that is not started yet: `-iface=eth0`, the given etcd endpoints, [`PREFIX`], its own subnet.env.
    pub fn new(ns: &Netns, endpoints: &str) -> Result<Self> {
        let dir = Scratch::new("flanneld")?;
        let args = vec![
            format!("-etcd-endpoints={endpoints}"),
            format!("-etcd-prefix={PREFIX}"),
            "-iface=eth0".to_owned(),
            format!("-subnet-file={}", dir.join("subnet.env").display()),
            format!("-admin-socket={}", dir.join("sock").display()),
        ];
        Ok(Self { ns: ns.clone(), dir, args, env: BTreeMap::new(), wrapper: Vec::new(), process: None })
    }

    /// Adds a flag; a later one wins.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Replaces all flags but the subnet file's and the admin socket's.
    #[must_use]
    pub fn only_args(mut self, args: &[&str]) -> Self {
        self.args.retain(|arg| arg.starts_with("-subnet-file=") || arg.starts_with("-admin-socket="));
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts it through another program, such as `setpriv --bounding-set -bpf`.
    #[must_use]
    pub fn wrapped_by(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the process; a former one must have ended.
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "flanneld is already running");
        let binary = binary("flanneld")?;
        let mut command = match self.wrapper.split_first() {
            None => self.ns.command(&binary),
            Some((program, args)) => {
                let mut command = self.ns.command(program);
                command.args(args).arg(&binary);
                command
            }
        };
        command.args(&self.args).envs(&self.env);
        self.process = Some(Process::spawn(command, &self.dir.join("log"))?);
        Ok(())
    }

    /// Starts it and waits until it has written subnet.env; gives the subnet.
    pub fn start_ready(&mut self, deadline: Duration) -> Result<Ipv4Net> {
        self.start()?;
        self.wait_ready(deadline)
    }

    /// Waits until the running process says that it is ready and subnet.env holds its subnet.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<Ipv4Net> {
        let is_ready = |node: &Self| node.state().is_ok_and(|state| state.ready) && node.subnet().is_ok();
        let wait = wait_until("flanneld to be ready", deadline, || !self.is_running() || is_ready(self));
        wait.with_context(|| format!("flanneld said:\n{}", self.log()))?;
        ensure!(self.is_running(), "flanneld ended:\n{}", self.log());
        self.subnet()
    }

    /// Where its subnet.env is.
    pub fn subnet_file(&self) -> PathBuf {
        self.dir.join("subnet.env")
    }

    /// Where `flannelctl` and [`Flanneld::state`] ask it.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// What it says of itself (`flannelctl status`).
    pub fn state(&self) -> Result<NodeState> {
        let client = Client::new(self.admin_socket());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(client.get("/v1/status"))?)
    }

    /// The options that Docker would get of it: what `flanneld mk-docker-opts` makes of subnet.env.
    pub fn docker_opts(&self) -> Result<BTreeMap<String, String>> {
        let file = self.dir.join("docker.env");
        let mut command = self.ns.command(binary("flanneld")?);
        command.args(["mk-docker-opts", "-i", "-f"]).arg(self.subnet_file()).arg("-d").arg(&file);
        output(command)?;
        let text = fs::read_to_string(&file)?;
        let value = |word: &str| word.trim_matches('"').split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(text.lines().filter_map(|line| value(line.split_once('=')?.1)).collect())
    }

    /// The variables of subnet.env.
    pub fn subnet_env(&self) -> Result<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.subnet_file())?;
        Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// The subnet of subnet.env, as a network (`172.16.5.0/24`).
    pub fn subnet(&self) -> Result<Ipv4Net> {
        let env = self.subnet_env()?;
        let bip: Ipv4Net = env.get("FLANNEL_SUBNET").context("no FLANNEL_SUBNET in subnet.env")?.parse()?;
        Ok(bip.trunc())
    }

    /// The MTU of subnet.env.
    pub fn mtu(&self) -> Result<u32> {
        Ok(self.subnet_env()?.get("FLANNEL_MTU").context("no FLANNEL_MTU in subnet.env")?.parse()?)
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().ok_or_else(|| anyhow!("flanneld is not started"))
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Everything it has logged, of all its runs.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()
    }

    /// Ends it as systemd does (SIGTERM) and waits for that.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process()?.terminate(Duration::from_secs(10))?;
        ensure!(status.success(), "flanneld ended with {status}:\n{}", self.log());
        Ok(())
    }
}

/// Writes a lease of a node that does not run, as flannel itself would.
pub fn lease_json(public_ip: Ipv4Addr) -> String {
    format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

/// The key of a subnet's lease under [`PREFIX`].
pub fn lease_key(subnet: Ipv4Net) -> String {
    format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len())
}

/// Path of one of our binaries, built of the current sources and in the profile of the test that asks.
///
/// `FLANNEL_BIN_DIR` names a folder of finished binaries; `cargo xtask` sets it after it has built them.
pub fn binary(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| built_folder().map_err(|error| format!("{error:#}")));
    Ok(folder.as_ref().map_err(|text| anyhow!(text.clone()))?.join(name))
}

fn built_folder() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("FLANNEL_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = env::current_exe()?;
    // Tests are target/<profile>/deps/x, binaries target/<profile>/x.
    let parent = exe.parent().context("the test executable has no folder")?;
    let folder = if parent.ends_with("deps") { parent.parent().unwrap_or(parent) } else { parent };
    let mut cargo = Command::new("cargo");
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "-p", "flannel-agent", "--bins"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    ensure!(cargo.status()?.success(), "{cargo:?} failed");
    Ok(folder.to_owned())
}
