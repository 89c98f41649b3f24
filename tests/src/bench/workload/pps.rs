//! Packets per second that one core carries, counted where they arrive.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use super::{Bench, Case, Kind, check_way};
use crate::{
    bench::{
        arm::Arm,
        counters::forwarded,
        generator::{Sent, Stream, Tunnel},
        lab::{Lab, Shape, Tuning, pinned},
        net::{self, Link, mac},
        probe::stolen_share,
        sample::{Better, Sample},
        sink::{Hook, Sink},
    },
    netns::Netns,
};

/// Share of packets that may be missing at the sink.
const LOSS_LIMIT: f64 = 0.005;
/// How long packets may still be under way when the generator has stopped.
const SETTLE: Duration = Duration::from_millis(2);
/// Packets of each flow before a sample: enough for a flow to be verified.
const WARM_UP: u64 = 2;
/// At least so many packets in a warm-up.
const WARM_UP_MIN: u64 = 8_192;

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a container to another host.
    Out,
    /// From another host into a container.
    In,
    /// In and out by the uplink.
    Transit,
    /// From a container through both hosts into the other container.
    EndToEnd,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which way.
    pub direction: Direction,
    /// Bytes of a frame without its checksum.
    pub frame: u16,
    /// Number of flows.
    pub flows: u32,
    /// Number of destinations (for [`Direction::In`] of sources), each in the subnet of another peer.
    pub dests: u32,
}

/// The packets of the workload, and their replies.
struct Ends {
    there: (Place, Stream),
    back: (Place, Stream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Container1,
    Host1,
    Far,
    Container2,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let (workload, shape) = match self.direction {
            Direction::Out => ("pps-out", Shape::Single),
            Direction::In => ("pps-in", Shape::Single),
            Direction::Transit => ("pps-transit", Shape::Transit),
            Direction::EndToEnd => ("pps-e2e", Shape::Pair),
        };
        let mut params = BTreeMap::from([("bytes", self.frame.to_string()), ("flows", self.flows.to_string())]);
        if self.direction != Direction::EndToEnd {
            params.insert("peers", self.dests.to_string());
        }
        Case {
            workload,
            params,
            unit: "Mpps",
            better: Better::Higher,
            shape,
            tuning: Tuning::Frames,
            kind: Kind::Pps(self),
        }
    }

    /// Why `arm` cannot do it on any kernel.
    pub fn unfit(self, arm: Arm) -> Option<&'static str> {
        match (self.direction, arm) {
            (_, Arm::Udp) => Some("user space does not keep up with frames made in the kernel: see udp-socket"),
            (Direction::Transit, Arm::VerifiedBridge | Arm::TrustedBridge) => Some("packets do not meet docker0"),
            // Its leases do not tell where a machine outside belongs, nor whether the kernel masquerades it.
            (Direction::Transit, Arm::Trusted) => Some("leaves machines outside the flannel network to the kernel"),
            _ => None,
        }
    }

    fn ends(self, arm: Arm) -> Ends {
        let dst = if self.direction == Direction::EndToEnd { net::container(2) } else { net::peer_container(0) };
        let inside = Stream {
            ifindex: 0,
            from: mac(Link::Container, 1),
            to: mac(Link::Bridge, 1),
            src: net::container(1),
            dst,
            reverse: false,
            flows: self.flows,
            dests: self.dests,
            length: self.frame - 14,
            vxlan: None,
        };
        let wire = Stream { from: mac(Link::Uplink, 2), to: mac(Link::Uplink, 1), reverse: true, ..inside };
        let arriving = if arm == Arm::KernelVxlan { encapsulated(wire) } else { wire };
        match self.direction {
            Direction::Out => Ends { there: (Place::Container1, inside), back: (Place::Far, arriving) },
            Direction::In => Ends { there: (Place::Far, arriving), back: (Place::Container1, inside) },
            Direction::Transit => {
                let there = Stream { src: net::OUTSIDER, reverse: false, ..wire };
                Ends { there: (Place::Far, there), back: (Place::Far, Stream { reverse: true, ..there }) }
            }
            Direction::EndToEnd => {
                let back = Stream { from: mac(Link::Container, 2), to: mac(Link::Bridge, 2), reverse: true, ..inside };
                Ends { there: (Place::Container1, inside), back: (Place::Container2, back) }
            }
        }
    }

    /// Where packets are counted: namespace, hook and interface.
    fn sink(self, arm: Arm) -> (Place, Hook, &'static str) {
        match (self.direction, arm) {
            (Direction::Out | Direction::EndToEnd, Arm::Limit) => (Place::Host1, Hook::Tc, "veth1"),
            (Direction::In, Arm::Limit) => (Place::Host1, Hook::Tc, "eth0"),
            (Direction::Out, _) => (Place::Far, Hook::Tc, "eth0"),
            (Direction::In, _) => (Place::Container1, Hook::Tc, "eth0"),
            (Direction::Transit, _) => (Place::Far, Hook::Xdp, "eth0"),
            (Direction::EndToEnd, _) => (Place::Container2, Hook::Tc, "eth0"),
        }
    }
}

