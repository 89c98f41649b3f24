//! The route of last resort for our own subnet (`-ip-blackhole-route`).

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteProtocol, RouteScope, RouteType},
};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{
    Error, Netlink, OUR_PROTOCOL,
    route::{address, empty},
};

/// Behind every other route to the subnet: the bridge's connected route must win whenever it is there. (Upstream flannel's
/// has no metric, and so takes the bridge's place if it is made first.)
const LAST: u32 = u32::MAX;

impl Netlink {
    /// Makes sure that packets to addresses of `subnet` which nothing else routes end here instead of at the default route.
    pub async fn put_blackhole(&self, subnet: IpNet) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let what = format!("make a blackhole route to {subnet}");
        match self.request(&what, RouteNetlinkMessage::NewRoute(message(subnet)), flags).await {
            Err(error) if error.errno() == Errno::EEXIST as i32 => Ok(()),
            done => done,
        }
    }

    /// Takes it away again; no error if it is gone.
    pub async fn remove_blackhole(&self, subnet: IpNet) -> Result<(), Error> {
        let what = format!("remove the blackhole route to {subnet}");
        match self.request(&what, RouteNetlinkMessage::DelRoute(message(subnet)), 0).await {
            Err(error) if error.errno() == Errno::ESRCH as i32 => Ok(()),
            done => done,
        }
    }
}

fn message(subnet: IpNet) -> netlink_packet_route::route::RouteMessage {
    let mut message = empty(subnet.addr().is_ipv4());
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(OUR_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::BlackHole;
    message.header.destination_prefix_length = subnet.prefix_len();
    message.attributes.push(RouteAttribute::Destination(address(subnet.network())));
    message.attributes.push(RouteAttribute::Priority(LAST));
    message
}
