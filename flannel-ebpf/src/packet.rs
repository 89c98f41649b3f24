//! Packets. Every pointer into a frame, and every use of a packet's context, is in this file.
//!
//! Words are loaded whole from where they stand in the headers. Where the hardware cannot load a misaligned word, the kernel
//! aligns the IPv4 header of received frames to four bytes (`NET_IP_ALIGN`) and the verifier holds us to it.
#![allow(clippy::cast_ptr_alignment, reason = "see above: the verifier checks alignment where it matters")]

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, xdp_md},
    helpers::generated as helper,
};
use flannel_common::header::{ETH_LEN, FRAME_LEN, Frame, Mac, Macs, TCP_LEN, Transport, UDP_LEN};

/// `AF_INET`.
const IPV4_FAMILY: u8 = 2;
/// `PACKET_HOST`: addressed to the interface that it came in by.
const PACKET_HOST: u32 = 0;
/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FIB_SUCCESS: i64 = 0;
/// Bytes that a hook reads at most.
const LINEAR_LEN: u32 = FRAME_LEN + TCP_LEN;

/// The linear part of a frame.
#[derive(Clone, Copy)]
pub struct Bytes {
    start: *mut u8,
    end: *mut u8,
}

/// A frame whose first [`FRAME_LEN`] bytes are there.
#[derive(Clone, Copy)]
pub struct Head {
    bytes: Bytes,
}

impl Bytes {
    #[inline(always)]
    fn has(&self, len: u32) -> bool {
        self.start.wrapping_add(len as usize) <= self.end
    }

    /// # Safety
    /// `at + size_of::<T>()` bytes of the frame must be there.
    #[inline(always)]
    unsafe fn load<T: Copy>(&self, at: u32) -> T {
        // SAFETY: inside the frame, as the caller says and the verifier checks; alignment: see the top of the file.
        unsafe { self.start.wrapping_add(at as usize).cast::<T>().read() }
    }

    /// # Safety
    /// `at + size_of::<T>()` bytes of the frame must be there.
    #[inline(always)]
    unsafe fn store<T: Copy>(&self, at: u32, value: T) {
        // SAFETY: inside the frame, as the caller says and the verifier checks; alignment: see the top of the file.
        unsafe { self.start.wrapping_add(at as usize).cast::<T>().write(value) };
    }

    /// How many bytes there are.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        (self.end as usize - self.start as usize) as u32
    }

    /// The Ethernet type, in memory order.
    #[inline(always)]
    pub fn ethertype(&self) -> Option<u16> {
        // SAFETY: the condition says that the Ethernet header is there.
        self.has(ETH_LEN).then(|| unsafe { self.load(12) })
    }

    /// The frame, if both its headers are there.
    #[inline(always)]
    pub fn head(self) -> Option<Head> {
        self.has(FRAME_LEN).then_some(Head { bytes: self })
    }
}

impl Head {
    /// A word of the headers.
    #[inline(always)]
    fn word(&self, at: u32) -> u32 {
        // SAFETY: every caller in this block reads below FRAME_LEN, which is there.
        unsafe { self.bytes.load(at) }
    }

    /// A half word of the headers.
    #[inline(always)]
    fn half(&self, at: u32) -> u16 {
        // SAFETY: every caller in this block reads below FRAME_LEN, which is there.
        unsafe { self.bytes.load(at) }
    }

    /// Both headers.
    #[inline(always)]
    pub fn frame(&self) -> Frame {
        Frame {
            mac: Mac::from_words(self.word(0), self.half(4)),
            ethertype: self.half(12),
            ip: [self.word(14), self.word(18), self.word(22), self.word(26), self.word(30)],
        }
    }

    /// The MAC addresses: destination, source.
    #[inline(always)]
    pub fn macs(&self) -> [u8; 12] {
        // SAFETY: the Ethernet header is there; bytes have no alignment.
        unsafe { self.bytes.load(0) }
    }

