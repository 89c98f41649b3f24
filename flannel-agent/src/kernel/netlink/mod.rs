//! The kernel's network configuration by rtnetlink: what is there, what changes, and the one place that changes it.
//!
//! Every answer is a fresh look; nothing is cached here. Requests are bounded in time, so that a stuck kernel cannot
//! stop the agent from renewing its lease.

mod address;
mod apply;
mod blackhole;
mod error;
mod event;
mod link;
mod neighbour;
mod observe;
mod qdisc;
mod route;

use std::time::Duration;

use futures::{Stream, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    sys::AsyncSocket,
};

pub use self::{
    address::Address,
    error::Error,
    event::{KernelEvent, Kind},
    link::{Bridge, Link, VxlanLink},
    neighbour::Endpoint,
    observe::Scope,
    route::{DEFAULT_TABLE, Lookup, OUR_PROTOCOL},
};

/// How long the kernel may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Receive buffer of our sockets in bytes: room for the acknowledgements of a batch, and for a burst of events.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// A connection to the kernel of the network namespace in which it was opened. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a connection; a background task of the current tokio runtime serves it until the last clone is dropped.
    pub fn connect() -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        let socket = connection.socket_mut().socket_mut();
        // Errors then carry the kernel's own words, and not our whole message.
        socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)).map_err(Error::Socket)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER).map_err(Error::Socket)?;
        // Lets the kernel filter dumps; kernels before 4.20 do not know it, and we filter again anyway.
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            tracing::debug!(%error, "the kernel sends whole dumps");
        }
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Sends one request and waits for its acknowledgement.
    async fn request(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message).map_err(|error| Error::new(what, &error))?;
        let wait = async {
            while let Some(answer) = answers.next().await {
                match &answer.payload {
                    NetlinkPayload::Error(refusal) if refusal.code.is_some() => {
                        return Err(Error::refused(what.to_owned(), refusal));
                    }
                    NetlinkPayload::Error(_) => {}
                    _ => return Err(Error::unexpected(what.to_owned(), &answer)),
                }
            }
            Ok(())
        };
        patiently(what, wait).await
    }
}

/// Bounds the time of a request.
async fn patiently<T>(what: &str, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(done) => done,
        Err(_elapsed) => Err(Error::Silent { what: what.to_owned(), seconds: PATIENCE.as_secs() }),
    }
}

/// Collects a dump.
async fn all<T>(what: &str, dump: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, Error> {
    let collect = async {
        let mut dump = std::pin::pin!(dump);
        let mut found = Vec::new();
        while let Some(item) = dump.next().await {
            found.push(item.map_err(|error| Error::new(what, &error))?);
        }
        Ok(found)
    };
    patiently(what, collect).await
}
