//! A host on which flanneld ran, ended and was cleaned up after is as it was before.
#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod fastpath_common;

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use fastpath_common::attached;
use flannel_agent::fastpath::PIN_ROOT;
use flannel_tests::{
    cluster::Cluster,
    flanneld::{Flanneld, HOST_GW, binary},
    netns::Netns,
    process::output,
    require,
    skip::Feature,
    topology::Topology,
    wait::wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The kernel detaches what nobody holds any more a moment later.
const LETTING_GO: Duration = Duration::from_secs(10);
const VXLAN: &str = r#"{"Network":"172.16.0.0/16","Backend":{"Type":"vxlan"}}"#;
const NFT: &str = r#"{"Network":"172.16.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#;
/// What flanneld sets and does not take back, as it does not know for whom else it matters.
const SYSCTLS: [&str; 3] = [
    "net.ipv4.ip_forward",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged",
];

#[test]
fn nothing_is_left_of_host_gw() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"), Feature::Tool("nft"));
    check(HOST_GW, &["-ip-masq", "-masq-exempt=203.0.113.0/24", "-ip-blackhole-route"]);
    check(HOST_GW, &["-ip-masq", "-hook=clsact", "-fastpath=trusted"]);
    check(NFT, &["-ip-masq"]);
}

#[test]
fn nothing_is_left_of_vxlan() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"), Feature::Link("vxlan"));
    check(VXLAN, &["-ip-masq"]);
}

fn check(config: &str, flags: &[&str]) {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), config).unwrap();
    let flagged = |node| flags.iter().fold(node, |node: Flanneld, flag| node.arg(*flag));
    cluster.nodes = std::mem::take(&mut cluster.nodes).into_iter().map(flagged).collect();
    let ns = cluster.topology.hosts[0].ns.clone();
    // What somebody else has there, in all the places where we have something.
    ns.run("iptables -t nat -A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE").unwrap();
    ns.run("iptables -A FORWARD -s 198.51.100.0/24 -j ACCEPT").unwrap();
    ns.run("ip route add 172.16.250.0/24 via 192.0.2.99").unwrap();
    ns.run("tc qdisc add dev docker0 clsact").unwrap();
    let before = snapshot(&ns);
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, PATIENCE).unwrap();
    let during = snapshot(&ns);
    for part in ["routes", "rules", "hooks", "pins"] {
        assert_ne!(during[part], before[part], "flanneld made no {part}, so this test shows nothing");
    }
    let node = &mut cluster.nodes[0];
    assert!(cleanup(&ns, node).contains("flanneld is running"));
    node.stop().unwrap();
    let said = cleanup(&ns, node);
    println!("{said}");
    assert!(said.contains("what stays") && SYSCTLS.iter().all(|name| said.contains(name)), "{said}");
    assert!(!node.subnet_file().exists());
    // The container and docker0's address are not flanneld's.
    let host = &cluster.topology.hosts[0];
    ns.run(&format!("ip link del {}", host.containers[0].port)).unwrap();
    ns.run("ip addr flush dev docker0 scope global").unwrap();
    let settled = wait_until("the kernel to let go", LETTING_GO, || snapshot(&ns) == before);
    assert!(settled.is_ok(), "{flags:?}: there is\n{:#?}\nand was\n{before:#?}", snapshot(&ns));
    // And once more, with nothing to do but to say so.
    let again = cleanup(&ns, &cluster.nodes[0]);
    assert!(again.contains("--network"), "{again}");
}

/// What `flannelctl cleanup --everything` says.
fn cleanup(ns: &Netns, node: &Flanneld) -> String {
    let mut command = ns.command(binary("flannelctl").unwrap());
    command.arg("--socket").arg(node.admin_socket());
    command.args(["cleanup", "--everything", "--subnet-file"]).arg(node.subnet_file());
    output(command).unwrap_or_else(|error| format!("{error:#}"))
}

/// All that flanneld may change on a host. Interface settings are compared where they are not counters or learned.
fn snapshot(ns: &Netns) -> BTreeMap<&'static str, Vec<String>> {
    let lines = |script: &str| -> Vec<String> {
        let text = ns.sh(script).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.sort();
        lines
    };
    let inode = fs::metadata(ns.path()).unwrap().ino();
    let mut hooks = attached(ns);
    hooks.extend(lines("tc qdisc show"));
    BTreeMap::from([
        ("links", lines("ip -br link | sed 's/ .*//; s/@.*//'")),
        ("addresses", lines("ip -4 -br addr | sed 's/@[^ ]*//'")),
        (
            "routes",
            lines("ip route show table all | grep -v '^fe80\\|^multicast\\|^local\\|^broadcast\\|^anycast' || true"),
        ),
        ("policies", lines("ip rule")),
        (
            "rules",
            lines("iptables-save | grep -v '^[#:]\\|^\\*\\|^COMMIT' || true; nft list tables | grep flannel || true"),
        ),
        ("chains", lines("iptables-save | grep '^:' | sed 's/ .*//' || true")),
        ("hooks", hooks),
        ("pins", tree(&Path::new(PIN_ROOT).join(inode.to_string()))),
    ])
}

fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        found.extend(tree(&entry.path()));
    }
    found.sort();
    found
}
