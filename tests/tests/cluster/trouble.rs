//! Bad input and missing parts: each gets a message that names it, and takes nothing away that works.

use std::{thread, time::Duration};

use flannel_tests::{
    cluster::{Cluster, READY},
    flanneld::{HOST_GW, PREFIX, lease_json, lease_key},
    require,
    skip::Feature,
    topology::Topology,
    wait::wait_until,
};

use crate::{SOON, shared};

/// Longer than the interval in which flanneld asks again for a configuration.
const RETRIES: Duration = Duration::from_millis(2500);

/// One host with etcd; its flanneld is not started.
fn one_host(config: &str) -> Cluster {
    Cluster::new(Topology::flat(1).unwrap(), config).unwrap()
}

fn config_key() -> String {
    format!("{PREFIX}/config")
}

/// How often the log says it.
fn times(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

#[test]
fn a_missing_config_is_waited_for_and_said_once() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = one_host(HOST_GW);
    cluster.etcd.delete(&config_key()).unwrap();
    cluster.nodes[0].start().unwrap();
    let says = format!("key {} does not exist", config_key());
    cluster.nodes[0].process().unwrap().wait_log(&says, READY).unwrap();
    thread::sleep(RETRIES);
    assert_eq!(times(&cluster.nodes[0].log(), &says), 1, "{}", cluster.nodes[0].log());
    cluster.etcd.put(&config_key(), HOST_GW).unwrap();
    cluster.nodes[0].wait_ready(READY).unwrap();
}

#[test]
fn a_broken_config_is_named_and_read_again() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = one_host(r#"{"Network": "172.16.0.0/99"}"#);
    cluster.nodes[0].start().unwrap();
    cluster.nodes[0].process().unwrap().wait_log(&config_key(), READY).unwrap();
    thread::sleep(RETRIES);
    let log = cluster.nodes[0].log();
    assert!(log.contains("Network") && times(&log, &config_key()) == 1, "{log}");
    cluster.etcd.put(&config_key(), "not even JSON").unwrap();
    wait_until("word of the new fault", SOON, || times(&cluster.nodes[0].log(), &config_key()) == 2).unwrap();
    cluster.etcd.put(&config_key(), HOST_GW).unwrap();
    cluster.nodes[0].wait_ready(READY).unwrap();
}

#[test]
fn an_etcd_that_is_down_at_start_is_waited_for() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = one_host(HOST_GW);
    cluster.etcd.kill(0).unwrap();
    cluster.nodes[0].start().unwrap();
    let endpoint = cluster.etcd.endpoint(0).trim_start_matches("http://").to_owned();
    cluster.nodes[0].process().unwrap().wait_log(&endpoint, READY).unwrap();
    thread::sleep(RETRIES);
    assert!(cluster.nodes[0].is_running(), "{}", cluster.nodes[0].log());
    cluster.etcd.start(0).unwrap();
    cluster.nodes[0].wait_ready(READY).unwrap();
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let cluster = one_host(HOST_GW);
    let endpoints = format!("-etcd-endpoints={}", cluster.etcd.endpoints());
    let Cluster { mut nodes, etcd: _etcd, etcd_ns: _etcd_ns, topology: _topology } = cluster;
    let prefix = format!("-etcd-prefix={PREFIX}");
    let mut node = nodes.remove(0).only_args(&[&endpoints, &prefix, "-iface=nope0"]);
    node.start().unwrap();
    let status = node.process().unwrap().wait_exit(READY).unwrap();
    assert_eq!(status.code(), Some(1), "{}", node.log());
    assert!(node.log().contains("nope0"), "{}", node.log());
}

#[test]
fn without_rights_it_says_which() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("setpriv"));
    let _machine = shared();
    let mut cluster = one_host(HOST_GW);
    let node = cluster.nodes.remove(0);
    let mut node = node.wrapped_by(&["setpriv", "--bounding-set=-net_admin,-sys_admin,-bpf,-perfmon"]);
    node.start().unwrap();
    let status = node.process().unwrap().wait_exit(READY).unwrap();
    assert_eq!(status.code(), Some(1), "{}", node.log());
    assert!(node.log().contains("CAP_NET_ADMIN"), "{}", node.log());
    assert_eq!(
        cluster.etcd.keys(&format!("{PREFIX}/subnets")).unwrap(),
        Vec::<String>::new(),
        "it leased nevertheless"
    );
}

#[test]
fn without_bpf_the_routes_carry_everything_and_it_says_so() {
    require!(Feature::Root, Feature::Tool("etcd"), Feature::Tool("setpriv"));
    let _machine = shared();
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    cluster.nodes = cluster
        .nodes
        .into_iter()
        .map(|node| node.wrapped_by(&["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"]))
        .collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    cluster.wait_ping(0, cluster.container(1, 0).address, SOON).unwrap();
    let state = cluster.nodes[0].state().unwrap();
    assert_eq!(state.fastpath.mode, "off", "{:?}", state.fastpath);
    assert!(state.warnings.iter().any(|warning| warning.code == "routes-alone"), "{:?}", state.warnings);
    assert!(cluster.nodes[0].log().contains("routes carry everything"), "{}", cluster.nodes[0].log());
}

#[test]
fn garbage_under_subnets_is_named_and_changes_nothing_else() {
    require!(Feature::Root, Feature::Tool("etcd"));
    let _machine = shared();
    let mut cluster = Cluster::new(Topology::flat(1).unwrap(), HOST_GW).unwrap();
    let put = |subnet: &str, host: u8| {
        let value = lease_json(std::net::Ipv4Addr::new(192, 0, 2, host));
        cluster.etcd.put(&lease_key(subnet.parse().unwrap()), &value).unwrap();
    };
    put("172.16.201.0/24", 101);
    let garbage = [
        ("172.16.300.0-24", "{}"),
        ("nonsense", "{}"),
        ("172.16.202.0-99", r#"{"PublicIP":"192.0.2.102"}"#),
        ("172.16.203.0-24", "{ not JSON"),
        ("172.16.204.0-24", r#"{"PublicIP":"192.0.2.999","BackendType":"host-gw"}"#),
        ("172.16.205.0-24", ""),
    ];
    let put_garbage = || {
        for (key, value) in garbage {
            cluster.etcd.put(&format!("{PREFIX}/subnets/{key}"), value).unwrap();
        }
    };
    put_garbage();
    let ns = cluster.topology.hosts[0].ns.clone();
    let routes = || ns.run("ip route show proto all via 192.0.2.101").unwrap() + &ns.run("ip route").unwrap();
    cluster.nodes[0].start_ready(READY).unwrap();
    wait_until("the good peer's route", SOON, || routes().contains("172.16.201.0/24")).unwrap();
    // Once by the snapshot, and once as events.
    put_garbage();
    put("172.16.206.0/24", 106);
    wait_until("the later peer's route", SOON, || routes().contains("172.16.206.0/24")).unwrap();
    assert!(routes().contains("172.16.201.0/24"), "{}", routes());
    assert!(!routes().contains("172.16.203.0/24") && !routes().contains("172.16.204.0/24"), "{}", routes());
    let log = cluster.nodes[0].log();
    for (key, _) in garbage {
        assert!(log.contains(key), "{key} is not named in:\n{log}");
    }
}
