//! Hooks that somebody detached, and hooks that an agent left behind: `doctor` names each with its interface and the remedy.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{fs, mem, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command, time::Duration};

use flannel_agent::fastpath::PIN_ROOT;
use flannel_tests::{
    cluster::Cluster, flanneld::HOST_GW, process::output, require, scratch::Scratch, skip::Feature, topology::Topology,
    wait::wait_for,
};
use observe_common::agent::{assert_has, ctl_in};

const SOON: Duration = Duration::from_secs(20);

/// Two hosts with a container each, flanneld running with these flags; hooks are at the port of the first one.
fn running(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let with = |node: flannel_tests::flanneld::Flanneld| flags.iter().fold(node, |node, flag| node.arg(*flag));
    cluster.nodes = mem::take(&mut cluster.nodes).into_iter().map(with).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    let hooked = || Some(ctl(&cluster, &["status"])).filter(|(_, text)| text.contains("from_port"));
    wait_for("a hook at the port", SOON, hooked).unwrap();
    cluster
}

fn ctl(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    ctl_in(&cluster.topology.hosts[0].ns, &cluster.nodes[0].admin_socket(), args)
}

/// Where the first host's link of this program is pinned.
fn pin(cluster: &Cluster, program: &str) -> PathBuf {
    let namespace = fs::metadata(cluster.topology.hosts[0].ns.path()).unwrap().ino();
    let root = PathBuf::from(PIN_ROOT).join(namespace.to_string());
    let network = fs::read_dir(root).unwrap().next().unwrap().unwrap().path();
    let version = fs::read_dir(network).unwrap().next().unwrap().unwrap().path();
    let mut links = fs::read_dir(version).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(program);
    links.find(is_it).unwrap_or_else(|| panic!("no pinned link of {program}"))
}

/// Detaches a hook, and again if flanneld was faster than doctor, until doctor names it.
fn named(cluster: &Cluster, detach: impl Fn()) -> String {
    let look = || {
        detach();
        let (code, text) = ctl(cluster, &["doctor"]);
        text.contains("hook-detached").then(|| {
            assert_eq!(code, 1, "{text}");
            text
        })
    };
    let text = wait_for("doctor to name the hook", SOON, look).unwrap();
    assert_has(&text, &["remedy: flanneld attaches it again within 10 s; if not: systemctl restart flanneld"]);
    assert_eq!(text.matches("hook-detached").count(), 1, "{text}");
    // And flanneld does.
    wait_for("flanneld to attach it again", SOON, || {
        (!ctl(cluster, &["doctor"]).1.contains("hook-detached")).then_some(())
    })
    .unwrap();
    text
}

#[test]
fn a_detached_tcx_or_xdp_link_is_named() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("bpftool"));
    let cluster = running(&["-xdp=on"]);
    for (program, rung) in [("to_uplink", "tcx"), ("transit", "xdp")] {
        let detach = || {
            let mut command = Command::new("bpftool");
            command.args(["link", "detach", "pinned"]).arg(pin(&cluster, program));
            output(command).unwrap();
        };
        let text = named(&cluster, detach);
        assert_has(&text, &[&format!("{program} should be attached to eth0 ({rung}), but the kernel has no such")]);
    }
}

#[test]
fn a_deleted_clsact_filter_is_named() {
    require!(Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("tc"));
    let cluster = running(&["-hook=clsact"]);
    let ns = &cluster.topology.hosts[0].ns;
    let text = named(&cluster, || drop(ns.run("tc filter del dev eth0 egress").unwrap()));
    assert_has(&text, &["to_uplink should be attached to eth0 (clsact), but the kernel has no such program there"]);
}

#[test]
fn a_trusted_fast_path_without_flanneld_is_warned_of() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let mut cluster = running(&["-fastpath=trusted"]);
    let (code, text) = ctl(&cluster, &["doctor"]);
    assert_eq!(code, 0, "{text}");
    cluster.nodes[0].kill().unwrap();
    let file = cluster.nodes[0].subnet_file();
    let (code, text) = ctl(&cluster, &["doctor", "--subnet-file", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    assert_has(
        &text,
        &["no-flanneld", "trusted-stale: the fast path goes on in trusted mode", "or flannelctl cleanup"],
    );
    let (code, text) = ctl(&cluster, &["cleanup"]);
    assert_eq!(code, 0, "{text}");
    let text = ctl(&cluster, &["doctor", "--subnet-file", file.to_str().unwrap()]).1;
    assert!(!text.contains("trusted-stale"), "{text}");
}

#[test]
fn the_fast_path_of_a_former_network_is_named() {
    require!(Feature::Bpf, Feature::Tool("etcd"));
    let mut cluster = running(&[]);
    cluster.nodes[0].stop().unwrap();
    cluster.etcd.put("/flannel/new/config", r#"{"Network":"10.77.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    let node = cluster.nodes.remove(0).arg("-etcd-prefix=/flannel/new");
    cluster.nodes.insert(0, node);
    let scratch = Scratch::new("former").unwrap();
    fs::rename(cluster.nodes[0].subnet_file(), scratch.join("subnet.env")).unwrap();
    cluster.nodes[0].start_ready(SOON).unwrap();
    let text = ctl(&cluster, &["doctor"]).1;
    assert_has(
        &text,
        &[
            "old-network: the fast path of 172.16.0.0/16 is still pinned and attached",
            "remedy: flannelctl cleanup --network 172.16.0.0/16",
        ],
    );
    assert_eq!(ctl(&cluster, &["cleanup", "--network", "172.16.0.0/16"]).0, 0);
    let text = ctl(&cluster, &["doctor"]).1;
    assert!(!text.contains("old-network"), "{text}");
}
