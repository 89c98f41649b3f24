//! A host that boots as systemd would boot it: the sysconfig file, flanneld by its start script, then the Docker options,
//! then dockerd.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use flannel_tests::{
    docker::Docker,
    etcd::{Etcd, Place},
    flanneld::binary,
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
    topology::Topology,
    wait::wait_until,
};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};

const READY: Duration = Duration::from_secs(30);

/// Three etcd members, each on a machine of its own beside the hosts.
pub(crate) struct Store {
    pub(crate) etcd: Etcd,
    _machines: Vec<Netns>,
}

impl Store {
    pub(crate) fn start(topology: &Topology) -> Result<Self> {
        let segment = topology.segments.first().context("no segment")?;
        let mut machines = Vec::new();
        let mut places = Vec::new();
        for n in 2..5 {
            let machine = Netns::new(&format!("etcd{n}"))?;
            places.push(Place::Inside(machine.clone(), segment.plug(&machine, "eth0", n)?));
            machines.push(machine);
        }
        Ok(Self { etcd: Etcd::start_at(&places)?, _machines: machines })
    }
}

/// A host with its flanneld and dockerd.
pub(crate) struct UnitHost {
    pub(crate) docker: Docker,
    flanneld: Process,
    subnet: Ipv4Net,
    options: String,
    _dir: Scratch,
}

impl UnitHost {
    /// Boots it. The host has a `/run/flannel` of its own, as a machine has.
    pub(crate) fn boot(ns: &Netns, endpoints: &str) -> Result<Self> {
        let dir = Scratch::new("unit")?;
        let sysconfig = dir.join("sysconfig");
        fs::write(
            &sysconfig,
            format!(
                "FLANNEL_ETCD_ENDPOINTS=\"{endpoints}\"\nFLANNEL_ETCD_PREFIX=\"/flannel/network\"\n\
                 FLANNEL_OPTIONS=\"-iface=eth0 -ip-masq\"\n"
            ),
        )?;
        ns.run("ip link del docker0")?;
        let start = format!(
            "mkdir -p /run/flannel && mount -t tmpfs tmpfs /run/flannel && set -a && . {} && set +a && \
             exec {} $FLANNEL_OPTIONS",
            sysconfig.display(),
            dist("flanneld-start").display()
        );
        let mut command = ns.command("unshare");
        command.args(["--mount", "sh", "-ec", &start]).env("FLANNELD", binary("flanneld")?);
        let mut flanneld = Process::spawn(command, &dir.join("log"))?;
        flanneld.wait_log("flannel is ready", READY)?;
        let subnet = subnet(&flanneld)?;
        let options = docker_options(ns, &flanneld)?;
        let words: Vec<&str> = options.split_whitespace().collect();
        let docker = Docker::start(ns, &words)?;
        wait_until("docker0", READY, || ns.run("ip -4 addr show dev docker0").is_ok_and(|text| text.contains("inet")))?;
        Ok(Self { docker, flanneld, subnet, options, _dir: dir })
    }

    /// The first address of the leased subnet.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        flannel_tests::topology::nth(self.subnet, 1)
    }

    /// What dockerd was given.
    pub(crate) fn docker_options(&self) -> &str {
        &self.options
    }

    /// The first process of a container.
    pub(crate) fn pid_of(&self, container: &str) -> Result<u32> {
        let pid = self.docker.cli(&["inspect", "--format={{.State.Pid}}", container])?;
        pid.trim().parse().with_context(|| format!("no process id in {pid:?}; flanneld said:\n{}", self.flanneld.log()))
    }
}

/// A file of the host's own mount namespace.
fn file(flanneld: &Process, path: &str) -> Result<String> {
    let path = format!("/proc/{}/root{path}", flanneld.pid());
    fs::read_to_string(&path).with_context(|| path)
}

fn subnet(flanneld: &Process) -> Result<Ipv4Net> {
    let env = file(flanneld, "/run/flannel/subnet.env")?;
    let line = env.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET=")).context("no FLANNEL_SUBNET")?;
    Ok(line.parse::<Ipv4Net>()?.trunc())
}

/// Runs `ExecStartPost=` of the unit and gives what the drop-in of docker.service reads.
fn docker_options(ns: &Netns, flanneld: &Process) -> Result<String> {
    let mut command = ns.command("nsenter");
    command.args(["--mount", "--target", &flanneld.pid().to_string()]).arg(dist("mk-docker-opts.sh"));
    command.args(["-k", "DOCKER_NETWORK_OPTIONS", "-d", "/run/flannel/docker"]).env("FLANNELD", binary("flanneld")?);
    output(command)?;
    let text = file(flanneld, "/run/flannel/docker")?;
    let line = text.lines().find_map(|line| line.strip_prefix("DOCKER_NETWORK_OPTIONS="));
    Ok(line.with_context(|| format!("no DOCKER_NETWORK_OPTIONS in {text:?}"))?.trim_matches('"').to_owned())
}

fn dist(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../flannel-agent/dist").join(name)
}

/// Runs `work` on a thread of its own in the network of a process. Sockets made there stay there.
pub(crate) fn in_network_of<T: Send + 'static>(pid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let entered = std::thread::spawn(move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).expect("the process has ended");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
        work()
    });
    entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