/// The same packets inside vxlan packets from host 2 to host 1.
fn encapsulated(wire: Stream) -> Stream {
    let tunnel = Tunnel { from: wire.from, to: wire.to, src: net::host(2), dst: net::host(1) };
    Stream { from: mac(Link::Vxlan, 2), to: mac(Link::Vxlan, 1), vxlan: Some(tunnel), ..wire }
}

fn place(lab: &Lab, place: Place) -> Result<Netns> {
    Ok(match place {
        Place::Container1 => lab.container(1)?.clone(),
        Place::Container2 => lab.container(2)?.clone(),
        Place::Host1 => lab.first().clone(),
        Place::Far => lab.far.clone(),
    })
}

/// Takes one sample: warms every flow up in both directions, then counts for the sample time.
pub fn measure(spec: Spec, lab: &Lab, bench: &mut Bench) -> Result<Sample> {
    let ends = spec.ends(lab.arm);
    let (at, hook, ifname) = spec.sink(lab.arm);
    let sink = place(lab, at)?.enter(|| Sink::attach(hook, ifname))??;
    let bounces = lab.arm == Arm::Limit && spec.direction == Direction::Transit;
    let _bounce = bounces.then(|| lab.first().enter(|| Sink::bounce("eth0"))).transpose()?.transpose()?;
    let warm_up = WARM_UP_MIN.max(WARM_UP * u64::from(spec.flows));
    if lab.arm != Arm::Limit {
        // Packets, replies, packets: the connections are established before anything is counted.
        for end in [ends.there, ends.back, ends.there] {
            run(lab, bench, end, |bench| bench.generator.send(warm_up))?;
        }
    }
    let before = (sink.counts()?.packets, forwarded(lab.first())?);
    let time = bench.sample_time;
    let (sent, stolen) = run(lab, bench, ends.there, |bench| bench.generator.send_for(time))?;
    std::thread::sleep(SETTLE);
    let received = sink.counts()?.packets - before.0;
    let by_kernel = forwarded(lab.first())? - before.1;
    Ok(judge(lab.arm, sent, received, by_kernel).with("stolen_share", stolen))
}

/// Runs the generator at one of the lab's places, on the benchmark's core, with the probe before and after.
fn run(
    lab: &Lab,
    bench: &mut Bench,
    (at, stream): (Place, Stream),
    work: impl FnOnce(&mut Bench) -> Result<Sent> + Send,
) -> Result<(Sent, f64)> {
    let core = bench.core;
    pinned(&place(lab, at)?, core, || {
        let ifindex = if_nametoindex("eth0").context("the sending interface")?;
        bench.generator.aim(&Stream { ifindex, ..stream })?;
        let before = stolen_share();
        let sent = work(bench)?;
        Ok((sent, before.max(stolen_share())))
    })
}

/// Makes the sample, and checks that nothing was lost and that the packets went the way that the arm's name says.
fn judge(arm: Arm, sent: Sent, received: u64, by_kernel: u64) -> Sample {
    let loss = 1.0 - received as f64 / sent.frames as f64;
    let rate = received as f64 / sent.elapsed.as_secs_f64();
    let sample = Sample::new(rate / 1e6).with("ns_per_packet", 1e9 / rate).with("loss", loss);
    check_way(sample, arm, by_kernel as f64 / sent.frames as f64)
        .invalid_if(loss > LOSS_LIMIT, || format!("{:.1} % of the packets did not arrive", loss * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_went_another_way_does_not_count() {
        let sent = Sent { frames: 1000, elapsed: Duration::from_millis(1) };
        assert_eq!(judge(Arm::KernelRules, sent, 1000, 1000).invalid, None);
        assert_eq!(judge(Arm::Verified, sent, 1000, 8).invalid, None);
        assert!(judge(Arm::Verified, sent, 1000, 1000).invalid.is_some());
        assert!(judge(Arm::KernelRules, sent, 1000, 0).invalid.is_some());
        assert!(judge(Arm::KernelRules, sent, 900, 1000).invalid.is_some());
    }
}
