//! Raw frames: sent and captured by AF_PACKET sockets inside namespaces.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::netns::Netns;

/// How often a capture looks at its deadline.
const TICK: Duration = Duration::from_millis(50);

/// A raw socket on one interface of a namespace: sends frames, and sees all frames in and out from its creation on.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Wire {
    /// Opens a raw socket on the interface `ifname` of `ns`.
    pub fn open(ns: &Netns, ifname: &str) -> Result<Self> {
        ns.enter(|| {
            let link = getifaddrs()?
                .filter(|entry| entry.interface_name == ifname)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {ifname}"))?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TICK.as_millis() as i64))?;
            setsockopt(&socket, sockopt::RcvBuf, &(8 << 20))?;
            Ok(Self { socket, link })
        })?
    }

    /// MAC address of the interface.
    pub fn mac(&self) -> [u8; 6] {
        self.link.addr().unwrap_or_default()
    }

    /// Sends a whole Ethernet frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.link, MsgFlags::empty());
        sent.map(drop).with_context(|| format!("send a frame of {} bytes", frame.len()))
    }

    /// The next frame on the interface for which `wanted` holds, or `None` once `deadline` is over.
    pub fn capture(&self, deadline: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let (start, mut buffer) = (Instant::now(), vec![0; 1 << 16]);
        while start.elapsed() < deadline {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from))) if from.ifindex() == self.link.ifindex() && wanted(&buffer[..length]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
        Ok(None)
    }
}
