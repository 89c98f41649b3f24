//! The flow state machine against a model that keeps the whole history, over random packets, rules, routes and time.
//!
//! The machine is driven as the programs drive it; the kernel of the model forwards, drops or rewrites as its rules say. The laws
//! are those of the design: a fast packet repeats what the kernel did to an unchanged packet of the same flow, not too long ago.

use std::collections::BTreeMap;

use flannel_common::abi::{Flow, FlowKey, Peer, Seen, Settings, path, peer_kind};
use flannel_common::flow::{
    Arrival, Departure, Entry, Exit, admit_from_port, admit_from_uplink, decide, is_fresh, merged_max_len, note,
    reversed, same_way, seen_slot, verify,
};
use flannel_common::header::{Ipv4, Mac, Packet, TCP};
use flannel_common::reason::Reason;
use proptest::prelude::*;

const REVALIDATE: u64 = 5_000;
const LOCAL: [u8; 4] = [172, 16, 1, 2];
const REMOTE: [u8; 4] = [172, 16, 2, 2];

/// What the kernel does to packets, by the rules and routes of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Forward,
    Drop,
    Nat,
    Dscp,
    Mark,
    Ttl,
    Resize,
    HairpinToPort,
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Packet { port: u8, control: bool, tos: u8, len: u16, ifindex: u32, marked: bool },
    Rule(Rule),
    Route(u32),
    Epoch,
    Wait(u64),
}

/// An unchanged packet that the kernel has forwarded, or the end of a connection.
#[derive(Clone, Copy, Debug)]
enum Record {
    Forwarded { at: u64, epoch: u32, ifindex: u32, dscp: u8, len: u16, out: u32 },
    Control,
}

fn event() -> impl Strategy<Value = Event> {
    let broken = [Rule::Drop, Rule::Nat, Rule::Dscp, Rule::Mark, Rule::Ttl, Rule::Resize, Rule::HairpinToPort];
    let rule = prop_oneof![Just(Rule::Forward), prop::sample::select(broken.to_vec())];
    let tos = prop_oneof![6 => Just(0_u8), 1 => Just(2_u8), 1 => Just(0xb8_u8)];
    let len = prop_oneof![1 => Just(60_u16), 1 => Just(576), 4 => Just(1500)];
    let odd = || prop::bool::weighted(0.05);
    let packet = (0..3_u8, odd(), tos, len, odd(), odd()).prop_map(|(port, control, tos, len, moved, marked)| {
        Event::Packet { port, control, tos, len, ifindex: 4 + u32::from(moved), marked }
    });
    prop_oneof![
        20 => packet,
        2 => rule.prop_map(Event::Rule),
        1 => (10..12_u32).prop_map(Event::Route),
        1 => Just(Event::Epoch),
        2 => prop_oneof![Just(1_u64), Just(1_000), Just(4_999), Just(5_000), Just(9_000)].prop_map(Event::Wait),
    ]
}

fn settings(epoch: u32) -> Settings {
    Settings {
        revalidate_ns: REVALIDATE,
        epoch,
        network: [172, 16, 0, 0],
        network_mask: [255, 255, 0, 0],
        subnet: [172, 16, 1, 0],
        subnet_mask: [255, 255, 255, 0],
        enabled: 1,
        bridge_mac: [0; 6],
        reserved: [0; 2],
    }
}

fn peer(index: u32, kind: u8) -> Peer {
    Peer { next_hop: [0; 4], host: [0; 4], ifindex: 2, index, mtu: 1500, kind, reserved: 0 }
}

/// The maps, the kernel and the history.
struct World {
    now: u64,
    epoch: u32,
    rule: Rule,
    out: u32,
    flows: BTreeMap<FlowKey, Flow>,
    seen: BTreeMap<u32, Seen>,
    history: BTreeMap<u8, Vec<Record>>,
}

impl World {
    fn new() -> Self {
        let (flows, seen, history) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { now: 1_000_000, epoch: 1, rule: Rule::Forward, out: 10, flows, seen, history }
    }

