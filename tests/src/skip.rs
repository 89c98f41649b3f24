//! Skips that are seen and counted: `require!(Feature::Docker)` at the head of a test.
//!
//! A skip prints `SKIP <test>: <why>` past the test runner's capture and appends the line to the file that
//! `FLANNEL_SKIP_LOG` names. With `FLANNEL_REQUIRE=all` it is a failure.

use std::{
    env,
    fs::File,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Root's rights, with which namespaces are made.
    Root,
    /// The right to load BPF programs, and a mounted bpffs.
    Bpf,
    /// A program of this name.
    Tool(&'static str),
    /// A kind of link (`vxlan`, `ipip`, `wireguard`, …) in the kernel.
    Link(&'static str),
    /// A TUN device.
    Tun,
    /// A dockerd that can run here.
    Docker,
}

/// Returns from the test, visibly, unless every feature is there.
#[macro_export]
macro_rules! require {
    ($($feature:expr),+ $(,)?) => {
        $(if let Err(why) = $crate::skip::check($feature) {
            $crate::skip::skip(&why);
            return;
        })+
    };
}

/// Whether a feature is there; if not, why.
pub fn check(feature: Feature) -> Result<(), String> {
    match feature {
        Feature::Root => {
            if nix::unistd::geteuid().is_root() {
                Ok(())
            } else {
                Err("needs root".to_owned())
            }
        }
        Feature::Bpf => {
            check(Feature::Root)?;
            mounted_bpffs()
        }
        Feature::Tool(name) => tool(name),
        Feature::Link(kind) => link(kind),
        Feature::Tun => {
            if Path::new("/dev/net/tun").exists() {
                Ok(())
            } else {
                Err("no /dev/net/tun".to_owned())
            }
        }
        Feature::Docker => ["dockerd", "docker", "busybox"].into_iter().try_for_each(tool),
    }
}

/// Says that the running test is skipped; panics if nothing may be skipped.
pub fn skip(why: &str) {
    let line = format!("SKIP {}: {why}\n", thread::current().name().unwrap_or("?"));
    assert!(env::var("FLANNEL_REQUIRE").as_deref() != Ok("all"), "{line}but FLANNEL_REQUIRE=all");
    std::io::stderr().write_all(line.as_bytes()).ok();
    if let Some(mut log) =
        env::var_os("FLANNEL_SKIP_LOG").and_then(|path| File::options().append(true).create(true).open(path).ok())
    {
        log.write_all(line.as_bytes()).ok();
    }
}

fn mounted_bpffs() -> Result<(), String> {
    let is_mounted = || std::fs::read_to_string("/proc/mounts").is_ok_and(|text| text.contains(" /sys/fs/bpf bpf "));
    if is_mounted() || (quiet("mount", &["-t", "bpf", "bpf", "/sys/fs/bpf"]) || is_mounted()) {
        return Ok(());
    }
    Err("bpffs cannot be mounted at /sys/fs/bpf".to_owned())
}

fn tool(name: &str) -> Result<(), String> {
    let path = env::var("PATH").unwrap_or_default();
    let found = path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(name).exists());
    if found { Ok(()) } else { Err(format!("no {name} in PATH")) }
}

fn link(kind: &str) -> Result<(), String> {
    check(Feature::Root)?;
    let ns = crate::netns::Netns::new("probe").map_err(|error| format!("{error:#}"))?;
    let detail = match kind {
        "vxlan" => "id 1 dev lo dstport 4789",
        "ipip" => "local 192.0.2.1 remote 192.0.2.2",
        "vlan" => "id 1",
        _ => "",
    };
    let on = if kind == "vlan" { "link lo " } else { "" };
    let made = ns.run(&format!("ip link add {on}name probe0 type {kind} {detail}"));
    if made.is_ok() { Ok(()) } else { Err(format!("the kernel makes no {kind} links")) }
}

fn quiet(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
