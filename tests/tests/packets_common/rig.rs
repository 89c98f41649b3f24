//! The programs, loaded but attached nowhere, run on one packet at a time by `BPF_PROG_TEST_RUN`.

use std::{collections::BTreeMap, io::ErrorKind};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, MapData, PerCpuArray, lpm_trie},
    programs::{Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use flannel_agent::fastpath::Object;
use flannel_common::abi::{
    Endpoint, Flow, FlowKey, Hook, Peer, PeerKey, PeerTally, Settings, Tally, counter_index, map, peer_kind, program,
};
use flannel_common::reason::Reason;
use flannel_tests::netns::Netns;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// A container of ours, and its port's, bridge's and uplink's place in these tests: the loopback device, which is where
/// `BPF_PROG_TEST_RUN` lets packets come in.
pub(crate) const LOCAL: [u8; 4] = [172, 16, 1, 2];
/// A container of peer 1, which is reached by next hop.
pub(crate) const REMOTE: [u8; 4] = [172, 16, 2, 2];
/// A container of peer 2, which is left to the kernel.
pub(crate) const TUNNELLED: [u8; 4] = [172, 16, 3, 2];
/// In the flannel network, but in no lease.
pub(crate) const NOBODY: [u8; 4] = [172, 16, 9, 2];
/// Outside of the flannel network.
pub(crate) const OUTSIDE: [u8; 4] = [10, 1, 1, 1];
/// The interface of a test run.
pub(crate) const LO: u32 = 1;
/// The Ethernet header that verified flows leave with.
pub(crate) const MACS: [u8; 12] = [2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 0xb];

/// Verdicts.
pub(crate) const TC_ACT_UNSPEC: i32 = -1;
pub(crate) const TC_ACT_REDIRECT: i32 = 7;
pub(crate) const XDP_PASS: i32 = 2;
pub(crate) const XDP_TX: i32 = 3;

/// What the kernel says of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) gso_size: u32,
    pub(crate) gso_segs: u32,
}

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Its return value.
    pub(crate) verdict: i32,
    /// The packet afterwards.
    pub(crate) packet: Vec<u8>,
    /// The one counter that moved, and by how many packets and bytes.
    pub(crate) counted: (Hook, Reason, Tally),
    /// The peers' counters that moved: slot, name, packets, bytes.
    pub(crate) peers: Vec<(u32, &'static str, Tally)>,
}

/// The programs and their maps.
pub(crate) struct Rig {
    bpf: Ebpf,
}

/// The settings of every test.
pub(crate) fn settings() -> Settings {
    Settings {
        revalidate_ns: 5_000_000_000,
        epoch: 7,
        network: [172, 16, 0, 0],
        network_mask: [255, 255, 0, 0],
        subnet: [172, 16, 1, 0],
        subnet_mask: [255, 255, 255, 0],
        enabled: 1,
        bridge_mac: [2, 0, 0, 0, 0, 1],
        reserved: [0; 2],
    }
}

/// A peer that is reached by next hop, in slot `index`.
pub(crate) fn peer(index: u32, kind: u8) -> Peer {
    Peer { next_hop: [192, 0, 2, 12], host: [192, 0, 2, 12], ifindex: LO, index, mtu: 1500, kind, reserved: 0 }
}

/// The monotonic clock, as the programs read it.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// A flow verified just now.
pub(crate) fn verified(flow_path: u8) -> Flow {
    Flow {
        packets: 0,
        bytes: 0,
        verified_at: now(),
        epoch: settings().epoch,
        in_ifindex: LO,
        out_ifindex: LO,
        priority: 0,
        macs: MACS,
        in_mac: [2, 0, 0, 0, 0, 1],
        max_len: 1500,
        peer: 1,
        path: flow_path,
        tos: 0,
    }
}

/// The key of a flow between two addresses with the ports that frames have.
pub(crate) fn key(src: [u8; 4], dst: [u8; 4], proto: u8) -> FlowKey {
    let (sport, dport) = (4000_u16.to_be_bytes(), 53_u16.to_be_bytes());
    FlowKey { src, dst, sport, dport, proto, reserved: [0; 3] }
}

