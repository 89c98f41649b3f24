//! Reads what `explain` and `doctor` want to know of the kernel, and changes nothing: routes, links, rules, settings, probes.
//!
//! It asks the usual tools (`ip -j`, `iptables-save`, `nft`, `ethtool`, `ping`), so that an operator can repeat each step by
//! hand; flanneld itself never comes here.

use std::{collections::BTreeMap, fs, io, net::Ipv4Addr, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{process::Command, time::timeout};

/// How long a tool may take; rule sets of 50,000 lines take two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The tool is not there.
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// The tool says no.
    #[error("{command}: {text}")]
    Failed {
        /// What was run.
        command: String,
        /// What it said.
        text: String,
    },
}

/// A route, or the outcome of a lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination as `ip` writes it: `default`, a network or an address.
    pub dst: String,
    /// `local`, `blackhole`, …; none for a unicast route.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Next hop.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Outgoing interface.
    #[serde(default)]
    pub dev: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub protocol: Option<String>,
    /// `linkdown`, `onlink`, …
    #[serde(default)]
    pub flags: Vec<String>,
}

impl Route {
    /// The destination as a network.
    pub fn net(&self) -> Option<Ipv4Net> {
        match self.dst.as_str() {
            "default" => Some(Ipv4Net::default()),
            text => text.parse().ok().or_else(|| Some(Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?))),
        }
    }
}

/// A network interface with its IPv4 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name.
    #[serde(rename = "ifname")]
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// `UP`, `DOWN` or `UNKNOWN`.
    #[serde(default)]
    pub operstate: String,
    /// Flags (`UP`, `LOWER_UP`, …).
    #[serde(default)]
    pub flags: Vec<String>,
    /// The bridge that it is a port of.
    #[serde(default)]
    pub master: Option<String>,
    /// The XDP program, in the driver.
    #[serde(default)]
    pub xdp: Option<Xdp>,
    /// Addresses, as `ip` shows them.
    #[serde(rename = "addr_info", default)]
    pub addresses: Vec<Address>,
}

/// What `ip` shows of an interface's XDP program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// The program.
    #[serde(default)]
    pub prog: Option<XdpProgram>,
}

/// An XDP program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpProgram {
    /// Its number in the kernel.
    pub id: u32,
}

/// An IPv4 address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub local: Option<Ipv4Addr>,
    /// Length of its prefix.
    pub prefixlen: u8,
}

impl Link {
    /// Its addresses with their networks.
    pub fn nets(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.addresses.iter().filter_map(|address| Ipv4Net::new(address.local?, address.prefixlen).ok())
    }
}

/// A neighbour of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub dst: Ipv4Addr,
    /// `REACHABLE`, `STALE`, `FAILED`, …
    #[serde(default)]
    pub state: Vec<String>,
}

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ping {
    /// It was answered.
    Answered,
    /// Nothing came back.
    Silent,
    /// A router on the way says that packets may have so many bytes.
    TooBig(u32),
}

async fn run(program: &'static str, args: &[&str]) -> Result<String, Error> {
    let command = || format!("{program} {}", args.join(" "));
    let failed = |text: String| Error::Failed { command: command(), text };
    let output = Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output)
        .await
        .map_err(|_late| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing(program),
            _ => failed(error.to_string()),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stderr, output.stdout].concat();
    Err(failed(String::from_utf8_lossy(&said).trim().replace('\n', "; ")))
}

async fn ip<T: DeserializeOwned>(args: &[&str]) -> Result<Vec<T>, Error> {
    let text = run("ip", &[&["-j", "-4"], args].concat()).await?;
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    serde_json::from_str(&text)
        .map_err(|error| Error::Failed { command: format!("ip -j -4 {}", args.join(" ")), text: error.to_string() })
}

/// The IPv4 routes of the main table.
pub async fn routes() -> Result<Vec<Route>, Error> {
    ip(&["route", "show", "table", "main"]).await
}

/// The kernel's lookup for a packet to `dst`: sent by this host, or, with `from`, come from that address by that interface.
pub async fn route_get(dst: Ipv4Addr, from: Option<(Ipv4Addr, &str)>) -> Result<Route, Error> {
    let (dst, src) = (dst.to_string(), from.map(|(src, _)| src.to_string()));
    let mut args = vec!["route", "get", &dst];
    if let (Some(src), Some((_, iif))) = (&src, from) {
        args.extend(["from", src, "iif", iif]);
    }
    let found: Vec<Route> = ip(&args).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Failed { command: format!("ip {}", args.join(" ")), text: "no answer".into() })
}