    fn step(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Rule(rule) => self.rule = rule,
            Event::Route(out) => self.out = out,
            Event::Epoch => self.epoch += 1,
            Event::Wait(time) => self.now += time,
            Event::Packet { .. } => return self.packet(event),
        }
        Ok(())
    }

    fn packet(&mut self, event: Event) -> Result<(), TestCaseError> {
        let Event::Packet { port, control, tos, len, ifindex, marked } = event else { unreachable!("a packet") };
        let ip =
            Ipv4 { src: u32::from_ne_bytes(LOCAL), dst: u32::from_ne_bytes(REMOTE), len, ttl: 64, tos, protocol: TCP };
        let packet = Packet { ports: u32::from(port), segment: len, control };
        let mac = Mac::from_bytes(&[ifindex as u8; 6]);
        let arrival = Arrival { ifindex, mac, mark: u32::from(marked), now: self.now };
        let expected = self.expected(event);
        let reason = self.enter(&ip, packet, &arrival);
        prop_assert_eq!(reason, expected, "{:?}", self.history.get(&port));
        if reason == Reason::FastOut {
            let flow = self.flows[&ip.key(packet.ports)];
            let Some(Record::Forwarded { out, .. }) = self.last(port) else { panic!("fast without a record") };
            prop_assert_eq!((flow.out_ifindex, flow.macs), (out, [out as u8; 12]));
            return Ok(());
        }
        if control {
            // The exit hook looks no further.
            self.history.entry(port).or_default().push(Record::Control);
            return Ok(());
        }
        self.kernel(&ip, packet, &arrival)
    }

    /// As `from_port` does it.
    fn enter(&mut self, ip: &Ipv4, packet: Packet, arrival: &Arrival) -> Reason {
        let (key, settings) = (ip.key(packet.ports), settings(self.epoch));
        if packet.control {
            self.flows.remove(&key);
            self.flows.remove(&reversed(&key));
            return Reason::TcpControl;
        }
        let reason = match self.flows.get(&key) {
            Some(flow) => decide(flow, ip, &packet, arrival, Entry::Port, &settings),
            None => Reason::FlowNew,
        };
        if !reason.is_fast() {
            let course = admit_from_port(ip, &settings, Some(&peer(1, peer_kind::NEXT_HOP))).expect("a live peer");
            self.seen.insert(seen_slot(ip, packet.ports), note(ip, &packet, &course, arrival, &settings));
        }
        reason
    }

    /// The kernel's forwarding, then `to_uplink`.
    fn kernel(&mut self, ip: &Ipv4, packet: Packet, arrival: &Arrival) -> Result<(), TestCaseError> {
        let mut left = Ipv4 { ttl: ip.ttl - 1, ..*ip };
        let (mut mark, mut exit, mut ports) = (arrival.mark, Exit::Uplink, packet.ports);
        match self.rule {
            Rule::Forward => {}
            Rule::Drop => return Ok(()),
            Rule::Nat => ports += 1 << 16,
            Rule::Dscp => left.tos ^= 0x20,
            Rule::Mark => mark = 1,
            Rule::Ttl => left.ttl = 63 - 1,
            Rule::Resize => left.len += 4,
            Rule::HairpinToPort => exit = Exit::Port,
        }
        self.now += 1;
        let unchanged = mark == 0 && self.rule == Rule::Forward;
        let departure = Departure {
            exit,
            ifindex: self.out,
            ingress_ifindex: arrival.ifindex,
            mark,
            priority: 0,
            macs: [self.out as u8; 12],
            now: self.now,
        };
        let left_packet = Packet { ports, ..packet };
        let seen = self.seen.get_mut(&seen_slot(&left, ports));
        let verified = seen.map_or(Err(Reason::NotSeen), |seen| {
            let verified = verify(seen, &left, &left_packet, &departure);
            if verified.is_ok() {
                seen.path = 0;
            }
            verified
        });
        prop_assert_eq!(verified.is_ok(), unchanged, "{:?} {:?}", self.rule, verified);
        if let Ok(new) = verified {
            self.publish(ip.key(packet.ports), new);
            let (at, epoch, ifindex) = (self.now, self.epoch, arrival.ifindex);
            let record =
                Record::Forwarded { at, epoch, ifindex, dscp: ip.tos & 0xfc, len: packet.segment, out: self.out };
            self.history.entry(packet.ports as u8).or_default().push(record);
        }
        Ok(())
    }

    /// As `maps::publish` does it.
    fn publish(&mut self, key: FlowKey, new: Flow) {
        let settings = settings(self.epoch);
        let flow = match self.flows.get(&key) {
            Some(old) if same_way(old, &new) => Flow {
                max_len: merged_max_len(old, &new, &settings),
                epoch: new.epoch,
                verified_at: new.verified_at,
                ..*old
            },
            Some(_) | None => new,
        };
        self.flows.insert(key, flow);
    }

    fn last(&self, port: u8) -> Option<Record> {
        self.history.get(&port).and_then(|records| records.last().copied())
    }

    /// The verdict by the history alone.
    fn expected(&self, event: Event) -> Reason {
        let Event::Packet { port, control, tos, len, ifindex, marked } = event else { unreachable!("a packet") };
        if control {
            return Reason::TcpControl;
        }
        let Some(Record::Forwarded { at, epoch, ifindex: came, dscp, .. }) = self.last(port) else {
            return Reason::FlowNew;
        };
        if epoch != self.epoch {
            return Reason::FlowEpoch;
        }
        if came != ifindex || marked || dscp != tos & 0xfc {
            return Reason::FlowMoved;
        }
        if self.now - at >= REVALIDATE {
            return Reason::FlowStale;
        }
        if len > self.largest(port) { Reason::TooBig } else { Reason::FastOut }
    }

    /// The largest packet of the unbroken run of verifications that ends with the last one.
    fn largest(&self, port: u8) -> u16 {
        let mut run: Option<(u64, u32, u32, u8, u32, u16)> = None;
        for record in &self.history[&port] {
            run = match *record {
                Record::Control => None,
                Record::Forwarded { at, epoch, ifindex, dscp, len, out } => {
                    let unbroken = run.filter(|(before, e, i, d, o, _)| {
                        (*e, *i, *d, *o) == (epoch, ifindex, dscp, out) && at - before < REVALIDATE
                    });
                    Some((at, epoch, ifindex, dscp, out, unbroken.map_or(len, |run| run.5.max(len))))
                }
            };
        }
        run.map_or(0, |run| run.5)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_verdict_follows_from_what_the_kernel_did(events in proptest::collection::vec(event(), 1..100)) {
        let mut world = World::new();
        for event in events {
            world.step(event)?;
        }
    }

    /// Rule 3: whatever changes, no packet of a flow that the kernel no longer forwards is fast for longer than the
    /// revalidation time.
    #[test]
    fn a_drop_rule_stops_a_fast_flow_in_time(
        before in proptest::collection::vec(event(), 0..60),
        after in proptest::collection::vec((0..3_u8, 0..2_000_u64), 1..60),
    ) {
        let mut world = World::new();
        for event in before {
            world.step(event)?;
        }
        world.rule = Rule::Drop;
        let dropped_at = world.now;
        for (port, wait) in after {
            world.now += wait;
            let event = Event::Packet { port, control: false, tos: 0, len: 60, ifindex: 4, marked: false };
            if world.expected(event) == Reason::FastOut {
                prop_assert!(world.now - dropped_at < REVALIDATE);
            }
            world.step(event)?;
        }
    }
}

