//! subnet.env: its text, how it is replaced, and what is read back.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use flannel_agent::subnet_file::{Previous, SubnetFile, read, write};

fn seed() -> SubnetFile {
    SubnetFile {
        network: "172.16.0.0/16".parse().unwrap(),
        subnet: "172.16.36.0/24".parse().unwrap(),
        v6: None,
        mtu: 1500,
        ip_masq: true,
    }
}

const SEED: &str =
    "FLANNEL_NETWORK=172.16.0.0/16\nFLANNEL_SUBNET=172.16.36.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn text() {
    assert_eq!(seed().to_string(), SEED);
    let dual = SubnetFile {
        v6: Some(("fc00::/48".parse().unwrap(), "fc00:0:0:5::/64".parse().unwrap())),
        mtu: 1450,
        ip_masq: false,
        ..seed()
    };
    assert_eq!(
        dual.to_string(),
        "FLANNEL_NETWORK=172.16.0.0/16\nFLANNEL_SUBNET=172.16.36.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\n\
         FLANNEL_IPV6_SUBNET=fc00:0:0:5::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
}

#[test]
fn a_shell_and_a_restart_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/flannel/subnet.env");
    write(&path, &seed()).unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), (SEED.to_owned(), 0o644));
    let script = format!(". {}; echo $FLANNEL_SUBNET $FLANNEL_MTU $FLANNEL_IPMASQ", path.display());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "172.16.36.1/24 1500 true\n");
    let previous = read(&path).unwrap();
    assert_eq!(previous.network, Some("172.16.0.0/16".parse().unwrap()));
    assert_eq!(previous.subnet, Some("172.16.36.0/24".parse().unwrap()));
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["subnet.env"], "no temporary file stays");
}

#[test]
fn it_is_replaced_with_its_mode_and_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    write(&path, &seed()).unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), (SEED.to_owned(), 0o640));
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    fs::write(&target, "old").unwrap();
    symlink(&target, &link).unwrap();
    write(&link, &seed()).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    assert!(fs::symlink_metadata(&link).unwrap().is_file());
}

#[test]
fn a_failure_names_the_file_and_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    fs::create_dir(&path).unwrap();
    let error = write(&path, &seed()).unwrap_err().to_string();
    assert!(error.contains("subnet.env: replacing it") && error.contains("-subnet-file"), "{error}");
    assert!(path.is_dir() && fs::read_dir(dir.path()).unwrap().count() == 1, "no temporary file stays");
    fs::write(dir.path().join("file"), "").unwrap();
    let error = write(&dir.path().join("file/subnet.env"), &seed()).unwrap_err().to_string();
    assert!(error.contains("making its directory"), "{error}");
    let error = read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("reading it"), "{error}");
}

/// A full file system, made in a mount namespace of its own.
#[test]
fn a_full_disk_leaves_the_old_file() {
    flannel_tests::require!(flannel_tests::skip::Feature::Root);
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(dir.path()).status().unwrap().success();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=8k,nr_inodes=16", "full"]));
    let path = dir.path().join("subnet.env");
    let tried = std::panic::catch_unwind(|| {
        write(&path, &seed()).unwrap();
        // What is left of two pages.
        fs::write(dir.path().join("rest"), [0; 4096]).ok();
        let other = SubnetFile { mtu: 1400, ..seed() };
        let error = write(&path, &other).unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), SEED);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    });
    assert!(mount(&["umount"]));
    tried.unwrap();
}

#[test]
fn reading_tolerates_what_is_found_in_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    assert_eq!(read(&path).unwrap(), Previous::default(), "a missing file says nothing");
    for (text, subnet) in [
        ("FLANNEL_SUBNET=10.244.1.1/24", Some("10.244.1.0/24")),
        ("# FLANNEL_SUBNET=10.0.0.1/24\nexport FLANNEL_SUBNET=\"10.244.1.1/24\" # ours", Some("10.244.1.0/24")),
        ("FLANNEL_SUBNET: '10.244.1.1/24'", Some("10.244.1.0/24")),
        ("  FLANNEL_SUBNET = 10.244.1.1/24  \r\n", Some("10.244.1.0/24")),
        ("A=10.244.1.1\nFLANNEL_SUBNET=${A}/24", Some("10.244.1.0/24")),
        ("A=10.244.1.1\nFLANNEL_SUBNET=$A/24", Some("10.244.1.0/24")),
        ("FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr", Some("10.244.1.0/24")),
        ("FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr,10.244.2.0/24", None),
        ("FLANNEL_SUBNET=not-a-cidr", None),
        ("FLANNEL_SUBNET=fd00::/64", None),
        ("FLANNEL_SUBNET=", None),
        ("DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24\"", None),
        ("\0\u{fffd}=\n===\n$", None),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(read(&path).unwrap().subnet, subnet.map(|s| s.parse().unwrap()), "{text:?}");
    }
    fs::write(&path, b"FLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_IPV6_NETWORK=fd00::/48,fd01::/48\n\xff\xfe").unwrap();
    let previous = read(&path).unwrap();
    assert_eq!((previous.v6_subnet, previous.v6_network), (Some("fd00::/64".parse().unwrap()), None));
}
