//! Asks the store where no flanneld does: with the options that flanneld would start with.

use std::{collections::BTreeMap, fs, path::Path};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    admin::LeaseRow,
    agent,
    cli::flanneld::{Flags, Parsed},
    store::{Error, Store},
    subnet_file,
};

/// Questions for a TTL that are under way at once.
const AT_ONCE: usize = 64;

/// What came of asking the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// The endpoints that were asked; empty if nobody says where the store is.
    pub(super) endpoints: Vec<String>,
    /// The key prefix.
    pub(super) prefix: String,
    /// All leases, or why there are none.
    pub(super) leases: Option<Result<Vec<LeaseRow>, String>>,
}

/// The words that `flanneld-start` passes on, from the variables of its environment file.
fn words(values: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| values.get(name)).cloned();
    let endpoints = first(["FLANNEL_ETCD_ENDPOINTS", "FLANNEL_ETCD"]);
    let prefix = first(["FLANNEL_ETCD_PREFIX", "FLANNEL_ETCD_KEY"]);
    let options = values.get("FLANNEL_OPTIONS").map(String::as_str).unwrap_or_default();
    let named =
        endpoints.is_some() || values.contains_key("FLANNELD_ETCD_ENDPOINTS") || options.contains("-etcd-endpoints");
    let words = endpoints.map(|list| format!("-etcd-endpoints={list}")).into_iter();
    let words = words.chain(prefix.map(|prefix| format!("-etcd-prefix={prefix}")));
    named.then(|| words.chain(options.split_whitespace().map(str::to_owned)).collect())
}

/// Reads all leases with the options of the environment file, over which our own environment wins.
pub(super) async fn ask(env_file: &Path) -> Asked {
    let mut values = BTreeMap::new();
    subnet_file::variables(&fs::read_to_string(env_file).unwrap_or_default(), &mut values);
    values.extend(std::env::vars().filter(|(name, _)| name.starts_with("FLANNEL")));
    let Some(words) = words(&values) else { return Asked::default() };
    let flags = match Flags::parse(words, values) {
        Ok(Parsed::Run(flags)) => flags,
        Ok(Parsed::Help(_) | Parsed::Version) => return Asked::default(),
        Err(error) => return Asked { leases: Some(Err(error.to_string())), ..Asked::default() },
    };
    let read = async { leases(&agent::connect(&flags)?).await };
    Asked {
        endpoints: flags.store.endpoints.clone(),
        prefix: flags.store.prefix.clone(),
        leases: Some(read.await.map_err(|error: Error| error.to_string())),
    }
}

async fn leases(store: &Store) -> Result<Vec<LeaseRow>, Error> {
    let (leases, _) = store.leases().await?;
    let rows = stream::iter(leases).map(async |lease| {
        let ttl = store.time_left(&lease).await?.map(|left| left.as_secs());
        Ok::<_, Error>(LeaseRow {
            subnet: lease.subnet.v4,
            subnet_v6: lease.subnet.v6,
            public_ip: lease.attrs.public_ip,
            backend: lease.attrs.backend_type,
            ttl,
            revision: lease.revision,
            own: false,
        })
    });
    rows.buffered(AT_ONCE).try_collect().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::words;

    fn of(text: &str) -> Option<Vec<String>> {
        let mut values = BTreeMap::new();
        crate::subnet_file::variables(text, &mut values);
        words(&values)
    }

    #[test]
    fn words_are_those_of_the_start_script() {
        let seed = "FLANNEL_ETCD_ENDPOINTS=\"http://10.0.0.1:2379,http://10.0.0.2:2379\"\nFLANNEL_ETCD_PREFIX=\"/flannel/network\"\nFLANNEL_OPTIONS=\"-iface=eth0 -ip-masq\"\n";
        let expected = [
            "-etcd-endpoints=http://10.0.0.1:2379,http://10.0.0.2:2379",
            "-etcd-prefix=/flannel/network",
            "-iface=eth0",
            "-ip-masq",
        ];
        assert_eq!(of(seed).unwrap(), expected);
        assert_eq!(of("FLANNEL_ETCD=http://x:2379").unwrap(), ["-etcd-endpoints=http://x:2379"]);
        assert_eq!(of("FLANNEL_OPTIONS=-ip-masq"), None, "nobody says where the store is");
    }
}
