//! Bulk TCP between two containers, by iperf3.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Bench, Case, Kind, check_way};
use crate::{
    bench::{
        counters::Witness,
        lab::{Lab, Shape, Tuning},
        net,
        sample::{Better, Sample},
    },
    netns::Netns,
    process::{Process, output},
    scratch::Scratch,
};

/// Port of iperf3.
pub const PORT: u16 = 5201;
/// How long iperf3 may take to listen, or to end.
const DEADLINE: Duration = Duration::from_secs(10);

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Number of connections: 1, 4 or 8.
    pub streams: u32,
    /// Whether frames on the wire are no larger than its MTU.
    pub small_frames: bool,
    /// Length of a sample; iperf3 counts in whole seconds.
    pub seconds: u32,
}

impl Spec {
    /// The case of this spec.
    pub fn case(self) -> Case {
        let workload = match self.streams {
            1 => "tcp-stream-1",
            4 => "tcp-stream-4",
            _ => "tcp-stream-8",
        };
        let (wire, tuning) = if self.small_frames { ("mtu", Tuning::SmallFrames) } else { ("offload", Tuning::Docker) };
        let params = BTreeMap::from([("wire", wire.to_owned())]);
        Case {
            workload,
            params,
            unit: "Gb/s",
            better: Better::Higher,
            shape: Shape::Pair,
            tuning,
            kind: Kind::Stream(self),
        }
    }
}

/// Takes one sample: server in container 2 on core 0, client in container 1 on the benchmark's core.
pub fn measure(spec: Spec, lab: &Lab, bench: &Bench) -> Result<Sample> {
    let dir = Scratch::new("iperf3")?;
    let (client, server) = (lab.container(1)?, lab.container(2)?);
    let line = format!("taskset -c 0 iperf3 --server --one-off --forceflush --port {PORT}");
    let mut listener: Process = server.spawn(&line, &dir.join("server"))?;
    listener.wait_log("listening", DEADLINE)?;
    let witness = Witness::look(lab.first(), client)?;
    let sample = run_client(spec, client, net::container(2), bench.core)?;
    listener.wait_exit(DEADLINE).ok();
    let kernel_share = witness.kernel_share(lab.first(), client)?;
    Ok(check_way(sample, lab.arm, kernel_share))
}

/// Runs iperf3's client against the server at `target`.
pub fn run_client(spec: Spec, client: &Netns, target: Ipv4Addr, core: usize) -> Result<Sample> {
    let mut command = client.command("taskset");
    command.args(["-c", &core.to_string(), "iperf3", "--json", "--client", &target.to_string()]);
    command.args([
        "--port",
        &PORT.to_string(),
        "--time",
        &spec.seconds.to_string(),
        "--parallel",
        &spec.streams.to_string(),
    ]);
    let text = output(command)?;
    let result: Value = serde_json::from_str(&text).context("iperf3 wrote no JSON")?;
    parse(&result).with_context(|| format!("iperf3 said {}", result["error"]))
}

fn parse(result: &Value) -> Option<Sample> {
    let end = &result["end"];
    let rate = end["sum_received"]["bits_per_second"].as_f64()?;
    let retransmits = end["sum_sent"]["retransmits"].as_f64()?;
    Some(Sample::new(rate / 1e9).with("retransmits", retransmits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_was_received() {
        let text =
            r#"{"end":{"sum_sent":{"bits_per_second":9e9,"retransmits":12},"sum_received":{"bits_per_second":8.5e9}}}"#;
        let sample = parse(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((sample.value, sample.extras["retransmits"]), (8.5, 12.0));
        assert!(parse(&serde_json::from_str(r#"{"error":"unable to connect"}"#).unwrap()).is_none());
    }
}
