//! One netlink socket, and the three ways of asking over it: change something, ask for one thing, ask for all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    sys::AsyncSocket,
};

use super::{Error, Netlink};

/// How long the kernel may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Receive buffer of our sockets in bytes: room for the acknowledgements of a batch, and for a burst of events.
pub(super) const RECEIVE_BUFFER: u32 = 1 << 20;

/// How often a list is asked for again because it changed while the kernel wrote it.
const TRIES: usize = 4;

/// A socket and the task that serves it.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) handle: Handle,
    closed: Arc<AtomicBool>,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        let socket = connection.socket_mut().socket_mut();
        // Errors then carry the kernel's own words, and not our whole message.
        socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)).map_err(Error::Socket)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER).map_err(Error::Socket)?;
        // Lets the kernel filter dumps; kernels before 4.20 do not know it, and we filter again anyway.
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            tracing::debug!(%error, "the kernel sends whole dumps");
        }
        let closed = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&closed);
        tokio::spawn(async move {
            connection.await;
            ended.store(true, Ordering::Release);
        });
        Ok(Self { handle, closed })
    }

    /// Whether the connection ended. Answers then end early, which looks like success.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Netlink {
    /// Sends a change and waits for its acknowledgement.
    pub(super) async fn request(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.exchange(what, message, NLM_F_ACK | flags).await.map(drop)
    }

    /// Asks for one thing.
    pub(super) async fn ask(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        Ok(self.exchange(what, message, 0).await?.0)
    }

    /// Asks for all things of a kind. If they go on changing under the kernel's pen, the last list must do: whoever
    /// changes them also makes us look again.
    pub(super) async fn dump(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut found = Vec::new();
        for _ in 0..TRIES {
            let whole;
            (found, whole) = self.exchange(what, message.clone(), NLM_F_DUMP).await?;
            if whole {
                break;
            }
        }
        Ok(found)
    }

    /// The answers to a request, and whether they are one consistent state.
    async fn exchange(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), Error> {
        let mut socket = self.socket()?;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let mut answers = socket.handle.request(message).map_err(|error| Error::new(what, &error))?;
        let collect = async {
            let (mut found, mut whole) = (Vec::new(), true);
            while let Some(answer) = answers.next().await {
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Error(refusal) if refusal.code.is_some() => {
                        return Err(Error::refused(what.to_owned(), &refusal));
                    }
                    _ => {}
                }
            }
            if socket.is_closed() { Err(Error::Closed { what: what.to_owned() }) } else { Ok((found, whole)) }
        };
        match tokio::time::timeout(PATIENCE, collect).await {
            Ok(done) => done,
            Err(_elapsed) => Err(Error::Silent { what: what.to_owned(), seconds: PATIENCE.as_secs() }),
        }
    }
}
