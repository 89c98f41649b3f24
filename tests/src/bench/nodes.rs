//! Between two real nodes: `bench serve --uplink eth1` on one, `bench --uplink eth1 --peer ADDR` on the other.
//!
//! Each of them puts a container of its own behind the node's bridge and removes it when it ends. The arms are what the node
//! runs anyway, with its fast path switched off and on in turns: routes, rules and agent stay as they are.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use flannel_agent::{admin::client::Client, state::NodeState};
use flannel_common::abi::{Settings, map};
use ipnet::Ipv4Net;

use super::{
    arm::Arm,
    counters::{Witness, forwarded},
    lab::pinned,
    row::{Row, compare_with_baseline},
    run::{is_interrupted, take},
    sample::Sample,
    sink::{Hook, Sink},
    workload::{
        Bench, Case, Kind, check_way,
        roundtrip::{self, Exchange},
        socket::{self, Flight},
        stream,
    },
};
use crate::{
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
};

/// TCP port on which the serving node answers the measuring one.
const CONTROL: u16 = 7010;
/// How long the other node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the serving node looks whether it shall end.
const POLL: Duration = Duration::from_millis(20);
/// How long packets may still be under way.
const SETTLE: Duration = Duration::from_millis(20);

/// A container of the benchmark behind a node's bridge.
pub struct Visitor {
    ns: Netns,
    address: Ipv4Addr,
}

impl Visitor {
    /// Makes it, with an address near the end of the bridge's subnet, where Docker comes last.
    pub fn behind(bridge: &str) -> Result<Self> {
        let (gateway, network) = address_of(bridge)?;
        ensure!(network.prefix_len() <= 28, "the subnet {network} of {bridge} is too small for a guest");
        let address = Ipv4Addr::from(u32::from(network.broadcast()) - 5);
        let ns = Netns::new("guest")?;
        let (name, prefix) = (format!("bench{}", std::process::id()), network.prefix_len());
        ip(&format!("link add {name} type veth peer name eth0 netns {}", ns.name()))?;
        ip(&format!("link set {name} master {bridge} up"))?;
        ns.sh(&format!(
            "ip addr add {address}/{prefix} dev eth0; ip link set eth0 up; ip route add default via {gateway}"
        ))?;
        Ok(Self { ns, address })
    }
}

/// Serves until SIGINT or SIGTERM: counts packets, and answers TCP and UDP in a container behind `bridge`.
pub fn serve(uplink: &str, bridge: &str) -> Result<()> {
    let (address, _) = address_of(uplink)?;
    let guest = Visitor::behind(bridge)?;
    let sink = guest.ns.enter(|| Sink::attach(Hook::Tc, "eth0"))??;
    let dir = Scratch::new("serve")?;
    let _iperf: Process = guest.ns.spawn(&format!("iperf3 --server --port {}", stream::PORT), &dir.join("iperf3"))?;
    for exchange in [Exchange::Tcp, Exchange::Udp, Exchange::Connection] {
        let ns = guest.ns.clone();
        thread::spawn(move || answer_forever(&ns, exchange));
    }
    let listener = TcpListener::bind((address, CONTROL)).with_context(|| format!("listen on {address}:{CONTROL}"))?;
    listener.set_nonblocking(true)?;
    println!("serving on {uplink}: measure on the other node with --peer {address}");
    while !is_interrupted() {
        match listener.accept() {
            Ok((stream, _)) => answer(stream, &guest, &sink).unwrap_or_else(|error| eprintln!("a caller: {error:#}")),
            Err(_) => thread::sleep(POLL),
        }
    }
    Ok(())
}

/// Serves one client after the other; one that goes away in the middle is nobody's fault.
fn answer_forever(ns: &Netns, exchange: Exchange) {
    while !is_interrupted() {
        let (ready, _listening) = mpsc::channel();
        if !matches!(ns.enter(|| roundtrip::serve(exchange, &ready)), Ok(Ok(()))) {
            thread::sleep(POLL);
        }
    }
}

/// One question, one answer: `where` gives the container's address, `count` the packets that have arrived.
fn answer(stream: TcpStream, guest: &Visitor, sink: &Sink) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new(&stream).read_line(&mut question)?;
    let text = match question.trim_end() {
        "where" => guest.address.to_string(),
        "count" => sink.counts()?.packets.to_string(),
        other => bail!("asked {other:?}"),
    };
    Ok(writeln!(&stream, "{text}")?)
}

/// The serving node, as the measuring one sees it.
struct Peer {
    address: Ipv4Addr,
    container: Ipv4Addr,
}

impl Peer {
    fn find(address: Ipv4Addr) -> Result<Self> {
        let container = ask(address, "where")?.parse().context("the peer's container")?;
        Ok(Self { address, container })
    }

    fn count(&self) -> Result<u64> {
        ask(self.address, "count")?.parse().context("the peer's count")
    }
}

