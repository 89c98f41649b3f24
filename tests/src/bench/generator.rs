//! Frames made in the kernel: a BPF program writes them, `BPF_PROG_TEST_RUN` with live frames sends them.

use std::{net::Ipv4Addr, ops::AddAssign, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, PerCpuArray, PerCpuValues},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
    util::nr_cpus,
};
use bytemuck::Zeroable as _;
use flannel_agent::fastpath::bench_object::BENCH_OBJECT;
use flannel_common::bench::{Cursor, Frames, MARKER, OUTER, finish, name};

use super::net::Mac;

/// Frames that the kernel handles at once; 64 is the budget of one NAPI poll, so rings of 256 entries never overflow.
const BATCH: u32 = 64;
/// Fewest frames per system call: enough for a first idea of the rate.
const CALL_MIN: u64 = 4_096;
/// Most frames per system call: a call can be interrupted, but not cut short.
const CALL_MAX: u64 = 4_194_304;
/// Length of the Ethernet header.
const ETHERNET: usize = 14;

/// Where the frames go and what they look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Interface by which they leave, in the namespace in which the generator runs.
    pub ifindex: u32,
    /// Source MAC address.
    pub from: Mac,
    /// Destination MAC address.
    pub to: Mac,
    /// Source address.
    pub src: Ipv4Addr,
    /// Address of the first destination.
    pub dst: Ipv4Addr,
    /// Whether sources and destinations are exchanged, which makes the replies of the same flows.
    pub reverse: bool,
    /// Number of flows: a power of two up to 65,536.
    pub flows: u32,
    /// Number of destinations, each in the next /24: a power of two.
    pub dests: u32,
    /// Length of an IPv4 packet in bytes.
    pub length: u16,
    /// The tunnel, if the frames are vxlan packets; the addresses above are then those of the inner frame.
    pub vxlan: Option<Tunnel>,
}

/// The outer addresses of vxlan packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Source MAC address.
    pub from: Mac,
    /// Destination MAC address.
    pub to: Mac,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

/// A loaded generator.
pub struct Generator {
    bpf: Ebpf,
    frame: Vec<u8>,
}

/// What a run of the generator did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames sent.
    pub frames: u64,
    /// Time that took, from the first frame to the last.
    pub elapsed: Duration,
}

impl Sent {
    fn seconds_per_frame(&self) -> f64 {
        self.elapsed.as_secs_f64().max(1e-9) / self.frames as f64
    }
}

impl AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.elapsed += other.elapsed;
    }
}

impl Generator {
    /// Loads the generator.
    pub fn load() -> Result<Self> {
        let mut bpf = Ebpf::load(BENCH_OBJECT).context("load the frame generator (needs root)")?;
        program(&mut bpf)?.load().context("load the program that generates frames")?;
        Ok(Self { bpf, frame: Vec::new() })
    }

    /// Chooses the frames to make.
    pub fn aim(&mut self, stream: &Stream) -> Result<()> {
        let outer = if stream.vxlan.is_some() { OUTER } else { 0 };
        self.frame = vec![0; outer + ETHERNET + usize::from(stream.length)];
        let map = self.bpf.map_mut(name::FRAMES).context("the generator has no map FRAMES")?;
        let mut map: Array<_, [u8; size_of::<Frames>()]> = Array::try_from(map)?;
        let bytes: [u8; size_of::<Frames>()] = bytemuck::bytes_of(&describe(stream)).try_into()?;
        map.set(0, bytes, 0)?;
        Ok(())
    }

    /// Sends at least `frames` frames as fast as this core can. Call it inside the namespace that sends, tied to a core.
    pub fn send(&mut self, frames: u64) -> Result<Sent> {
        let mut sent = Sent::default();
        while sent.frames < frames {
            sent += self.call((frames - sent.frames).clamp(CALL_MIN, CALL_MAX))?;
        }
        Ok(sent)
    }

    /// Sends for about `time`. Call it inside the namespace that sends, tied to a core.
    pub fn send_for(&mut self, time: Duration) -> Result<Sent> {
        let mut sent = self.call(CALL_MIN)?;
        while sent.elapsed < time {
            let left = time.saturating_sub(sent.elapsed).as_secs_f64();
            sent += self.call(((left / sent.seconds_per_frame()) as u64).clamp(CALL_MIN, CALL_MAX))?;
        }
        Ok(sent)
    }

