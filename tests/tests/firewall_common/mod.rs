//! What the firewall suites share.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flannel_agent::{
    kernel::firewall::{Firewall, Mode, Overlay, Rules},
    subnet_file::Previous,
};
use flannel_tests::netns::Netns;
use ipnet::{Ipv4Net, Ipv6Net};
use tempfile::TempDir;

/// The two kinds of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Nft,
    Legacy,
}

impl Variant {
    fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// A command line of this variant: `iptables`, or `ip6tables`.
    pub(crate) fn tool(self, program: &str, args: &str) -> String {
        format!("{program}-{} {args}", self.suffix())
    }

    /// Whether the kernel takes its rules.
    pub(crate) fn works(self) -> bool {
        Netns::new("probe").unwrap().run(&self.tool("iptables", "-t nat -S")).is_ok()
    }
}

/// A directory of programs that write down each start.
pub(crate) struct Programs {
    dir: TempDir,
}

/// `iptables` of a variant, and `nft`.
pub(crate) fn programs(variant: Variant) -> Programs {
    let dir = tempfile::tempdir().unwrap();
    for family in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            wrap(dir.path(), &format!("{family}{tool}"), &format!("{family}-{}{tool}", variant.suffix()));
        }
    }
    wrap(dir.path(), "nft", "nft");
    Programs { dir }
}

fn wrap(dir: &Path, name: &str, real: &str) {
    let real = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|d| Path::new(d).join(real)).find(|p| p.exists());
    let Some(real) = real else { return };
    let script = dir.join(name);
    let log = dir.join("log");
    fs::write(&script, format!("#!/bin/sh\necho {name} \"$@\" >> {}\nexec {} \"$@\"\n", log.display(), real.display()))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Programs {
    /// Puts a script in the place of a program; it finds the real ones in the usual places.
    pub(crate) fn replace(&self, name: &str, script: &str) {
        let path = self.path().join(name);
        let log = self.path().join("log");
        let usual = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        fs::write(&path, format!("#!/bin/sh\n{usual}\necho {name} >> {}\n{script}\n", log.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Every start so far, one line each.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How many programs were started so far.
    pub(crate) fn spawned(&self) -> usize {
        self.log().lines().count()
    }
}

pub(crate) fn overlay(network: &str, subnet: &str) -> Overlay<Ipv4Net> {
    Overlay { network: network.parse().unwrap(), subnet: subnet.parse().unwrap() }
}

pub(crate) fn no_rules() -> Rules {
    Rules { v4: None, v6: None, masquerade: false, forward: false, random_fully: false, exempt: Vec::new() }
}

/// Every rule of both families.
pub(crate) fn rules(network: &str, subnet: &str) -> Rules {
    let v6 = |len, third| Ipv6Net::new(Ipv6Addr::new(0xfd00, 0x10, 0x244, third, 0, 0, 0, 0), len).unwrap();
    Rules {
        v4: Some(overlay(network, subnet)),
        v6: Some(Overlay { network: v6(56, 0), subnet: v6(64, 5) }),
        masquerade: true,
        forward: true,
        random_fully: true,
        exempt: Vec::new(),
    }
}

pub(crate) fn previous(network: &str, subnet: &str) -> Previous {
    let Overlay { network, subnet } = overlay(network, subnet);
    assert_ne!(network.addr(), Ipv4Addr::UNSPECIFIED);
    Previous { network: Some(network), subnet: Some(subnet), ..Previous::default() }
}

/// A keeper that looks every second where the kernel is silent.
pub(crate) fn firewall(mode: Mode, rules: Rules, programs: &Programs) -> Firewall {
    Firewall::new(mode, rules, &Previous::default(), Duration::from_secs(1)).search(programs.path())
}

/// Waits until the keeper has reason to look.
pub(crate) async fn wake(firewall: &mut Firewall) {
    tokio::time::timeout(Duration::from_secs(5), firewall.disturbed()).await.expect("no reason to look within 5 s");
}
