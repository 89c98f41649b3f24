//! What changed in the kernel. An event only says "look again": whoever gets it reads the state anew.

use std::{net::Ipv4Addr, time::Duration};

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::AsyncSocket,
};
use tokio::sync::mpsc;

use super::{Error, socket::RECEIVE_BUFFER};

/// A hint that something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// What kind of thing.
    pub kind: Kind,
    /// The interface it belongs to; 0 where the kernel names none.
    pub ifindex: u32,
    /// Whether it went away (rather than came or changed).
    pub gone: bool,
    /// The IPv4 neighbour and its MAC address, where the event is about one that is resolved.
    pub neighbour: Option<(Ipv4Addr, [u8; 6])>,
}

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An interface: made, removed, up, down, renamed, moved to a bridge, new MTU or MAC.
    Link,
    /// An address of an interface.
    Address,
    /// A route of any table.
    Route,
    /// A neighbour.
    Neighbour,
    /// A forwarding entry of a bridge or a vxlan device.
    Fdb,
    /// Events were lost (the kernel's buffer overran, or the socket closed): anything may have changed.
    LookAgain,
}

/// Events that wait for a busy agent. More than these are one `LookAgain` anyway.
const CAPACITY: usize = 1024;

/// Something happened, and nobody knows what.
const LOST: KernelEvent = KernelEvent { kind: Kind::LookAgain, ifindex: 0, gone: false, neighbour: None };

/// Pause before a closed socket is opened again.
const REOPEN: Duration = Duration::from_millis(100);

type Messages = futures::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

impl super::Netlink {
    /// Subscribes to changes in the network namespace of the calling thread. The subscription lives until the
    /// receiver is dropped; whenever events were lost it says [`Kind::LookAgain`].
    pub fn events() -> Result<mpsc::Receiver<KernelEvent>, Error> {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let messages = subscribe().map_err(Error::Socket)?;
        tokio::spawn(forward(messages, sender));
        Ok(receiver)
    }
}

fn subscribe() -> std::io::Result<Messages> {
    let (mut connection, handle, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
    ])?;
    connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER)?;
    tokio::spawn(connection);
    // The connection ends with its last handle: the stream has to keep it.
    Ok(messages
        .map(move |(message, _)| {
            let _keep = &handle;
            message
        })
        .boxed())
}

/// Passes events on, and never waits for whoever reads them: what does not fit becomes one "look again".
async fn forward(mut messages: Messages, sender: mpsc::Sender<KernelEvent>) {
    let mut lost = false;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            permit = sender.reserve(), if lost => {
                let Ok(permit) = permit else { return };
                permit.send(LOST);
                lost = false;
                continue;
            }
            () = sender.closed() => return,
        };
        let event = match message {
            Some(message) => translate(&message),
            None => {
                messages = reopen().await;
                Some(LOST)
            }
        };
        if let Some(event) = event {
            lost |= sender.try_send(event).is_err();
        }
    }
}

async fn reopen() -> Messages {
    loop {
        tokio::time::sleep(REOPEN).await;
        match subscribe() {
            Ok(messages) => return messages,
            Err(error) => tracing::warn!(%error, "cannot subscribe to kernel events; trying again"),
        }
    }
}

fn translate(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<KernelEvent> {
    use RouteNetlinkMessage as M;
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(LOST),
        _ => return None,
    };
    let (kind, ifindex, gone) = match inner {
        M::NewLink(link) => (Kind::Link, link.header.index, false),
        M::DelLink(link) => (Kind::Link, link.header.index, true),
        M::NewAddress(address) => (Kind::Address, address.header.index, false),
        M::DelAddress(address) => (Kind::Address, address.header.index, true),
        M::NewRoute(route) => (Kind::Route, super::route::oif(route), false),
        M::DelRoute(route) => (Kind::Route, super::route::oif(route), true),
        M::NewNeighbour(entry) => (neighbour_kind(entry.header.family), entry.header.ifindex, false),
        M::DelNeighbour(entry) => (neighbour_kind(entry.header.family), entry.header.ifindex, true),
        _ => return None,
    };
    let neighbour = if let M::NewNeighbour(entry) = inner { super::neighbour::resolved(entry) } else { None };
    Some(KernelEvent { kind, ifindex, gone, neighbour })
}

fn neighbour_kind(family: netlink_packet_route::AddressFamily) -> Kind {
    if family == netlink_packet_route::AddressFamily::Bridge { Kind::Fdb } else { Kind::Neighbour }
}
