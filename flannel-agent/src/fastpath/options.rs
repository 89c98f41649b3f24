//! What an operator chooses of the fast path.

use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr, time::Duration};

use ipnet::Ipv4Net;

/// Where maps and links are pinned unless told otherwise.
pub const PIN_ROOT: &str = "/sys/fs/bpf/flannel";

/// What decides that a packet may go fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the kernel was seen to do with the flow a moment ago.
    #[default]
    Verified,
    /// The leases alone: no NAT and no policy between containers.
    Trusted,
    /// Nothing: routes alone.
    Off,
}

/// Where packets from containers are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// At each port of each bridge: both directions are fast.
    #[default]
    Ports,
    /// At the bridges themselves: hooks do not come and go with containers, but packets pass the bridge's own code.
    Bridge,
}

/// Whether the uplink gets an XDP program for packets that come in and leave by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// Where the driver runs it natively; not on a veth, whose other end would lose segmentation offload.
    #[default]
    Auto,
    /// On a veth too.
    On,
    /// Never.
    Off,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookKind {
    /// tcx from kernel 6.6, clsact below.
    #[default]
    Auto,
    /// tcx links only.
    Tcx,
    /// Filters of the clsact qdisc only.
    Clsact,
}

/// A word that names none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is none of {choices}")]
pub struct UnknownChoice {
    word: String,
    choices: &'static str,
}

macro_rules! choices {
    ($name:ident: $all:literal, $($variant:ident = $label:literal),+ $(,)?) => {
        impl $name {
            /// The word for it on the command line, in JSON and in tables.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
        impl FromStr for $name {
            type Err = UnknownChoice;
            fn from_str(word: &str) -> Result<Self, UnknownChoice> {
                match word {
                    $($label => Ok(Self::$variant),)+
                    _ => Err(UnknownChoice { word: word.to_owned(), choices: $all }),
                }
            }
        }
    };
}

choices!(Mode: "verified, trusted, off", Verified = "verified", Trusted = "trusted", Off = "off");
choices!(Attach: "ports, bridge", Ports = "ports", Bridge = "bridge");
choices!(Xdp: "auto, on, off", Auto = "auto", On = "on", Off = "off");
choices!(HookKind: "auto, tcx, clsact", Auto = "auto", Tcx = "tcx", Clsact = "clsact");

/// Everything that is chosen once, at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// What decides that a packet may go fast.
    pub mode: Mode,
    /// Where packets from containers are taken.
    pub attach: Attach,
    /// Whether the uplink gets an XDP program.
    pub xdp: Xdp,
    /// How TC programs are attached.
    pub hook: HookKind,
    /// How long a flow stays fast after its last verification.
    pub revalidate: Duration,
    /// Capacity of the flow map.
    pub flows: u32,
    /// The flannel network.
    pub network: Ipv4Net,
    /// Prefix length of the subnets that nodes lease (`SubnetLen`): how many there can be sizes the per-peer counters.
    pub subnet_len: u8,
    /// Directory on a BPF file system under which maps and links are pinned.
    pub pin_root: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            attach: Attach::default(),
            xdp: Xdp::default(),
            hook: HookKind::default(),
            revalidate: Duration::from_secs(5),
            flows: flannel_common::abi::FLOWS_CAPACITY,
            network: Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16),
            subnet_len: 24,
            pin_root: PathBuf::from(PIN_ROOT),
        }
    }
}

impl Options {
    /// Slots for per-peer counters: one for each subnet that the network can be cut into, within bounds that keep a
    /// small network useful for foreign lease sizes, and a large one from taking 64 bytes × CPUs × 65,536.
    pub(super) fn peer_slots(&self) -> u32 {
        const LEAST: u32 = 256;
        const MOST: u32 = 8_192;
        let bits = u32::from(self.subnet_len.saturating_sub(self.network.prefix_len()));
        // Slot 0 belongs to our own subnet.
        1_u32.checked_shl(bits).unwrap_or(MOST).saturating_add(1).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_choices_agree() {
        assert_eq!("verified".parse(), Ok(Mode::Verified));
        assert_eq!(Attach::Bridge.to_string(), "bridge");
        let error = "fast".parse::<Mode>().unwrap_err();
        assert_eq!(error.to_string(), "\"fast\" is none of verified, trusted, off");
    }

    #[test]
    fn peer_slots_follow_the_network() {
        let slots = |network: &str, subnet_len| {
            Options { network: network.parse().unwrap(), subnet_len, ..Options::default() }.peer_slots()
        };
        assert_eq!(slots("172.16.0.0/16", 24), 257);
        assert_eq!(slots("10.0.0.0/8", 24), 8_192);
        assert_eq!(slots("0.0.0.0/0", 32), 8_192);
        assert_eq!(slots("10.0.0.0/24", 24), 256);
        assert_eq!(slots("10.0.0.0/16", 20), 256);
    }
}