/// All interfaces.
pub async fn links() -> Result<Vec<Link>, Error> {
    // An interface that has no IPv4 address is an empty object in the list of addresses.
    let (links, addresses) = tokio::join!(ip::<Link>(&["link", "show"]), ip::<serde_json::Value>(&["addr", "show"]));
    let mut links = links?;
    let addresses: Vec<Link> = addresses?.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    for link in &mut links {
        if let Some(with) = addresses.iter().find(|with| with.ifindex == link.ifindex) {
            link.addresses.clone_from(&with.addresses);
        }
    }
    Ok(links)
}

/// The neighbours that the kernel knows by now.
pub async fn neighbours() -> Result<Vec<Neighbour>, Error> {
    ip(&["neigh", "show"]).await
}

/// All iptables rules, as `iptables-save` writes them.
pub async fn iptables() -> Result<String, Error> {
    run("iptables-save", &[]).await
}

/// All nftables rules, those of iptables too, as `nft` writes them.
pub async fn nftables() -> Result<String, Error> {
    run("nft", &["list", "ruleset"]).await
}

/// The offloads of an interface by their names in `ethtool -k`: whether they are on.
pub async fn offloads(dev: &str) -> Result<BTreeMap<String, bool>, Error> {
    let text = run("ethtool", &["-k", dev]).await?;
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    Ok(pairs.map(|(name, value)| (name.trim().to_owned(), value.starts_with("on"))).collect())
}

/// Names of the BPF filters of an interface's clsact qdisc, in a direction (`ingress`, `egress`); none without that qdisc.
pub async fn filters(dev: &str, direction: &str) -> Result<Vec<String>, Error> {
    let text = run("tc", &["-j", "filter", "show", "dev", dev, direction]).await?;
    let filters: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let name = |filter: &serde_json::Value| Some(filter["options"]["bpf_name"].as_str()?.to_owned());
    Ok(filters.iter().filter_map(name).collect())
}

/// A setting under /proc/sys (`net/ipv4/ip_forward`), without its line break.
pub fn sysctl(path: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok().map(|text| text.trim().to_owned())
}

/// Type and mount point of everything that is mounted.
pub fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|words| words.len() > 2).map(|words| (words[2].to_owned(), words[1].to_owned())).collect()
}

/// Pings with packets of `size` bytes (whole IPv4 packets) that must not be fragmented; at most two, half a second apart.
pub async fn ping(address: Ipv4Addr, size: u32) -> Result<Ping, Error> {
    let (address, payload) = (address.to_string(), size.saturating_sub(28).to_string());
    let args = ["-n", "-M", "do", "-c", "2", "-i", "0.5", "-W", "1", "-s", &payload, &address];
    match run("ping", &args).await {
        Ok(_) => Ok(Ping::Answered),
        Err(Error::Failed { text, .. }) => Ok(told_mtu(&text).map_or(Ping::Silent, Ping::TooBig)),
        Err(error) => Err(error),
    }
}

/// The MTU in ping's complaint: `(mtu = 1400)` from a router, `mtu=1400` or `mtu: 1400` from this host.
fn told_mtu(text: &str) -> Option<u32> {
    let after = &text[text.find("mtu")? + 3..];
    let digits: String = after.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether a host answers a small ping.
pub async fn answers(address: Ipv4Addr) -> bool {
    answers_with(address, 84).await
}

/// Whether a host answers a ping of `size` bytes.
pub async fn answers_with(address: Ipv4Addr, size: u32) -> bool {
    ping(address, size).await == Ok(Ping::Answered)
}

#[cfg(test)]
mod tests {
    use super::{Route, told_mtu};

    #[test]
    fn the_mtu_is_read_from_each_of_ping_s_complaints() {
        let cases = [
            ("From 10.0.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)", Some(1400)),
            ("ping: local error: message too long, mtu=1450", Some(1450)),
            ("ping: local error: message too long, mtu: 1450", Some(1450)),
            ("1 packets transmitted, 0 received, 100% packet loss", None),
        ];
        for (text, expected) in cases {
            assert_eq!(told_mtu(text), expected, "{text}");
        }
    }

    #[test]
    fn destinations_are_networks() {
        let net = |dst: &str| Route { dst: dst.into(), ..Route::default() }.net().map(|net| net.to_string());
        assert_eq!(net("default").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(net("172.16.5.0/24").as_deref(), Some("172.16.5.0/24"));
        assert_eq!(net("172.16.5.9").as_deref(), Some("172.16.5.9/32"));
        assert_eq!(net("fe80::/64"), None);
    }
}
