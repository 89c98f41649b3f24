//! Far more flows than the flow table holds: every packet arrives, nothing grows, and new flows are fast afterwards.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::{
    net::Ipv4Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use flannel_agent::fastpath::{PIN_ROOT, Reader};
use flannel_common::abi::{ABI_VERSION, FLOWS_CAPACITY, FlowKey, map};
use flannel_common::bench::ports;
use flannel_tests::{
    bench::{
        agent::Store,
        arm::Arm,
        generator::{Generator, Stream},
        lab::{Lab, Shape, Tuning, pinned},
        net::{self, Link, mac},
        sink::{Hook, Sink},
    },
    netns::Netns,
    process::output,
    require,
    skip::Feature,
    wait::wait_for,
};
use nix::net::if_::if_nametoindex;

/// Flows of one wave, in each direction.
const FLOWS: u32 = 65_536;
/// Sixteen waves make 1,048,576 flows in each direction.
const WAVES: u32 = 16;
/// Peers that they lead to.
const PEERS: u32 = 64;
/// Packets of each flow in a wave.
const PACKETS: u64 = 2;
/// Half a minute would be a kernel that does ten thousand packets a second.
const LIMIT: Duration = Duration::from_mins(2);

/// A host with a container, and a generator and a counter at either end.
struct Scene {
    lab: Lab,
    generator: Generator,
    reader: Reader,
    at_far: Sink,
    at_container: Sink,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::build(Arm::Verified, Shape::Single, &mut Store::default()).unwrap();
        lab.tune(Tuning::Frames).unwrap();
        let sink = |ns: &Netns| ns.enter(|| Sink::attach(Hook::Tc, "eth0").unwrap()).unwrap();
        let reader = lab.first().enter(|| Reader::open(PIN_ROOT.as_ref(), None)).unwrap().unwrap();
        let (at_far, at_container) = (sink(&lab.far), sink(lab.container(1).unwrap()));
        Self { generator: Generator::load().unwrap(), reader, at_far, at_container, lab }
    }

    /// Sends packets of `flows` flows to containers of all peers and back, and gives how many.
    fn send(&mut self, host: u32, flows: u32, packets: u64) -> u64 {
        let out = Stream {
            ifindex: 0,
            from: mac(Link::Container, 1),
            to: mac(Link::Bridge, 1),
            src: net::container(1),
            dst: container(host),
            reverse: false,
            flows,
            dests: PEERS.min(flows),
            length: 46,
            vxlan: None,
        };
        let back = Stream { from: mac(Link::Uplink, 2), to: mac(Link::Uplink, 1), reverse: true, ..out };
        let ends = [(self.lab.container(1).unwrap().clone(), out), (self.lab.far.clone(), back)];
        let generator = &mut self.generator;
        let sent = ends.map(|(ns, stream)| {
            let sent = pinned(&ns, 0, || {
                generator.aim(&Stream { ifindex: if_nametoindex("eth0")?, ..stream })?;
                generator.send(packets)
            });
            sent.unwrap().frames
        });
        assert_eq!(sent[0], sent[1]);
        sent[0]
    }

    /// Packets that have arrived: out of the host, and in the container.
    fn arrived(&self) -> [u64; 2] {
        [&self.at_far, &self.at_container].map(|sink| sink.counts().unwrap().packets)
    }

    /// Bytes of kernel memory that the flow table takes.
    fn table_bytes(&self) -> u64 {
        let inode = std::fs::metadata(self.lab.first().path()).unwrap().ino();
        let dir = Path::new(PIN_ROOT).join(inode.to_string());
        let network = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
        let pin: PathBuf = network.join(format!("v{ABI_VERSION}")).join(map::FLOWS);
        let mut show = Command::new("bpftool");
        show.args(["-j", "map", "show", "pinned"]).arg(pin);
        let shown: serde_json::Value = serde_json::from_str(&output(show).unwrap()).unwrap();
        shown["bytes_memlock"].as_u64().unwrap()
    }

    fn flows(&self) -> usize {
        self.reader.flows(usize::MAX, |_, _| true).unwrap().len()
    }
}

/// Container number `host` of the first peer.
fn container(host: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net::peer_container(0)) + host)
}

#[test]
fn a_million_flows_pass_in_both_directions() {
    require!(Feature::Bpf, Feature::Tool("ethtool"), Feature::Tool("conntrack"), Feature::Tool("bpftool"));
    let mut scene = Scene::new();
    let (memory, begun, mut sent) = (scene.table_bytes(), Instant::now(), 0);
    for wave in 0..WAVES {
        sent += scene.send(wave, FLOWS, PACKETS * u64::from(FLOWS));
        let held = scene.flows();
        assert!(held <= FLOWS_CAPACITY as usize && held > FLOWS_CAPACITY as usize / 2, "{held} flows in the table");
        // Connection tracking's own table is no part of this, and how large it may get is the machine's affair.
        scene.lab.first().run("conntrack -F").unwrap();
    }
    let took = begun.elapsed();
    let all =
        wait_for("every packet to arrive", Duration::from_secs(5), || (scene.arrived() == [sent; 2]).then_some(()));
    let arrived = scene.arrived();
    println!("{arrived:?} of {sent} packets of {} flows arrived in {took:?}", WAVES * FLOWS);
    all.unwrap();
    assert!(took < LIMIT, "{took:?}");
    assert_eq!(scene.table_bytes(), memory);
    println!("the flow table takes {memory} bytes and holds {} flows", scene.flows());
    a_new_flow_is_fast(&mut scene);
}

fn a_new_flow_is_fast(scene: &mut Scene) {
    let sent = scene.send(WAVES, 1, 4096);
    let (sport, dport) = ports(0);
    let (near, far) = (net::container(1).octets(), container(WAVES).octets());
    let (sport, dport) = (sport.to_be_bytes(), dport.to_be_bytes());
    let out = FlowKey { src: near, dst: far, sport, dport, proto: 17, reserved: [0; 3] };
    let back = FlowKey { src: far, dst: near, sport: dport, dport: sport, ..out };
    for key in [out, back] {
        let flow = scene.reader.flow(&key).unwrap().unwrap();
        assert!(flow.packets > sent / 2, "{} of {sent} packets of {key:?} were fast", flow.packets);
    }
}
