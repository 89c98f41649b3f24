//! The thread that carries packets between the TUN device and the UDP socket.
//!
//! It looks at nothing but packets and the table of peers. What cannot be sent is counted and forgotten, as a router
//! does; only the end of the device ends the thread.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{
            AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn, recvmmsg, sendmmsg,
            sendto, socket,
        },
    },
};
use tun_rs::SyncDevice;

use super::{packet, table::Table};
use crate::state::CarrierLost;

/// Packets per system call, and per turn of one direction.
const BATCH: usize = 32;

/// Room for the largest IPv4 packet; memory is used only as far as packets are long.
const LARGEST: usize = 65_535;

/// Packets that went nowhere, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// No peer carries the destination.
    pub(super) no_peer: AtomicU64,
    /// The TTL ended here, or it was no IPv4 packet.
    pub(super) expired: AtomicU64,
    /// The kernel did not take it.
    pub(super) refused: AtomicU64,
}

impl Lost {
    pub(super) fn so_far(&self) -> CarrierLost {
        let count = |lost: &AtomicU64| lost.load(Ordering::Relaxed);
        CarrierLost { no_peer: count(&self.no_peer), expired: count(&self.expired), refused: count(&self.refused) }
    }
}

/// What both sides of the thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) peers: RwLock<Arc<Table>>,
    pub(super) lost: Lost,
}

/// A running thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Carrier {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Starts the thread. `address` is the tunnel's own, from which errors are sent; `port` is that of every node.
    pub(super) fn start(
        tun: SyncDevice,
        socket: UdpSocket,
        address: Ipv4Addr,
        port: u16,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        tun.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let errors = raw_socket();
        let work = move || Ends { tun, socket, errors, address, port, shared, buffers: buffers() }.run(&stopped);
        let thread = std::thread::Builder::new().name("udp-carrier".into()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Whether it still carries; not so after its device was removed.
    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the udp carrier ended by a fault");
        }
    }
}

/// Both ends of the tunnel, in the thread's hands.
struct Ends {
    tun: SyncDevice,
    socket: UdpSocket,
    errors: Option<OwnedFd>,
    address: Ipv4Addr,
    port: u16,
    shared: Arc<Shared>,
    buffers: Vec<Vec<u8>>,
}

/// Where ICMP errors leave: written into the TUN device, as upstream does, the kernel drops them, since their source
/// is an address of its own. Without the right to open one (`CAP_NET_RAW`) there are none.
fn raw_socket() -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw);
    opened.inspect_err(|error| tracing::debug!(%error, "no raw socket: no ICMP errors from the udp carrier")).ok()
}

fn buffers() -> Vec<Vec<u8>> {
    (0..BATCH).map(|_| vec![0; LARGEST]).collect()
}

impl Ends {
    fn run(mut self, stop: &EventFd) {
        self.carry(stop);
        let CarrierLost { no_peer, expired, refused } = self.shared.lost.so_far();
        tracing::info!(no_peer, expired, refused, "the udp carrier ended; packets that went nowhere so far");
    }

