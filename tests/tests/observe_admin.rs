//! The admin socket and `flannelctl` on it: rights, life and death of the socket, every verb against a node in memory.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod observe_common;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::Arc};

use flannel_agent::{
    admin::{self, LeaseRow},
    state::NodeState,
};
use flannel_tests::{flanneld::binary, require, scratch::Scratch, skip::Feature};
use observe_common::{
    MemoryStore,
    agent::{Agent, assert_has, ctl},
    node, subnet,
};

#[tokio::test]
async fn the_socket_is_root_s_alone_and_goes_with_its_agent() {
    let mut agent = Agent::start(node(1));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&agent.socket), 0o600);
    assert_eq!(mode(agent.socket.parent().unwrap()), 0o755);
    agent.stop();
    assert!(!agent.socket.exists());
}

#[tokio::test]
async fn a_living_agent_s_socket_is_not_stolen_and_a_dead_one_s_is_taken_over() {
    let agent = Agent::start(node(1));
    let error = admin::listen(&agent.socket).await.unwrap_err().to_string();
    assert_has(&error, &["belongs to a flanneld that is running", "-admin-socket"]);
    agent.says(1, &["status"]);

    let dir = Scratch::new("dead").unwrap();
    let path = dir.join("flanneld.sock");
    // As a kill -9 leaves it: the file is there, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = admin::listen(&path).await.unwrap();
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = Scratch::new("file").unwrap();
    let path = dir.join("flanneld.sock");
    fs::write(&path, "precious").unwrap();
    let error = admin::listen(&path).await.unwrap_err().to_string();
    assert_has(&error, &["is a file that is not a socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let error = admin::listen(&path.join("below/flanneld.sock")).await.unwrap_err().to_string();
    assert_has(&error, &["cannot make its folder"]);
}

#[test]
fn without_a_flanneld_the_exit_code_is_3() {
    let output = ctl(Path::new("/nonexistent/flanneld.sock"), &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert_has(&String::from_utf8_lossy(&output.stderr), &["no flanneld answers on /nonexistent/flanneld.sock"]);
    assert_eq!(ctl(Path::new("/nonexistent"), &["no-such-verb"]).status.code(), Some(2));
}

#[test]
fn another_user_is_told_that_root_is_needed() {
    require!(Feature::Root, Feature::Tool("setpriv"));
    let agent = Agent::start(node(1));
    let dir = Scratch::new("nobody").unwrap();
    let copy = dir.join("flannelctl");
    fs::copy(binary("flannelctl").unwrap(), &copy).unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(dir.path());
    open(agent.socket.parent().unwrap().parent().unwrap());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("--socket").arg(&agent.socket);
    let output = command.arg("status").output().unwrap();
    assert_has(&String::from_utf8_lossy(&output.stderr), &["is for root alone"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn status_is_one_screen_and_says_what_is_wrong() {
    let agent = Agent::start(node(120));
    let text = agent.says(1, &["status"]);
    assert_has(
        &text,
        &[
            "ready, version 0.1.0, up 1 h",
            "10.0.0.0/24 of 10.0.0.0/8 for 192.0.2.11, 22 h 4",
            "connected, heard",
            "eth0 192.0.2.11 MTU 1500, backend host-gw",
            "114 direct, 3 by tunnel, 3 UNREACHABLE",
            "verified, 3 of 65536 flows, epoch 7",
            "transit      none   eth0: the driver has no native XDP",
            "fast_out",
            "docker0-address: docker0 has 172.17.0.1/16",
            "systemctl restart docker",
            "192.0.2.200 is not on eth0's link",
        ],
    );
    assert!(text.lines().count() < 40, "{text}");
    let mut well = node(2);
    well.warnings.clear();
    well.fastpath.hooks.retain(|hook| hook.rung != "none");
    agent.state.send(Arc::new(well)).unwrap();
    assert_has(&agent.says(0, &["status"]), &["nothing is wrong"]);
}

#[test]
fn json_is_the_state_itself() {
    let sent = node(3);
    let agent = Agent::start(sent.clone());
    let got: NodeState = serde_json::from_str(&agent.says(1, &["status", "-o", "json"])).unwrap();
    assert_eq!(got, sent);
    let peers: serde_json::Value = serde_json::from_str(&agent.says(0, &["-o", "json", "peers"])).unwrap();
    assert_eq!(peers[1]["fast_to"]["packets"], 8);
    assert_eq!(peers[1]["subnet"], "10.0.2.0/24");
}

#[test]
fn peers_and_flows_have_tables() {
    let agent = Agent::start(node(7));
    let peers = agent.says(1, &["peers"]);
    assert_has(&peers, &["10.0.3.0/24", "198.18.0.3", "70 %", "unreachable", "is not on eth0's link"]);
    let flows = agent.says(0, &["flows"]);
    let order: Vec<&str> = flows.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(order, ["10.0.0.2:40002", "10.0.0.3:40003", "10.0.0.4:40004"]);
    assert_has(&flows, &["flow_stale", "12.0 MiB"]);
    let one = agent.says(0, &["flows", "10.0.0.3"]);
    assert_eq!(one.lines().count(), 2, "{one}");
    assert_eq!(agent.says(0, &["flows", "-n", "1"]).lines().count(), 2);
    assert_eq!(agent.says(0, &["flows", "10.9.9.9"]), "no flows\n");
}

#[test]
fn events_are_a_line_each() {
    let agent = Agent::start(node(1));
    agent.context.events.record("route-put", "route 10.0.1.0/24 via 198.18.0.1: the peer is new");
    agent.context.events.fault("store-lost", "etcd does not answer");
    let text = agent.says(0, &["events"]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_has(&text, &["route-put            route 10.0.1.0/24 via 198.18.0.1: the peer is new", "store-lost"]);
}

#[test]
fn leases_are_listed_reserved_and_released() {
    let agent = Agent::start(node(1));
    let said = agent.says(1, &["leases"]);
    assert_has(&said, &["flanneld has no connection to the store"]);

    let lease = |n, ttl| LeaseRow {
        subnet: subnet(n),
        subnet_v6: None,
        public_ip: [192, 0, 2, 11 + n as u8].into(),
        backend: "host-gw".into(),
        ttl,
        revision: 5,
        own: n == 0,
    };
    let store = Arc::new(MemoryStore::default());
    *store.leases.lock().unwrap() = vec![lease(2, Some(86_000)), lease(0, Some(100)), lease(3, None)];
    agent.context.store.set(store);
    let text = agent.says(0, &["leases"]);
    assert_has(&text, &["10.0.0.0/24  192.0.2.11  host-gw   1 min 40 s  this node", "reserved"]);
    agent.says(0, &["lease", "reserve", "10.0.2.0/24"]);
    assert_eq!(agent.says(0, &["leases"]).matches("reserved").count(), 2);
    agent.says(0, &["lease", "release", "10.0.2.0/24"]);
    assert_has(&agent.says(1, &["lease", "release", "10.0.2.0/24"]), &["no lease of 10.0.2.0/24"]);
    agent.says(2, &["lease", "release", "nonsense"]);
}

#[test]
fn configuration_is_read_checked_and_written() {
    let agent = Agent::start(node(1));
    agent.context.store.set(Arc::new(MemoryStore::default()));
    assert_has(&agent.says(1, &["config", "get"]), &["there is no configuration in etcd yet"]);
    let dir = Scratch::new("config").unwrap();
    let (good, bad) = (dir.join("good.json"), dir.join("bad.json"));
    fs::write(&good, r#"{"Network":"172.16.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    fs::write(&bad, r#"{"Network":"172.16.0.0/99"}"#).unwrap();
    assert_has(&agent.says(1, &["config", "set", bad.to_str().unwrap()]), &["not valid", "172.16.0.0/99"]);
    agent.says(0, &["config", "set", good.to_str().unwrap()]);
    assert_has(&agent.says(0, &["config", "get"]), &["172.16.0.0/16"]);
    assert_eq!(agent.says(0, &["config", "check"]), "valid\n");
    agent.says(1, &["config", "check", "/nonexistent.json"]);
}

#[test]
fn completions_and_manual_pages_are_made() {
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "zsh", "fish"] {
        let output = ctl(nowhere, &["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 500, "{shell}");
    }
    let dir = Scratch::new("man").unwrap();
    assert!(ctl(nowhere, &["man", dir.path().to_str().unwrap()]).status.success());
    let pages: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for page in ["flannelctl.1", "flannelctl-explain.1", "flannelctl-doctor.1", "flannelctl-lease-release.1"] {
        assert!(pages.iter().any(|found| found == page), "no {page} in {pages:?}");
    }
}

#[test]
fn paths_of_a_newer_flannelctl_are_refused_politely() {
    let agent = Agent::start(node(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = admin::client::Client::new(&agent.socket);
    let error = runtime.block_on(client.get::<NodeState>("/v2/status")).unwrap_err().to_string();
    assert_has(&error, &["/v2/status is no path of this flanneld", "newer"]);
}
