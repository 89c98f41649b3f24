//! The benchmark itself: that it runs, counts and says what it did. Times are not judged.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flannel_tests::{
    bench::{
        agent::Store,
        arm::Arm,
        lab::{Lab, Shape},
        net,
        row::{Outcome, Row},
    },
    flanneld::binary,
    process::{Process, output},
    require,
    scratch::Scratch,
    skip::Feature,
    wait::wait_until,
};
use nix::sys::signal::Signal;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_mins(1);
const BENCH: &str = env!("CARGO_BIN_EXE_bench");

fn row<'a>(outcome: &'a Outcome, workload: &str, arm: &str) -> &'a Row {
    let found = outcome.rows.iter().find(|row| row.workload == workload && row.arm == arm);
    found.unwrap_or_else(|| panic!("no row {workload} {arm}"))
}

fn check_measured(outcome: &Outcome, workload: &str, arm: &str) {
    let row = row(outcome, workload, arm);
    assert!(row.median.is_some_and(|median| median > 0.0), "{workload} {arm}: {row:?}");
}

/// Tells the benchmark where flanneld is, so that it does not build it again.
fn with_binaries(command: &mut Command) -> &mut Command {
    let flanneld = binary("flanneld").unwrap();
    command.env("FLANNEL_BIN_DIR", flanneld.parent().unwrap())
}

/// Measurements beside one another lose each other's packets.
fn alone() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_quick_run_counts_packets_of_every_kind_of_arm() {
    require!(Feature::Bpf, Feature::Tool("ethtool"));
    let _alone = alone();
    let dir = Scratch::new("bench").unwrap();
    let (json, charts) = (dir.join("result.json"), dir.join("charts"));
    let mut bench = Command::new(BENCH);
    bench.args(["--quick", "--rounds=1", "--only=pps-out,pps-transit,kernel-bare,verified,limit"]);
    bench.arg("--json").arg(&json).arg("--charts").arg(&charts);
    with_binaries(&mut bench);
    output(bench).unwrap();
    let outcome = Outcome::read(&json).unwrap();
    for workload in ["pps-out", "pps-transit"] {
        for arm in ["kernel-rules", "kernel-bare", "verified", "limit"] {
            check_measured(&outcome, workload, arm);
        }
        let ratio = row(&outcome, workload, "kernel-rules").ratio.unwrap();
        assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
    }
    assert!(!outcome.machine.kernel.is_empty());
    check_chart(&charts.join("pps-out-bytes-60-flows-256-peers-1.svg"));
}

fn check_chart(path: &Path) {
    let svg = fs::read_to_string(path).unwrap();
    for text in ["kernel-rules", "verified", "Mpps"] {
        assert!(svg.contains(text), "{} does not say {text}", path.display());
    }
}

#[test]
fn what_a_packet_costs_is_measured() {
    require!(Feature::Bpf, Feature::Tool("ethtool"));
    let _alone = alone();
    let dir = Scratch::new("cost").unwrap();
    let mut bench = Command::new(BENCH);
    bench.args(["--rounds=1", "--only=cpu-per-packet,verified", "--json"]).arg(dir.join("result.json"));
    with_binaries(&mut bench);
    output(bench).unwrap();
    let outcome = Outcome::read(&dir.join("result.json")).unwrap();
    for arm in ["kernel-rules", "verified"] {
        let row = row(&outcome, "cpu-per-packet", arm);
        assert!(row.median.is_some(), "{row:?}");
    }
}

#[test]
fn two_nodes_measure_from_one_to_the_other() {
    require!(Feature::Bpf, Feature::Tool("ethtool"), Feature::Tool("iperf3"));
    let _alone = alone();
    let mut store = Store::default();
    let lab = Lab::build(Arm::Verified, Shape::Pair, &mut store).unwrap();
    let dir = Scratch::new("nodes").unwrap();
    let line = format!("{BENCH} serve --uplink eth0");
    let mut server = lab.hosts[1].spawn(&line, &dir.join("serve")).unwrap();
    server.wait_log("serving on eth0", Duration::from_secs(20)).unwrap();
    let json = dir.join("result.json");
    let mut bench = lab.first().command(BENCH);
    let peer = net::host(2).to_string();
    bench.args(["--quick", "--rounds=1", "--uplink=eth0", "--peer", &peer, "--only=udp-socket,udp-rr,tcp-crr"]);
    bench.arg("--json").arg(&json);
    bench.arg("--admin-socket").arg(lab.agents.as_ref().unwrap().flannelds[0].admin_socket());
    output(bench).unwrap();
    let outcome = Outcome::read(&json).unwrap();
    for workload in ["udp-socket", "udp-rr", "tcp-crr"] {
        for arm in ["kernel-rules", "verified"] {
            check_measured(&outcome, workload, arm);
        }
    }
}

#[test]
fn an_interrupt_ends_the_run_and_leaves_no_hosts_behind() {
    require!(Feature::Bpf, Feature::Tool("ethtool"));
    let _alone = alone();
    let dir = Scratch::new("interrupt").unwrap();
    let mut bench = Command::new(BENCH);
    bench.args(["--quick", "--rounds=1000", "--only=pps-out,kernel-bare"]);
    with_binaries(&mut bench);
    let mut bench = Process::spawn(bench, &dir.join("log")).unwrap();
    let mine = format!("fl-{}-", bench.pid());
    let hosts = || {
        let names = fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&mine)).count()
    };
    wait_until("the hosts of both arms", SOON, || hosts() >= 6).unwrap();
    bench.signal(Signal::SIGINT).unwrap();
    let status = bench.wait_exit(SOON).unwrap();
    assert_eq!((status.code(), hosts()), (Some(1), 0), "{}", bench.log());
    assert!(bench.log().contains("interrupted; everything that was made is removed"), "{}", bench.log());
}

#[test]
fn a_run_that_leaves_nothing_says_so() {
    require!(Feature::Bpf);
    let mut bench = Command::new(BENCH);
    bench.args(["--quick", "--only=no-such-workload"]);
    let error = output(bench).unwrap_err().to_string();
    assert!(error.contains("--only=no-such-workload leaves no workload"), "{error}");
}
