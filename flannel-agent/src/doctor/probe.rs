//! `doctor --peer`: packets of our own, to find out what no table tells.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Finding, Level,
    facts::{Facts, SMALL},
};
use crate::kernel::inspect::{self, Ping};

/// How long a TCP handshake may take.
const PATIENCE: Duration = Duration::from_secs(2);

fn finding(level: Level, code: &'static str, what: String, why: &str, remedy: String) -> Finding {
    Finding { level, code, what, why: why.to_owned(), remedy }
}

/// Probes a peer: `address` is its host's, or one in its subnet, for example a container's.
pub(super) async fn peer(facts: &Facts, address: Ipv4Addr) -> Vec<Finding> {
    let holder = facts.holder(address);
    let host = match holder {
        Some((_, host)) => Some(host),
        None if facts.network.is_some_and(|network| network.contains(&address)) => {
            let route = inspect::route_get(address, None).await.ok();
            route.and_then(|route| route.gateway)
        }
        None => Some(address),
    };
    let Some(host) = host else {
        let what = format!("{address} is in no peer's subnet, and no route leads there through another host");
        return vec![finding(
            Level::Broken,
            "no-peer",
            what,
            "packets for it are not taken anywhere",
            "flannelctl leases shows which subnets there are".into(),
        )];
    };
    let mtu = facts.uplink.as_deref().and_then(|name| facts.link(name)).map_or(1500, |link| link.mtu);
    let mut findings: Vec<Finding> = ways(host, "the host", mtu).await.into_iter().collect();
    if findings.iter().all(|finding| finding.level != Level::Broken) {
        if address != host {
            findings.extend(ways(address, "the container", facts.mtu.unwrap_or(mtu)).await);
        }
        findings.extend(tcp(address).await);
        findings.extend(udp(address).await);
    }
    if findings.is_empty() {
        let what =
            format!("{address} answers pings of up to {} bytes, and TCP and UDP reach it", facts.mtu.unwrap_or(mtu));
        findings.push(finding(
            Level::Note,
            "peer-reached",
            what,
            "nothing between here and there is wrong",
            "none needed".into(),
        ));
    }
    findings
}

/// Pings small and as large as the way should take.
async fn ways(address: Ipv4Addr, name: &str, mtu: u32) -> Option<Finding> {
    match inspect::ping(address, SMALL).await {
        Err(error) => {
            let what = format!("{name} {address} was not pinged: {error}");
            return Some(finding(
                Level::Note,
                "not-probed",
                what,
                "without ping nothing is known of the way",
                "install iputils-ping".into(),
            ));
        }
        Ok(Ping::Answered) => {}
        Ok(_) => {
            let what = format!("{name} {address} does not answer a ping");
            let remedy = format!(
                "flannelctl explain with {address} shows where packets should go; then the same on the other side"
            );
            return Some(finding(
                Level::Broken,
                "peer-silent",
                what,
                "it is down, or the way there or back is broken, or ICMP is filtered",
                remedy,
            ));
        }
    }
    let largest = match inspect::ping(address, mtu).await {
        Ok(Ping::Answered) | Err(_) => return None,
        Ok(Ping::TooBig(told)) => told,
        Ok(Ping::Silent) => search(address, SMALL, mtu).await,
    };
    let what = format!("{name} {address} gets packets of {largest} bytes, but not of {mtu}, which this node sends");
    let why = "small packets pass and large ones do not: connections open, then hang";
    let remedy = format!(
        "set the MTU of {address}'s interfaces to {mtu}, or of all nodes to {largest} (ip link set eth0 mtu {largest}; systemctl restart flanneld docker)"
    );
    Some(finding(Level::Broken, "mtu-mismatch", what, why, remedy))
}

/// The largest packet that is answered, between one that is and one that is not.
async fn search(address: Ipv4Addr, mut works: u32, mut fails: u32) -> u32 {
    // The sizes that links really have come first: a black hole costs seconds for each guess.
    for size in [1480, 1450, 1400, 1300, 1280, 576] {
        if (works..fails).contains(&size) {
            if inspect::answers_with(address, size).await {
                works = size;
                break;
            }
            fails = size;
        }
    }
    works
}

/// A TCP handshake with a port that is most likely closed: a refusal has come all the way back.
async fn tcp(address: Ipv4Addr) -> Option<Finding> {
    match timeout(PATIENCE, TcpStream::connect((address, 1))).await {
        Ok(_) => None,
        Err(_late) => {
            let what = format!("{address} answers pings, but no TCP connection within {} s", PATIENCE.as_secs());
            let why = "a firewall on the way drops TCP";
            let remedy = format!("iptables-save | grep -e DROP -e REJECT, here and on {address}");
            Some(finding(Level::Warning, "tcp-dropped", what, why, remedy))
        }
    }
}

/// A UDP packet to a port that is most likely closed: "port unreachable" has come all the way back.
async fn udp(address: Ipv4Addr) -> Option<Finding> {
    let exchange = async {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect((address, 9)).await?;
        for _ in 0..2 {
            socket.send(b"flannelctl doctor").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        socket.recv(&mut [0; 64]).await
    };
    match timeout(PATIENCE, exchange).await {
        Ok(_) => None,
        Err(_late) => {
            let what = format!("{address} does not refuse UDP on a closed port within {} s", PATIENCE.as_secs());
            let why = "UDP may be dropped on the way; or ICMP is filtered, or something listens on port 9: then this is harmless";
            let remedy = format!("iptables-save | grep -e DROP -e REJECT, here and on {address}");
            Some(finding(Level::Note, "udp-silent", what, why, remedy))
        }
    }
}
