//! Taking away what flanneld left on this host: the fast path, and on demand everything.

use std::{fs, io, time::Duration};

use anyhow::{Context as _, bail};
use ipnet::IpNet;

use super::{Outcome, print};
use crate::{
    admin::client::Client,
    backend::Change,
    cli::flannelctl::Cleanup,
    fastpath,
    kernel::{
        firewall::{Firewall, Mode, Overlay, Rules},
        netlink::{Netlink, Scope},
    },
    state::NodeState,
    subnet_file::{self, Previous},
};

/// When to look at the rules again: never, as this ends before.
const ONCE: Duration = Duration::from_hours(1);

/// Takes away the fast path. Routes, rules and files carry containers' traffic without it, so they go only when asked for.
pub(super) async fn run(client: &Client, what: &Cleanup) -> anyhow::Result<Outcome> {
    let is_in_use = |node: &NodeState| what.everything || what.network.is_none() || what.network == node.network;
    if client.get::<NodeState>("/v1/status").await.is_ok_and(|node| is_in_use(&node)) {
        bail!("flanneld is running and would make everything again: stop it first (systemctl stop flanneld)");
    }
    let removed = fastpath::cleanup(&what.pin_dir, what.network).context("removing the fast path")?;
    let fast = format!(
        "removed {} links, {} filters, {} qdiscs and {} folders of pins",
        removed.links, removed.filters, removed.qdiscs, removed.directories
    );
    if !what.everything {
        print(&format!(
            "{fast}; routes and rules stay, and so do tunnel devices and the subnet file: containers go on talking \
             (--everything takes these away as well)\n"
        ))?;
        return Ok(Outcome::Well);
    }
    everything(what, &fast).await
}

/// Takes away all the rest, and says what is still there.
async fn everything(what: &Cleanup, fast: &str) -> anyhow::Result<Outcome> {
    let previous = subnet_file::read(&what.subnet_file)?;
    let networks = networks(what, &previous);
    if networks.is_empty() {
        bail!(
            "{fast}; {} does not say which network was this host's: name it by --network",
            what.subnet_file.display()
        );
    }
    let rules = remove_rules(&previous).await.context("removing the rules")?;
    let routes = remove_routes(networks, &previous).await?;
    let devices = remove_devices().await?;
    // Last: it says what there is to remove, should anything above have failed.
    match fs::remove_file(&what.subnet_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", what.subnet_file.display()));
        }
        _ => {}
    }
    print(&format!(
        "{fast}, {rules} changes of rules undone, {routes} routes, {devices} tunnel devices and {}\n\
         what stays: the lease, which ends by itself in a day (flannelctl lease release, from another node, ends it at \
         once), and net.ipv4.ip_forward, net.netfilter.nf_conntrack_tcp_be_liberal and \
         net.netfilter.nf_conntrack_tcp_timeout_unacknowledged, if flanneld had to set them\n",
        what.subnet_file.display()
    ))?;
    Ok(Outcome::Well)
}

fn networks(what: &Cleanup, previous: &Previous) -> Vec<IpNet> {
    let v4 = what.network.or(previous.network).map(IpNet::V4);
    v4.into_iter().chain(previous.v6_network.map(IpNet::V6)).collect()
}

/// Takes away our rules of both kinds, as an agent does that wants none.
async fn remove_rules(previous: &Previous) -> anyhow::Result<usize> {
    let overlay = |(network, subnet)| Overlay { network, subnet };
    let rules = Rules {
        v4: previous.network.zip(previous.subnet).map(overlay),
        v6: previous.v6_network.zip(previous.v6_subnet).map(|(network, subnet)| Overlay { network, subnet }),
        masquerade: false,
        forward: false,
        random_fully: false,
        exempt: Vec::new(),
    };
    let mut firewall = Firewall::new(Mode::Iptables, rules, previous, ONCE);
    Ok(firewall.ensure().await?.changes.len())
}

async fn remove_routes(networks: Vec<IpNet>, previous: &Previous) -> anyhow::Result<usize> {
    let netlink = Netlink::connect()?;
    let scope = Scope { networks, ..Scope::default() };
    let ours = netlink.observe(&scope).await?.ours;
    let changes: Vec<Change> = ours.iter().map(|(slot, object)| Change::Remove(*slot, *object)).collect();
    if let Some((change, error)) = netlink.apply(&changes).await.into_iter().next() {
        return Err(error).context(change.to_string());
    }
    let own = [previous.subnet.map(IpNet::V4), previous.v6_subnet.map(IpNet::V6)];
    for subnet in own.into_iter().flatten() {
        netlink.remove_blackhole(subnet).await?;
    }
    Ok(changes.len())
}

/// Takes away the devices of the backends that leave one behind, by the names that only flannel gives.
async fn remove_devices() -> anyhow::Result<usize> {
    let netlink = Netlink::connect()?;
    let ours = |name: &str| name.starts_with("flannel.") || name.starts_with("flannel-v6.");
    let devices = netlink
        .links()
        .await?
        .into_iter()
        .filter(|link| ours(&link.name) && (link.vxlan.is_some() || link.tunnel_local.is_some()));
    let mut removed = 0;
    for device in devices {
        netlink.remove_link(device.ifindex).await.with_context(|| format!("removing {}", device.name))?;
        removed += 1;
    }
    Ok(removed)
}
