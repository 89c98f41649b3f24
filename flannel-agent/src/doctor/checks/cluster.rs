//! The store, and what its leases say of one another.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::{broken, warning};
use crate::{
    admin::LeaseRow,
    doctor::{Finding, facts::Facts},
};

/// Seconds without a word after which the watch is called dead; keepalives are answered every few.
const SILENCE: u64 = 120;

pub(super) fn store(facts: &Facts) -> Vec<Finding> {
    if let Some((endpoints, prefix, error)) = &facts.store_fault {
        return vec![refused(endpoints, prefix, error)];
    }
    let Some(node) = &facts.node else { return vec![] };
    let store = &node.store;
    let endpoints = store.endpoints.join(",");
    if let Some(error) = &store.error {
        return vec![refused(&endpoints, &store.prefix, error)];
    }
    let age = facts.now.saturating_sub(store.heard_at);
    if store.heard_at > 0 && age > SILENCE {
        let what = format!("etcd ({endpoints}) has said nothing for {age} s");
        let remedy = format!("etcdctl --endpoints={endpoints} endpoint health");
        return vec![warning("etcd-silent", what, "changes of the cluster do not reach this node", remedy)];
    }
    vec![]
}

/// Why the store did not answer as it should, by its own words.
fn refused(endpoints: &str, prefix: &str, error: &str) -> Finding {
    let lower = error.to_lowercase();
    let is = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // etcd says "authentication failed, invalid user ID or password", "user name is empty", "permission denied".
    let (code, remedy) =
        if is(&["invalid user id or password", "authentication failed", "user name is empty", "auth token"]) {
            let remedy =
                "set the right FLANNELD_ETCD_USERNAME and FLANNELD_ETCD_PASSWORD, then systemctl restart flanneld";
            ("etcd-password", remedy.to_owned())
        } else if is(&["permission denied"]) {
            ("etcd-permission", format!("etcdctl role grant-permission ROLE readwrite --prefix=true {prefix}/"))
        } else if is(&["certificate", "tls", "handshake"]) {
            let remedy = "check -etcd-cafile, -etcd-certfile and -etcd-keyfile, and that the clocks agree";
            ("etcd-certificate", remedy.to_owned())
        } else {
            ("etcd-away", format!("etcdctl --endpoints={endpoints} endpoint health"))
        };
    let why = "routes stay as they are, but no change reaches this node, and its lease ends unless etcd comes back";
    broken(code, format!("etcd ({endpoints}): {error}"), why, remedy)
}

pub(super) fn lease(facts: &Facts) -> Vec<Finding> {
    let Some(node) = &facts.node else { return vec![] };
    let Some(lease) = &node.lease else {
        let why = "without a lease there is no subnet for containers";
        return vec![broken(
            "no-lease",
            "this node has no lease yet",
            why,
            "flannelctl events tells what flanneld waits for",
        )];
    };
    let rows = facts.leases.iter().flatten();
    let Some(row) = rows.clone().find(|row| row.subnet == lease.subnet) else {
        if facts.leases.is_none() {
            return vec![];
        }
        let what = format!("the lease of {} is not in etcd any more", lease.subnet);
        let why = "another node may take the subnet; the others have removed their routes to it";
        return vec![broken("lease-gone", what, why, "systemctl restart flanneld, then systemctl restart docker")];
    };
    if row.public_ip == lease.public_ip {
        return vec![];
    }
    let what =
        format!("{} is held by {} in etcd, but this node ({}) uses it", lease.subnet, row.public_ip, lease.public_ip);
    let why = "two hosts give the same addresses to containers; the others route to only one of them";
    let remedy = format!("rm {} && systemctl restart flanneld docker, on the host that came later", facts.subnet_file);
    vec![broken("two-owners", what, why, remedy)]
}

/// Subnets that overlap.
pub(super) fn owners(facts: &Facts) -> Vec<Finding> {
    let mut rows: Vec<&LeaseRow> = facts.leases.iter().flatten().collect();
    rows.sort_by_key(|row| (row.subnet.network(), row.subnet.prefix_len()));
    let mut findings = Vec::new();
    // Sorted by base address: whatever lies inside the widest subnet so far overlaps with it.
    let mut widest: Option<&LeaseRow> = None;
    for row in rows {
        match widest {
            Some(wide) if wide.subnet.contains(&row.subnet) => findings.push(overlap(wide, row)),
            _ => widest = Some(row),
        }
    }
    findings
}

fn overlap(wide: &LeaseRow, row: &LeaseRow) -> Finding {
    let what = format!("{} of {} lies inside {} of {}", row.subnet, row.public_ip, wide.subnet, wide.public_ip);
    let why = "packets for the smaller subnet never reach the other owner";
    broken("two-owners", what, why, format!("flannelctl lease release {}", row.subnet))
}

pub(super) fn public_addresses(facts: &Facts) -> Vec<Finding> {
    let mut hosts: BTreeMap<std::net::Ipv4Addr, Vec<&LeaseRow>> = BTreeMap::new();
    for row in facts.leases.iter().flatten().filter(|row| !row.public_ip.is_unspecified()) {
        hosts.entry(row.public_ip).or_default().push(row);
    }
    hosts.into_iter().filter(|(_, rows)| rows.len() > 1).map(|(host, rows)| duplicate(host, &rows)).collect()
}

fn duplicate(host: std::net::Ipv4Addr, rows: &[&LeaseRow]) -> Finding {
    let subnets: Vec<Ipv4Net> = rows.iter().map(|row| row.subnet).collect();
    let list = subnets.iter().map(Ipv4Net::to_string).collect::<Vec<_>>().join(" and ");
    let what = format!("{host} is the PublicIP of {list}");
    let why = "two nodes have the same address (a cloned machine, or a wrong -public-ip), or one left a lease behind: packets for one of the subnets go to the wrong host";
    // The one that ends first is the one that nobody renews.
    let oldest = rows.iter().filter(|row| !row.own).min_by_key(|row| row.ttl.unwrap_or(u64::MAX));
    let remedy = oldest.map_or_else(
        || "start each node with a -public-ip of its own".to_owned(),
        |row| format!("give each node its own -public-ip; if one has left: flannelctl lease release {}", row.subnet),
    );
    warning("duplicate-public-ip", what, why, remedy)
}
