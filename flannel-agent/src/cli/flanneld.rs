//! The command line and environment of `flanneld`, turned once into types.

mod klog;
mod parse;
mod table;
mod usage;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

pub use self::{parse::CliError, table::TABLE};
use crate::{
    fastpath::{Attach, HookKind, Mode, Xdp},
    logging::Format,
    plan::renew::Margin,
};

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// Run with these flags.
    Run(Box<Flags>),
    /// Print this text on standard output and exit 0.
    Help(String),
    /// Print the version on standard error, where flannel prints it, and exit 0.
    Version,
}

/// Every flag of `flanneld`, checked.
#[derive(Clone, Debug)]
pub struct Flags {
    /// The lease store.
    pub store: StoreFlags,
    /// Choice of the interface towards other nodes.
    pub uplink: UplinkFlags,
    /// Rules for masquerading and forwarding.
    pub firewall: FirewallFlags,
    /// The fast path.
    pub fastpath: FastPathFlags,
    /// Life of our own lease.
    pub lease: LeaseFlags,
    /// Logging.
    pub log: LogFlags,
    /// `-subnet-file`: what we write, and where a restart finds its previous subnet.
    pub subnet_file: PathBuf,
    /// `-ip-blackhole-route`: keep a blackhole route for our own subnet.
    pub blackhole_route: bool,
    /// `-healthz-ip` and `-healthz-port`; `None` if the port is 0 or less.
    pub health: Option<SocketAddr>,
    /// `-admin-socket`: where `flannelctl` asks.
    pub admin_socket: PathBuf,
    /// Oddities that were accepted and that an operator should read; to be logged once logging works.
    pub warnings: Vec<String>,
}

/// How to reach the store.
#[derive(Clone, Debug)]
pub struct StoreFlags {
    /// `-etcd-endpoints`, split at commas, without empty items and repetitions; never empty.
    pub endpoints: Vec<String>,
    /// `-etcd-prefix` as it was given; the store normalises it.
    pub prefix: String,
    /// `-etcd-keyfile`.
    pub keyfile: Option<PathBuf>,
    /// `-etcd-certfile`.
    pub certfile: Option<PathBuf>,
    /// `-etcd-cafile`.
    pub cafile: Option<PathBuf>,
    /// `-etcd-username` and `-etcd-password`, if both are given.
    pub credentials: Option<Credentials>,
}

/// A user of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `-etcd-username`.
    pub username: String,
    /// `-etcd-password`.
    pub password: Secret,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes what must not be shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Which interface leads to the other nodes, and what we tell them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkFlags {
    /// `-iface`, in order: names or addresses.
    pub iface: Vec<String>,
    /// `-iface-regex`, in order; tried after every `iface`. Each compiles.
    pub iface_regex: Vec<String>,
    /// `-iface-can-reach`; tried last.
    pub iface_can_reach: Option<IpAddr>,
    /// `-public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// `-public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Rules for masquerading and forwarding.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallFlags {
    /// `-ip-masq`.
    pub masquerade: bool,
    /// Not `-ip-masq-fully-random-disable`.
    pub random_fully: bool,
    /// `-iptables-forward-rules`.
    pub forward: bool,
    /// `-iptables-resync`; at least one second.
    pub resync: Duration,
    /// `-masq-exempt`: sources and destinations that are never masqueraded.
    pub exempt: Vec<IpNet>,
    /// `-conntrack-liberal`: whether to let the kernel's connection tracking live with samples of a fast flow.
    pub conntrack_liberal: bool,
}

/// The fast path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPathFlags {
    /// `-fastpath`.
    pub mode: Mode,
    /// `-attach`.
    pub attach: Attach,
    /// `-xdp`.
    pub xdp: Xdp,
    /// `-hook`.
    pub hook: HookKind,
    /// `-bridge`: the bridges whose ports are containers; `docker0` unless given.
    pub bridges: Vec<String>,
    /// `-revalidate`: how long a flow may go without the kernel's word.
    pub revalidate: Duration,
    /// `-flows`: capacity of the flow map.
    pub flows: u32,
    /// `-bpf-dir`: where maps and links are pinned.
    pub bpf_dir: PathBuf,
}

/// Life of our own lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFlags {
    /// `-subnet-lease-renew-margin`: how long before its end a lease is renewed; 1 to 1439 minutes.
    pub renew_margin: Margin,
    /// `-exit-on-lease-loss`.
    pub exit_on_loss: bool,
    /// `-release-on-exit`.
    pub release_on_exit: bool,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFlags {
    /// `-v` and `-vmodule` as directives for `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// `-log-format`.
    pub format: Format,
}
