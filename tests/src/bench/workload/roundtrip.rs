//! Round trips of one byte between two containers: TCP on one connection, UDP on one pair of ports, and whole connections.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Bench, Case, Kind, check_way};
use crate::bench::{
    counters::Witness,
    lab::{Lab, Shape, Tuning, pinned},
    net,
    sample::{Better, Sample},
};

/// How long an answer may take before it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the answer to a first datagram may take before another one is sent.
const GREETING: Duration = Duration::from_millis(200);
/// How long a server that does not listen yet is left alone.
const PAUSE: Duration = Duration::from_millis(5);
/// What ends a server of UDP.
const END: [u8; 2] = [0, 0];

/// What makes a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A byte and its answer on an open connection.
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// Connect, a byte, its answer, close.
    Connection,
}

impl Exchange {
    /// Port of the server.
    const fn port(self) -> u16 {
        match self {
            Self::Tcp | Self::Udp => 7007,
            Self::Connection => 7008,
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What makes a round trip.
    pub exchange: Exchange,
    /// Whether client and server share a core.
    pub one_core: bool,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let workload = match self.exchange {
            Exchange::Tcp => "tcp-rr",
            Exchange::Udp => "udp-rr",
            Exchange::Connection => "tcp-crr",
        };
        let params = BTreeMap::from([("cores", if self.one_core { "1" } else { "2" }.to_owned())]);
        let kind = Kind::RoundTrip(self);
        Case { workload, params, unit: "1/s", better: Better::Higher, shape: Shape::Pair, tuning: Tuning::Docker, kind }
    }
}

/// Takes one sample: server in container 2, client in container 1.
pub fn measure(spec: Spec, lab: &Lab, bench: &Bench) -> Result<Sample> {
    let (client, server) = (lab.container(1)?, lab.container(2)?);
    let server_core = if spec.one_core { bench.core } else { 0 };
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let serving = scope.spawn(|| pinned(server, server_core, || serve(spec.exchange, &ready)));
        let time = bench.sample_time;
        let outcome = is_ready.recv_timeout(PATIENCE).context("the server does not listen").and_then(|()| {
            let witness = Witness::look(lab.first(), client)?;
            let laps = pinned(client, bench.core, || ask(spec.exchange, net::container(2), time))?;
            Ok((laps, witness.kernel_share(lab.first(), client)?))
        });
        let served = serving.join().map_err(|_panic| anyhow!("the server panicked"))?;
        let (laps, kernel_share) = outcome?;
        served?;
        let sample = describe(laps).context("no round trip was made")?;
        Ok(match spec.exchange {
            // Connections begin and end by the kernel in every arm: there is nothing to check.
            Exchange::Connection => sample.with("kernel_share", kernel_share),
            Exchange::Tcp | Exchange::Udp => check_way(sample, lab.arm, kernel_share),
        })
    })
}

/// How long each round trip took, all of them together, and how many datagrams or answers were lost.
pub struct Laps {
    each: Vec<Duration>,
    total: Duration,
    lost: usize,
}

/// Rate, median and 99th percentile; with anything lost it does not count, for the time is that of waiting.
pub fn describe(mut laps: Laps) -> Option<Sample> {
    laps.each.sort_unstable();
    let count = laps.each.len();
    let percentile = |percent: usize| laps.each.get((count * percent / 100).min(count.checked_sub(1)?)).copied();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let (p50, p99) = (microseconds(percentile(50)?), microseconds(percentile(99)?));
    let sample = Sample::new(count as f64 / laps.total.as_secs_f64()).with("p50_us", p50).with("p99_us", p99);
    Some(sample.invalid_if(laps.lost > 0, || format!("{} datagrams were lost", laps.lost)))
}

/// Serves one client, and says when it listens.
pub fn serve(exchange: Exchange, ready: &mpsc::Sender<()>) -> Result<()> {
    let port = exchange.port();
    match exchange {
        Exchange::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_read_timeout(Some(PATIENCE * 2))?;
            ready.send(())?;
            answer_datagrams(&socket)
        }
        Exchange::Tcp => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            ready.send(())?;
            let (stream, _) = listener.accept()?;
            answer_bytes(stream, usize::MAX).map(drop)
        }
        Exchange::Connection => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            ready.send(())?;
            // The server closes first, so that the ports that must rest are its own and the client never runs out of them.
            while answer_bytes(listener.accept()?.0, 1)? > 0 {}
            Ok(())
        }
    }
}

