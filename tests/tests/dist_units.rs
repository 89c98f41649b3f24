//! The files that a package installs: units that systemd accepts, and scripts that say the right command line.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{fs, path::Path, process::Command};

use flannel_tests::{require, skip::Feature};

const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-agent/dist");

/// What `systemd-analyze verify` says of a unit whose programs are all there.
fn verify(unit: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(unit);
    fs::write(&path, text).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        said += &output.status.to_string();
    }
    said
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(DIST).join(name)).unwrap()
}

#[test]
fn systemd_accepts_the_units() {
    require!(Feature::Tool("systemd-analyze"));
    // The programs are not installed where this runs.
    let unit = read("flanneld.service")
        .replace("/usr/bin/flanneld-start", "/bin/true")
        .replace("/usr/libexec/flannel/mk-docker-opts.sh", "/bin/true");
    assert_eq!(verify("flanneld.service", &unit), "");
    let docker = format!("[Service]\nType=notify\nExecStart=/bin/true\n{}", read("docker-flannel.conf"));
    assert_eq!(verify("docker.service", &docker), "");
    assert!(verify("flanneld.service", &unit.replace("Type=notify", "Type=nonsense")).contains("nonsense"));
}

/// Whatever is required takes those who require it along when it is stopped or restarted.
#[test]
fn docker_goes_on_without_the_agent() {
    let unit = read("flanneld.service");
    let links = |how: &str| unit.lines().any(|line| line.starts_with(how) && line.contains("docker.service"));
    assert!(links("WantedBy=") && links("Before="), "{unit}");
    assert!(!links("RequiredBy=") && !read("docker-flannel.conf").contains("Requires="), "{unit}");
}

#[test]
fn the_settings_of_the_seed_deployment_reach_the_command_line() {
    let endpoints = "http://192.0.2.1:2379,http://192.0.2.2:2379,http://192.0.2.3:2379";
    let env = [("FLANNEL_ETCD_ENDPOINTS", endpoints), ("FLANNEL_ETCD_PREFIX", "/flannel/network")];
    let dir = tempfile::tempdir().unwrap();
    let show = dir.path().join("show");
    fs::write(&show, "#!/bin/sh\nfor word; do echo \"$word\"; done\n").unwrap();
    Command::new("chmod").arg("755").arg(&show).status().unwrap();
    let run = |env: &[(&str, &str)], options: &str| {
        let mut command = Command::new(Path::new(DIST).join("flanneld-start"));
        command.args(options.split_whitespace()).env_clear().envs(env.iter().copied()).env("FLANNELD", &show);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(
        run(&env, "-iface=eth0 -ip-masq"),
        format!("-etcd-endpoints={endpoints}\n-etcd-prefix=/flannel/network\n-iface=eth0\n-ip-masq\n")
    );
    assert_eq!(
        run(&[("FLANNEL_ETCD", "http://old:2379"), ("FLANNEL_ETCD_KEY", "/old")], ""),
        "-etcd-endpoints=http://old:2379\n-etcd-prefix=/old\n"
    );
    let defaults = run(&[], "");
    assert!(defaults.starts_with("-etcd-endpoints=http://127.0.0.1:2379\n"), "{defaults}");
}

#[test]
fn settings_are_read_by_a_shell_and_by_systemd_alike() {
    for line in read("sysconfig-flanneld").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        assert!(name.starts_with("FLANNEL_") && value.starts_with('"') && value.ends_with('"'), "{line}");
    }
}
