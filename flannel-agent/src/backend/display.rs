//! How objects and changes read in logs, events and errors.

use std::fmt;

use super::{Change, Object, Slot};

/// A MAC address in its usual form.
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(net) => write!(f, "route {net}"),
            Self::Neighbour(ifindex, ip) => write!(f, "neighbour {ip} on interface {ifindex}"),
            Self::Fdb(ifindex, mac) => write!(f, "forwarding entry {} on interface {ifindex}", Mac(*mac)),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { gateway, ifindex, onlink } => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "out of interface {ifindex}{}", if *onlink { " onlink" } else { "" })
            }
            Self::Neighbour(mac) => write!(f, "at {}", Mac(*mac)),
            Self::Fdb(ip) => write!(f, "to {ip}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(slot, object) => write!(f, "put {slot} {object}"),
            Self::Replace { slot, old, new } => write!(f, "replace {slot} {old} by {new}"),
            Self::Remove(slot, object) => write!(f, "remove {slot} {object}"),
        }
    }
}
