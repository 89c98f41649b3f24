//! The command line and environment of `flanneld`.

use std::{collections::BTreeSet, path::Path, time::Duration};

use flannel_agent::{
    cli::flanneld::{CliError, Flags, Parsed, TABLE},
    fastpath::{Attach, HookKind, Mode, Xdp},
    logging::Format,
    plan::renew::Margin,
};

fn parse_env(line: &str, env: &[(&str, &str)]) -> Result<Parsed, CliError> {
    let args = line.split_whitespace().map(str::to_owned);
    Flags::parse(args, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn flags_env(line: &str, env: &[(&str, &str)]) -> Flags {
    match parse_env(line, env) {
        Ok(Parsed::Run(flags)) => *flags,
        other => panic!("{line} {env:?}: {other:?}"),
    }
}

fn flags(line: &str) -> Flags {
    flags_env(line, &[])
}

fn complaint(line: &str, env: &[(&str, &str)]) -> String {
    match parse_env(line, env) {
        Err(error) => error.to_string(),
        Ok(other) => panic!("{line} {env:?}: {other:?}"),
    }
}

#[test]
fn every_flag_of_flannel_is_there() {
    let names: BTreeSet<&str> = TABLE.iter().map(|flag| flag.name).collect();
    for name in "etcd-endpoints etcd-prefix etcd-keyfile etcd-certfile etcd-cafile etcd-username etcd-password iface iface-regex \
        iface-can-reach public-ip public-ipv6 subnet-file subnet-lease-renew-margin ip-masq ip-masq-fully-random-disable \
        iptables-resync iptables-forward-rules ip-blackhole-route healthz-ip healthz-port kube-subnet-mgr kube-api-url \
        kube-annotation-prefix kubeconfig-file net-config-path set-node-network-unavailable version v vmodule log_backtrace_at"
        .split_whitespace()
    {
        assert!(names.contains(name), "{name}");
    }
    assert_eq!(names.len(), TABLE.len(), "a name stands twice");
}

#[test]
fn defaults() {
    let flags = flags("");
    assert_eq!(flags.store.endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!(flags.store.prefix, "/coreos.com/network");
    assert!(flags.store.credentials.is_none() && flags.store.cafile.is_none());
    assert!(flags.uplink.iface.is_empty() && flags.uplink.public_ip.is_none());
    assert_eq!(flags.subnet_file, Path::new("/run/flannel/subnet.env"));
    assert_eq!(flags.admin_socket, Path::new("/run/flannel/flanneld.sock"));
    assert_eq!(flags.lease.renew_margin, Margin::default());
    assert!(!flags.lease.exit_on_loss && !flags.lease.release_on_exit && !flags.blackhole_route);
    let firewall = &flags.firewall;
    assert!(!firewall.masquerade && firewall.random_fully && firewall.forward && firewall.conntrack_liberal);
    assert_eq!(firewall.resync, Duration::from_secs(5));
    assert_eq!(flags.health, None);
    let fastpath = &flags.fastpath;
    assert_eq!((fastpath.mode, fastpath.attach), (Mode::Verified, Attach::Ports));
    assert_eq!((fastpath.xdp, fastpath.hook), (Xdp::Auto, HookKind::Auto));
    assert_eq!((fastpath.bridges.as_slice(), fastpath.flows), (["docker0".to_owned()].as_slice(), 65536));
    assert_eq!(fastpath.revalidate, Duration::from_secs(5));
    assert_eq!(fastpath.bpf_dir, Path::new("/sys/fs/bpf/flannel"));
    assert_eq!((flags.log.filter.as_str(), flags.log.format), ("info", Format::Auto));
    assert!(flags.warnings.is_empty());
}

#[test]
fn one_dash_or_two_with_and_without_equals_sign() {
    for line in [
        "-etcd-prefix=/a",
        "--etcd-prefix=/a",
        "-etcd-prefix /a",
        "--etcd-prefix /a",
        "-etcd-prefix=/b -etcd-prefix=/a",
    ] {
        assert_eq!(flags(line).store.prefix, "/a", "{line}");
    }
    for (line, expected) in [
        ("-ip-masq", true),
        ("--ip-masq", true),
        ("-ip-masq=true", true),
        ("-ip-masq=T", true),
        ("-ip-masq=1", true),
        ("-ip-masq=false", false),
        ("-ip-masq=F", false),
        ("-ip-masq -ip-masq=0", false),
    ] {
        assert_eq!(flags(line).firewall.masquerade, expected, "{line}");
    }
    assert!(!flags("-iptables-forward-rules=false").firewall.forward);
    assert_eq!(flags("-etcd-prefix=a=b").store.prefix, "a=b");
    assert_eq!(flags("-etcd-prefix -x").store.prefix, "-x", "the next word is the value, whatever it is");
}

#[test]
fn whole_numbers_in_every_base() {
    for (text, minutes) in [
        ("90", 90),
        ("0x10", 16),
        ("0X10", 16),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("1_0", 10),
        ("0x_1_0", 16),
        ("+7", 7),
    ] {
        let line = format!("-subnet-lease-renew-margin={text}");
        assert_eq!(flags(&line).lease.renew_margin, Margin::from_minutes(minutes).unwrap(), "{text}");
    }
    for text in ["ten", "1__0", "_1", "1_", "0x", "08", "1.5", "", "99999999999999999999", "--1", "0o8"] {
        let error = complaint(&format!("-subnet-lease-renew-margin={text}"), &[]);
        assert!(error.contains("-subnet-lease-renew-margin") && error.contains("whole number"), "{text}: {error}");
    }
}

#[test]
fn interfaces_add_up_and_scalars_do_not() {
    let flags = flags(
        "-iface=eth0 --iface 192.0.2.1 -iface-regex=10\\.0\\..* -etcd-endpoints= -etcd-endpoints=http://a:1,,http://b:1,http://a:1,",
    );
    assert_eq!(flags.uplink.iface, ["eth0", "192.0.2.1"]);
    assert_eq!(flags.uplink.iface_regex, ["10\\.0\\..*"]);
    assert_eq!(flags.store.endpoints, ["http://a:1", "http://b:1"]);
}

#[test]
fn reading_ends_at_the_first_word_that_is_no_flag() {
    for (line, masquerade, warned) in [
        ("-ip-masq -- -public-ip=x", true, "\"-public-ip=x\""),
        ("-ip-masq - -unknown", true, "\"-\""),
        ("word -ip-masq", false, "\"word\""),
        ("-ip-masq true -unknown", true, "write -ip-masq=true"),
        ("-ip-masq false", true, "write -ip-masq=false"),
    ] {
        let flags = flags(line);
        assert_eq!(flags.firewall.masquerade, masquerade, "{line}");
        assert!(flags.warnings.len() == 1 && flags.warnings[0].contains(warned), "{line}: {:?}", flags.warnings);
    }
    assert!(flags("--").warnings.is_empty());
}

#[test]
fn complaints_name_the_flag_and_exit_with_2() {
    assert_eq!(CliError::EXIT_CODE, 2);
    for (line, named) in [
        ("-nonsense", "-nonsense"),
        ("-etcd-prefx=/a", "is -etcd-prefix meant?"),
        ("---x", "---x"),
        ("-=x", "-=x"),
        ("-etcd-prefix", "flag needs an argument: -etcd-prefix"),
        ("-ip-masq=maybe", "\"maybe\" for flag -ip-masq"),
        ("-healthz-port=http", "flag -healthz-port"),
        ("-healthz-port=65536", "flag -healthz-port"),
        ("-healthz-ip=here", "flag -healthz-ip"),
        ("-subnet-lease-renew-margin=0", "flag -subnet-lease-renew-margin"),
        ("-subnet-lease-renew-margin=1440", "flag -subnet-lease-renew-margin"),
        ("-public-ip=2001:db8::1", "flag -public-ip"),
        ("-public-ipv6=192.0.2.1", "flag -public-ipv6"),
        ("-iface-can-reach=example", "flag -iface-can-reach"),
        ("-iface-regex=(", "flag -iface-regex"),
        ("-etcd-endpoints=,", "flag -etcd-endpoints"),
        ("-masq-exempt=0.0.0.0/0", "flag -masq-exempt"),
        ("-masq-exempt=net", "flag -masq-exempt"),
        ("-fastpath=fast", "verified or trusted or off"),
        ("-attach=veth", "ports or bridge"),
        ("-xdp=maybe", "auto or on or off"),
        ("-hook=xdp", "auto or tcx or clsact"),
        ("-revalidate=soon", "flag -revalidate"),
        ("-revalidate=0", "flag -revalidate"),
        ("-flows=0", "flag -flows"),
        ("-log-format=xml", "auto or text or json or journald"),
        ("-vmodule=x", "flag -vmodule"),
    ] {
        let error = complaint(line, &[]);
        assert!(error.contains(named), "{line}: {error}");
    }
}

#[test]
fn the_environment_stands_in_for_flags() {
    let env = [
        ("FLANNELD_ETCD_ENDPOINTS", "http://e:2379"),
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_V", "2"),
        ("FLANNELD_PUBLIC_IP", ""),
        ("FLANNELD_VERSION", "true"),
        ("FLANNEL_ETCD_PREFIX", "/not/ours"),
    ];
    let set = flags_env("", &env);
    assert_eq!(set.store.endpoints, ["http://e:2379"]);
    assert!(set.firewall.masquerade);
    assert_eq!(set.uplink.iface, ["eth0,eth1"], "one element, not split");
    assert_eq!(set.log.filter, "info,flannel_agent=debug");
    assert_eq!(set.store.prefix, "/coreos.com/network");
    let set = flags_env("-ip-masq=false -iface=eth9", &env);
    assert!(!set.firewall.masquerade, "the command line wins");
    assert_eq!(set.uplink.iface, ["eth9"]);
}

#[test]
fn a_bad_variable_is_named_instead_of_taken_as_zero() {
    for (name, value) in [
        ("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "soon"),
        ("FLANNELD_IPTABLES_RESYNC", "often"),
        ("FLANNELD_IP_MASQ", "yes"),
        ("FLANNELD_PUBLIC_IP", "me"),
        ("FLANNELD_LOG_FORMAT", "xml"),
    ] {
        let error = complaint("", &[(name, value)]);
        assert!(error.contains(&format!("environment variable {name}")), "{error}");
    }
    assert!(matches!(parse_env("-version", &[("FLANNELD_IP_MASQ", "yes")]), Ok(Parsed::Version)));
}

#[test]
fn help_and_version() {
    for line in ["-h", "-help", "--help", "-ip-masq --help -nonsense"] {
        let Ok(Parsed::Help(text)) = parse_env(line, &[]) else { panic!("{line}") };
        assert!(text.starts_with("Usage: flanneld"));
        for flag in TABLE {
            assert!(text.contains(&format!("  -{}", flag.name)), "{}", flag.name);
        }
        assert!(text.lines().all(|line| line.len() <= 120), "too wide");
    }
    for line in ["-version", "--version", "-version=true"] {
        assert!(matches!(parse_env(line, &[]), Ok(Parsed::Version)), "{line}");
    }
}

#[test]
fn kubernetes_flags_are_accepted_and_its_mode_is_refused() {
    let line = "-kube-api-url=https://x -kubeconfig-file=/x -kube-annotation-prefix=x -net-config-path=/x \
        -set-node-network-unavailable=false -kube-subnet-mgr=false";
    assert!(flags(line).warnings.is_empty());
    for (line, env) in [("-kube-subnet-mgr", vec![]), ("", vec![("FLANNELD_KUBE_SUBNET_MGR", "true")])] {
        let error = complaint(line, &env);
        assert!(error.contains("Kubernetes mode is not supported") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn klogs_verbosity_is_a_filter() {
    for (line, filter) in [
        ("-v=0", "info"),
        ("-v 1", "info,flannel_agent=debug"),
        ("-v 4", "info,flannel_agent=debug"),
        ("-v 5", "info,flannel_agent=trace"),
        ("-v 10", "debug,flannel_agent=trace"),
        ("-vmodule=vxlan=5", "info,flannel_agent::backend::vxlan=trace"),
        ("-vmodule=ipta*=2,nothing=9", "info,flannel_agent::kernel::firewall=debug"),
        ("-log_backtrace_at :0", "info"),
    ] {
        let flags = flags(line);
        assert_eq!(flags.log.filter, filter, "{line}");
        assert!(flags.warnings.is_empty(), "{line}");
    }
    assert_eq!(flags("-log_backtrace_at=main.go:17").warnings.len(), 1);
}

#[test]
fn secrets_are_not_shown() {
    let flags = flags("-etcd-username=root -etcd-password=hunter2");
    assert_eq!(flags.store.credentials.as_ref().unwrap().password.reveal(), "hunter2");
    assert!(!format!("{flags:?}").contains("hunter2"));
    let half = self::flags("-etcd-password=hunter2");
    assert!(half.store.credentials.is_none());
    assert!(half.warnings.len() == 1 && !half.warnings[0].contains("hunter2"), "{:?}", half.warnings);
}

#[test]
fn our_own_flags() {
    let flags = flags(
        "-bridge br0 -bridge br1 -fastpath=trusted -attach=bridge -xdp=off -hook=clsact -revalidate=1m30s -flows=0x10000 \
         -masq-exempt=192.0.2.9/24 -masq-exempt=2001:db8::1 -exit-on-lease-loss -release-on-exit -conntrack-liberal=false \
         -bpf-dir=/x -log-format=json -subnet-file=/hostgw.env -healthz-port=8471 -healthz-ip=127.0.0.1",
    );
    let fastpath = &flags.fastpath;
    assert_eq!(fastpath.bridges, ["br0", "br1"]);
    assert_eq!((fastpath.mode, fastpath.attach), (Mode::Trusted, Attach::Bridge));
    assert_eq!((fastpath.xdp, fastpath.hook), (Xdp::Off, HookKind::Clsact));
    assert_eq!((fastpath.revalidate, fastpath.flows), (Duration::from_secs(90), 65536));
    let exempt: Vec<String> = flags.firewall.exempt.iter().map(ToString::to_string).collect();
    assert_eq!(exempt, ["192.0.2.0/24", "2001:db8::1/128"]);
    assert!(flags.lease.exit_on_loss && flags.lease.release_on_exit && !flags.firewall.conntrack_liberal);
    assert_eq!(flags.admin_socket, Path::new("/hostgw.sock"));
    assert_eq!(flags.health.unwrap().to_string(), "127.0.0.1:8471");
    for (text, ms) in [("5", 5000), ("5s", 5000), ("500ms", 500), ("1.5s", 1500), ("2.5", 2500), ("1h", 3_600_000)] {
        assert_eq!(
            self::flags(&format!("-revalidate={text}")).fastpath.revalidate,
            Duration::from_millis(ms),
            "{text}"
        );
    }
}

#[test]
fn a_resync_of_zero_does_not_busy_loop() {
    for line in ["-iptables-resync=0", "-iptables-resync=-3"] {
        let flags = flags(line);
        assert_eq!(flags.firewall.resync, Duration::from_secs(1), "{line}");
        assert!(flags.warnings[0].contains("-iptables-resync"), "{line}");
    }
}
