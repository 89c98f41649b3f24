//! klog's verbosity as a filter for `tracing`.

/// The crate whose modules log.
const ROOT: &str = "flannel_agent";

/// Verbosity from which the libraries below us log their details too.
const LIBRARIES: i64 = 10;

/// Directives for `EnvFilter` from `-v` and `-vmodule`; `None` if the latter cannot be read.
pub(super) fn filter(verbosity: i64, vmodule: &str) -> Option<String> {
    let mut directives = vec![if verbosity >= LIBRARIES { "debug" } else { "info" }.to_owned()];
    if verbosity > 0 {
        directives.push(format!("{ROOT}={}", level(verbosity)));
    }
    for item in vmodule.split(',').filter(|item| !item.is_empty()) {
        let (pattern, number) = item.split_once('=')?;
        let verbosity: i64 = number.parse().ok()?;
        if pattern.is_empty() || verbosity < 0 {
            return None;
        }
        let modules = MODULES.iter().filter(|(file, _)| matches(pattern.as_bytes(), file.as_bytes()));
        directives.extend(modules.map(|(_, module)| format!("{ROOT}::{module}={}", level(verbosity))));
    }
    directives.dedup();
    Some(directives.join(","))
}

fn level(verbosity: i64) -> &'static str {
    match verbosity {
        ..=0 => "info",
        1..=4 => "debug",
        _ => "trace",
    }
}

/// flannel's source files, and our own, with the modules that do their work here.
const MODULES: &[(&str, &str)] = &[
    ("main", "agent"),
    ("agent", "agent"),
    ("etcd", "store"),
    ("registry", "store"),
    ("local_manager", "store"),
    ("subnet", "store"),
    ("watch", "store"),
    ("store", "store"),
    ("config", "config"),
    ("hostgw", "backend"),
    ("route_network", "backend"),
    ("vxlan", "backend::vxlan"),
    ("vxlan_network", "backend::vxlan"),
    ("device", "backend::vxlan"),
    ("udp", "backend::udp"),
    ("udp_network_amd64", "backend::udp"),
    ("ipip", "backend"),
    ("backend", "backend"),
    ("iptables", "kernel::firewall"),
    ("nftables", "kernel::firewall"),
    ("firewall", "kernel::firewall"),
    ("iface", "kernel"),
    ("match", "kernel"),
    ("kernel", "kernel"),
    ("fastpath", "fastpath"),
    ("plan", "plan"),
    ("http", "http"),
    ("admin", "admin"),
    ("metrics", "metrics"),
];

/// Whether a pattern with `*` and `?` matches a whole name.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => matches(rest, name) || name.split_first().is_some_and(|(_, n)| matches(pattern, n)),
        (Some((b'?', pattern)), Some((_, name))) => matches(pattern, name),
        (Some((p, pattern)), Some((n, name))) if p == n => matches(pattern, name),
        _ => false,
    }
}
