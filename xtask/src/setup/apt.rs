//! Installing Debian packages without starting or enabling any service.

use std::{
    io::{IsTerminal as _, stdin},
    path::Path,
    process::Command,
};

use anyhow::{Result, bail};

use super::toolchain::apt_knows;
use crate::shell::{check, is_root, succeeds, which};

/// Installs `$@` with services held back: a policy that forbids starts stands only as long as apt runs, and what
/// the packages enable for the next boot is disabled again. Never removes a package.
const INSTALL: &str = r#"set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] || grep -q "cargo xtask setup" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\n# cargo xtask setup: start no services.\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get -y -q=2 --no-remove --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 install "$@"
disable() {
    for unit in "$@"; do
        systemctl --quiet disable "$unit.service" || deb-systemd-helper disable "$unit.service" || true
        update-rc.d "$unit" disable || true
    done
}
for package in "$@"; do
    case "$package" in
    docker.io) systemctl --quiet disable docker.socket || deb-systemd-helper disable docker.socket || true
        disable docker containerd ;;
    etcd-server) disable etcd ;;
    iperf3) disable iperf3 ;;
    esac > /dev/null 2>&1
done
"#;

/// Why packages cannot be installed from here, if they cannot.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !Path::new("/etc/debian_version").exists() || which("apt-get").is_none() {
        return Some("this is not Debian");
    }
    if is_root() {
        return None;
    }
    let may_ask = stdin().is_terminal();
    let sudo_works = || succeeds(Command::new("sudo").args(["-n", "true"]));
    if which("sudo").is_none() {
        Some("installing needs root, and there is no sudo")
    } else if !may_ask && !sudo_works() {
        Some("installing needs root, and sudo wants a password without a terminal to ask on")
    } else {
        None
    }
}

/// Installs packages; refreshes apt's lists first if they do not know them all, or afterwards if they are too old.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !packages.iter().all(|package| apt_knows(package)) {
        update()?;
    }
    if check(&mut install_command(packages)).is_ok() {
        return Ok(());
    }
    eprintln!("installing failed; once more with fresh package lists");
    update()?;
    if let Err(error) = check(&mut install_command(packages)) {
        bail!("{error:#}; by hand: apt-get install {}", packages.join(" "));
    }
    Ok(())
}

/// Refreshes apt's lists.
pub(crate) fn update() -> Result<()> {
    check(as_root_with_apt("apt-get").args(["-q=2", "-o", "DPkg::Lock::Timeout=120", "update"]))
}

fn install_command(packages: &[String]) -> Command {
    let mut command = as_root_with_apt("sh");
    command.args(["-c", INSTALL, "install"]).args(packages);
    command
}

/// Like `shell::as_root`, with the variables that keep packages from asking questions.
fn as_root_with_apt(program: &str) -> Command {
    const QUIET: [&str; 2] = ["DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l"];
    let mut command = if is_root() { Command::new("env") } else { Command::new("sudo") };
    if !is_root() {
        command.arg("env");
    }
    command.args(QUIET).arg(program);
    command
}
