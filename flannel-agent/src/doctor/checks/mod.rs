//! The checks: pure functions from facts to findings.

mod bridge;
mod cluster;
mod fastpath;
mod host;
mod paths;

pub use bridge::SWITCH as BRIDGE_SWITCH;

use super::{Finding, Level, facts::Facts};

/// Every check, in no order that matters.
const CHECKS: [fn(&Facts) -> Vec<Finding>; 22] = [
    host::rights,
    host::agent,
    host::forwarding,
    host::bridge_address,
    host::bridge_mtu,
    bridge::netfilter,
    host::reverse_path,
    host::offloads,
    host::clock,
    fastpath::kernel,
    fastpath::pins,
    fastpath::hooks,
    fastpath::left_behind,
    fastpath::stale_trust,
    cluster::store,
    cluster::lease,
    cluster::owners,
    cluster::public_addresses,
    paths::routes,
    paths::next_hops,
    paths::sizes,
    paths::firewall,
];

/// All findings of all checks.
pub fn all(facts: &Facts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).collect()
}

/// A finding that stops packets.
fn broken(code: &'static str, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Broken, code, what: what.into(), why: why.into(), remedy: remedy.into() }
}

/// A finding that does not stop packets yet.
fn warning(code: &'static str, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, ..broken(code, what, why, remedy) }
}

/// Something to know.
fn note(code: &'static str, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Note, ..broken(code, what, why, remedy) }
}

#[cfg(test)]
mod tests;
