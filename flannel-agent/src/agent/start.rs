//! From flags to a node with a lease: each step waits for what an operator may still mend, and fails for good only where
//! waiting cannot help.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;

use super::Error;
use crate::{
    backend::Backend,
    cli::flanneld::Flags,
    config::{ConfigError, NetworkConfig},
    events::EventLog,
    fastpath::{self, FastPath},
    keeper::{self, AcquireError},
    kernel::{
        firewall,
        iface::{self, IfaceSpec, Stack, Uplink},
        netlink::Netlink,
    },
    lease::{Attrs, Lease, Subnet},
    store::{self, Store},
    subnet_file::{self, Previous, SubnetFile},
};

/// How often the store is asked for a configuration that is missing or wrong; flannel's interval.
const CONFIG_RETRY: Duration = Duration::from_secs(1);

/// How often a lease is asked for while none is to be had.
const LEASE_RETRY: Duration = Duration::from_secs(2);

/// Connects to the store. What is wrong with the options is final; a store that does not answer is waited for later.
pub(crate) fn connect(flags: &Flags) -> Result<Store, store::Error> {
    let flags = &flags.store;
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let (username, password) = flags
        .credentials
        .as_ref()
        .map(|user| (user.username.clone(), user.password.reveal().to_owned()))
        .unwrap_or_default();
    Store::connect(&store::Options {
        endpoints: flags.endpoints.clone(),
        prefix: flags.prefix.clone(),
        key_file: path(&flags.keyfile),
        cert_file: path(&flags.certfile),
        ca_file: path(&flags.cafile),
        username,
        password,
    })
}

/// Waits until there is a configuration that can be worked with. Each different obstacle is said once, and passed on.
pub(super) async fn config(
    store: &Store,
    events: &EventLog,
    mut obstacle: impl FnMut(Option<String>),
) -> Result<NetworkConfig, Error> {
    let key = store.config_key().to_owned();
    let mut said = String::new();
    loop {
        let problem = match store.config().await {
            Ok(Some((text, _))) => match NetworkConfig::parse(&text) {
                Ok(config) => {
                    obstacle(None);
                    return Ok(config);
                }
                Err(source) if source.is_fatal() => return Err(Error::Config { key, source }),
                Err(source) => broken(&key, &source),
            },
            Ok(None) => format!(
                "waiting for the network configuration: key {key} does not exist; write it with: \
                 etcdctl put {key} '{{\"Network\":\"172.16.0.0/16\",\"Backend\":{{\"Type\":\"host-gw\"}}}}'"
            ),
            Err(error) if error.is_permanent() => return Err(error.into()),
            Err(error) => format!("waiting for the store: {error}"),
        };
        if problem != said {
            events.fault("waiting", problem.clone());
            super::systemd::status(&problem);
            obstacle(Some(problem.clone()));
            said = problem;
        }
        tokio::time::sleep(CONFIG_RETRY).await;
    }
}

fn broken(key: &str, source: &ConfigError) -> String {
    format!("the network configuration at key {key} cannot be used: {source}; it is read again every second")
}

/// Gets a lease. What may pass by itself (a store that is silent, no free subnet) is waited for.
pub(super) async fn lease(
    store: &Store,
    config: &NetworkConfig,
    attrs: &Attrs,
    previous: &Previous,
    events: &EventLog,
) -> Result<Lease, Error> {
    let previous = previous.subnet.map(|v4| Subnet { v4, v6: previous.v6_subnet });
    let mut said = String::new();
    loop {
        let problem = match keeper::acquire(store, &config.range(), attrs, previous).await {
            Ok(lease) => return Ok(lease),
            Err(AcquireError::Store(error)) if error.is_permanent() => return Err(error.into()),
            Err(error) => format!("waiting for a lease: {error}"),
        };
        if problem != said {
            events.fault("waiting", problem.clone());
            super::systemd::status(&problem);
            said = problem;
        }
        tokio::time::sleep(LEASE_RETRY).await;
    }
}

/// Chooses the interface towards the other nodes.
pub(super) async fn uplink(flags: &Flags, config: &NetworkConfig, netlink: &Netlink) -> Result<Uplink, Error> {
    let spec = IfaceSpec {
        iface: flags.uplink.iface.clone(),
        iface_regex: flags.uplink.iface_regex.clone(),
        iface_can_reach: flags.uplink.iface_can_reach,
        public_ip: flags.uplink.public_ip,
        public_ipv6: flags.uplink.public_ipv6,
    };
    let stack = if config.v6.is_some() { Stack::Dual } else { Stack::V4 };
    Ok(iface::choose(&spec, stack, netlink).await?)
}

/// What our lease says of us.
pub(super) fn attrs(backend: &Backend, uplink: &Uplink) -> Attrs {
    let advert = backend.advert();
    Attrs {
        public_ip: uplink.public_ip,
        public_ipv6: uplink.public_ipv6,
        backend_type: advert.backend_type,
        backend_data: advert.backend_data,
        backend_v6_data: advert.backend_v6_data,
    }
}

/// What an earlier run left in the subnet file; nothing if it cannot be read.
pub(super) fn previous(flags: &Flags) -> Previous {
    subnet_file::read(&flags.subnet_file).unwrap_or_else(|error| {
        tracing::debug!(%error, "no previous subnet");
        Previous::default()
    })
}

/// Networks whose routes of ours are ours to clean up.
pub(super) fn networks(config: &NetworkConfig, previous: &Previous) -> Vec<IpNet> {
    let all = [
        Some(IpNet::V4(config.v4.network)),
        config.v6.map(|v6| IpNet::V6(v6.network)),
        previous.network.map(IpNet::V4),
        previous.v6_network.map(IpNet::V6),
    ];
    all.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The subnet file for a lease.
pub(super) fn subnet_file(flags: &Flags, config: &NetworkConfig, own: Subnet, mtu: u32) -> SubnetFile {
    SubnetFile {
        network: config.v4.network,
        subnet: own.v4,
        v6: config.v6.map(|v6| v6.network).zip(own.v6),
        mtu,
        ip_masq: flags.firewall.masquerade,
    }
}

/// The rules for a lease.
pub(super) fn rules(flags: &Flags, config: &NetworkConfig, own: Subnet) -> firewall::Rules {
    let wanted = &flags.firewall;
    firewall::Rules {
        v4: Some(firewall::Overlay { network: config.v4.network, subnet: own.v4 }),
        v6: config.v6.zip(own.v6).map(|(v6, subnet)| firewall::Overlay { network: v6.network, subnet }),
        masquerade: wanted.masquerade,
        forward: wanted.forward,
        random_fully: wanted.random_fully,
        exempt: wanted.exempt.clone(),
    }
}

/// Loads the fast path. An error says why the kernel's routes carry everything.
pub(super) fn fastpath(flags: &Flags, config: &NetworkConfig) -> Result<FastPath, fastpath::Error> {
    let flags = &flags.fastpath;
    FastPath::start(&fastpath::Options {
        mode: flags.mode,
        attach: flags.attach,
        xdp: flags.xdp,
        hook: flags.hook,
        revalidate: flags.revalidate,
        flows: flags.flows,
        network: config.v4.network,
        subnet_len: config.v4.subnet_len,
        pin_root: flags.bpf_dir.clone(),
    })
}

/// Which way the rules are kept.
pub(super) const fn firewall_mode(config: &NetworkConfig) -> firewall::Mode {
    if config.nftables { firewall::Mode::Nftables } else { firewall::Mode::Iptables }
}
