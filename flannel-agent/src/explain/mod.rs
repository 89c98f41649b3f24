//! The way of a packet through this node, step by step: who owns its addresses, where the kernel routes it, which rules it
//! meets, which hooks see it, and whether its flow is fast.

mod steps;

use std::net::Ipv4Addr;

use serde::Serialize;

pub use steps::steps;

use crate::{
    admin::client::Client,
    cli::flannelctl::{Explain, Output},
    ctl::{Outcome, is_table, print, print_json},
    doctor::facts::{self, Facts},
    kernel::inspect::{self, Route},
    traffic::FlowRow,
};

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `lease`, `route`, `rules`, `hook`, `flow` or `verdict`.
    pub step: &'static str,
    /// What happens there.
    pub says: String,
    /// What mends it, if this is where the packet is lost.
    pub remedy: Option<String>,
}

/// The packet that is asked about, and what was found out for it alone.
#[derive(Clone, Debug)]
pub struct Question {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// IP protocol number.
    pub proto: u8,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Interface by which it comes; `None` if this host sends it.
    pub iif: Option<String>,
    /// The kernel's answer where it goes, or its refusal.
    pub route: Result<Route, String>,
    /// Flows between the two addresses.
    pub flows: Vec<FlowRow>,
}

/// `flannelctl explain`.
pub async fn run(client: &Client, output: Output, packet: &Explain) -> anyhow::Result<Outcome> {
    let facts = facts::gather(client, &packet.places).await;
    let question = ask(client, &facts, packet).await;
    let steps = steps(&facts, &question);
    if is_table(output) {
        print(&report(&steps))?;
    } else {
        print_json(&steps, false)?;
    }
    let lost = steps.iter().any(|step| step.remedy.is_some());
    Ok(if lost { Outcome::Wrong } else { Outcome::Well })
}

async fn ask(client: &Client, facts: &Facts, packet: &Explain) -> Question {
    let iif = steps::incoming(facts, packet.src);
    let from = iif.as_deref().map(|iif| (packet.src, iif));
    let route = inspect::route_get(packet.dst, from).await.map_err(|error| error.to_string());
    let flows: Vec<FlowRow> = client.get(&format!("/v1/flows?address={}", packet.src)).await.unwrap_or_default();
    Question {
        src: packet.src,
        dst: packet.dst,
        proto: packet.proto.number(),
        sport: packet.sport,
        dport: packet.dport,
        iif,
        route,
        flows: flows.into_iter().filter(|flow| flow.dst == packet.dst || flow.src == packet.dst).collect(),
    }
}

fn report(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in (1..).zip(steps) {
        text.push_str(&format!("{number}. {:<8} {}\n", step.step, step.says));
        if let Some(remedy) = &step.remedy {
            text.push_str(&format!("{:12}remedy: {remedy}\n", ""));
        }
    }
    text
}
