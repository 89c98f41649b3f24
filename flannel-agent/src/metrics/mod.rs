//! Prometheus metrics, collected anew at each scrape: nothing is counted twice, and what is shown is what the maps hold.
//!
//! The number of series is bounded by the cluster's peers and by enums of ours, never by traffic: no series is named after a
//! flow, a container or an interface. `tests/golden/metrics.txt` lists every name.

mod node;
mod traffic;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    admin::{Context, PeerRow},
    events,
    state::NodeState,
    traffic::Count,
};

/// The metrics as OpenMetrics text. Reads the fast path's maps: blocks for milliseconds.
pub fn render(context: &Context) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape::take(context)));
    let mut out = String::with_capacity(64 * 1024);
    match text::encode(&mut out, &registry) {
        Ok(()) => out,
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written as text");
            "# EOF\n".to_owned()
        }
    }
}

/// Everything that one scrape shows.
#[derive(Debug)]
struct Scrape {
    now: u64,
    node: NodeState,
    events: u64,
    peers: Vec<PeerRow>,
    counts: Vec<Count>,
    /// Entries of the flow map; `None` while the fast path is not loaded or cannot be read.
    flows: Option<u64>,
    /// Whether a read of the fast path's maps failed.
    blind: bool,
}

impl Scrape {
    fn take(context: &Context) -> Self {
        let traffic = context.traffic.get();
        let (peers, counts) = (context.peer_rows(), traffic.as_ref().map_or(Ok(vec![]), |traffic| traffic.counts()));
        let flows = traffic.map(|traffic| traffic.flow_count()).transpose();
        for error in [peers.as_ref().err(), counts.as_ref().err(), flows.as_ref().err()].into_iter().flatten() {
            tracing::debug!(%error, "metrics without the fast path's counters");
        }
        Self {
            now: events::now(),
            node: NodeState::clone(&context.node()),
            events: context.events.since(u64::MAX).next.saturating_sub(1),
            blind: peers.is_err() || counts.is_err() || flows.is_err(),
            peers: peers.unwrap_or_default(),
            counts: counts.unwrap_or_default(),
            flows: flows.unwrap_or_default(),
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(&mut encoder);
        node::write(self, &mut page)?;
        traffic::write(self, &mut page)
    }
}

/// Writes metrics one name at a time.
struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

/// The label set of a series: names and values.
type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Page<'_, '_> {
    /// A gauge without labels.
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge without labels that has no series where there is no value.
    fn gauge_if(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    /// A counter without labels; its name gets `_total`.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A gauge with a series for each label set.
    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            family(&mut metric, &labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter with a series for each label set.
    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            family(&mut metric, &labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn family<'s, S: EncodeLabelSet>(
    metric: &'s mut MetricEncoder<'_>,
    labels: &'s S,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    metric.encode_family(labels)
}