    /// The transport header behind an IPv4 header without options, if it is there.
    #[inline(always)]
    pub fn transport(&self, is_tcp: bool) -> Option<Transport> {
        let needed = FRAME_LEN + if is_tcp { TCP_LEN } else { UDP_LEN };
        if !self.bytes.has(FRAME_LEN + UDP_LEN) {
            return None;
        }
        // SAFETY: the ports are part of the eight bytes that are there.
        let ports = unsafe { self.bytes.load(FRAME_LEN) };
        if !is_tcp {
            // SAFETY: the length is part of the eight bytes that are there.
            let len = unsafe { self.bytes.load(FRAME_LEN + 4) };
            return Some(Transport::Udp { ports, len });
        }
        if !self.bytes.has(needed) {
            return None;
        }
        // SAFETY: the 20 bytes of a TCP header are there.
        let [offset, flags]: [u8; 2] = unsafe { self.bytes.load(FRAME_LEN + 12) };
        Some(Transport::Tcp { ports, offset, flags })
    }

    /// Replaces the MAC addresses and the third word of the IPv4 header (TTL, protocol, checksum).
    #[inline(always)]
    pub fn rewrite(&self, macs: &Macs, third: u32) {
        self.set_third(third);
        // SAFETY: the Ethernet header is there.
        unsafe { self.bytes.store(0, macs.head) };
        // SAFETY: as above.
        unsafe { self.bytes.store(2, macs.middle[0]) };
        // SAFETY: as above.
        unsafe { self.bytes.store(6, macs.middle[1]) };
        // SAFETY: as above.
        unsafe { self.bytes.store(10, macs.tail) };
    }

    /// Replaces the third word of the IPv4 header alone.
    #[inline(always)]
    pub fn set_third(&self, third: u32) {
        // SAFETY: both headers are there.
        unsafe { self.bytes.store(22, third) };
    }
}

/// A packet at a TC hook.
#[derive(Clone, Copy)]
pub struct Skb {
    context: *mut __sk_buff,
}

macro_rules! skb_fields {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(&self) -> u32 {
            // SAFETY: the kernel passes a live context, and the verifier turns this into a load from the packet.
            unsafe { (*self.context).$name }
        }
    )+};
}

impl Skb {
    /// The packet that the kernel has passed.
    #[inline(always)]
    pub fn new(context: *mut __sk_buff) -> Self {
        Self { context }
    }

    skb_fields! {
        /// Length of the frame.
        len,
        /// The mark.
        mark,
        /// The priority.
        priority,
        /// The interface of this hook.
        ifindex,
        /// The interface that the packet came in by; 0 for the host's own.
        ingress_ifindex,
        /// Payload bytes of each segment; 0 if it is not a GSO packet.
        gso_size,
        /// Segments of a GSO packet.
        gso_segs,
        /// 1 if a VLAN tag was taken off the frame.
        vlan_present,
        /// Where entry hooks leave their tag.
        tc_index,
        /// To whom the frame was addressed.
        pkt_type,
    }

    /// Whether the frame was addressed to the interface that it came in by.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        self.pkt_type() == PACKET_HOST
    }

    /// The linear part. If the headers are not all in there, the kernel is asked for them once.
    #[inline(always)]
    pub fn bytes(&self) -> Bytes {
        let bytes = self.linear();
        if !bytes.has(LINEAR_LEN) && bytes.start.wrapping_add(self.len() as usize) > bytes.end {
            let wanted = if self.len() < LINEAR_LEN { self.len() } else { LINEAR_LEN };
            // SAFETY: a live context. Should it fail, the bytes read again below are as few as before.
            unsafe { helper::bpf_skb_pull_data(self.context, wanted) };
            return self.linear();
        }
        bytes
    }

    #[inline(always)]
    fn linear(&self) -> Bytes {
        // SAFETY: a live context; the verifier turns both loads into the packet's pointers.
        let (start, end) = unsafe { ((*self.context).data, (*self.context).data_end) };
        Bytes { start: start as usize as *mut u8, end: end as usize as *mut u8 }
    }

    /// Cuts the frame (what Ethernet padded it with), as the kernel does. `None` if the kernel will not.
    #[inline(always)]
    pub fn trim(&self, len: u32) -> Option<Head> {
        // SAFETY: a live context. All pointers into the frame are read again below.
        let done = unsafe { helper::bpf_skb_change_tail(self.context, len, 0) };
        if done == 0 { self.linear().head() } else { None }
    }

    /// Sets the priority.
    #[inline(always)]
    pub fn set_priority(&self, priority: u32) {
        // SAFETY: a live context, and a field that TC programs may write.
        unsafe { (*self.context).priority = priority };
    }

    /// Sets the tag that the exit hook looks for.
    #[inline(always)]
    pub fn set_tag(&self, tag: u16) {
        // SAFETY: a live context, and a field that TC programs may write.
        unsafe { (*self.context).tc_index = u32::from(tag) };
    }
}

