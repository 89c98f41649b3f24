//! From two looks at the counters to what happens in a second. Pure, but for the look itself.

use std::{collections::BTreeMap, time::Instant};

use ipnet::Ipv4Net;

use super::super::lists;
use crate::{
    admin::{Amount, PeerRow, client::Client},
    cli::flannelctl::FlowOrder,
    state::NodeState,
    traffic::{Count, FlowRow},
};

/// One look at everything.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) node: NodeState,
    pub(super) counts: Vec<Count>,
    pub(super) peers: Vec<PeerRow>,
    pub(super) flows: Vec<FlowRow>,
}

impl Sample {
    pub(super) async fn take(client: &Client) -> anyhow::Result<Self> {
        let (node, counts, peers, flows) = tokio::try_join!(
            client.get("/v1/status"),
            client.get("/v1/counts"),
            client.get("/v1/peers"),
            client.get("/v1/flows"),
        )?;
        Ok(Self { at: Instant::now(), node, counts, peers, flows })
    }
}

/// Packets and bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

/// A flow's name: addresses, ports, protocol.
type FlowName = (std::net::Ipv4Addr, u16, std::net::Ipv4Addr, u16, u8);

/// What happens in a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) node: NodeState,
    /// Carried by the fast path.
    pub(super) fast: Rate,
    /// Left to the kernel by an entry hook, and to or from a peer.
    pub(super) slow: Rate,
    /// To and from each peer with traffic, busiest first; the share of the fast path in percent.
    pub(super) peers: Vec<(PeerRow, Rate, Rate, f64)>,
    /// The busiest flows with their rates.
    pub(super) flows: Vec<(FlowRow, Rate)>,
    /// Reasons with their rates, most frequent first.
    pub(super) reasons: Vec<(String, Rate)>,
}

/// The growth of an amount in a second. A counter that went back was reset: it counts from zero.
fn rate(before: Amount, after: Amount, seconds: f64) -> Rate {
    let grown = |before: u64, after: u64| if after >= before { after - before } else { after } as f64 / seconds;
    Rate { packets: grown(before.packets, after.packets), bytes: grown(before.bytes, after.bytes) }
}

fn sum(a: Rate, b: Rate) -> Rate {
    Rate { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

impl Rates {
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64().max(0.001);
        let mut rates = Self { node: after.node.clone(), ..Self::default() };
        rates.read_peers(before, after, seconds);
        rates.read_flows(before, after, seconds);
        rates.read_reasons(before, after, seconds);
        rates
    }

    fn read_peers(&mut self, before: &Sample, after: &Sample, seconds: f64) {
        let known: BTreeMap<Ipv4Net, &PeerRow> = before.peers.iter().map(|row| (row.peer.subnet, row)).collect();
        for row in &after.peers {
            let was = known.get(&row.peer.subnet).copied().unwrap_or(row);
            let one = |read: fn(&PeerRow) -> Amount| rate(read(was), read(row), seconds);
            let (fast_to, slow_to) = (one(|row| row.fast_to), one(|row| row.slow_to));
            let (fast_from, slow_from) = (one(|row| row.fast_from), one(|row| row.slow_from));
            let (fast, slow) = (sum(fast_to, fast_from), sum(slow_to, slow_from));
            self.fast = sum(self.fast, fast);
            self.slow = sum(self.slow, slow);
            let all = fast.packets + slow.packets;
            if all > 0.0 {
                self.peers.push((
                    row.clone(),
                    sum(fast_to, slow_to),
                    sum(fast_from, slow_from),
                    fast.packets * 100.0 / all,
                ));
            }
        }
        self.peers.sort_by(|a, b| (b.1.bytes + b.2.bytes).total_cmp(&(a.1.bytes + a.2.bytes)));
    }

    fn read_flows(&mut self, before: &Sample, after: &Sample, seconds: f64) {
        let name = |row: &FlowRow| -> FlowName { (row.src, row.sport, row.dst, row.dport, row.proto) };
        let amount = |row: &FlowRow| Amount { packets: row.packets, bytes: row.bytes };
        let known: BTreeMap<FlowName, Amount> = before.flows.iter().map(|row| (name(row), amount(row))).collect();
        let rows = lists::busiest(after.flows.clone(), FlowOrder::Bytes, 0);
        let with = |row: FlowRow| {
            // A flow seen for the first time has no rate yet.
            let was = known.get(&name(&row)).copied().unwrap_or_else(|| amount(&row));
            let rate = rate(was, amount(&row), seconds);
            (row, rate)
        };
        self.flows = rows.into_iter().map(with).collect();
        self.flows.sort_by(|a, b| b.1.bytes.total_cmp(&a.1.bytes));
    }

    fn read_reasons(&mut self, before: &Sample, after: &Sample, seconds: f64) {
        let sums = |counts: &[Count]| {
            let mut sums: BTreeMap<String, Amount> = BTreeMap::new();
            for count in counts {
                let sum = sums.entry(count.reason.clone()).or_default();
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
            sums
        };
        let (before, after) = (sums(&before.counts), sums(&after.counts));
        let with = |(reason, amount): (String, Amount)| {
            let rate = rate(before.get(&reason).copied().unwrap_or_default(), amount, seconds);
            (reason, rate)
        };
        self.reasons = after.into_iter().map(with).filter(|(_, rate)| rate.packets > 0.0).collect();
        self.reasons.sort_by(|a, b| b.1.packets.total_cmp(&a.1.packets));
    }
}

#[cfg(test)]
mod tests {
    use super::{Amount, Rate, rate};

    #[test]
    fn growth_is_divided_by_time_and_resets_count_from_zero() {
        let amount = |packets| Amount { packets, bytes: packets * 100 };
        assert_eq!(rate(amount(10), amount(30), 2.0), Rate { packets: 10.0, bytes: 1000.0 });
        assert_eq!(rate(amount(30), amount(10), 2.0), Rate { packets: 5.0, bytes: 500.0 });
    }
}
