//! What a change of the configuration key means for a running node.

use std::fmt;

use super::{Backend, NetworkConfig};

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// At once: the reconcile loop works with the new value from its next pass.
    Live,
    /// When this node next needs a new subnet; the one that it holds stays.
    NextLease,
    /// When the agent is started again, on every node.
    Restart,
}

/// One member that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name as in the configuration (`Backend.DirectRouting`).
    pub key: &'static str,
    /// What it was.
    pub old: String,
    /// What it is.
    pub new: String,
    /// When that takes effect.
    pub effect: Effect,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.effect {
            Effect::Live => "applied",
            Effect::NextLease => "used when a new subnet is needed",
            Effect::Restart => "needs a restart of flanneld on every node",
        };
        write!(f, "{} changed from {} to {}: {when}", self.key, self.old, self.new)
    }
}

/// Compares two configurations member by member; defaults count as if they were written.
pub fn diff(old: &NetworkConfig, new: &NetworkConfig) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |key, old: String, new: String, effect| {
        if old != new {
            found.push(Difference { key, old, new, effect });
        }
    };
    let restart = Effect::Restart;
    compare("Network", old.v4.network.to_string(), new.v4.network.to_string(), restart);
    compare("SubnetLen", old.v4.subnet_len.to_string(), new.v4.subnet_len.to_string(), restart);
    compare("SubnetMin", old.v4.subnet_min.to_string(), new.v4.subnet_min.to_string(), Effect::NextLease);
    compare("SubnetMax", old.v4.subnet_max.to_string(), new.v4.subnet_max.to_string(), Effect::NextLease);
    compare("EnableIPv6", old.v6.is_some().to_string(), new.v6.is_some().to_string(), restart);
    if let (Some(old), Some(new)) = (old.v6, new.v6) {
        compare("IPv6Network", old.network.to_string(), new.network.to_string(), restart);
        compare("IPv6SubnetLen", old.subnet_len.to_string(), new.subnet_len.to_string(), restart);
        compare("IPv6SubnetMin", old.subnet_min.to_string(), new.subnet_min.to_string(), Effect::NextLease);
        compare("IPv6SubnetMax", old.subnet_max.to_string(), new.subnet_max.to_string(), Effect::NextLease);
    }
    compare("EnableNFTables", old.nftables.to_string(), new.nftables.to_string(), restart);
    backend(&old.backend, &new.backend, &mut compare);
    found
}

type Compare<'a> = dyn FnMut(&'static str, String, String, Effect) + 'a;

fn backend(old: &Backend, new: &Backend, compare: &mut Compare<'_>) {
    compare("Backend.Type", old.name().to_owned(), new.name().to_owned(), Effect::Restart);
    match (old, new) {
        (
            Backend::Vxlan { vni, port, mtu, gbp, learning, direct_routing },
            Backend::Vxlan {
                vni: vni2,
                port: port2,
                mtu: mtu2,
                gbp: gbp2,
                learning: learning2,
                direct_routing: direct2,
            },
        ) => {
            compare("Backend.VNI", vni.to_string(), vni2.to_string(), Effect::Restart);
            compare("Backend.Port", port.to_string(), port2.to_string(), Effect::Restart);
            let text = |mtu: &Option<u32>| mtu.map_or_else(|| "the uplink's".to_owned(), |m| m.to_string());
            compare("Backend.MTU", text(mtu), text(mtu2), Effect::Restart);
            compare("Backend.GBP", gbp.to_string(), gbp2.to_string(), Effect::Restart);
            compare("Backend.Learning", learning.to_string(), learning2.to_string(), Effect::Restart);
            compare("Backend.DirectRouting", direct_routing.to_string(), direct2.to_string(), Effect::Live);
        }
        (Backend::Udp { port }, Backend::Udp { port: port2 }) => {
            compare("Backend.Port", port.to_string(), port2.to_string(), Effect::Restart);
        }
        (Backend::Ipip { direct_routing }, Backend::Ipip { direct_routing: direct2 }) => {
            compare("Backend.DirectRouting", direct_routing.to_string(), direct2.to_string(), Effect::Live);
        }
        _ => {}
    }
}
