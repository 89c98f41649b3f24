//! The store of `cargo xtask run`: the one that flanneld is pointed at, or one on loopback.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::Flags;
use crate::shell::{output_of, target_dir};

/// Where flanneld looks for etcd unless told otherwise.
const LOOPBACK: &str = "http://127.0.0.1:2379";
/// The configuration that a cluster gets if it has none.
const DEFAULT_CONFIG: &str = r#"{"Network":"172.16.0.0/16","Backend":{"Type":"host-gw"}}"#;
/// How long our own etcd may take to answer.
const START: Duration = Duration::from_secs(30);

/// How to reach the store.
pub(super) struct Store {
    endpoints: String,
    tls: Vec<String>,
}

/// Finds the store, or starts one.
pub(super) fn ready(flags: &Flags<'_>) -> Result<Store> {
    let tls_flags = [("etcd-cafile", "--cacert"), ("etcd-certfile", "--cert"), ("etcd-keyfile", "--key")];
    let tls = tls_flags.iter().filter_map(|(ours, theirs)| Some(format!("{theirs}={}", flags.value(ours)?))).collect();
    if let Some(endpoints) = flags.value("etcd-endpoints") {
        println!("etcd:      {endpoints} (as given)");
        return Ok(Store { endpoints, tls });
    }
    let store = Store { endpoints: LOOPBACK.to_owned(), tls };
    if answers() {
        println!("etcd:      {LOOPBACK} (was there already)");
    } else {
        start()?;
    }
    Ok(store)
}

/// Writes the default configuration if the key is missing.
pub(super) fn write_default_config(store: &Store, prefix: &str) -> Result<()> {
    let key = format!("{}/config", prefix.trim_end_matches('/'));
    let Some(present) = store.ctl(&["get", "--print-value-only", &key]) else {
        println!("config:    cannot be read now ({} do not answer); flanneld will wait for it", store.endpoints);
        return Ok(());
    };
    if present.is_empty() {
        store.ctl(&["put", &key, DEFAULT_CONFIG]).with_context(|| format!("write {key}"))?;
        println!("config:    {key} = {DEFAULT_CONFIG} (was missing, written)");
    } else {
        println!("config:    {key} = {present}");
    }
    Ok(())
}

impl Store {
    fn ctl(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("etcdctl");
        // Names and passwords reach flanneld by these variables, too.
        if let (Ok(user), Ok(password)) = (env::var("FLANNELD_ETCD_USERNAME"), env::var("FLANNELD_ETCD_PASSWORD")) {
            command.env("ETCDCTL_USER", format!("{user}:{password}"));
        }
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints, "--command-timeout=5s"]);
        output_of(command.args(&self.tls).args(args))
    }
}

/// Starts etcd with its data under `target/`; it ends with flanneld.
fn start() -> Result<()> {
    let folder = target_dir().join("run-etcd");
    std::fs::create_dir_all(&folder)?;
    let log = std::fs::File::create(folder.join("log"))?;
    let mut etcd = Command::new("setpriv");
    etcd.args(["--pdeathsig", "TERM", "etcd", "--name", "run", "--logger", "zap", "--log-level", "warn"]);
    etcd.arg("--data-dir").arg(folder.join("data")).args([
        "--listen-client-urls",
        LOOPBACK,
        "--advertise-client-urls",
        LOOPBACK,
    ]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
    etcd.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = etcd.spawn().context("start etcd")?;
    let begin = Instant::now();
    while !answers() {
        if child.try_wait()?.is_some() || begin.elapsed() > START {
            bail!("etcd did not start; it said:\n{}", std::fs::read_to_string(folder.join("log"))?);
        }
        thread::sleep(Duration::from_millis(20));
    }
    println!("etcd:      {LOOPBACK} (started, data in {}, ends with flanneld)", folder.display());
    Ok(())
}

fn answers() -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 2379));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}