#[test]
fn a_verification_from_the_future_is_fresh_and_none_is_not() {
    // The fine clock of the exit hook is ahead of the coarse one of the entry hook.
    let mut world = World::new();
    let packet = Event::Packet { port: 0, control: false, tos: 0, len: 60, ifindex: 4, marked: false };
    world.step(packet).expect("no law broken");
    let flow = *world.flows.values().next().expect("a verified flow");
    assert!(is_fresh(&flow, &settings(1), flow.verified_at - 100));
    assert!(!is_fresh(&flow, &settings(1), flow.verified_at + REVALIDATE));
    assert!(!is_fresh(&Flow { verified_at: 0, ..flow }, &settings(1), 10));
    assert!(!is_fresh(&flow, &Settings { revalidate_ns: 0, ..settings(1) }, flow.verified_at));
}

#[test]
fn admission_from_the_uplink() {
    let (ours, peer1) = (peer(0, peer_kind::LOCAL), peer(1, peer_kind::KERNEL));
    let ip = |src: [u8; 4], dst: [u8; 4]| Ipv4 {
        src: u32::from_ne_bytes(src),
        dst: u32::from_ne_bytes(dst),
        len: 28,
        ttl: 64,
        tos: 0,
        protocol: TCP,
    };
    let nobody = [172, 16, 9, 9];
    let outside = [10, 0, 0, 1];
    let admit = |src, dst, from: Option<&Peer>, to: Option<&Peer>| {
        admit_from_uplink(&ip(src, dst), &settings(1), from, to)
            .map(|course| (course.path, course.peer, course.is_from_peer()))
    };
    assert_eq!(admit(REMOTE, LOCAL, Some(&peer1), None), Ok((path::IN, 1, true)));
    assert_eq!(admit(nobody, LOCAL, None, None), Err(Reason::NoPeer));
    assert_eq!(admit(LOCAL, LOCAL, Some(&ours), None), Err(Reason::SourceMismatch));
    assert_eq!(admit(REMOTE, outside, Some(&peer1), None), Ok((path::TRANSIT_FROM, 1, true)));
    assert_eq!(admit(outside, REMOTE, None, Some(&peer1)), Ok((path::TRANSIT, 1, false)));
    assert_eq!(admit(nobody, REMOTE, None, Some(&peer1)), Err(Reason::SourceMismatch));
    assert_eq!(admit(nobody, outside, None, None), Err(Reason::NoPeer));
}
