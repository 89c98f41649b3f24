//! Docker daemon options made from subnet.env (`mk-docker-opts`).
//!
//! It takes the flags of flannel's script of that name and writes the same bytes, so that a unit need not change.

mod getopt;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    path::Path,
};

use ipnet::Ipv4Net;

use self::getopt::Options;
use crate::subnet_file;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Marks the variables that are options for Docker, wherever they come from.
const OPTION: &str = "DOCKER_OPT_";

/// What it prints for `-h`, and when the command line is wrong.
const USAGE: &str = "\
Writes options for the Docker daemon, made from flannel's subnet file, to an environment file.

Usage: mk-docker-opts.sh [-f FILE] [-d FILE] [-i] [-c] [-m] [-k KEY]

  -f FILE  subnet file to read (default /run/flannel/subnet.env)
  -d FILE  environment file to write (default /run/docker_opts.env)
  -i       one variable for each option, and no combined one
  -c       one combined variable, and no others; without -i and -c there are both
  -m       leave out --ip-masq
  -k KEY   name of the combined variable (default DOCKER_OPTS)
  -h       print this and exit with code 1, as flannel's script does
";

/// Why there are no options.
#[derive(Debug, thiserror::Error)]
pub enum DockerOptsError {
    /// Help, or a wrong command line.
    #[error("{0}")]
    Usage(String),
    /// The subnet file is there and cannot be read.
    #[error("cannot read {path}: {source}; check -f")]
    Read {
        /// The subnet file.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The subnet file says neither true nor false.
    #[error("Invalid value of FLANNEL_IPMASQ: {0}; it must be true or false, or leave it out by -m")]
    IpMasq(String),
    /// The output cannot be written.
    #[error("cannot write {path}: {source}; check -d")]
    Write {
        /// The output.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
    /// Docker would refuse the subnet, because the kernel has a route for it that leads elsewhere.
    #[error(
        "Your routing table already contains the subnet: {0}; Docker refuses it: find what set that route with \
         `ip route show {0}`, and remove it with `ip route del {0}`"
    )]
    Route(Ipv4Net),
}

/// The routes of this thread's network namespace.
pub fn kernel_routes() -> io::Result<String> {
    fs::read_to_string("/proc/thread-self/net/route")
}

/// The whole program: `args` are the words after its name, and `routes` gives the text of `/proc/net/route`. On an error
/// the process prints it to standard error and exits with code 1.
pub fn run(
    args: &[String],
    environment: &Environment,
    routes: impl FnOnce() -> io::Result<String>,
) -> Result<(), DockerOptsError> {
    let options = Options::parse(args).map_err(|complaint| DockerOptsError::Usage(complaint + USAGE))?;
    let mut variables = environment.clone();
    match fs::read(&options.subnet_file) {
        Ok(text) => subnet_file::variables(&String::from_utf8_lossy(&text), &mut variables),
        // Without a file the environment alone decides, as in flannel's script.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(DockerOptsError::Read { path: options.subnet_file, source }),
    }
    let text = render(&options, &mut variables)?;
    write(Path::new(&options.output), text.as_bytes())
        .map_err(|source| DockerOptsError::Write { path: options.output, source })?;
    let subnet = variables.get("FLANNEL_SUBNET").and_then(|text| text.parse::<Ipv4Net>().ok());
    // A host without that file has no IPv4, and so no such route.
    match (subnet, routes()) {
        (Some(subnet), Ok(routes)) if has_gateway(&routes, subnet.trunc()) => {
            Err(DockerOptsError::Route(subnet.trunc()))
        }
        _ => Ok(()),
    }
}

fn render(options: &Options, variables: &mut Environment) -> Result<String, DockerOptsError> {
    let get = |variables: &Environment, name: &str| variables.get(name).filter(|v| !v.is_empty()).cloned();
    if let Some(subnet) = get(variables, "FLANNEL_SUBNET") {
        variables.insert("DOCKER_OPT_BIP".to_owned(), format!("--bip={subnet}"));
    }
    if let Some(mtu) = get(variables, "FLANNEL_MTU") {
        variables.insert("DOCKER_OPT_MTU".to_owned(), format!("--mtu={mtu}"));
    }
    if let Some(ip_masq) = get(variables, "FLANNEL_IPMASQ").filter(|_| options.ip_masq) {
        // Whoever of the two masquerades, the other must not.
        let docker = match ip_masq.as_str() {
            "true" => "false",
            "false" => "true",
            _ => return Err(DockerOptsError::IpMasq(ip_masq)),
        };
        variables.insert("DOCKER_OPT_IPMASQ".to_owned(), format!("--ip-masq={docker}"));
    }
    let mut lines = Vec::new();
    let mut combined = get(variables, &options.key).map(|given| given + " ").unwrap_or_default();
    for (name, value) in variables.iter().filter(|(name, _)| name.contains(OPTION)) {
        if options.individual {
            lines.push(format!("{name}=\"{value}\"\n"));
        }
        combined = combined + " " + value;
    }
    if options.combined {
        lines.push(format!("{}=\"{combined}\"\n", options.key));
    }
    Ok(lines.concat())
}

/// In one step where that is possible; a pipe, a device or a mounted file is written as it stands.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let plain = fs::metadata(&target).map_or(true, |m| m.is_file());
    if plain && subnet_file::replace(&target, text).is_ok() {
        return Ok(());
    }
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(text)
}

/// Whether `/proc/net/route` has a route to exactly this network through a gateway.
fn has_gateway(routes: &str, subnet: Ipv4Net) -> bool {
    // The kernel prints the address as the number that its bytes in network order make on this machine.
    let address = |text: &str| u32::from_str_radix(text, 16).ok().map(|n| Ipv4Addr::from(n.to_ne_bytes()));
    routes.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, _, mask, ..] = columns[..] else { return false };
        address(destination) == Some(subnet.network())
            && address(mask) == Some(subnet.netmask())
            && address(gateway).is_some_and(|gateway| !gateway.is_unspecified())
    })
}
