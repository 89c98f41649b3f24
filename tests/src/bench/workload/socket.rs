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
    probe::{cpu_time, stolen_share},
    sample::{Better, Sample},
    sink::{Hook, Sink},
};

/// Datagrams per system call.
const BATCH: usize = 32;
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
/// Share of packets that may be missing at the sink.
const LOSS_LIMIT: f64 = 0.005;
/// How long a sample at a fixed rate takes at least: the kernel counts time in ticks of 10 ms.
const PACED_TIME: Duration = Duration::from_secs(1);
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
    pub fn unfit(arm: Arm) -> Option<&'static str> {
        (arm == Arm::Limit).then_some("packets do not reach the second host")
    }
}

/// Takes one sample.
pub fn measure(spec: Spec, lab: &Lab, bench: &Bench) -> Result<Sample> {
    let (from, to) = (lab.container(1)?, lab.container(2)?);
    let sink = to.enter(|| Sink::attach(Hook::Tc, "eth0"))??;
    let time = if spec.rate.is_some() { PACED_TIME.max(bench.sample_time) } else { bench.sample_time };
    let sender = |time| move || send(spec, time);
    // The first packets make the flow, and its answerless half is what any log shipper sends.
    pinned(from, bench.core, sender(time / 10))?;
    thread::sleep(SETTLE);
    let idle = if spec.rate.is_some() { idle_share()? } else { 0.0 };
    let (before, by_kernel) = (sink.counts()?.packets, forwarded(lab.first())?);
    let busy = cpu_time()?.busy;
    let (sent, elapsed, stolen) = pinned(from, bench.core, sender(time))?;
    thread::sleep(SETTLE);
    let busy = (cpu_time()?.busy - busy).as_secs_f64() - idle * elapsed.as_secs_f64();
    let received = sink.counts()?.packets - before;
    let kernel_share = (forwarded(lab.first())? - by_kernel) as f64 / sent.max(1) as f64;
    let loss = 1.0 - received as f64 / sent.max(1) as f64;
    let rate = received as f64 / elapsed.as_secs_f64();
    let value = if spec.rate.is_some() { busy.max(0.0) * 1e9 / received.max(1) as f64 } else { rate / 1e6 };
    let sample = Sample::new(value).with("loss", loss).with("stolen_share", stolen);
    Ok(check_way(sample, lab.arm, kernel_share)
        .invalid_if(loss > LOSS_LIMIT, || format!("{:.1} % of the packets did not arrive", loss * 100.0)))
}

/// Processor time per second that the machine spends without us.
fn idle_share() -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_time()?.busy);
    thread::sleep(Duration::from_millis(300));
    Ok((cpu_time()?.busy - before).as_secs_f64() / start.elapsed().as_secs_f64())
}

fn send(spec: Spec, time: Duration) -> Result<(u64, Duration, f64)> {
    let stolen = if spec.rate.is_some() { 0.0 } else { stolen_share() };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a UDP socket")?;
    let target = SockaddrIn::from(SocketAddrV4::new(net::container(2), FIRST_DPORT));
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
