//! The unit under a real systemd: booted in a container, on a throw-away copy of this machine's own files, in the network of
//! a host. What the sandbox takes away must be what the agent does not need.

#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{fs, process::Command, thread, time::Duration};

use flannel_tests::{
    cluster::{Cluster, READY},
    flanneld::{HOST_GW, PREFIX, binary},
    netns::Netns,
    process::{Process, output},
    require,
    scratch::Scratch,
    skip::{self, Feature},
    topology::Topology,
    wait::{wait_for, wait_until},
};
use nix::sys::signal::Signal;

const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-agent/dist");
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the unit, in this test.
const WATCHDOG: Duration = Duration::from_secs(3);

/// Arguments: an empty folder, the network namespace, the folder of units, flanneld, the store.
const BOOT: &str = r#"
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
units="$1/root/etc/systemd/system"
rm -rf "$units"/*.wants "$units"/*.requires "$1/root/etc/systemd/system/flanneld.service.d"
for unit in systemd-sysctl systemd-modules-load systemd-remount-fs; do ln -sf /dev/null "$units/$unit.service"; done
install -D -m 644 "$3/flanneld.service" "$units/flanneld.service"
mkdir "$units/flanneld.service.d"
printf '[Service]\nWatchdogSec=3\nRestartSec=0\n' > "$units/flanneld.service.d/test.conf"
install -D "$4" "$1/root/usr/bin/flanneld"
install -D "$3/flanneld-start" "$1/root/usr/bin/flanneld-start"
install -D "$3/mk-docker-opts.sh" "$1/root/usr/libexec/flannel/mk-docker-opts.sh"
mkdir -p "$1/root/etc/sysconfig"
printf 'FLANNEL_ETCD_ENDPOINTS="%s"\nFLANNEL_ETCD_PREFIX="/flannel/network"\nFLANNEL_OPTIONS="-iface=eth0 -ip-masq"\n' \
    "$5" > "$1/root/etc/sysconfig/flanneld"
exec systemd-nspawn --quiet --boot --directory="$1/root" --machine="node$$" --register=no --keep-unit --capability=all \
    --network-namespace-path="$2" --bind=/dev/net/tun --console=pipe --link-journal=no --resolv-conf=off --timezone=off \
    -- --unit=basic.target
"#;

/// A machine with systemd as its first process.
struct Machine {
    nspawn: Process,
    init: u32,
    _dir: Scratch,
}

impl Machine {
    /// Boots it; an error says why that does not work here.
    fn boot(host: &Netns, endpoints: &str) -> Result<Self, String> {
        let dir = Scratch::new("machine").unwrap();
        let root = dir.join("files");
        fs::create_dir(&root).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", BOOT, "boot"]).arg(&root).arg(host.path()).arg(DIST);
        command.arg(binary("flanneld").unwrap()).arg(endpoints);
        // nspawn's own filter of system calls forbids BPF, which a host allows.
        command.env("SYSTEMD_SECCOMP", "0").env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes");
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let mut nspawn = Process::spawn(command, &dir.join("log")).unwrap();
        let pid = nspawn.pid();
        let child = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok();
        let booted = wait_for("systemd", PATIENCE, || {
            let up = |init: &u32| enter(*init, "systemctl is-system-running --wait").is_ok();
            child().filter(up).map(Ok).or_else(|| (!nspawn.is_running()).then_some(Err(())))
        });
        match booted {
            Ok(Ok(init)) => Ok(Self { nspawn, init, _dir: dir }),
            _ => Err(format!("systemd cannot be booted here: {}", nspawn.log())),
        }
    }

    fn run(&self, script: &str) -> String {
        enter(self.init, script).unwrap_or_else(|error| panic!("{error:#}\n{}", self.journal()))
    }

    fn show(&self, property: &str) -> String {
        self.run(&format!("systemctl show --value --property={property} flanneld")).trim().to_owned()
    }

    /// What flanneld itself has said.
    fn journal(&self) -> String {
        enter(self.init, "journalctl --no-pager --output=cat _SYSTEMD_UNIT=flanneld.service").unwrap()
    }

    fn pins(&self) -> String {
        self.run("find /sys/fs/bpf/flannel -name 'link-*' | sort")
    }

    /// Sends flanneld a signal that it does not survive; systemd starts it again.
    fn dies_of(&self, signal: Signal, restarts: &str) {
        self.run(&format!("systemctl kill --signal={signal} flanneld"));
        let back = || self.show("NRestarts") == restarts && self.show("ActiveState") == "active";
        wait_until(&format!("a restart after {signal}"), PATIENCE, back).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.nspawn.terminate(PATIENCE).ok();
    }
}

fn enter(init: u32, script: &str) -> anyhow::Result<String> {
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &init.to_string(),
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--cgroup",
        "--root",
        "--wd",
    ]);
    command.args(["sh", "-euc", script]);
    output(command)
}

fn starts_with_every_backend(machine: &Machine, cluster: &Cluster) {
    for config in [
        r#"{"Network":"172.16.0.0/16","Backend":{"Type":"vxlan"}}"#,
        r#"{"Network":"172.16.0.0/16","Backend":{"Type":"udp"}}"#,
        r#"{"Network":"172.16.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#,
    ] {
        cluster.etcd.put(&format!("{PREFIX}/config"), config).unwrap();
        machine.run("systemctl restart flanneld");
        assert_eq!(machine.show("ActiveState"), "active", "{config}");
    }
}

#[test]
fn the_unit_has_what_the_agent_needs() {
    require!(Feature::Root, Feature::Bpf, Feature::Tool("etcd"), Feature::Tool("iptables"), Feature::Tool("nft"));
    require!(Feature::Tool("systemd-nspawn"), Feature::Tool("nsenter"), Feature::Tun, Feature::Link("vxlan"));
    let mut cluster = Cluster::new(Topology::flat(2).unwrap(), HOST_GW).unwrap();
    let peer = cluster.nodes[1].start_ready(READY).unwrap();
    let host = &cluster.topology.hosts[0].ns;
    let machine = match Machine::boot(host, &cluster.etcd.endpoints()) {
        Ok(machine) => machine,
        Err(why) => return skip::skip(&why),
    };

    machine.run("systemctl start flanneld");
    assert_eq!(machine.show("ActiveState"), "active");
    assert!(machine.show("StatusText").starts_with("leases 172.16."), "{}", machine.show("StatusText"));
    let docker = machine.run("cat /run/flannel/docker");
    assert!(docker.contains("DOCKER_NETWORK_OPTIONS=\" --bip=172.16."), "{docker}");
    let route = || host.run(&format!("ip route show {peer} proto 241")).unwrap();
    wait_until("the route to the peer", PATIENCE, || !route().is_empty()).unwrap();
    assert!(host.run("iptables -t nat -S").unwrap().contains("-j FLANNEL-POSTRTG"));
    wait_until("pinned links", PATIENCE, || machine.pins().contains("link-from_uplink-")).unwrap();
    let pins = machine.pins();

    let (pid, calm) = (machine.show("MainPID"), WATCHDOG + Duration::from_secs(1));
    thread::sleep(calm);
    assert_eq!(machine.show("MainPID"), pid, "the watchdog is fed");
    machine.dies_of(Signal::SIGKILL, "1");
    machine.dies_of(Signal::SIGSTOP, "2");
    machine.run("systemctl restart flanneld");
    assert_eq!(machine.pins(), pins);
    let adopted = machine.journal().lines().filter(|line| line.contains("fast path loaded")).count();
    assert_eq!((adopted, machine.journal().matches("links=0").count()), (4, 1), "{}", machine.journal());

    starts_with_every_backend(&machine, &cluster);
    assert!(host.run("nft list table ip flannel-ipv4").unwrap().contains("masquerade"));
    wait_until("the route to the peer", PATIENCE, || !route().is_empty()).unwrap();
    machine.run("systemctl stop flanneld");
    assert!(!route().is_empty() && machine.pins() == pins, "what carries traffic stays");

    let journal = machine.journal().to_lowercase();
    for denial in ["denied", "not permitted", "read-only"] {
        assert!(!journal.contains(denial), "{journal}");
    }
    // Each entry has its own level.
    let told = machine.run("journalctl --no-pager --output=cat --priority=warning _SYSTEMD_UNIT=flanneld.service");
    assert!(told.contains("needs a restart") && !told.contains("flannel is ready"), "{told}");
}
