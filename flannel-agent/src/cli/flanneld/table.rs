//! The flags of `flanneld`: flannel's, and our own additions.

use crate::cli::goflag::{Flag, Kind};

const STORE: &str = "Lease store (etcd)";
const UPLINK: &str = "Interface towards other nodes";
const NODE: &str = "This node";
const RULES: &str = "Masquerading and forwarding";
const FAST: &str = "Fast path";
const LOG: &str = "Logging and information";
const KUBE: &str = "Kubernetes mode (accepted, not supported)";

const fn flag(name: &'static str, kind: Kind, group: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, group, help }
}

/// Every flag, in the order of the usage text.
pub static TABLE: &[Flag] = &[
    flag(
        "etcd-endpoints",
        Kind::Text("http://127.0.0.1:4001,http://127.0.0.1:2379"),
        STORE,
        "comma-separated endpoints; the scheme of the first decides for all",
    ),
    flag("etcd-prefix", Kind::Text("/coreos.com/network"), STORE, "key prefix of the configuration and of the leases"),
    flag("etcd-cafile", Kind::Text(""), STORE, "PEM file of the authority that signs the servers' certificates"),
    flag("etcd-certfile", Kind::Text(""), STORE, "PEM file of the client certificate"),
    flag("etcd-keyfile", Kind::Text(""), STORE, "PEM file of the client's key"),
    flag("etcd-username", Kind::Text(""), STORE, "user; used if the password is given too"),
    flag("etcd-password", Kind::Text(""), STORE, "password; FLANNELD_ETCD_PASSWORD keeps it out of the process list"),
    flag("iface", Kind::List, UPLINK, "interface name or address; repeatable, the first that fits is taken"),
    flag(
        "iface-regex",
        Kind::List,
        UPLINK,
        "regular expression for addresses, then names; repeatable, after every -iface",
    ),
    flag("iface-can-reach", Kind::Text(""), UPLINK, "take the interface that the kernel would use for this address"),
    flag("public-ip", Kind::Text(""), UPLINK, "IPv4 address that other nodes use to reach this one"),
    flag("public-ipv6", Kind::Text(""), UPLINK, "IPv6 address that other nodes use to reach this one"),
    flag(
        "subnet-file",
        Kind::Text("/run/flannel/subnet.env"),
        NODE,
        "file for the subnet and MTU of this node's containers",
    ),
    flag(
        "subnet-lease-renew-margin",
        Kind::Int(60),
        NODE,
        "minutes before its end at which a lease is renewed, 1 to 1439",
    ),
    flag(
        "exit-on-lease-loss",
        Kind::Bool(false),
        NODE,
        "exit with code 1 when the lease is lost, instead of taking a new one",
    ),
    flag(
        "release-on-exit",
        Kind::Bool(false),
        NODE,
        "give the lease back on exit; the next start may get another subnet",
    ),
    flag("ip-blackhole-route", Kind::Bool(false), NODE, "keep a blackhole route for this node's subnet"),
    flag("healthz-ip", Kind::Text("0.0.0.0"), NODE, "address of the health server"),
    flag("healthz-port", Kind::Int(0), NODE, "port of the health server; 0 for none"),
    flag(
        "admin-socket",
        Kind::Text(""),
        NODE,
        "local socket for flannelctl; by default flanneld.sock beside -subnet-file",
    ),
    flag("ip-masq", Kind::Bool(false), RULES, "masquerade what leaves the flannel network"),
    flag("ip-masq-fully-random-disable", Kind::Bool(false), RULES, "do not choose source ports fully at random"),
    flag("masq-exempt", Kind::List, RULES, "network that is never masqueraded, as source or destination; repeatable"),
    flag("iptables-forward-rules", Kind::Bool(true), RULES, "accept forwarded packets from and to the flannel network"),
    flag(
        "iptables-resync",
        Kind::Int(5),
        RULES,
        "seconds between checks of the rules, besides the kernel's own events",
    ),
    flag(
        "conntrack-liberal",
        Kind::Bool(true),
        RULES,
        "let connection tracking live with what it sees of a fast flow: samples",
    ),
    flag(
        "fastpath",
        Kind::Text("verified"),
        FAST,
        "verified: flows that the kernel carried unchanged; trusted: all; off",
    ),
    flag("bridge", Kind::List, FAST, "bridge of the containers; repeatable (default docker0)"),
    flag("attach", Kind::Text("ports"), FAST, "ports: at each port of the bridges; bridge: at the bridges"),
    flag(
        "xdp",
        Kind::Text("auto"),
        FAST,
        "auto: where the driver does it natively, but not on a veth; on: on a veth too; off",
    ),
    flag("hook", Kind::Text("auto"), FAST, "auto, tcx or clsact"),
    flag(
        "revalidate",
        Kind::Text("5s"),
        FAST,
        "how long a flow goes without the kernel's word (5s, 500ms, 1m, or seconds)",
    ),
    flag("flows", Kind::Int(65536), FAST, "capacity of the flow map, 1024 to 16777216"),
    flag(
        "bpf-dir",
        Kind::Text("/sys/fs/bpf/flannel"),
        FAST,
        "directory of a bpf file system where maps and links are pinned",
    ),
    flag("v", Kind::Int(0), LOG, "verbosity: 0 what changes, 1 to 4 decisions, 5 and more everything"),
    flag("vmodule", Kind::Text(""), LOG, "comma-separated pattern=N: verbosity of single source files"),
    flag("log_backtrace_at", Kind::Text(""), LOG, "accepted for klog's sake; without effect"),
    flag("log-format", Kind::Text("auto"), LOG, "auto, text, json or journald"),
    flag("version", Kind::Bool(false), LOG, "print the version and exit"),
    flag("kube-subnet-mgr", Kind::Bool(false), KUBE, "take subnets from the Kubernetes API: refused"),
    flag("kube-api-url", Kind::Text(""), KUBE, "ignored"),
    flag("kube-annotation-prefix", Kind::Text("flannel.alpha.coreos.com"), KUBE, "ignored"),
    flag("kubeconfig-file", Kind::Text(""), KUBE, "ignored"),
    flag("net-config-path", Kind::Text("/etc/kube-flannel/net-conf.json"), KUBE, "ignored"),
    flag("set-node-network-unavailable", Kind::Bool(true), KUBE, "ignored"),
];
