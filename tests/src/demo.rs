//! `cargo xtask demo`: a cluster at work, and what happens to its traffic when a flanneld dies.

mod progress;
mod report;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

pub use self::{progress::Progress, report::Report};
use crate::{
    cluster::{Cluster, READY},
    flanneld::HOST_GW,
    traffic::{Iperf, Meter},
};
use report::{AfterKill, Lease, Ping};

/// Seconds of a transfer without disturbance.
const TRANSFER: u32 = 3;
/// Seconds of the transfer in which flanneld dies.
const DISTURBED: u32 = 4;
/// Containers on each host.
const CONTAINERS: usize = 2;

/// Makes the cluster and shows everything; gives the cluster back, still running, with what it showed.
pub fn run(nodes: u8, progress: &mut Progress) -> Result<(Cluster, Report)> {
    progress.start(&format!("{nodes} hosts with eth0 and docker0, etcd, {nodes} flannelds"));
    let mut cluster = Cluster::running(nodes, CONTAINERS, HOST_GW)?;
    progress.done();
    let mut report = Report::default();
    progress.start("leases");
    report.leases = leases(&cluster)?;
    progress.done();
    progress.start("a ping from a container of host1 to each other host's");
    report.pings = pings(&cluster);
    progress.done();
    transfer(&mut cluster, &mut report, progress)?;
    report.judge(usize::from(nodes));
    Ok((cluster, report))
}

fn leases(cluster: &Cluster) -> Result<Vec<Lease>> {
    let pairs = cluster.topology.hosts.iter().zip(&cluster.nodes);
    let lease = |(host, node): (&crate::topology::Host, &crate::flanneld::Flanneld)| {
        let state = node.state().with_context(|| format!("ask the flanneld of {}", host.name))?;
        let hooks =
            state.fastpath.hooks.iter().map(|hook| format!("{}:{}:{}", hook.interface, hook.program, hook.rung));
        Ok(Lease {
            host: host.name.clone(),
            address: host.address,
            subnet: node.subnet()?,
            mtu: node.mtu()?,
            mode: state.fastpath.mode,
            reason: state.fastpath.reason,
            hooks: hooks.collect(),
        })
    };
    pairs.map(lease).collect()
}

fn pings(cluster: &Cluster) -> Vec<Ping> {
    let from = &cluster.container(0, 0).ns;
    let others = cluster.topology.hosts.iter().skip(1).flat_map(|host| &host.containers);
    others.map(|to| Ping::new(to.address, from.run(&format!("ping -c1 -W2 {}", to.address)))).collect()
}

/// Transfers between the first containers of host1 and host2, as host1's counters see them.
fn transfer(cluster: &mut Cluster, report: &mut Report, progress: &mut Progress) -> Result<()> {
    let server = Iperf::serve(cluster.container(1, 0))?;
    let meter = Meter::new(&cluster.topology.hosts[0].ns, &cluster.nodes[0].state()?)?;
    progress.start(&format!("iperf3 from host1 to host2, {TRANSFER} s"));
    let before = meter.read()?;
    report.transfer = Some(server.run(cluster.container(0, 0), TRANSFER)?);
    report.carried = meter.read()?.since(before);
    progress.done();

    progress.start(&format!("iperf3 once more, {DISTURBED} s, and kill -9 of host1's flanneld in the middle"));
    let Cluster { nodes, topology, .. } = &mut *cluster;
    let client = &topology.hosts[0].containers[0];
    let (through, killed_at) = thread::scope(|scope| -> Result<_> {
        let transfer = scope.spawn(|| server.run(client, DISTURBED));
        thread::sleep(Duration::from_secs(u64::from(DISTURBED) / 2));
        nodes[0].kill()?;
        let killed_at = meter.read()?;
        let through = transfer.join().ok().context("the transfer panicked")??;
        Ok((through, killed_at))
    })?;
    let target = topology.hosts[1].containers[1].address;
    let ping = Ping::new(target, client.ns.run(&format!("ping -c1 -W2 {target}")));
    let carried = meter.read()?.since(killed_at);
    progress.done();

    progress.start("host1's flanneld again");
    let subnet = nodes[0].subnet()?;
    nodes[0].start()?;
    let again = nodes[0].wait_ready(READY)?;
    ensure!(nodes[0].is_running(), "flanneld did not survive its restart:\n{}", nodes[0].log());
    progress.done();
    report.after_kill = Some(AfterKill { transfer: through, carried, ping, same_lease: subnet == again });
    Ok(())
}