impl Rig {
    /// Loads every program, on the CPU that this thread stays on from now on: seen packets are per CPU.
    pub(crate) fn load() -> Self {
        let mut cpus = CpuSet::new();
        cpus.set(sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        let mut bpf = EbpfLoader::new().load(&Object::built_in().bytes).unwrap();
        for (_, program) in bpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => load(|| program.load()),
                Program::Xdp(program) => load(|| program.load()),
                other => panic!("a program of another kind: {other:?}"),
            }
        }
        let mut rig = Self { bpf };
        rig.set(settings());
        let subnets =
            [(LOCAL, 0, peer_kind::LOCAL), (REMOTE, 1, peer_kind::NEXT_HOP), (TUNNELLED, 2, peer_kind::KERNEL)];
        for (addr, index, kind) in subnets {
            rig.put_peer(addr, peer(index, kind));
        }
        rig
    }

    /// Puts the settings.
    pub(crate) fn set(&mut self, settings: Settings) {
        let mut map: Array<_, Settings> = self.bpf.map_mut(map::SETTINGS).unwrap().try_into().unwrap();
        map.set(0, settings, 0).unwrap();
    }

    /// Puts the /24 of an address.
    pub(crate) fn put_peer(&mut self, addr: [u8; 4], peer: Peer) {
        let mut map: lpm_trie::LpmTrie<_, PeerKey, Peer> = self.bpf.map_mut(map::PEERS).unwrap().try_into().unwrap();
        map.insert(&lpm_trie::Key::new(24, PeerKey { addr: [addr[0], addr[1], addr[2], 0] }), peer, 0).unwrap();
    }

    /// Puts where a container is.
    pub(crate) fn put_endpoint(&mut self, addr: [u8; 4], endpoint: Endpoint) {
        let mut map: HashMap<_, [u8; 4], Endpoint> = self.bpf.map_mut(map::ENDPOINTS).unwrap().try_into().unwrap();
        map.insert(addr, endpoint, 0).unwrap();
    }

    fn flows(&mut self) -> HashMap<&mut MapData, FlowKey, Flow> {
        self.bpf.map_mut(map::FLOWS).unwrap().try_into().unwrap()
    }

    /// Puts a flow.
    pub(crate) fn put_flow(&mut self, key: FlowKey, flow: Flow) {
        self.flows().insert(key, flow, 0).unwrap();
    }

    /// A flow, if it is there.
    pub(crate) fn flow(&mut self, key: FlowKey) -> Option<Flow> {
        self.flows().get(&key, 0).ok()
    }

    /// Forgets all flows and puts the settings back.
    pub(crate) fn reset(&mut self) {
        let keys: Vec<FlowKey> = self.flows().keys().map(Result::unwrap).collect();
        for key in keys {
            self.flows().remove(&key).unwrap();
        }
        self.set(settings());
    }

    /// Runs a program once.
    pub(crate) fn run(&mut self, name: &str, packet: &[u8], context: Context) -> Ran {
        let before = (self.counters(), self.peer_counters());
        let mut out = vec![0; packet.len() + 64];
        let (verdict, len) = self.test_run(name, packet, &mut out, context, 1);
        out.truncate(len);
        let after = (self.counters(), self.peer_counters());
        let moved = difference(&before.0, &after.0);
        let [((hook, reason), tally)] = moved[..] else { panic!("{name} moved other than one counter: {moved:?}") };
        let peers =
            difference(&before.1, &after.1).into_iter().map(|((slot, name), tally)| (slot, name, tally)).collect();
        Ran { verdict, packet: out, counted: (hook, reason, tally), peers }
    }

    /// Attaches a program to an interface of a namespace until the rig goes.
    pub(crate) fn attach(&mut self, ns: &Netns, name: &str, ifname: &str) {
        let program = self.bpf.program_mut(name).unwrap();
        let ingress = name.contains("from_");
        ns.enter(move || match program {
            Program::Xdp(program) => program.attach(ifname, XdpMode::Driver).map(drop),
            Program::SchedClassifier(program) => {
                let side = if ingress { TcAttachType::Ingress } else { TcAttachType::Egress };
                program.attach(ifname, side).map(drop)
            }
            other => panic!("a program of another kind: {other:?}"),
        })
        .unwrap()
        .unwrap();
    }

    /// Packets counted so far for a reason, at all hooks.
    pub(crate) fn packets(&self, reason: Reason) -> u64 {
        self.counters().iter().filter(|((_, counted), _)| *counted == reason).map(|(_, tally)| tally.packets).sum()
    }

    /// Runs a program `repeat` times and gives the nanoseconds of one run.
    pub(crate) fn time(&mut self, name: &str, packet: &[u8], repeat: u32) -> u64 {
        let data_in = Some(packet);
        let options = TestRunOptions { data_in, repeat, ..TestRunOptions::default() };
        let program = self.bpf.program(name).unwrap();
        let result = match program {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            other => panic!("a program of another kind: {other:?}"),
        };
        result.unwrap().duration.as_nanos() as u64
    }

    fn test_run(&self, name: &str, packet: &[u8], out: &mut [u8], context: Context, repeat: u32) -> (i32, usize) {
        let context = context.bytes();
        let mut options = TestRunOptions { data_in: Some(packet), data_out: Some(out), repeat, ..Default::default() };
        let result = if name == program::TRANSIT || name == program::TRUSTED_TRANSIT {
            let program: &Xdp = self.bpf.program(name).unwrap().try_into().unwrap();
            program.test_run(options)
        } else {
            let program: &SchedClassifier = self.bpf.program(name).unwrap().try_into().unwrap();
            options.ctx_in = Some(&context);
            program.test_run(options)
        };
        let result = result.unwrap_or_else(|error| panic!("{name} does not run on {packet:02x?}: {error:?}"));
        (result.return_value as i32, result.data_size_out as usize)
    }

    fn counters(&self) -> BTreeMap<(Hook, Reason), Tally> {
        let map: PerCpuArray<_, Tally> = self.bpf.map(map::COUNTERS).unwrap().try_into().unwrap();
        let places = Hook::ALL.into_iter().flat_map(|hook| Reason::ALL.map(|reason| (hook, reason)));
        places
            .map(|place| (place, sum(map.get(&counter_index(place.0, place.1), 0).unwrap().iter().copied())))
            .collect()
    }

    fn peer_counters(&self) -> BTreeMap<(u32, &'static str), Tally> {
        let map: PerCpuArray<_, PeerTally> = self.bpf.map(map::PEER_COUNTERS).unwrap().try_into().unwrap();
        let mut tallies = BTreeMap::new();
        for slot in 0..3 {
            let cpus = map.get(&slot, 0).unwrap();
            tallies.insert((slot, "fast_to"), sum(cpus.iter().map(|tally| tally.fast_to)));
            tallies.insert((slot, "fast_from"), sum(cpus.iter().map(|tally| tally.fast_from)));
            tallies.insert((slot, "slow_to"), sum(cpus.iter().map(|tally| tally.slow_to)));
            tallies.insert((slot, "slow_from"), sum(cpus.iter().map(|tally| tally.slow_from)));
        }
        tallies
    }
}

