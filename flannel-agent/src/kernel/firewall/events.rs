//! The kernel's notices that a table was changed (nfnetlink, group `NFNLGRP_NFTABLES`).
//!
//! iptables' nf_tables variant is heard too, since it changes the same tables; the legacy variant tells nobody.

use std::{fmt, io};

use nix::sys::socket::MsgFlags;
use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const SUBSYSTEM: u8 = 10;
// enum nf_tables_msg_types (linux/netfilter/nf_tables.h).
const DELTABLE: u8 = 2;
const DELCHAIN: u8 = 5;
const NEWRULE: u8 = 6;
const DELRULE: u8 = 8;
const NEWGEN: u8 = 15;
const GETGEN: u8 = 16;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Length of `struct nlmsghdr`, and of that with `struct nfgenmsg`.
const HEADER: usize = 16;
const PREAMBLE: usize = HEADER + 4;
/// One message batch of the kernel; longer ones are cut off, which the sequence of generations shows.
const BUFFER: usize = 64 * 1024;

/// A change, as far as it matters to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A table is gone.
    TableGone(String),
    /// A chain is gone: table, chain.
    ChainGone(String, String),
    /// A rule is gone: table, chain.
    RuleGone(String, String),
    /// A rule is new: table, chain.
    RuleNew(String, String),
}

/// The socket, and what it has told so far.
pub(super) struct Events {
    notices: TokioSocket,
    requests: Socket,
    /// Number of the last change that was told.
    generation: Option<u32>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Events {
    /// Listens from now on, in the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut notices = TokioSocket::new(NETLINK_NETFILTER)?;
        notices.socket_mut().bind(&SocketAddr::new(0, 0))?;
        notices.socket_mut().add_membership(GROUP)?;
        let requests = Socket::new(NETLINK_NETFILTER)?;
        let mut events = Self { notices, requests, generation: None };
        events.generation = Some(events.ask()?);
        Ok(events)
    }

    /// Waits for notices, and returns them; an error if some were lost.
    pub(super) async fn next(&mut self) -> io::Result<Vec<Notice>> {
        let mut buffer = Vec::with_capacity(BUFFER);
        self.notices.recv(&mut buffer).await?;
        Ok(self.read(&buffer))
    }

    /// Whether the kernel has counted changes that we were not told of. Those that wait in the socket are not missed:
    /// they come with the next [`Events::next`].
    pub(super) fn missed(&mut self) -> io::Result<bool> {
        let now = self.ask()?;
        if self.generation == Some(now) {
            return Ok(false);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        match self.notices.socket_ref().recv(&mut Vec::with_capacity(1), flags.bits()) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.generation = Some(now);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Number of the kernel's last change.
    fn ask(&self) -> io::Result<u32> {
        let mut request = Vec::with_capacity(PREAMBLE);
        request.extend((PREAMBLE as u32).to_ne_bytes());
        request.extend(u16::from_be_bytes([SUBSYSTEM, GETGEN]).to_ne_bytes());
        request.extend(REQUEST.to_ne_bytes());
        // Sequence number, port, and an nfgenmsg of no family, version 0 and no resource.
        request.extend([0; PREAMBLE - 8]);
        self.requests.send(&request, 0)?;
        let mut answer = Vec::with_capacity(4096);
        self.requests.recv(&mut answer, 0)?;
        let no_answer = || io::Error::other("the kernel does not number the changes of its tables");
        messages(&answer).find_map(|m| m.generation()).ok_or_else(no_answer)
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for message in messages(bytes) {
            self.generation = message.generation().or(self.generation);
            notices.extend(message.notice());
        }
        notices
    }
}

/// A message of the nf_tables subsystem.
struct Message<'a> {
    kind: u8,
    attributes: &'a [u8],
}

impl Message<'_> {
    fn notice(&self) -> Option<Notice> {
        // Every message names the table first. A rule then names its chain; a chain has its handle in between.
        let text = |kind| {
            let name = self.attribute(kind)?;
            Some(String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned())
        };
        let table = text(1)?;
        Some(match self.kind {
            DELTABLE => Notice::TableGone(table),
            DELCHAIN => Notice::ChainGone(table, text(3)?),
            DELRULE => Notice::RuleGone(table, text(2)?),
            NEWRULE => Notice::RuleNew(table, text(2)?),
            _ => return None,
        })
    }

    fn generation(&self) -> Option<u32> {
        let id = self.attribute(1).filter(|_| self.kind == NEWGEN)?;
        Some(u32::from_be_bytes(id.try_into().ok()?))
    }

    /// The value of the first attribute of that type.
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        /// Without the bits for nesting and byte order.
        const TYPE: u16 = 0x3fff;
        let mut rest = self.attributes;
        while let Some((head, _)) = rest.split_at_checked(4) {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let value = rest.get(4..length)?;
            if u16::from_ne_bytes([head[2], head[3]]) & TYPE == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        None
    }
}

/// The messages of the subsystem in what was received.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let header = rest.get(..HEADER)?;
            let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
            let [subsystem, kind] = u16::from_ne_bytes([header[4], header[5]]).to_be_bytes();
            let message = rest.get(..length)?;
            rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
            if subsystem == SUBSYSTEM
                && let Some(attributes) = message.get(PREAMBLE..)
            {
                return Some(Message { kind, attributes });
            }
        }
    })
}
