//! What the agent itself takes: how long until news reach the packets, what a restart costs them, and its memory.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use flannel_common::bench::FIRST_DPORT;

use super::{Bench, Case, Kind};
use crate::{
    bench::{
        agent::Agents,
        arm::Arm,
        lab::{Lab, READY, Shape, Tuning, pinned},
        net::{self, Link, mac},
        sample::{Better, Sample},
        sink::{Hook, Sink},
    },
    netns::Netns,
    wait::wait_until,
};

/// Longest time until a change must have reached the packets.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long an agent may take to route to thousands of peers.
const BULK: Duration = Duration::from_mins(2);
/// Time between two packets of the sender.
const PACE: Duration = Duration::from_micros(100);
/// How long the sender goes on when the agent is back.
const AFTERGLOW: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Lease written → first packet to it arrives.
    Convergence,
    /// Route deleted by somebody → it is back.
    Repair,
    /// Process started → subnet.env written, with all routes there.
    StartToReady,
    /// Packets lost while the agent restarts.
    RestartGap,
    /// Resident memory.
    Memory,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What is measured.
    pub what: What,
    /// Leases that the store holds.
    pub leases: u32,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let (workload, unit) = match self.what {
            What::Convergence => ("convergence", "ms"),
            What::Repair => ("repair", "ms"),
            What::StartToReady => ("start-to-ready", "ms"),
            What::RestartGap => ("restart-gap", "packets"),
            What::Memory => ("memory", "MiB"),
        };
        let params = BTreeMap::from([("leases", self.leases.to_string())]);
        let (shape, tuning, kind) = (Shape::Single, Tuning::Docker, Kind::Agent(self));
        Case { workload, params, unit, better: Better::Lower, shape, tuning, kind }
    }

    /// Why `arm` cannot do it on any kernel.
    pub fn unfit(self, arm: Arm) -> Option<&'static str> {
        match arm {
            Arm::Off | Arm::Verified => None,
            _ if arm.has_agent() => Some("the same agent as in the arm verified"),
            _ => Some("has no agent"),
        }
    }
}

/// Takes one sample.
pub fn measure(spec: Spec, lab: &mut Lab, bench: &Bench) -> Result<Sample> {
    let hosts = lab.hosts.clone();
    let (container, far) = (lab.container(1)?.clone(), lab.far.clone());
    let host = hosts.first().context("no host")?;
    let agents = lab.agents.as_mut().context("this arm has no agent")?;
    ensure_leases(agents, host, spec.leases)?;
    let value = match spec.what {
        What::Convergence => converge(agents, host, &container, &far, bench.core)?.as_secs_f64() * 1e3,
        What::Repair => repair(host)?.as_secs_f64() * 1e3,
        What::StartToReady => start(agents)?.as_secs_f64() * 1e3,
        What::RestartGap => restart(agents, &container, &far, bench.core)? as f64,
        What::Memory => resident(agents)? as f64 / 1024.0,
    };
    Ok(Sample::new(value))
}

/// Fills the store up to `leases` leases and waits until all of them are routed to.
fn ensure_leases(agents: &mut Agents, host: &Netns, leases: u32) -> Result<()> {
    if agents.leases.peers() >= leases {
        return Ok(());
    }
    agents.leases.fill(leases)?;
    let last = net::peer_container(leases - 1);
    wait_until("routes to all peers", BULK, || has_route(host, last).unwrap_or(false)).map(drop)
}

/// Whether a host has a route to `target`; it has no default route.
fn has_route(host: &Netns, target: Ipv4Addr) -> Result<bool> {
    host.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect((target, 9)).is_ok()))?
}

fn converge(agents: &mut Agents, host: &Netns, container: &Netns, far: &Netns, core: usize) -> Result<Duration> {
    let k = agents.leases.spare();
    let target = net::peer_container(k);
    host.run(&format!(
        "ip neigh replace {} lladdr {} nud permanent dev eth0",
        net::peer_host(k),
        mac(Link::Uplink, 2)
    ))?;
    let sink = far.enter(|| Sink::attach(Hook::Tc, "eth0"))??;
    let outcome = while_sending(container, target, core, || {
        let start = Instant::now();
        agents.leases.put(k)?;
        while sink.counts()?.packets == 0 {
            if start.elapsed() > DEADLINE {
                bail!("no packet arrived {DEADLINE:?} after the lease was written");
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(start.elapsed())
    });
    agents.leases.delete(k)?;
    wait_until("the end of the route", DEADLINE, || !has_route(host, target).unwrap_or(true))?;
    Ok(outcome?.0)
}

fn repair(host: &Netns) -> Result<Duration> {
    let target = net::peer_container(1);
    host.run(&format!("ip route del {}", net::peer_subnet(1)))?;
    let start = Instant::now();
    host.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        while socket.connect((target, 9)).is_err() {
            if start.elapsed() > DEADLINE {
                bail!("the route was not back after {DEADLINE:?}");
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(start.elapsed())
    })?
}

fn start(agents: &mut Agents) -> Result<Duration> {
    let flanneld = agents.flannelds.first_mut().context("no agent")?;
    flanneld.stop()?;
    fs::remove_file(flanneld.subnet_file()).ok();
    let start = Instant::now();
    flanneld.start_ready(READY)?;
    Ok(start.elapsed())
}

fn restart(agents: &mut Agents, container: &Netns, far: &Netns, core: usize) -> Result<u64> {
    let sink = far.enter(|| Sink::attach(Hook::Tc, "eth0"))??;
    let ((), sent) = while_sending(container, net::peer_container(0), core, || {
        wait_until("packets", DEADLINE, || sink.counts().is_ok_and(|counts| counts.packets > 100))?;
        start(agents)?;
        thread::sleep(AFTERGLOW);
        Ok(())
    })?;
    thread::sleep(PACE * 20);
    Ok(sent.saturating_sub(sink.counts()?.packets))
}

/// Does `work` while the container sends packets to `target`; gives also the number of packets sent.
fn while_sending<T>(
    container: &Netns,
    target: Ipv4Addr,
    core: usize,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| pinned(container, core, || send_until(&done, target)));
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_panic| anyhow!("the sender panicked"))??;
        Ok((outcome?, sent))
    })
}

fn send_until(done: &AtomicBool, target: Ipv4Addr) -> Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        // Until there is a route, the host answers "unreachable", which a later call reports.
        sent += u64::from(socket.send_to(&[0; 18], (target, FIRST_DPORT)).is_ok());
        thread::sleep(PACE);
    }
    Ok(sent)
}

fn resident(agents: &mut Agents) -> Result<u64> {
    let pid = agents.flannelds.first_mut().context("no agent")?.process()?.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read the agent's memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).ok_or_else(|| anyhow!("VmRSS is {line:?}"))
}
