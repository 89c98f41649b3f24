//! `mk-docker-opts`: the bytes that flannel's script writes.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use flannel_agent::docker_opts::{DockerOptsError, run};
use tempfile::TempDir;

const ENV: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

/// A subnet file, and a place for the output.
struct Case {
    dir: TempDir,
    environment: BTreeMap<String, String>,
    routes: &'static str,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("subnet.env"), text).unwrap();
        Self { dir, environment: BTreeMap::new(), routes: "Iface\n" }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("docker_opts.env")
    }

    fn run(&self, args: &str) -> Result<(), DockerOptsError> {
        let mut words: Vec<String> = vec!["-f".to_owned(), self.dir.path().join("subnet.env").display().to_string()];
        words.push(format!("-d{}", self.output().display()));
        words.extend(args.split_whitespace().map(str::to_owned));
        run(&words, &self.environment, || Ok(self.routes.to_owned()))
    }

    fn written(&self, args: &str) -> String {
        self.run(args).unwrap();
        fs::read_to_string(self.output()).unwrap()
    }
}

#[test]
fn the_cases_of_flannels_own_test() {
    let single =
        "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n";
    let options = "\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";
    for (args, expected) in [
        ("", format!("{single}DOCKER_OPTS={options}")),
        ("-i -c", format!("{single}DOCKER_OPTS={options}")),
        ("-ic", format!("{single}DOCKER_OPTS={options}")),
        ("-i", single.to_owned()),
        ("-c", format!("DOCKER_OPTS={options}")),
        ("-k CUSTOM_KEY", format!("{single}CUSTOM_KEY={options}")),
        ("-ckCUSTOM_KEY", format!("CUSTOM_KEY={options}")),
        (
            "-m",
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n\
             DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"
                .to_owned(),
        ),
        ("-c word -i", format!("DOCKER_OPTS={options}")),
        ("-c -- -i", format!("DOCKER_OPTS={options}")),
    ] {
        assert_eq!(Case::new(ENV).written(args), expected, "{args}");
    }
}

#[test]
fn the_seed_unit() {
    let case = Case::new(
        "FLANNEL_NETWORK=172.16.0.0/16\nFLANNEL_SUBNET=172.16.36.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n",
    );
    let text = case.written("-k DOCKER_NETWORK_OPTIONS");
    let last = "DOCKER_NETWORK_OPTIONS=\" --bip=172.16.36.1/24 --ip-masq=false --mtu=1500\"\n";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn masquerading_is_the_job_of_one() {
    for (value, expected) in [("true", "--ip-masq=false"), ("false", "--ip-masq=true")] {
        let case = Case::new(&format!("FLANNEL_IPMASQ={value}\n"));
        assert_eq!(case.written("-c"), format!("DOCKER_OPTS=\" {expected}\"\n"));
    }
    let case = Case::new("FLANNEL_IPMASQ=maybe\n");
    let error = case.run("").unwrap_err().to_string();
    assert!(error.starts_with("Invalid value of FLANNEL_IPMASQ: maybe"), "{error}");
    assert!(!case.output().exists(), "nothing is written");
    assert_eq!(case.written("-m -c"), "DOCKER_OPTS=\"\"\n");
}

#[test]
fn the_environment_takes_part() {
    let mut case = Case::new(ENV);
    for (name, value) in [("DOCKER_OPTS", "--foo=1"), ("DOCKER_OPT_FOO", "--bar"), ("FLANNEL_MTU", "9000")] {
        case.environment.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(
        case.written("-c"),
        "DOCKER_OPTS=\"--foo=1  --bip=10.1.74.1/24 --bar --ip-masq=true --mtu=1472\"\n",
        "options in alphabetical order of their names, and the file before the environment"
    );
    fs::remove_file(case.dir.path().join("subnet.env")).unwrap();
    assert_eq!(case.written("-c"), "DOCKER_OPTS=\"--foo=1  --bar --mtu=9000\"\n");
    case.environment.clear();
    assert_eq!(case.written(""), "DOCKER_OPTS=\"\"\n", "a missing file is no error");
}

#[test]
fn help_and_unknown_flags_are_usage() {
    let case = Case::new(ENV);
    for args in ["-h", "-?", "-x", "-k", "--help"] {
        let error = case.run(args).unwrap_err();
        assert!(matches!(error, DockerOptsError::Usage(_)) && error.to_string().contains("Usage:"), "{args}: {error}");
        assert!(!case.output().exists(), "{args}");
    }
}

/// `/proc/net/route` of a host that has a route to the subnet through another node.
const STALE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0164A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t004A010A\t0264A8C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

#[test]
fn a_route_of_the_subnet_through_another_node_is_refused_after_writing() {
    let mut case = Case::new(ENV);
    case.routes = STALE;
    let error = case.run("-c").unwrap_err().to_string();
    assert!(error.starts_with("Your routing table already contains the subnet: 10.1.74.0/24"), "{error}");
    assert!(fs::read_to_string(case.output()).unwrap().contains("--bip="), "the file is written all the same");
    // The bridge's own route has no gateway.
    case.routes = "Iface\ndocker0\t004A010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    case.run("-c").unwrap();
}

#[test]
fn the_kernels_own_table_is_read() {
    use flannel_tests::{netns::Netns, require, skip::Feature};
    require!(Feature::Root);
    let ns = Netns::new("opts").unwrap();
    ns.sh("ip link add br0 type bridge; ip addr add 192.168.100.1/24 dev br0; ip link set br0 up").unwrap();
    let case = Case::new(ENV);
    let output = case.output().display().to_string();
    let words = ["-f".to_owned(), case.dir.path().join("subnet.env").display().to_string(), "-d".to_owned(), output];
    let attempt = || ns.enter(|| run(&words, &BTreeMap::new(), flannel_agent::docker_opts::kernel_routes)).unwrap();
    ns.run("ip route add 110.1.74.0/24 via 192.168.100.2").unwrap();
    ns.run("ip route add 10.1.74.0/25 via 192.168.100.2").unwrap();
    attempt().unwrap();
    ns.run("ip route add 10.1.74.0/24 via 192.168.100.2").unwrap();
    assert!(matches!(attempt(), Err(DockerOptsError::Route(_))));
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let case = Case::new(ENV);
    let words = ["-d".to_owned(), "/nonexistent/dir/x".to_owned()];
    let error = run(&words, &BTreeMap::new(), || Err(io::Error::other("none"))).unwrap_err().to_string();
    assert!(error.starts_with("cannot write /nonexistent/dir/x") && error.contains("-d"), "{error}");
    drop(case);
}

#[test]
fn an_output_that_is_no_file_is_written_as_it_stands() {
    let case = Case::new(ENV);
    let words = ["-f".to_owned(), case.dir.path().join("subnet.env").display().to_string(), "-d/dev/null".to_owned()];
    run(&words, &BTreeMap::new(), || Ok(String::new())).unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
