//! `cargo xtask doctor`: what this machine has and lacks, one line each, with the remedy. Changes nothing.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{
    setup::{parts::PARTS, toolchain},
    shell::{is_bpffs_mounted, is_root, output_of, succeeds, which},
};

const SETUP: &str = "cargo xtask setup";
/// CAP_BPF and CAP_NET_ADMIN as bits of `CapEff` (include/uapi/linux/capability.h).
const CAPABILITIES: u64 = 1 << 39 | 1 << 12;

/// The lines, and how many of them name something that is needed and missing.
#[derive(Debug, Default)]
struct Report {
    missing: u32,
}

/// Runs the verb.
pub(crate) fn run() -> Result<()> {
    let mut report = Report::default();
    report.tools();
    report.rights();
    report.kernel();
    if report.missing > 0 {
        bail!("{} needed parts are missing", report.missing);
    }
    Ok(())
}

impl Report {
    /// Something without which building, testing or running fails.
    fn needed(&mut self, name: &str, is_there: bool, remedy: &str) {
        self.missing += u32::from(!is_there);
        line(if is_there { "ok" } else { "MISSING" }, name, if is_there { "" } else { remedy });
    }

    fn tools(&mut self) {
        self.needed("rustup", which("rustup").is_some(), "https://rustup.rs");
        for part in PARTS {
            self.needed(
                part.name(),
                part.is_present(),
                &format!("{}; {SETUP}, or: apt-get install {}", part.why, part.package),
            );
        }
        let compiler = toolchain::compiler();
        let name = compiler
            .map_or("compiler for BPF".to_owned(), |name| format!("compiler for BPF (rustup toolchain {name})"));
        self.needed(&name, compiler.is_some(), SETUP);
        self.needed("bpf-linker", toolchain::has_linker(), SETUP);
    }

    fn rights(&mut self) {
        let remedy = "run as root, or install sudo";
        self.needed("root's rights", is_root() || which("sudo").is_some(), remedy);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let caps = caps.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
        let may = !is_root() || caps & CAPABILITIES == CAPABILITIES;
        self.needed("CAP_BPF and CAP_NET_ADMIN", may, "give the container these capabilities, or run outside of it");
        if is_root() && which("bpftool").is_some() {
            let works = succeeds(Command::new("bpftool").args(["map", "list"]));
            self.needed(
                "bpf() system call",
                works,
                "a seccomp filter or kernel lockdown forbids it; routes alone will carry traffic",
            );
        }
        note("bpffs at /sys/fs/bpf", is_bpffs_mounted(), "mount -t bpf bpf /sys/fs/bpf (run, test and demo do it)");
    }

    fn kernel(&mut self) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = parse_version(&release);
        self.needed(
            &format!("kernel {} >= 5.10", release.trim()),
            version >= (5, 10),
            "bpf_redirect_neigh and redirect_peer need it",
        );
        note("tcx (kernel 6.6)", version >= (6, 6), "older kernels use clsact instead");
        note("BTF of the kernel", fs::exists("/sys/kernel/btf/vmlinux").unwrap_or_default(), "CONFIG_DEBUG_INFO_BTF");
        let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
        note("BPF JIT", jit.map_or(true, |text| text.trim() != "0"), "sysctl net.core.bpf_jit_enable=1");
        if which("ip").is_none() {
            return note("the kernel's links and tables", false, "cannot look without ip: cargo xtask setup");
        }
        for (kind, is_needed) in
            [("veth", true), ("bridge", true), ("vxlan", false), ("ipip", false), ("wireguard", false)]
        {
            let there = can_make_link(kind);
            let (name, remedy) =
                (format!("{kind} links"), format!("modprobe {kind}, or a kernel with it; what needs it is skipped"));
            if is_needed { self.needed(&name, there, &remedy) } else { note(&name, there, &remedy) }
        }
        note("TUN devices", fs::exists("/dev/net/tun").unwrap_or_default(), "modprobe tun (the udp backend needs it)");
        let nft = succeeds(&mut isolated("nft list ruleset"));
        note("nftables", nft, "modprobe nf_tables (masquerading falls back to iptables)");
        note("iptables", succeeds(&mut isolated("iptables -t nat -L -n")), "modprobe ip_tables iptable_nat");
        note(
            "connection tracking",
            succeeds(&mut isolated("test -e /proc/sys/net/netfilter/nf_conntrack_max")),
            "modprobe nf_conntrack",
        );
    }
}

/// Something that there is a way around.
fn note(name: &str, is_there: bool, remedy: &str) {
    line(if is_there { "ok" } else { "no" }, name, if is_there { "" } else { remedy });
}

fn line(state: &str, name: &str, remedy: &str) {
    let arrow = if remedy.is_empty() { "" } else { " -> " };
    println!("{state:<8}{name}{arrow}{remedy}");
}

/// A shell line in a network namespace of its own, as root or as a mapped user.
fn isolated(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["-n"][..] } else { &["-rn"][..] }).args(["sh", "-c", script]);
    command
}

fn can_make_link(kind: &str) -> bool {
    let detail = match kind {
        "vxlan" => " id 1 dstport 4789 dev lo",
        "ipip" => " local 192.0.2.1 remote 192.0.2.2",
        _ => "",
    };
    output_of(&mut isolated(&format!("ip link add probe0 type {kind}{detail}"))).is_some()
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}