/// A frame at an XDP hook.
#[derive(Clone, Copy)]
pub struct Xdp {
    context: *mut xdp_md,
}

impl Xdp {
    /// The frame that the kernel has passed.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    /// The first (or only) buffer.
    #[inline(always)]
    pub fn bytes(&self) -> Bytes {
        // SAFETY: a live context; the verifier turns both loads into the frame's pointers.
        let (start, end) = unsafe { ((*self.context).data, (*self.context).data_end) };
        Bytes { start: start as usize as *mut u8, end: end as usize as *mut u8 }
    }

    /// Length of the whole frame.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: a live context.
        unsafe { helper::bpf_xdp_get_buff_len(self.context) as u32 }
    }

    /// The interface of this hook.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: a live context.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// Cuts the frame (what Ethernet padded it with), as the kernel does. `None` if the driver will not.
    #[inline(always)]
    pub fn trim(&self, len: u32) -> Option<Head> {
        // SAFETY: a live context. All pointers into the frame are read again below.
        let done = unsafe { helper::bpf_xdp_adjust_tail(self.context, len as i32 - self.len() as i32) };
        if done == 0 { self.bytes().head() } else { None }
    }

    /// The kernel's route and neighbour for a packet; `None` unless it can be sent as it is by the interface it came in by.
    #[inline(always)]
    pub fn fib(&self, src: u32, dst: u32, len: u16) -> Option<Neighbour> {
        // SAFETY: all zeroes is a value of this plain C struct.
        let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        query.family = IPV4_FAMILY;
        query.ifindex = self.ifindex();
        query.__bindgen_anon_1.tot_len = len;
        query.__bindgen_anon_3.ipv4_src = src;
        query.__bindgen_anon_4.ipv4_dst = dst;
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: a live context, and a query of the size that is passed.
        let found = unsafe { helper::bpf_fib_lookup(self.context.cast(), &raw mut query, size, 0) };
        if found != FIB_SUCCESS || query.ifindex != self.ifindex() {
            return None;
        }
        Some(Neighbour { mac: query.dmac, own: query.smac })
    }
}

/// The next hop as the kernel's neighbour table has it.
#[derive(Clone, Copy)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The MAC address of the interface towards it.
    pub own: [u8; 6],
}

/// Sends the packet by the egress of an interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes no pointer.
    unsafe { helper::bpf_redirect(ifindex, 0) as i32 }
}

/// Hands the packet to the other end of a container's port.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper takes no pointer.
    unsafe { helper::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends the packet by an interface to a neighbour that the kernel resolves.
#[inline(always)]
pub fn redirect_neighbour(ifindex: u32, next_hop: [u8; 4]) -> i32 {
    // Whole: the verifier wants every byte of the union written.
    let mut params = bpf_redir_neigh {
        nh_family: u32::from(IPV4_FAMILY),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [u32::from_ne_bytes(next_hop), 0, 0, 0] },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: parameters of the size that is passed.
    unsafe { helper::bpf_redirect_neigh(ifindex, &raw mut params, size, 0) as i32 }
}