fn answer_datagrams(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 16];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).context("wait for a datagram")?;
        if buffer[..length] == END {
            return Ok(());
        }
        socket.send_to(&buffer[..length], from)?;
    }
}

/// Answers up to `limit` bytes, closes, and says how many they were.
fn answer_bytes(mut stream: TcpStream, limit: usize) -> Result<usize> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let mut byte = [0];
    let mut answered = 0;
    while answered < limit && stream.read(&mut byte).context("wait for a byte")? > 0 {
        stream.write_all(&byte)?;
        answered += 1;
    }
    Ok(answered)
}

/// Makes round trips with the server at `target` for `time`.
pub fn ask(exchange: Exchange, target: Ipv4Addr, time: Duration) -> Result<Laps> {
    let target = SocketAddrV4::new(target, exchange.port());
    match exchange {
        Exchange::Udp => {
            let mut socket = greet(target)?;
            let mut lost = 0;
            let laps = lap(time, || {
                if let Err(error) = exchange_datagram(&socket) {
                    ensure!(error.kind() == ErrorKind::WouldBlock, "exchange a datagram: {error}");
                    lost += 1;
                    // An answer that comes late after all must not be taken for that of the next.
                    socket = greet(target)?;
                }
                Ok(())
            });
            socket.send(&END)?;
            Ok(Laps { lost, ..laps? })
        }
        Exchange::Tcp => {
            let mut stream = greet_stream(target)?;
            lap(time, || exchange_byte(&mut stream))
        }
        Exchange::Connection => {
            let whole = |mut stream: TcpStream| {
                exchange_byte(&mut stream)?;
                stream.read(&mut [0]).context("wait for the server to close").map(drop)
            };
            patiently(|| whole(connect(target)?))?;
            let laps = lap(time, || whole(connect(target)?));
            // A connection without a byte ends the server.
            connect(target).map(drop)?;
            laps
        }
    }
}

/// Repeats the first exchange with a server until it succeeds: one that has just served somebody else may not listen again
/// yet, and what reaches it while it closes is lost.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

/// A socket of which the server has answered a datagram.
fn greet(target: SocketAddrV4) -> Result<UdpSocket> {
    patiently(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(GREETING))?;
        exchange_datagram(&socket).context("wait for the first answer")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

fn exchange_datagram(socket: &UdpSocket) -> io::Result<()> {
    socket.send(&[1])?;
    socket.recv(&mut [0; 16]).map(drop)
}

/// A connection on which the server has answered a byte.
fn greet_stream(target: SocketAddrV4) -> Result<TcpStream> {
    patiently(|| {
        let mut stream = connect(target)?;
        exchange_byte(&mut stream)?;
        Ok(stream)
    })
}

fn connect(target: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.into(), PATIENCE).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange_byte(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0]).context("wait for the answer")
}

/// Repeats `round_trip` for `time`, after a tenth of that which does not count.
fn lap(time: Duration, mut round_trip: impl FnMut() -> Result<()>) -> Result<Laps> {
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        round_trip()?;
    }
    let mut each = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        round_trip()?;
        let now = Instant::now();
        each.push(now - last);
        last = now;
    }
    Ok(Laps { each, total: last - start, lost: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred() {
        let each = (1..=100).rev().map(Duration::from_micros).collect();
        let total = Duration::from_millis(10);
        let sample = describe(Laps { each, total, lost: 0 }).unwrap();
        let p = |name: &str| sample.extras[name].round();
        assert_eq!((sample.value.round(), p("p50_us"), p("p99_us")), (10_000.0, 51.0, 100.0));
        assert_eq!(sample.invalid, None);
        assert!(describe(Laps { each: Vec::new(), total: Duration::ZERO, lost: 0 }).is_none());
        let lossy = describe(Laps { each: vec![total], total, lost: 1 }).unwrap();
        assert_eq!(lossy.invalid.as_deref(), Some("1 datagrams were lost"));
    }
}
