//! The benchmark's own programs: a generator of frames, sinks that count and drop, and programs that do nothing.
//!
//! They are an object of their own, so that nothing of them is ever loaded beside flannel's programs.
#![no_std]
#![no_main]
#![allow(unreachable_pub, missing_docs, reason = "programs are entry points of an object file, not items of a crate")]

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    },
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect},
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use flannel_common::bench::{CLOCK_EVERY, Counts, Cursor, FIRST_DPORT, Frames, MARKER, OUTER, finish, ports};

#[map]
static FRAMES: Array<Frames> = Array::with_max_entries(1, 0);
#[map]
static CURSOR: PerCpuArray<Cursor> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// Length of the headers that every frame gets: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Where the IPv4 identification stands in a frame.
const ID_OFFSET: usize = 14 + 4;
/// Where the destination port stands in a frame.
const DPORT_OFFSET: usize = 14 + 20 + 2;
/// What flannel's udp backend puts in front of a packet: IPv4 and UDP.
const UDP_OVERHEAD: usize = 20 + 8;

/// Makes one frame. The kernel recycles the pages of live frames without cleaning them, so every header byte is
/// written for each frame.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let (Some(frames), Some(cursor)) = (FRAMES.get(0), CURSOR.get_ptr_mut(0)) else { return XDP_ABORTED };
    // SAFETY: a per-CPU slot of a live map; test runs of one CPU do not overlap.
    let cursor = unsafe { &mut *cursor };
    tick(cursor);
    let flow = cursor.made as u32 & frames.flow_mask;
    cursor.made += 1;
    let written =
        if frames.encapsulated == 0 { write_plain(&ctx, frames, flow) } else { write_encapsulated(&ctx, frames, flow) };
    if written.is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: the helper takes plain numbers.
    (unsafe { bpf_redirect(frames.ifindex, 0) }) as u32
}

/// Notes the time of some frames.
#[inline(always)]
fn tick(cursor: &mut Cursor) {
    if cursor.made & (CLOCK_EVERY - 1) == 0 {
        // SAFETY: the helper takes nothing.
        cursor.last = unsafe { bpf_ktime_get_ns() };
        cursor.last_frame = cursor.made;
        if cursor.made == 0 {
            cursor.first = cursor.last;
        }
    }
}

#[inline(always)]
fn write_plain(ctx: &XdpContext, frames: &Frames, flow: u32) -> Option<()> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + HEADERS > end {
        return None;
    }
    // SAFETY: the words up to HEADERS are inside the frame, as just checked, and live frames begin at even addresses.
    write_headers(unsafe { &mut *(data as *mut [u16; HEADERS / 2]) }, frames, flow);
    Some(())
}

#[inline(always)]
fn write_encapsulated(ctx: &XdpContext, frames: &Frames, flow: u32) -> Option<()> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + OUTER + HEADERS > end {
        return None;
    }
    // SAFETY: the words up to OUTER + HEADERS are inside the frame, as just checked, and live frames begin at even addresses.
    let words = unsafe { &mut *(data as *mut [u16; (OUTER + HEADERS) / 2]) };
    let (outer, inner) = words.split_first_chunk_mut::<{ OUTER / 2 }>()?;
    for (word, template) in outer.iter_mut().zip(&frames.outer) {
        *word = *template;
    }
    write_headers(inner.first_chunk_mut()?, frames, flow);
    Some(())
}

/// Writes the headers of a frame of `flow`, word by word.
#[inline(always)]
fn write_headers(header: &mut [u16; HEADERS / 2], frames: &Frames, flow: u32) {
    let there = frames.dst + (flow & frames.dest_mask) * frames.dest_step;
    let (sport, dport) = ports(flow);
    let (src, dst, sport, dport) =
        if frames.reverse == 0 { (frames.src, there, sport, dport) } else { (there, frames.src, dport, sport) };
    let sum = frames.header_sum + (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff);
    for (word, template) in header.iter_mut().zip(&frames.l2) {
        *word = *template;
    }
    header[7] = 0x4500_u16.to_be();
    header[8] = frames.total_len.to_be();
    header[9] = MARKER.to_be();
    header[10] = 0;
    header[11] = 0x4011_u16.to_be();
    header[12] = finish(sum).to_be();
    header[13] = ((src >> 16) as u16).to_be();
    header[14] = (src as u16).to_be();
    header[15] = ((dst >> 16) as u16).to_be();
    header[16] = (dst as u16).to_be();
    header[17] = sport.to_be();
    header[18] = dport.to_be();
    header[19] = frames.total_len.wrapping_sub(20).to_be();
    header[20] = 0;
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

/// Sends the benchmark's packets back as they are; everything else passes.
#[xdp]
pub fn bounce(ctx: XdpContext) -> u32 {
    if is_ours(ctx.data(), ctx.data_end()) { XDP_TX } else { XDP_PASS }
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

/// Whether the frame bears the marker, bare or inside one of flannel's encapsulations, or comes from the benchmark's
/// socket, which cannot set the marker.
#[inline(always)]
fn is_ours(data: usize, end: usize) -> bool {
    word(data, end, ID_OFFSET) == Some(MARKER)
        || word(data, end, ID_OFFSET + OUTER) == Some(MARKER)
        || word(data, end, ID_OFFSET + UDP_OVERHEAD) == Some(MARKER)
        || word(data, end, DPORT_OFFSET) == Some(FIRST_DPORT)
}

/// The word at `offset`.
#[inline(always)]
fn word(data: usize, end: usize, offset: usize) -> Option<u16> {
    if data + offset + 2 > end {
        return None;
    }
    // SAFETY: the two bytes are inside the frame, as just checked.
    let bytes = unsafe { *((data + offset) as *const [u8; 2]) };
    Some(u16::from_be_bytes(bytes))
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
