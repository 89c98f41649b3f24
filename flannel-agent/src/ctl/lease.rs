//! `flannelctl lease`.

use hyper::Method;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Outcome, lists, show::answer};
use crate::{
    admin::{LeaseRow, client::Client},
    cli::flannelctl::{LeaseVerb, Output},
    kernel::inspect,
};

pub(super) async fn run(client: &Client, output: Output, verb: &LeaseVerb) -> anyhow::Result<Outcome> {
    match verb {
        LeaseVerb::Reserve { subnet, host } => {
            let host = host.map_or(String::new(), |host| format!("?host={host}"));
            let target = format!("/v1/leases/{subnet}/reservation{host}");
            client.ask::<()>(Method::PUT, &target, String::new()).await?;
            done(output, *subnet, "reserved")
        }
        LeaseVerb::Release { subnet } => {
            release(client, *subnet).await?;
            done(output, *subnet, "released")
        }
        LeaseVerb::Reclaim { yes } => reclaim(client, output, *yes).await,
    }
}

/// Says what became of a subnet.
fn done(output: Output, subnet: Ipv4Net, is_now: &str) -> anyhow::Result<Outcome> {
    answer(output, &serde_json::json!({ "subnet": subnet, "is": is_now }), &format!("{subnet} is {is_now}\n"))
}

async fn release(client: &Client, subnet: Ipv4Net) -> anyhow::Result<()> {
    Ok(client.ask::<()>(Method::DELETE, &format!("/v1/leases/{subnet}"), String::new()).await?)
}

#[derive(Serialize)]
struct Reclaimed {
    silent: Vec<LeaseRow>,
    released: bool,
}

/// Leases whose host is silent. A host may be silent because of a firewall: hence the question before the deed.
async fn reclaim(client: &Client, output: Output, yes: bool) -> anyhow::Result<Outcome> {
    let leases: Vec<LeaseRow> = client.get("/v1/leases").await?;
    let candidates: Vec<LeaseRow> = leases.into_iter().filter(|lease| !lease.own && lease.ttl.is_some()).collect();
    let answers = futures::future::join_all(candidates.iter().map(|lease| inspect::answers(lease.public_ip))).await;
    let silent: Vec<LeaseRow> =
        candidates.into_iter().zip(answers).filter(|(_, answers)| !answers).map(|(lease, _)| lease).collect();
    if yes {
        for lease in &silent {
            release(client, lease.subnet).await?;
        }
    }
    let text = match (silent.is_empty(), yes) {
        (true, _) => "every host that holds a lease answers\n".to_owned(),
        (false, true) => format!("released:\n{}", lists::leases(&silent)),
        (false, false) => {
            format!("silent, would be released by lease reclaim --yes:\n{}", lists::leases(&silent))
        }
    };
    answer(output, &Reclaimed { silent, released: yes }, &text)
}