/// The verifier gives up with EAGAIN when a signal is pending, as on a busy machine; libbpf tries again, aya 0.14 does not.
fn load(mut attempt: impl FnMut() -> Result<(), ProgramError>) {
    let interrupted = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == ErrorKind::WouldBlock);
    for _ in 0..20 {
        match attempt() {
            Err(error) if interrupted(&error) => {}
            result => return result.unwrap(),
        }
    }
    panic!("the verifier was interrupted 20 times");
}

impl Context {
    /// As the kernel's `struct __sk_buff`.
    fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        let fields = [
            (8, self.mark),
            (32, self.priority),
            (36, self.ingress_ifindex),
            (164, self.gso_segs),
            (176, self.gso_size),
        ];
        for (at, value) in fields {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

fn sum(tallies: impl Iterator<Item = Tally>) -> Tally {
    tallies.fold(Tally::default(), |sum, tally| Tally {
        packets: sum.packets + tally.packets,
        bytes: sum.bytes + tally.bytes,
    })
}

fn difference<K: Ord + Copy>(before: &BTreeMap<K, Tally>, after: &BTreeMap<K, Tally>) -> Vec<(K, Tally)> {
    let moved = after.iter().filter(|(place, tally)| before[place] != **tally);
    moved
        .map(|(place, tally)| {
            let packets = tally.packets - before[place].packets;
            (*place, Tally { packets, bytes: tally.bytes - before[place].bytes })
        })
        .collect()
}
