//! What `flannelctl` takes on its command line.

use std::{net::Ipv4Addr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::admin::DEFAULT_SOCKET;

/// Shows what a flannel node does and why, finds what is wrong with it, and mends what it may.
#[derive(Debug, Parser)]
#[command(name = "flannelctl", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Flannelctl {
    /// Admin socket of the flanneld to ask
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "FLANNELCTL_SOCKET")]
    pub socket: PathBuf,
    /// Form of the output
    #[arg(short, long, global = true, value_name = "FORM", default_value = "table")]
    pub output: Output,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "Exit codes:
  0  done, and nothing is wrong
  1  something is wrong: a finding, a warning, an invalid value, or flanneld refused
  2  the command line is wrong
  3  no flanneld answers on the socket (doctor, explain, config check and cleanup do without one)";

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs; with --watch one document a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The node on one screen: lease, etcd, uplink, hooks, peers, traffic, and what is wrong
    Status(Watch),
    /// All leases of the cluster, with the time left to each
    Leases(Watch),
    /// The other nodes: how they are reached, and what went to and fro
    Peers(Watch),
    /// The flows that the fast path knows, busiest first
    Flows(Flows),
    /// Traffic as it happens; leave with q
    Top,
    /// The cluster's configuration
    Config {
        /// What to do with it
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// One lease
    Lease {
        /// What to do with it
        #[command(subcommand)]
        verb: LeaseVerb,
    },
    /// What flanneld did and why, a line each
    Events(Follow),
    /// The way of a packet through this node, step by step, and why it is not fast if it is not
    Explain(Explain),
    /// Looks for everything that is known to break container networks; also without a running flanneld
    Doctor(Doctor),
    /// Detaches the fast path and removes its maps; with --everything all else that flanneld made on this host
    Cleanup(Cleanup),
    /// Completions for a shell, on standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Manual pages: one for each verb, written into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// Repeats a table.
#[derive(Clone, Copy, Debug, Args)]
pub struct Watch {
    /// Show it anew every so many seconds
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub watch: Option<u64>,
}

/// Follows a log.
#[derive(Clone, Copy, Debug, Args)]
pub struct Follow {
    /// Go on as events happen
    #[arg(short, long)]
    pub watch: bool,
}

/// Which flows.
#[derive(Clone, Copy, Debug, Args)]
pub struct Flows {
    /// Only flows from or to this address
    pub address: Option<Ipv4Addr>,
    /// What makes a flow busy
    #[arg(long, value_name = "BY", default_value = "bytes")]
    pub sort: FlowOrder,
    /// Show at most so many; 0 for all
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
    /// Repetition
    #[command(flatten)]
    pub watch: Watch,
}

/// What makes a flow busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowOrder {
    /// Bytes carried by the fast path
    Bytes,
    /// Packets carried by the fast path
    Packets,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Prints it as it stands in etcd
    Get,
    /// Validates a text and writes it to etcd
    Set {
        /// File with the JSON; - for standard input
        file: PathBuf,
    },
    /// Validates a text, or the one in etcd, and says what is wrong with it
    Check {
        /// File with the JSON; - for standard input; none for the one in etcd
        file: Option<PathBuf>,
    },
}

/// What to do with a lease.
#[derive(Debug, Subcommand)]
pub enum LeaseVerb {
    /// Makes a lease a reservation: it never ends by itself
    Reserve {
        /// Its subnet (172.16.5.0/24)
        #[arg(value_parser = subnet)]
        subnet: Ipv4Net,
        /// Host address that the subnet is for, if nobody has leased it yet
        #[arg(long = "for", value_name = "ADDRESS")]
        host: Option<Ipv4Addr>,
    },
    /// Deletes the lease of a node that has left; a node that lives takes it again at once
    Release {
        /// Its subnet (172.16.5.0/24)
        #[arg(value_parser = subnet)]
        subnet: Ipv4Net,
    },
    /// Shows the leases of nodes that do not answer a ping, and with --yes deletes them; reservations stay
    Reclaim {
        /// Delete them
        #[arg(long)]
        yes: bool,
    },
}

fn subnet(typed: &str) -> Result<Ipv4Net, String> {
    typed.parse().map_err(|_bad| "a subnet is an address and a length, like 172.16.5.0/24".to_owned())
}

/// Which packet.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Source address
    pub src: Ipv4Addr,
    /// Destination address
    pub dst: Ipv4Addr,
    /// Protocol
    #[arg(default_value = "tcp")]
    pub proto: Proto,
    /// Source port
    #[arg(requires = "dport")]
    pub sport: Option<u16>,
    /// Destination port
    pub dport: Option<u16>,
    /// Where things are
    #[command(flatten)]
    pub places: Places,
}

/// A protocol by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// ICMP
    Icmp,
}

impl Proto {
    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What to look at.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Send real probes to this peer as well: its host address, or an address in its subnet
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<Ipv4Addr>,
    /// Where things are
    #[command(flatten)]
    pub places: Places,
}

/// Where to look on this host.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Where flanneld writes its subnet, if no flanneld tells
    #[arg(long, value_name = "PATH", default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// flanneld's environment file: where its store is, if no flanneld tells
    #[arg(long, value_name = "PATH", default_value = "/etc/sysconfig/flanneld")]
    pub env_file: PathBuf,
    /// Docker's bridge
    #[arg(long, value_name = "NAME", default_value = "docker0")]
    pub bridge: String,
    /// Interface towards the other nodes, if no flanneld tells; else the one with the default route
    #[arg(long, value_name = "NAME")]
    pub iface: Option<String>,
}

/// What to remove.
#[derive(Clone, Debug, Args)]
pub struct Cleanup {
    /// The fast path's pins
    #[arg(long, value_name = "PATH", default_value = crate::fastpath::PIN_ROOT)]
    pub pin_dir: PathBuf,
    /// Only that of this network; else of every network that is pinned from this network namespace
    #[arg(long, value_name = "CIDR")]
    pub network: Option<Ipv4Net>,
    /// Also routes, rules, tunnel devices and the subnet file: containers lose the other hosts by it
    #[arg(long)]
    pub everything: bool,
    /// With --everything: where flanneld wrote its subnet, by which its rules and routes are known
    #[arg(long, value_name = "PATH", default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Flannelctl::command().debug_assert();
    }
}
