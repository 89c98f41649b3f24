//! The kernel's own counters: they tell which way packets went, whatever the arm is called.

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Packets that the kernel's IPv4 code has forwarded in a namespace since it was made; in our own if none is given.
pub fn forwarded<'a>(ns: impl Into<Option<&'a Netns>>) -> Result<u64> {
    counter(ns.into(), "Ip", "ForwDatagrams")
}

/// Packets that a namespace has sent and received itself, as IPv4 sees them: a large TCP packet counts once.
pub fn exchanged(ns: &Netns) -> Result<u64> {
    Ok(counter(Some(ns), "Ip", "OutRequests")? + counter(Some(ns), "Ip", "InReceives")?)
}

fn counter(ns: Option<&Netns>, table: &str, name: &str) -> Result<u64> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let text = ns.map_or_else(|| Ok(read()), |ns| ns.enter(read))?.context("read /proc/net/snmp")?;
    find(&text, table, name).with_context(|| format!("no {table} {name} in /proc/net/snmp"))
}

fn find(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(": "));
    let (names, values) = (lines.next()?, lines.next()?);
    let position = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(position)?.parse().ok()
}

/// How much of a workload's traffic the kernel of host 1 forwarded, between two looks.
pub struct Witness {
    forwarded: u64,
    exchanged: u64,
}

impl Witness {
    /// The first look, at a host (our own namespace if none is given) and its container.
    pub fn look<'a>(host: impl Into<Option<&'a Netns>>, container: &Netns) -> Result<Self> {
        Ok(Self { forwarded: forwarded(host)?, exchanged: exchanged(container)? })
    }

    /// Share of the container's packets since then that the kernel forwarded.
    pub fn kernel_share<'a>(&self, host: impl Into<Option<&'a Netns>>, container: &Netns) -> Result<f64> {
        let now = Self::look(host, container)?;
        let packets = (now.exchanged - self.exchanged).max(1);
        Ok((now.forwarded - self.forwarded) as f64 / packets as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding ForwDatagrams InX\nIp: 1 4711 9\nIcmp: A\nIcmp: 1\nTcp: A RetransSegs\nTcp: -1 7\n";
        let cases = [
            ("Ip", "ForwDatagrams", Some(4711)),
            ("Tcp", "RetransSegs", Some(7)),
            ("Ip", "Other", None),
            ("Udp", "A", None),
        ];
        for (table, name, expected) in cases {
            assert_eq!(find(text, table, name), expected, "{table} {name}");
        }
    }
}
