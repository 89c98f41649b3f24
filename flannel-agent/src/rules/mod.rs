//! What the firewall's rules would do to a packet: a small model of iptables and nftables, walked without touching the kernel.
//!
//! Pure. What the model does not understand of a rule makes that rule a "maybe", never a wrong answer.

mod iptables;
mod nft;
mod walk;

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::Serialize;

pub use walk::{Effect, Hit};

/// All chains of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By table (`filter`, `inet mine`) and name.
    chains: BTreeMap<(String, String), Chain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Where packets enter it; none for chains that are only jumped to.
    hook: Option<Hook>,
    /// Whether packets that reach its end are dropped.
    drops: bool,
    rules: Vec<Rule>,
}

/// The hooks that a forwarded packet passes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Hook {
    Prerouting,
    Forward,
    Postrouting,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// As the tool writes it.
    text: String,
    matches: Vec<Match>,
    target: Target,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Match {
    /// Whether it holds for what the test does *not* hold for.
    not: bool,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Src(Vec<Ipv4Net>),
    Dst(Vec<Ipv4Net>),
    /// A trailing `+` or `*` stands for any rest.
    In(String),
    Out(String),
    Proto(u8),
    SrcPort(u16, u16),
    DstPort(u16, u16),
    /// Connection states; we ask for a connection's first packet.
    State(Vec<String>),
    /// The destination is an address of this host.
    DstLocal,
    /// Something else.
    Unknown,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Accept,
    Drop,
    Return,
    /// Changes addresses or ports, and ends the walk through this chain.
    Nat,
    /// Changes the packet or its mark, and goes on.
    Mangle,
    Jump(String),
    Goto(String),
    /// Logs, counts: nothing that we care for.
    Nothing,
}

/// The first packet of a connection that this host would forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// IP protocol number, if it matters.
    pub proto: Option<u8>,
    /// Source port, if it matters.
    pub sport: Option<u16>,
    /// Destination port, if it matters.
    pub dport: Option<u16>,
    /// Interface by which it comes.
    pub iif: String,
    /// Interface by which it goes.
    pub oif: String,
}

impl Ruleset {
    /// Reads what `iptables-save` and `nft list ruleset` write; either may be empty.
    pub fn parse(iptables: &str, nftables: &str) -> Self {
        let mut rules = iptables::parse(iptables);
        // iptables of the nft kind keeps its rules in tables of these names: they have been read already.
        let read = |table: &str| {
            !iptables.is_empty() && matches!(table, "ip filter" | "ip nat" | "ip raw" | "ip mangle" | "ip security")
        };
        rules.chains.extend(nft::parse(nftables).chains.into_iter().filter(|((table, _), _)| !read(table)));
        rules
    }

    /// The first address inside `subnet` that a rule before routing names alone.
    pub fn guarded(&self, subnet: Ipv4Net) -> Option<Ipv4Addr> {
        let before =
            self.chains.iter().filter(|((table, _), chain)| table == "raw" || chain.hook == Some(Hook::Prerouting));
        let tests = before.flat_map(|(_, chain)| &chain.rules).flat_map(|rule| &rule.matches).filter(|one| !one.not);
        let named = tests.filter_map(|one| match &one.test {
            Test::Dst(nets) => nets.iter().find(|net| net.prefix_len() == 32 && subnet.contains(*net)),
            _ => None,
        });
        named.map(Ipv4Net::addr).next()
    }

    /// Whether some rule sends what comes for this host's own addresses to `subnet`: published ports.
    pub fn publishes(&self, subnet: Ipv4Net) -> bool {
        let texts = self.chains.values().flat_map(|chain| &chain.rules).filter(|rule| rule.target == Target::Nat);
        let mut words = texts.filter_map(|rule| {
            let after = rule.text.split_once("--to-destination ").or_else(|| rule.text.split_once("dnat to "));
            after.map(|(_, rest)| rest.split([':', ' ']).next().unwrap_or_default())
        });
        words.any(|word| word.parse().is_ok_and(|address: Ipv4Addr| subnet.contains(&address)))
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }
}
