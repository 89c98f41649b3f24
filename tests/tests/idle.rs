//! What a node costs while nothing happens in its cluster: next to no processor time, no process, little memory.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use flannel_tests::{
    cluster::Cluster,
    flanneld::{HOST_GW, binary, lease_json, lease_key},
    require,
    skip::Feature,
    topology::Topology,
    wait::wait_until,
};

const PEERS: u8 = 100;
const MINUTE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_quiet_minute_with_a_hundred_peers_costs_next_to_nothing() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"));
    let mut cluster = Cluster::new(Topology::flat(1).unwrap(), HOST_GW).unwrap();
    for n in 0..PEERS {
        let subnet = format!("172.16.{}.0/24", 100 + n).parse().unwrap();
        cluster.etcd.put(&lease_key(subnet), &lease_json(Ipv4Addr::new(192, 0, 2, 100 + n))).unwrap();
    }
    cluster.nodes = cluster.nodes.into_iter().map(|node| node.arg("-ip-masq")).collect();
    cluster.start_all().unwrap();
    cluster.add_containers(1).unwrap();
    let host = &cluster.topology.hosts[0].ns;
    let routes = || host.run("ip route show proto 241").unwrap().lines().count();
    wait_until("a route to each peer", PATIENCE, || routes() == usize::from(PEERS)).unwrap();

    let node = &mut cluster.nodes[0];
    let pid = node.process().unwrap().pid();
    let calm = || {
        let before = Spent::by(pid);
        thread::sleep(Duration::from_secs(1));
        Spent::by(pid).cpu.saturating_sub(before.cpu) < Duration::from_millis(20)
    };
    wait_until("the end of the start", PATIENCE, calm).unwrap();

    let before = Spent::by(pid);
    thread::sleep(MINUTE);
    let after = Spent::by(pid);

    let cpu = after.cpu.saturating_sub(before.cpu);
    println!("{cpu:?} of {MINUTE:?}, {} kB resident", after.resident_kb);
    assert_eq!(after.child_faults, before.child_faults, "processes were started:\n{}", node.log());
    assert!(cpu < MINUTE / 200, "{cpu:?} is half a percent of a core or more");
    assert!(after.resident_kb < memory_limit(), "{} kB resident", after.resident_kb);
    let state = node.state().unwrap();
    assert!(state.ready && state.store.connected, "{state:?}");
}

/// In kilobytes. Unoptimised code is several times larger, and counts as far as it is used.
fn memory_limit() -> u64 {
    let optimised = !binary("flanneld").unwrap().components().any(|folder| folder.as_os_str() == "debug");
    if optimised { 20_000 } else { 40_000 }
}

/// What a process has used up so far.
struct Spent {
    cpu: Duration,
    /// Page faults of its children that have ended: no process runs without one.
    child_faults: u64,
    resident_kb: u64,
}

impl Spent {
    fn by(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Numbered as in proc(5); the name, which may hold any character, is the second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let field = |number: usize| fields[number - 3].parse::<u64>().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            // In hundredths of a second on every Linux.
            cpu: Duration::from_millis(10 * (field(14) + field(15))),
            child_faults: field(11),
            resident_kb: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}
