//! What one run of a program costs: `BPF_PROG_TEST_RUN` without interfaces, on maps that we fill.
//!
//! It shows the program alone: no driver, no packet buffers, no redirect. Read it beside the floor, a program that does
//! nothing, which the arm `limit` shows.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use bytemuck::Zeroable as _;
use flannel_agent::fastpath::{Object, bench_object::BENCH_OBJECT};
use flannel_common::{
    abi::{Flow, FlowKey, Hook, Peer, PeerKey, Settings, Tally, counter_index, map, path, peer_kind, program},
    bench::{finish, name, ports},
    reason::Reason,
};
use nix::time::{ClockId, clock_gettime};

use super::{Bench, Case, Kind};
use crate::bench::{
    arm::Arm,
    generator::ethernet,
    lab::{Lab, Shape, Tuning, pinned},
    net::{self, Link, mac},
    probe::stolen_share,
    sample::{Better, Sample, Spread},
};

/// Runs of one packet in one system call. Fewer than the TTL, of which every fast run takes one.
const REPEAT: u32 = 32;
/// Different packets that are run in turn.
const PACKETS: u32 = 256;
/// Turns of all packets.
const TURNS: usize = 8;
/// The loopback interface, on which test runs pretend to be.
const LOOPBACK: u32 = 1;
/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;
/// Bytes of a frame without its checksum.
const FRAME: usize = 60;

/// One case: a packet leaves a container towards one of `peers` peers, by one of `flows` flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Entries of the peer trie.
    pub peers: u32,
    /// Entries of the flow map.
    pub flows: u32,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let scaling = self.peers > 1 || self.flows > 1;
        let workload = if scaling { "lookup-scaling" } else { "program-cost" };
        let params = BTreeMap::from([("peers", self.peers.to_string()), ("flows", self.flows.to_string())]);
        let (shape, tuning, kind) = (Shape::Empty, Tuning::Docker, Kind::Program(self));
        Case { workload, params, unit: "ns", better: Better::Lower, shape, tuning, kind }
    }

    /// Why `arm` cannot do it on any kernel.
    pub fn unfit(arm: Arm) -> Option<&'static str> {
        (!matches!(arm, Arm::Verified | Arm::Trusted | Arm::Limit)).then_some("runs no program")
    }
}

/// Takes one sample: the median over many packets of what a run costs.
pub fn measure(spec: Spec, lab: &Lab, bench: &Bench) -> Result<Sample> {
    let arm = lab.arm;
    pinned(&lab.far, bench.core, || {
        let before = stolen_share();
        let (mut bpf, name) = load(arm, spec)?;
        let tc: &mut SchedClassifier = bpf.program_mut(name).context("no such program")?.try_into()?;
        tc.load()?;
        let (costs, fast) = run(tc, spec)?;
        let why = reasons(&bpf);
        let cost = Spread::of(&costs).context("nothing was run")?;
        let stolen = before.max(stolen_share());
        let sample = Sample::new(cost.median).with("stolen_share", stolen).with("fast_share", fast);
        Ok(sample.invalid_if(arm != Arm::Limit && fast < 0.99, || format!("only {:.0} % ran fast:{why}", fast * 100.0)))
    })
}

/// Cost of a run in ns for each packet, and the share of packets that went fast.
fn run(tc: &SchedClassifier, spec: Spec) -> Result<(Vec<f64>, f64)> {
    let (mut costs, mut fast, mut all) = (Vec::new(), 0_u32, 0_u32);
    let stride = (spec.flows.max(spec.peers) / PACKETS).max(1);
    for _ in 0..TURNS {
        for packet in 0..PACKETS {
            let frame = frame(spec, packet * stride);
            let options = TestRunOptions { data_in: Some(&frame), repeat: REPEAT, ..TestRunOptions::new() };
            let done = tc.test_run(options).context("run the program")?;
            costs.push(done.duration.as_nanos() as f64);
            fast += u32::from(done.return_value == REDIRECT);
            all += 1;
        }
    }
    Ok((costs, f64::from(fast) / f64::from(all)))
}

/// What the programs counted, if they did.
fn reasons(bpf: &Ebpf) -> String {
    let Some(Ok(map)) = bpf.map(map::COUNTERS).map(PerCpuArray::<_, Tally>::try_from) else { return String::new() };
    let packets = |reason: Reason| {
        let per_cpu = map.get(&counter_index(Hook::FromPort, reason), 0).ok()?;
        Some(per_cpu.iter().map(|tally| tally.packets).sum::<u64>()).filter(|sum| *sum > 0)
    };
    Reason::ALL.iter().filter_map(|reason| Some(format!(" {}={}", reason.label(), packets(*reason)?))).collect()
}

