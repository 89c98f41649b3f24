//! From words to checked values.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::{
    Credentials, FastPathFlags, FirewallFlags, Flags, LeaseFlags, LogFlags, Parsed, Secret, StoreFlags, UplinkFlags,
    klog, table::TABLE, usage,
};
use crate::{
    cli::goflag::{self, FlagError, Kind, Matches, Origin, Value},
    fastpath::{Attach, HookKind, Mode, Xdp},
    logging::Format,
    plan::renew::Margin,
};

/// Prefix of the variables that stand for flags.
const PREFIX: &str = "FLANNELD_";

/// A command line or environment that cannot be used; the process ends with [`CliError::EXIT_CODE`].
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CliError {
    /// A flag or variable is wrong.
    #[error("{0}")]
    Flag(FlagError),
    /// Kubernetes mode is asked for.
    #[error("{0}: Kubernetes mode is not supported, only leases in etcd; leave it out and give -etcd-endpoints")]
    Kubernetes(Origin),
}

impl CliError {
    /// Exit code of every complaint about the command line.
    pub const EXIT_CODE: u8 = 2;
}

impl Flags {
    /// Reads the words after the program's name and the whole environment.
    pub fn parse(
        args: impl IntoIterator<Item = String>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Parsed, CliError> {
        // The version is asked for by hand or by a script: a bad variable must not be in its way.
        let args: Vec<String> = args.into_iter().collect();
        let env: Vec<(String, String)> = env.into_iter().collect();
        let typed = match goflag::parse(TABLE, args.iter().cloned(), PREFIX, []) {
            Ok(typed) => typed,
            Err(FlagError::Help) => return Ok(Parsed::Help(usage::text())),
            Err(error) => return Err(CliError::Flag(error)),
        };
        if typed.get("version") == Some(&Value::Bool(true)) {
            return Ok(Parsed::Version);
        }
        let env = env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let matches = goflag::parse(TABLE, args, PREFIX, env).map_err(CliError::Flag)?;
        Reader(&matches).flags().map(|flags| Parsed::Run(Box::new(flags)))
    }
}

/// Reads values of known type out of what was matched.
struct Reader<'a>(&'a Matches);

