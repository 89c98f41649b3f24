//! The clsact qdisc, to which kernels before 6.6 attach BPF programs.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{Error, Netlink};

/// Where filters of a clsact qdisc hang: its two parents (`TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` of linux/pkt_sched.h).
const MINORS: [u16; 2] = [0xfff2, 0xfff3];
/// `TC_H_CLSACT`: parent of the qdisc itself.
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };

impl Netlink {
    /// Removes the clsact qdisc of an interface, if it has one and no filter is left in it; says whether it did.
    pub async fn remove_empty_clsact(&self, ifindex: u32) -> Result<bool, Error> {
        let what = format!("list the filters of interface {ifindex}");
        for minor in MINORS {
            let mut filters = TcMessage::with_index(ifindex as i32);
            filters.header.parent = TcHandle { major: 0xffff, minor };
            match self.dump(&what, RouteNetlinkMessage::GetTrafficFilter(filters)).await {
                Ok(filters) if filters.is_empty() => {}
                Ok(_) => return Ok(false),
                // No interface, or no qdisc.
                Err(_) => return Ok(false),
            }
        }
        let mut message = TcMessage::with_index(ifindex as i32);
        message.header.parent = CLSACT;
        message.header.handle = TcHandle { major: 0xffff, minor: 0 };
        let what = format!("remove the clsact qdisc of interface {ifindex}");
        match self.request(&what, RouteNetlinkMessage::DelQueueDiscipline(message), 0).await {
            Ok(()) => Ok(true),
            Err(Error::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
