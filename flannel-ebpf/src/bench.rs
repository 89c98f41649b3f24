//! The benchmark's own programs: a generator of frames, sinks that count and drop, and programs that do nothing.
//!
//! They are an object of their own, so that nothing of them is ever loaded beside flannel's programs.
#![no_std]
#![no_main]
#![allow(unreachable_pub, missing_docs, reason = "programs are entry points of an object file, not items of a crate")]

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    },
    helpers::generated::bpf_redirect,
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use flannel_common::bench::{Counts, Frames, MARKER, finish, ports};

#[map]
static FRAMES: Array<Frames> = Array::with_max_entries(1, 0);
#[map]
static CURSOR: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// Length of the headers that every frame gets: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Where the IPv4 identification stands in a frame.
const ID_OFFSET: usize = 14 + 4;
/// What vxlan puts in front of a frame: IPv4, UDP, VXLAN, and the frame's Ethernet header.
const VXLAN_OVERHEAD: usize = 20 + 8 + 8 + 14;
/// What flannel's udp backend puts in front of a packet: IPv4 and UDP.
const UDP_OVERHEAD: usize = 20 + 8;

/// Makes one frame. The kernel recycles the pages of live frames without cleaning them, so every header byte is
/// written for each frame.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let (Some(frames), Some(cursor)) = (FRAMES.get(0), CURSOR.get_ptr_mut(0)) else { return XDP_ABORTED };
    // SAFETY: a per-CPU slot of a live map; test runs of one CPU do not overlap.
    let cursor = unsafe { &mut *cursor };
    let flow = *cursor & frames.flow_mask;
    *cursor = cursor.wrapping_add(1);
    if ctx.data() + HEADERS > ctx.data_end() {
        return XDP_ABORTED;
    }
    let header = ctx.data() as *mut [u8; HEADERS];
    // SAFETY: the bytes up to HEADERS are inside the frame, as just checked.
    write_headers(unsafe { &mut *header }, frames, flow);
    // SAFETY: the helper takes plain numbers.
    (unsafe { bpf_redirect(frames.ifindex, 0) }) as u32
}

/// Writes the headers of a frame of `flow`.
#[inline(always)]
fn write_headers(header: &mut [u8; HEADERS], frames: &Frames, flow: u32) {
    let there = frames.dst + (flow & frames.dest_mask) * frames.dest_step;
    let (sport, dport) = ports(flow);
    let (src, dst, sport, dport) =
        if frames.reverse == 0 { (frames.src, there, sport, dport) } else { (there, frames.src, dport, sport) };
    let sum = frames.header_sum + (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff);
    header[..14].copy_from_slice(&frames.l2);
    header[14..16].copy_from_slice(&[0x45, 0]);
    header[16..18].copy_from_slice(&frames.total_len);
    header[18..20].copy_from_slice(&MARKER.to_be_bytes());
    header[20..24].copy_from_slice(&[0, 0, 64, 17]);
    header[24..26].copy_from_slice(&finish(sum).to_be_bytes());
    header[26..30].copy_from_slice(&src.to_be_bytes());
    header[30..34].copy_from_slice(&dst.to_be_bytes());
    header[34..36].copy_from_slice(&sport.to_be_bytes());
    header[36..38].copy_from_slice(&dport.to_be_bytes());
    let udp_len = u16::from_be_bytes(frames.total_len).wrapping_sub(20);
    header[38..40].copy_from_slice(&udp_len.to_be_bytes());
    header[40..42].copy_from_slice(&[0, 0]);
}

/// Counts and drops the benchmark's packets; everything else passes.
#[classifier]
pub fn sink_tc(ctx: TcContext) -> i32 {
    if is_ours(ctx.data(), ctx.data_end()) {
        count(u64::from(ctx.len()));
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// Counts and drops the benchmark's packets; everything else passes.
#[xdp]
pub fn sink_xdp(ctx: XdpContext) -> u32 {
    if is_ours(ctx.data(), ctx.data_end()) {
        count((ctx.data_end() - ctx.data()) as u64);
        return XDP_DROP;
    }
    XDP_PASS
}

/// Does nothing.
#[classifier]
pub fn floor_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Does nothing.
#[xdp]
pub fn floor_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Whether the frame bears the marker, bare or inside one of flannel's encapsulations.
#[inline(always)]
fn is_ours(data: usize, end: usize) -> bool {
    marked(data, end, ID_OFFSET)
        || marked(data, end, ID_OFFSET + VXLAN_OVERHEAD)
        || marked(data, end, ID_OFFSET + UDP_OVERHEAD)
}

/// Whether the marker stands at `offset`.
#[inline(always)]
fn marked(data: usize, end: usize, offset: usize) -> bool {
    if data + offset + 2 > end {
        return false;
    }
    // SAFETY: the two bytes are inside the frame, as just checked.
    let id = unsafe { *((data + offset) as *const [u8; 2]) };
    u16::from_be_bytes(id) == MARKER
}

/// Adds one packet of `bytes`.
#[inline(always)]
fn count(bytes: u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: a per-CPU slot of a live map, and BPF programs are not preempted by themselves on one CPU.
        let counts = unsafe { &mut *counts };
        counts.packets += 1;
        counts.bytes += bytes;
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