    /// One system call. Its own set-up and tear-down take up to 25 ms and are not of interest, so the program itself notes
    /// when it made the first frame and the last.
    fn call(&mut self, frames: u64) -> Result<Sent> {
        self.reset()?;
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let repeat = u32::try_from(frames).context("too many frames for one call")?;
        let options = TestRunOptions { data_in: Some(&self.frame), repeat, attrs, ..TestRunOptions::new() };
        program(&mut self.bpf)?.test_run(options).context("send live frames (needs kernel 5.18 or newer)")?;
        self.read()
    }

    fn reset(&mut self) -> Result<()> {
        let zero = vec![[0; 4]; nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?];
        let mut map: PerCpuArray<_, [u64; 4]> =
            PerCpuArray::try_from(self.bpf.map_mut(name::CURSOR).context("no map CURSOR")?)?;
        Ok(map.set(0, PerCpuValues::try_from(zero)?, 0)?)
    }

    fn read(&self) -> Result<Sent> {
        let map: PerCpuArray<_, [u64; 4]> =
            PerCpuArray::try_from(self.bpf.map(name::CURSOR).context("no map CURSOR")?)?;
        let per_cpu = map.get(&0, 0)?;
        let cursors: Vec<Cursor> =
            per_cpu.iter().map(|words| bytemuck::cast(*words)).filter(|c: &Cursor| c.made > 0).collect();
        let [cursor] = cursors.as_slice() else { bail!("frames were made on {} cores instead of one", cursors.len()) };
        ensure!(cursor.last_frame > 0, "too few frames to measure time");
        let span = Duration::from_nanos(cursor.last - cursor.first);
        Ok(Sent { frames: cursor.made, elapsed: span.mul_f64(cursor.made as f64 / cursor.last_frame as f64) })
    }
}

fn program(bpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = bpf.program_mut(name::GENERATE).context("the object has no program that generates frames")?;
    Ok(program.try_into()?)
}

fn describe(stream: &Stream) -> Frames {
    let mut frames = Frames {
        ifindex: stream.ifindex,
        flow_mask: stream.flows - 1,
        dest_mask: stream.dests - 1,
        src: stream.src.into(),
        dst: stream.dst.into(),
        dest_step: 256,
        reverse: u32::from(stream.reverse),
        // Version, length, identification, TTL 64 and protocol UDP; no fragment bits.
        header_sum: 0x4500 + u32::from(stream.length) + u32::from(MARKER) + 0x4011,
        total_len: stream.length,
        l2: words(&ethernet(stream.from, stream.to)),
        ..Frames::zeroed()
    };
    if let Some(tunnel) = &stream.vxlan {
        frames.encapsulated = 1;
        frames.outer = words(&vxlan_header(tunnel, stream.length));
    }
    frames
}

/// Bytes as words that have the same bytes in memory.
fn words<const N: usize>(bytes: &[u8]) -> [u16; N] {
    std::array::from_fn(|index| u16::from_ne_bytes([bytes[2 * index], bytes[2 * index + 1]]))
}

/// The Ethernet header of an IPv4 frame.
pub fn ethernet(from: Mac, to: Mac) -> [u8; ETHERNET] {
    let mut l2 = [0; ETHERNET];
    l2[..6].copy_from_slice(&to.0);
    l2[6..12].copy_from_slice(&from.0);
    l2[12..].copy_from_slice(&[0x08, 0x00]);
    l2
}

/// What stands in front of an encapsulated frame. The outer source port is one for all flows: this host does not look at it.
fn vxlan_header(tunnel: &Tunnel, length: u16) -> [u8; OUTER] {
    let total = length + (OUTER as u16);
    let mut header = [0; OUTER];
    header[..14].copy_from_slice(&ethernet(tunnel.from, tunnel.to));
    header[14..24].copy_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, 17]);
    header[26..30].copy_from_slice(&tunnel.src.octets());
    header[30..34].copy_from_slice(&tunnel.dst.octets());
    let sum = (14..34).step_by(2).map(|at| u32::from(u16::from_be_bytes([header[at], header[at + 1]]))).sum();
    header[24..26].copy_from_slice(&finish(sum).to_be_bytes());
    let udp_len = total - 20;
    header[34..40].copy_from_slice(&[0xc0, 0, 0x21, 0x18, (udp_len >> 8) as u8, udp_len as u8]);
    header[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0, 1, 0]);
    header
}