    fn carry(&mut self, stop: &EventFd) {
        let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        loop {
            match self.wait(stop) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => return tracing::error!(%error, "the udp carrier cannot wait for packets"),
            }
            // One batch of each direction in turn, so that neither starves the other.
            if let Err(error) = self.tun_to_udp(&mut outgoing) {
                return tracing::warn!(%error, "the TUN device is gone; it is made anew at the next pass");
            }
            self.udp_to_tun(&mut incoming);
        }
    }

    /// Waits for packets; `true` if it is time to end.
    fn wait(&self, stop: &EventFd) -> nix::Result<bool> {
        let mut ends =
            [stop.as_fd(), tun_fd(&self.tun), self.socket.as_fd()].map(|end| PollFd::new(end, PollFlags::POLLIN));
        loop {
            match poll(&mut ends, PollTimeout::NONE) {
                Ok(_) => return Ok(ends[0].any().unwrap_or(false)),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn tun_to_udp(&mut self, headers: &mut MultiHeaders<SockaddrIn>) -> io::Result<()> {
        let peers = Arc::clone(&self.shared.peers.read().unwrap_or_else(PoisonError::into_inner));
        let mut packets = Vec::with_capacity(BATCH);
        for (index, buffer) in self.buffers.iter_mut().enumerate() {
            let length = match self.tun.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The device is down for now (`EIO`); it is up again at the agent's next pass.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => break,
                Err(error) => return Err(error),
            };
            let packet = &mut buffer[..length];
            let Some(destination) = packet::destination(packet) else { continue };
            let Some(node) = peers.node(destination) else {
                self.shared.lost.no_peer.fetch_add(1, Ordering::Relaxed);
                answer(self.errors.as_ref(), packet, self.address);
                continue;
            };
            if packet::take_ttl(packet) {
                packets.push((index, length, SockaddrIn::from(SocketAddrV4::new(node, self.port))));
            } else {
                self.shared.lost.expired.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.send(headers, &packets);
        Ok(())
    }

    /// Sends as many as it can per system call. The kernel stops at the first that it refuses: that one is skipped.
    fn send(&self, headers: &mut MultiHeaders<SockaddrIn>, packets: &[(usize, usize, SockaddrIn)]) {
        let mut rest = packets;
        while !rest.is_empty() {
            let slices: Vec<[IoSlice<'_>; 1]> =
                rest.iter().map(|(index, length, _)| [IoSlice::new(&self.buffers[*index][..*length])]).collect();
            let nodes: Vec<Option<SockaddrIn>> = rest.iter().map(|(_, _, node)| Some(*node)).collect();
            let sent = sendmmsg(self.socket.as_raw_fd(), headers, &slices, &nodes, [], MsgFlags::MSG_DONTWAIT)
                .map(Iterator::count);
            let done = match sent {
                Ok(sent) if sent > 0 => sent,
                Err(Errno::EINTR) => 0,
                _ => {
                    self.shared.lost.refused.fetch_add(1, Ordering::Relaxed);
                    1
                }
            };
            rest = rest.get(done..).unwrap_or_default();
        }
    }

    fn udp_to_tun(&mut self, headers: &mut MultiHeaders<SockaddrIn>) {
        // Errors here are those of earlier sends (a node that is down): there is nothing to receive then.
        let Ok(lengths) = receive(&self.socket, headers, &mut self.buffers) else { return };
        for (buffer, length) in self.buffers.iter_mut().zip(lengths) {
            let packet = &mut buffer[..length];
            if packet::take_ttl(packet) {
                count_refused(&self.shared.lost, self.tun.send(packet));
            } else {
                self.shared.lost.expired.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    buffers: &mut [Vec<u8>],
) -> nix::Result<Vec<usize>> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let received = recvmmsg(socket.as_raw_fd(), headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
    Ok(received.map(|message| message.bytes).collect())
}

/// Tells the sender of a packet that nobody carries it.
fn answer(errors: Option<&OwnedFd>, offender: &[u8], from: Ipv4Addr) {
    let (Some(errors), Some(error)) = (errors, packet::unreachable(offender, from)) else { return };
    let Some(sender) = packet::destination(&error) else { return };
    let sent = sendto(errors.as_raw_fd(), &error, &SockaddrIn::from(SocketAddrV4::new(sender, 0)), MsgFlags::empty());
    if let Err(error) = sent {
        tracing::trace!(%error, %sender, "ICMP error not sent");
    }
}

fn tun_fd(tun: &SyncDevice) -> BorrowedFd<'_> {
    tun.as_fd()
}

fn count_refused(lost: &Lost, sent: io::Result<usize>) {
    if sent.is_err() {
        lost.refused.fetch_add(1, Ordering::Relaxed);
    }
}