fn load(arm: Arm, spec: Spec) -> Result<(Ebpf, &'static str)> {
    if arm == Arm::Limit {
        return Ok((Ebpf::load(BENCH_OBJECT)?, name::FLOOR_TC));
    }
    let object = Object::built_in();
    let mut loader = EbpfLoader::new();
    let mut bpf = loader.map_max_entries(map::FLOWS, spec.flows.max(spec.peers).max(1024) * 2).load(&object.bytes)?;
    fill_settings(&mut bpf)?;
    fill_peers(&mut bpf, spec)?;
    let name = if arm == Arm::Verified { program::FROM_PORT } else { program::TRUSTED_FROM_PORT };
    if arm == Arm::Verified {
        fill_flows(&mut bpf, spec)?;
    }
    Ok((bpf, name))
}

fn fill_settings(bpf: &mut Ebpf) -> Result<()> {
    let settings = Settings {
        revalidate_ns: u64::MAX / 2,
        epoch: 1,
        network: [10, 0, 0, 0],
        network_mask: [255, 0, 0, 0],
        subnet: net::subnet(1).network().octets(),
        subnet_mask: [255, 255, 255, 0],
        enabled: 1,
        bridge_mac: mac(Link::Bridge, 1).0,
        ..Settings::zeroed()
    };
    let mut map: Array<_, Settings> = Array::try_from(bpf.map_mut(map::SETTINGS).context("no SETTINGS")?)?;
    Ok(map.set(0, settings, 0)?)
}

fn fill_peers(bpf: &mut Ebpf, spec: Spec) -> Result<()> {
    let mut map: LpmTrie<_, PeerKey, Peer> = LpmTrie::try_from(bpf.map_mut(map::PEERS).context("no PEERS")?)?;
    let own = Peer { kind: peer_kind::LOCAL, ..Peer::zeroed() };
    map.insert(&Key::new(24, PeerKey { addr: net::subnet(1).network().octets() }), own, 0)?;
    for k in 0..spec.peers {
        let next_hop = net::peer_host(k).octets();
        let peer = Peer {
            next_hop,
            host: next_hop,
            ifindex: LOOPBACK,
            index: k,
            mtu: 1500,
            kind: peer_kind::NEXT_HOP,
            reserved: 0,
        };
        map.insert(&Key::new(24, PeerKey { addr: net::peer_subnet(k).network().octets() }), peer, 0)?;
    }
    Ok(())
}

fn fill_flows(bpf: &mut Ebpf, spec: Spec) -> Result<()> {
    let mut map: HashMap<_, FlowKey, Flow> = HashMap::try_from(bpf.map_mut(map::FLOWS).context("no FLOWS")?)?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let verified_at = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    for number in 0..spec.flows.max(spec.peers) {
        let (dst, sport, dport) = addresses(spec, number);
        let key = FlowKey {
            src: net::container(1).octets(),
            dst: dst.octets(),
            sport: sport.to_be_bytes(),
            dport: dport.to_be_bytes(),
            proto: 17,
            reserved: [0; 3],
        };
        let flow = Flow {
            verified_at,
            epoch: 1,
            in_ifindex: LOOPBACK,
            out_ifindex: LOOPBACK,
            max_len: 1500,
            path: path::OUT,
            in_mac: mac(Link::Bridge, 1).0,
            // A run writes these over the frame; the next run of the same frame must find it as it was.
            macs: *ethernet(mac(Link::Container, 1), mac(Link::Bridge, 1)).first_chunk().expect("twelve of fourteen"),
            ..Flow::zeroed()
        };
        map.insert(key, flow, 0)?;
    }
    Ok(())
}

/// Destination and ports of packet `number`: it goes to peer `number` by flow `number`, each in its own round.
fn addresses(spec: Spec, number: u32) -> (Ipv4Addr, u16, u16) {
    let (sport, dport) = ports(number % spec.flows);
    (net::peer_container(number % spec.peers), sport, dport)
}

fn frame(spec: Spec, number: u32) -> [u8; FRAME] {
    let (dst, sport, dport) = addresses(spec, number);
    let mut frame = [0; FRAME];
    frame[..14].copy_from_slice(&ethernet(mac(Link::Container, 1), mac(Link::Bridge, 1)));
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&net::container(1).octets());
    frame[30..34].copy_from_slice(&dst.octets());
    let sum = (14..34).step_by(2).map(|at| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]))).sum();
    frame[24..26].copy_from_slice(&finish(sum).to_be_bytes());
    frame[34..36].copy_from_slice(&sport.to_be_bytes());
    frame[36..38].copy_from_slice(&dport.to_be_bytes());
    frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
    frame
}