impl Reader<'_> {
    fn flags(&self) -> Result<Flags, CliError> {
        if self.bool("kube-subnet-mgr") {
            return Err(CliError::Kubernetes(self.0.origin("kube-subnet-mgr")));
        }
        let mut warnings: Vec<String> = self.leftovers().into_iter().collect();
        let subnet_file = PathBuf::from(self.text("subnet-file"));
        Ok(Flags {
            store: self.store(&mut warnings)?,
            uplink: self.uplink()?,
            firewall: self.firewall(&mut warnings)?,
            fastpath: self.fastpath()?,
            lease: self.lease()?,
            log: self.log(&mut warnings)?,
            blackhole_route: self.bool("ip-blackhole-route"),
            health: self.health()?,
            admin_socket: self.admin_socket(&subnet_file),
            subnet_file,
            warnings,
        })
    }

    /// flannel stops reading at the first word that is no flag, and so do we; but we say so.
    fn leftovers(&self) -> Option<String> {
        let first = self.0.leftovers.first()?;
        let hint = match self.0.before_leftovers {
            Some(flag) if goflag::boolean(first).is_some() => format!("; write -{flag}={first}"),
            _ => String::new(),
        };
        Some(format!(
            "the command line is read up to {first:?}, which is no flag: it and what follows is ignored{hint}"
        ))
    }

    fn store(&self, warnings: &mut Vec<String>) -> Result<StoreFlags, CliError> {
        let mut endpoints: Vec<String> = Vec::new();
        for endpoint in self.text("etcd-endpoints").split(',').map(str::trim).filter(|e| !e.is_empty()) {
            if !endpoints.iter().any(|known| known == endpoint) {
                endpoints.push(endpoint.to_owned());
            }
        }
        if endpoints.is_empty() {
            return Err(self.invalid("etcd-endpoints", "name at least one, like http://192.0.2.1:2379"));
        }
        let (username, password) = (self.text("etcd-username"), self.text("etcd-password"));
        if username.is_empty() != password.is_empty() {
            warnings.push("only one of -etcd-username and -etcd-password is given: both are ignored".to_owned());
        }
        let both = !username.is_empty() && !password.is_empty();
        Ok(StoreFlags {
            endpoints,
            prefix: self.text("etcd-prefix"),
            keyfile: self.path("etcd-keyfile"),
            certfile: self.path("etcd-certfile"),
            cafile: self.path("etcd-cafile"),
            credentials: both.then(|| Credentials { username, password: Secret::new(password) }),
        })
    }

    fn uplink(&self) -> Result<UplinkFlags, CliError> {
        let iface_regex = self.list("iface-regex");
        for pattern in &iface_regex {
            if let Err(error) = regex::Regex::new(pattern) {
                let reason = error.to_string().replace('\n', " ");
                return Err(self.invalid_value("iface-regex", pattern, &format!("not a regular expression: {reason}")));
            }
        }
        Ok(UplinkFlags {
            iface: self.list("iface"),
            iface_regex,
            iface_can_reach: self.optional("iface-can-reach", "write an IP address")?,
            public_ip: self.optional("public-ip", "write an IPv4 address")?,
            public_ipv6: self.optional("public-ipv6", "write an IPv6 address")?,
        })
    }

    fn firewall(&self, warnings: &mut Vec<String>) -> Result<FirewallFlags, CliError> {
        let mut resync = self.int("iptables-resync");
        if resync < 1 {
            warnings.push(format!("{} is {resync}: taken as 1 second", self.0.origin("iptables-resync")));
            resync = 1;
        }
        let mut exempt = Vec::new();
        for text in self.list("masq-exempt") {
            let expected = "write a network like 192.0.2.0/24, and not one that covers every address";
            let net = network(&text).ok_or_else(|| self.invalid_value("masq-exempt", &text, expected))?;
            if !exempt.contains(&net) {
                exempt.push(net);
            }
        }
        Ok(FirewallFlags {
            masquerade: self.bool("ip-masq"),
            random_fully: !self.bool("ip-masq-fully-random-disable"),
            forward: self.bool("iptables-forward-rules"),
            resync: Duration::from_secs(resync.unsigned_abs()),
            exempt,
            conntrack_liberal: self.bool("conntrack-liberal"),
        })
    }

    fn fastpath(&self) -> Result<FastPathFlags, CliError> {
        let bridges = self.list("bridge");
        Ok(FastPathFlags {
            mode: self
                .choice("fastpath", &[("verified", Mode::Verified), ("trusted", Mode::Trusted), ("off", Mode::Off)])?,
            attach: self.choice("attach", &[("ports", Attach::Ports), ("bridge", Attach::Bridge)])?,
            xdp: self.choice("xdp", &[("auto", Xdp::Auto), ("on", Xdp::On), ("off", Xdp::Off)])?,
            hook: self
                .choice("hook", &[("auto", HookKind::Auto), ("tcx", HookKind::Tcx), ("clsact", HookKind::Clsact)])?,
            bridges: if bridges.is_empty() { vec!["docker0".to_owned()] } else { bridges },
            revalidate: duration(&self.text("revalidate")).filter(|d| !d.is_zero()).ok_or_else(|| {
                self.invalid("revalidate", "write a time above zero, like 5s, 500ms, 1m30s, or a number of seconds")
            })?,
            flows: self.number("flows", 1024, 1 << 24)? as u32,
            bpf_dir: PathBuf::from(self.text("bpf-dir")),
        })
    }

    fn lease(&self) -> Result<LeaseFlags, CliError> {
        let margin = Margin::from_minutes(self.int("subnet-lease-renew-margin"))
            .map_err(|_bad| self.invalid("subnet-lease-renew-margin", "write minutes, 1 to 1439"))?;
        Ok(LeaseFlags {
            renew_margin: margin,
            exit_on_loss: self.bool("exit-on-lease-loss"),
            release_on_exit: self.bool("release-on-exit"),
        })
    }

    fn log(&self, warnings: &mut Vec<String>) -> Result<LogFlags, CliError> {
        let vmodule = self.text("vmodule");
        let filter = klog::filter(self.int("v"), &vmodule)
            .ok_or_else(|| self.invalid("vmodule", "write comma-separated pattern=N, like hostgw=5,etcd*=3"))?;
        let backtrace = self.text("log_backtrace_at");
        if !matches!(backtrace.as_str(), "" | ":0") {
            warnings.push(format!("{} has no effect", self.0.origin("log_backtrace_at")));
        }
        let formats =
            [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json), ("journald", Format::Journal)];
        Ok(LogFlags { filter, format: self.choice("log-format", &formats)? })
    }

    fn health(&self) -> Result<Option<SocketAddr>, CliError> {
        let ip = self.text("healthz-ip").parse().map_err(|_e| self.invalid("healthz-ip", "write an IP address"))?;
        match self.int("healthz-port") {
            ..=0 => Ok(None),
            port => match u16::try_from(port) {
                Ok(port) => Ok(Some(SocketAddr::new(ip, port))),
                Err(_) => Err(self.invalid("healthz-port", "write a port, 0 to 65535")),
            },
        }
    }

    /// One socket per subnet file, because several agents may run on one host, each with its own.
    fn admin_socket(&self, subnet_file: &std::path::Path) -> PathBuf {
        const DEFAULT: &str = "/run/flannel/flanneld.sock";
        match self.path("admin-socket") {
            Some(path) => path,
            None if subnet_file == std::path::Path::new("/run/flannel/subnet.env") => DEFAULT.into(),
            None => subnet_file.with_extension("sock"),
        }
    }

    // The table decides the type, so the other arms below are never taken.

    fn value(&self, name: &'static str) -> Value {
        if let Some(value) = self.0.get(name) {
            return value.clone();
        }
        match TABLE.iter().find(|flag| flag.name == name).map(|flag| flag.kind) {
            Some(Kind::Bool(default)) => Value::Bool(default),
            Some(Kind::Int(default)) => Value::Int(default),
            Some(Kind::Text(default)) => Value::Text(default.to_owned()),
            Some(Kind::List) | None => Value::List(Vec::new()),
        }
    }

    fn bool(&self, name: &'static str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    fn int(&self, name: &'static str) -> i64 {
        if let Value::Int(value) = self.value(name) { value } else { 0 }
    }

    fn text(&self, name: &'static str) -> String {
        if let Value::Text(value) = self.value(name) { value } else { String::new() }
    }

    fn list(&self, name: &'static str) -> Vec<String> {
        if let Value::List(value) = self.value(name) { value } else { Vec::new() }
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn number(&self, name: &'static str, low: u64, high: u64) -> Result<u64, CliError> {
        let number = u64::try_from(self.int(name)).ok().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| self.invalid(name, &format!("write a number from {low} to {high}")))
    }

    fn optional<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, CliError> {
        match self.text(name).as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_e| self.invalid(name, expected)),
        }
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, CliError> {
        let text = self.text(name);
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let chosen = choices.iter().find(|(word, _)| *word == text);
        chosen.map(|(_, value)| *value).ok_or_else(|| self.invalid(name, &format!("write {}", words.join(" or "))))
    }

    fn invalid(&self, name: &'static str, expected: &str) -> CliError {
        let value = match self.value(name) {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Text(value) => value,
            Value::List(value) => value.join(","),
        };
        self.invalid_value(name, &value, expected)
    }

    fn invalid_value(&self, name: &'static str, value: &str, expected: &str) -> CliError {
        let origin = self.0.origin(name);
        CliError::Flag(FlagError::Invalid { origin, value: value.to_owned(), expected: expected.to_owned() })
    }
}

/// A network, or a single address; not one that covers everything.
fn network(text: &str) -> Option<ipnet::IpNet> {
    let net = match text.parse::<ipnet::IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => text.parse::<std::net::IpAddr>().ok()?.into(),
    };
    (net.prefix_len() > 0).then_some(net)
}

/// A time as Go writes it (`1m30s`, `500ms`), or a plain number of seconds.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, f64)] =
        &[("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        if rest.is_empty() && seconds == 0.0 {
            return Duration::try_from_secs_f64(number).ok();
        }
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}
