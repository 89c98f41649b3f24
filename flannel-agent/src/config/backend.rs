//! The member `Backend` of the cluster configuration.

use super::{
    error::ConfigError,
    json::{Member, Object},
};

/// How packets travel between nodes, with the options of that way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Routes through the other nodes' addresses.
    HostGw,
    /// Encapsulation in VXLAN.
    Vxlan {
        /// Network identifier, at most 24 bits.
        vni: u32,
        /// UDP port; 0 is the kernel's default, 8472.
        port: u16,
        /// MTU of the outer packets; `None` is the uplink's.
        mtu: Option<u32>,
        /// Group policy extension.
        gbp: bool,
        /// Whether the device learns addresses from packets.
        learning: bool,
        /// Plain routes to the nodes of our own link.
        direct_routing: bool,
    },
    /// Packets in UDP datagrams through user space.
    Udp {
        /// UDP port of every node.
        port: u16,
    },
    /// Encapsulation in IP.
    Ipip {
        /// Plain routes to the nodes of our own link.
        direct_routing: bool,
    },
    /// Leases only: somebody else makes the packets travel.
    Alloc,
}

/// Types that flannel knows and that we refuse.
const FOREIGN: &[&str] = &["wireguard", "ipsec", "extension", "aws-vpc", "gce", "ali-vpc", "tencent-vpc"];

impl Backend {
    /// The type as the configuration names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HostGw => "host-gw",
            Self::Vxlan { .. } => "vxlan",
            Self::Udp { .. } => "udp",
            Self::Ipip { .. } => "ipip",
            Self::Alloc => "alloc",
        }
    }

    /// Reads the member; absent means udp, as in flannel.
    pub(super) fn parse(member: Option<Member<'_>>) -> Result<Self, ConfigError> {
        let Some(member) = member else { return Ok(Self::Udp { port: 8285 }) };
        let options = member.object()?;
        let name = options.get("Type").map(|t| t.string()).transpose()?.flatten().unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "host-gw" => Ok(Self::HostGw),
            "vxlan" => Self::vxlan(&options),
            "udp" => Ok(Self::Udp { port: port(&options, 8285)? }),
            "ipip" => Ok(Self::Ipip { direct_routing: flag(&options, "DirectRouting")? }),
            "alloc" => Ok(Self::Alloc),
            lower if FOREIGN.contains(&lower) => Err(ConfigError::UnsupportedBackend { name }),
            _ => Err(ConfigError::UnknownBackend { name }),
        }
    }

    fn vxlan(options: &Object<'_>) -> Result<Self, ConfigError> {
        /// Largest 24-bit number.
        const VNI_MAX: i64 = 0x00ff_ffff;
        /// Room for the smallest IPv4 packet that a link must carry (RFC 791), and 50 bytes of outer headers.
        const MTU_MIN: i64 = 68 + 50;
        let mtu = integer(options, "MTU", 0, 0..=i64::from(u16::MAX))?;
        if mtu != 0 && mtu < MTU_MIN {
            return Err(ConfigError::OptionRange {
                option: "MTU",
                value: mtu,
                low: MTU_MIN,
                high: i64::from(u16::MAX),
            });
        }
        Ok(Self::Vxlan {
            vni: integer(options, "VNI", 1, 0..=VNI_MAX)? as u32,
            port: port(options, 0)?,
            mtu: (mtu != 0).then_some(mtu as u32),
            gbp: flag(options, "GBP")?,
            learning: flag(options, "Learning")?,
            direct_routing: flag(options, "DirectRouting")?,
        })
    }
}

fn port(options: &Object<'_>, default: i64) -> Result<u16, ConfigError> {
    Ok(integer(options, "Port", default, 0..=i64::from(u16::MAX))? as u16)
}

fn flag(options: &Object<'_>, name: &'static str) -> Result<bool, ConfigError> {
    Ok(options.get(name).map(|m| m.boolean()).transpose()?.flatten().unwrap_or(false))
}

fn integer(
    options: &Object<'_>,
    name: &'static str,
    default: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, ConfigError> {
    let value = options.get(name).map(|m| m.integer()).transpose()?.flatten().unwrap_or(default);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::OptionRange { option: name, value, low: *range.start(), high: *range.end() })
    }
}