fn ask(address: Ipv4Addr, question: &str) -> Result<String> {
    let target = SocketAddrV4::new(address, CONTROL);
    let stream = TcpStream::connect_timeout(&target.into(), PATIENCE)
        .with_context(|| format!("nobody serves at {target}: run `bench serve --uplink IFACE` there"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(&stream, "{question}")?;
    let mut text = String::new();
    BufReader::new(&stream).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// The node's fast path, which can be switched off and on beside the agent; on again when dropped.
struct Switch {
    settings: Array<MapData, Settings>,
}

impl Switch {
    fn open(pin_dir: &Path) -> Result<Self> {
        let path = pin_dir.join(map::SETTINGS);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { settings: Array::try_from(Map::Array(data))? })
    }

    fn set(&mut self, is_on: bool) -> Result<()> {
        let settings = Settings { enabled: u32::from(is_on), ..self.settings.get(&0, 0)? };
        Ok(self.settings.set(0, settings, 0)?)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.set(true).ok();
    }
}

/// What to measure, and where.
pub struct Nodes {
    /// Interface towards the other node.
    pub uplink: String,
    /// Address of the other node.
    pub peer: Ipv4Addr,
    /// The bridge that containers are behind.
    pub bridge: String,
    /// Socket of this node's flanneld.
    pub admin_socket: PathBuf,
    /// Samples of each arm.
    pub rounds: usize,
}

/// Measures from this node to the other, with the fast path off and on in turns.
pub fn run(nodes: &Nodes, cases: &[Case], bench: &Bench) -> Result<Vec<Row>> {
    check_way_out(nodes)?;
    let peer = Peer::find(nodes.peer)?;
    let state = status(&nodes.admin_socket)?;
    let fast = Arm::from_label(&state.fastpath.mode).filter(|arm| arm.bypasses_kernel());
    let fast =
        fast.with_context(|| format!("the fast path of this node is {:?}: nothing to compare", state.fastpath.mode))?;
    let mut switch = Switch::open(Path::new(&state.fastpath.pin_dir))?;
    let guest = Visitor::behind(&nodes.bridge)?;
    let mut rows = Vec::new();
    for case in cases {
        let mut samples = [(Arm::KernelRules, Vec::new()), (fast, Vec::new())];
        for _ in 0..nodes.rounds {
            for (arm, taken) in &mut samples {
                ensure!(!is_interrupted(), "interrupted; everything that was made is removed");
                switch.set(*arm != Arm::KernelRules)?;
                taken.extend(take(|| measure(case, *arm, &guest, &peer, bench))?);
            }
        }
        let mut table: Vec<Row> = samples.iter().map(|(arm, taken)| Row::of(case, *arm, taken)).collect();
        compare_with_baseline(&mut table);
        println!("{}", super::table::of_case(case, &table));
        rows.extend(table);
    }
    Ok(rows)
}

/// The route to the peer must lead out of the uplink, or the figures are of another interface.
fn check_way_out(nodes: &Nodes) -> Result<()> {
    let route = ip(&format!("route get {}", nodes.peer))?;
    let leads_out = route.split_whitespace().skip_while(|word| *word != "dev").nth(1) == Some(nodes.uplink.as_str());
    ensure!(leads_out, "the route to {} does not lead out of {}: {}", nodes.peer, nodes.uplink, route.trim());
    Ok(())
}

fn status(socket: &Path) -> Result<NodeState> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(socket);
    runtime.block_on(client.get("/v1/status")).with_context(|| format!("ask flanneld at {}", socket.display()))
}

fn measure(case: &Case, arm: Arm, guest: &Visitor, peer: &Peer, bench: &Bench) -> Result<Sample> {
    let witness = Witness::look(None, &guest.ns)?;
    let sample = match case.kind {
        Kind::Socket(spec) => return send(spec, arm, guest, peer, bench),
        Kind::Stream(spec) => stream::run_client(spec, &guest.ns, peer.container, bench.core)?,
        Kind::RoundTrip(spec) => {
            let time = bench.sample_time;
            let laps = pinned(&guest.ns, bench.core, || roundtrip::ask(spec.exchange, peer.container, time))?;
            let sample = roundtrip::describe(laps).context("no round trip was made")?;
            if spec.exchange == Exchange::Connection {
                return Ok(sample);
            }
            sample
        }
        Kind::Pps(_) | Kind::Program(_) | Kind::Agent(_) => bail!("{} is not measured between nodes", case.workload),
    };
    let kernel_share = witness.kernel_share(None, &guest.ns)?;
    Ok(check_way(sample, arm, kernel_share))
}

/// Packets from a socket, counted in the other node's container; the rate is lowered until nothing is lost.
fn send(spec: socket::Spec, arm: Arm, guest: &Visitor, peer: &Peer, bench: &Bench) -> Result<Sample> {
    let mut spec = spec;
    let mut attempt = 0;
    loop {
        let before = (peer.count()?, forwarded(None)?);
        let (sent, elapsed, stolen) =
            pinned(&guest.ns, bench.core, || socket::send(spec, peer.container, bench.sample_time))?;
        thread::sleep(SETTLE);
        let received = peer.count()? - before.0;
        let kernel_share = (forwarded(None)? - before.1) as f64 / received.max(1) as f64;
        let flight = Flight { sent, received, elapsed, kernel_share, stolen };
        attempt += 1;
        if attempt > socket::ATTEMPTS || received == 0 || flight.loss() <= socket::LOSS_LIMIT {
            return Ok(flight.judge(arm, flight.rate() / 1e6));
        }
        spec = flight.slower(spec);
    }
}

/// First IPv4 address of an interface of this namespace, and its network.
fn address_of(ifname: &str) -> Result<(Ipv4Addr, Ipv4Net)> {
    let text = ip(&format!("-o -4 addr show dev {ifname}"))?;
    let word = text.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let net: Ipv4Net = word.with_context(|| format!("{ifname} has no IPv4 address"))?.parse()?;
    Ok((net.addr(), net.trunc()))
}

fn ip(line: &str) -> Result<String> {
    let mut command = std::process::Command::new("ip");
    command.args(line.split_whitespace());
    output(command)
}
