//! The summary that `cargo xtask run` prints once flanneld has its lease.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Result;

use crate::shell::{output_of, target_dir};

/// After this long without a lease, flanneld's own log says better what is wrong.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for a fresh subnet.env and prints what there is now and what to type next.
pub(super) fn print(subnet_file: &str) -> Result<()> {
    let start = SystemTime::now();
    let is_fresh = || fs::metadata(subnet_file).and_then(|meta| meta.modified()).is_ok_and(|at| at >= start);
    while !is_fresh() {
        if start.elapsed().unwrap_or_default() > PATIENCE {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let text = fs::read_to_string(subnet_file)?;
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("?").to_owned();
    let flannelctl = target_dir().join("release/flannelctl");
    println!("lease:     {} of {} (MTU {})", value("FLANNEL_SUBNET"), value("FLANNEL_NETWORK"), value("FLANNEL_MTU"));
    println!("file:      {subnet_file}");
    print_status(&flannelctl);
    println!("next:      {} status | top | doctor", flannelctl.display());
    println!("           dockerd --bip={} --mtu={}", value("FLANNEL_SUBNET"), value("FLANNEL_MTU"));
    println!("           Ctrl-C ends flanneld; routes and the fast path stay");
    Ok(())
}

/// What flanneld itself says of bridges and hooks.
fn print_status(flannelctl: &Path) {
    let status = output_of(Command::new(flannelctl).arg("status")).unwrap_or_default();
    for line in status.lines() {
        println!("  {line}");
    }
}
