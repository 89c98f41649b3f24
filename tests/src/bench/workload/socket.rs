//! Packets from a UDP socket of a container to a sink in the other one: as fast as one core can, or at a fixed rate to see
//! what each packet costs.

use std::{
    collections::BTreeMap,
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use flannel_common::bench::FIRST_DPORT;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::{Bench, Case, Kind, check_way};
use crate::bench::{
    arm::Arm,
    counters::forwarded,
    lab::{Lab, Shape, Tuning, pinned},
    net,
    probe::stolen_share,
    sample::{Better, Sample},
    sink::{Hook, Sink},
    soak::Soak,
};

/// Datagrams per system call.
const BATCH: usize = 32;
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
/// Share of packets that may be missing at the sink.
pub const LOSS_LIMIT: f64 = 0.005;
/// How long packets are sent at a fixed rate before the machine is looked at without them.
const SLICE: Duration = Duration::from_millis(40);
/// How often the rate is lowered.
pub const ATTEMPTS: u32 = 6;
/// The next rate, as a share of what arrived.
const SLOWER: f64 = 0.9;
/// How long packets may still be under way.
const SETTLE: Duration = Duration::from_millis(5);

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Bytes of a frame without its checksum.
    pub frame: u16,
    /// Packets per second; as many as one core can, unless given.
    pub rate: Option<u32>,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let mut params = BTreeMap::from([("bytes", self.frame.to_string())]);
        let (workload, unit, better) = match self.rate {
            None => ("udp-socket", "Mpps", Better::Higher),
            Some(rate) => {
                params.insert("rate", rate.to_string());
                ("cpu-per-packet", "ns", Better::Lower)
            }
        };
        Case { workload, params, unit, better, shape: Shape::Pair, tuning: Tuning::Docker, kind: Kind::Socket(self) }
    }

    /// Why `arm` cannot do it on any kernel.
    pub fn unfit(self, arm: Arm) -> Option<&'static str> {
        match arm {
            Arm::Limit => Some("packets do not reach the second host"),
            Arm::Udp if self.rate.is_some() => Some("its carrier works on another core than the sender"),
            _ => None,
        }
    }
}

/// Takes one sample.
pub fn measure(spec: Spec, lab: &Lab, bench: &Bench) -> Result<Sample> {
    let sink = lab.container(2)?.enter(|| Sink::attach(Hook::Tc, "eth0"))??;
    // The first packets make the flow; that it has no answers is what any log shipper's flow looks like.
    fly(spec, lab, &sink, bench.core, bench.sample_time / 10)?;
    if spec.rate.is_some() {
        return cost(spec, lab, &sink, bench);
    }
    let mut flight = fly(spec, lab, &sink, bench.core, bench.sample_time)?;
    // Where a queue overflows, the rate is lowered until nothing is lost.
    for _ in 0..ATTEMPTS {
        if flight.loss() <= LOSS_LIMIT || flight.received == 0 {
            break;
        }
        flight = fly(flight.slower(spec), lab, &sink, bench.core, bench.sample_time)?;
    }
    Ok(flight.judge(lab.arm, flight.rate() / 1e6))
}

/// Takes one sample of what a packet costs, at a fixed rate: sender and both hosts together, which all work on the sender's core.
fn cost(spec: Spec, lab: &Lab, sink: &Sink, bench: &Bench) -> Result<Sample> {
    let mut flights = Vec::new();
    let share = Soak::on(bench.core).share_of(SLICE, || {
        flights.push(fly(spec, lab, sink, bench.core, SLICE)?);
        Ok(())
    })?;
    let flight = Flight::total(&flights);
    Ok(flight.judge(lab.arm, share * 1e9 / flight.rate()))
}

/// What became of the packets of one run.
pub struct Flight {
    /// Packets sent.
    pub sent: u64,
    /// Packets counted at the sink.
    pub received: u64,
    /// Time that sending took.
    pub elapsed: Duration,
    /// Share of them that the first host's kernel forwarded.
    pub kernel_share: f64,
    /// Share of the core that others took.
    pub stolen: f64,
}

impl Flight {
    /// Of several runs together.
    fn total(flights: &[Self]) -> Self {
        let received = flights.iter().map(|flight| flight.received).sum();
        let by_kernel: f64 = flights.iter().map(|flight| flight.kernel_share * flight.received as f64).sum();
        Self {
            sent: flights.iter().map(|flight| flight.sent).sum(),
            received,
            elapsed: flights.iter().map(|flight| flight.elapsed).sum(),
            kernel_share: by_kernel / received.max(1) as f64,
            stolen: 0.0,
        }
    }

    /// Packets per second that arrived.
    pub fn rate(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64()
    }

    /// Share of packets that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// The same packets at a rate at which they may all arrive.
    pub fn slower(&self, spec: Spec) -> Spec {
        Spec { rate: Some((self.rate() * SLOWER) as u32 + 1), ..spec }
    }

    /// Makes the sample, with its checks.
    pub fn judge(&self, arm: Arm, value: f64) -> Sample {
        let loss = self.loss();
        let sample = Sample::new(value).with("loss", loss).with("stolen_share", self.stolen);
        check_way(sample, arm, self.kernel_share)
            .invalid_if(loss > LOSS_LIMIT, || format!("{:.1} % of the packets did not arrive", loss * 100.0))
    }
}

fn fly(spec: Spec, lab: &Lab, sink: &Sink, core: usize, time: Duration) -> Result<Flight> {
    let before = (sink.counts()?.packets, forwarded(lab.first())?);
    let (sent, elapsed, stolen) = pinned(lab.container(1)?, core, || send(spec, net::container(2), time))?;
    thread::sleep(SETTLE);
    let received = sink.counts()?.packets - before.0;
    let kernel_share = (forwarded(lab.first())? - before.1) as f64 / received.max(1) as f64;
    Ok(Flight { sent, received, elapsed, kernel_share, stolen })
}

/// Sends to `target` for `time`: number of packets, time it took, and the share of the core that others took before.
pub fn send(spec: Spec, target: Ipv4Addr, time: Duration) -> Result<(u64, Duration, f64)> {
    let stolen = if spec.rate.is_some() { 0.0 } else { stolen_share() };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a UDP socket")?;
    let target = SockaddrIn::from(SocketAddrV4::new(target, FIRST_DPORT));
    let payload = vec![0; usize::from(spec.frame) - HEADERS];
    let slices = vec![[IoSlice::new(&payload)]; BATCH];
    let targets = vec![Some(target); BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < time {
        if let Some(rate) = spec.rate {
            let due = Duration::from_secs_f64(sent as f64 / f64::from(rate));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let done = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &targets, [], MsgFlags::empty())
            .context("send datagrams")?;
        sent += done.count() as u64;
    }
    Ok((sent, start.elapsed(), stolen))
}
