//! Short forms for the tests.

use std::time::Duration;

use flannel_agent::{
    lease::{Attrs, Lease, Subnet},
    plan::allocate::Range,
    store::{Create, Options, Pace, Store, Update},
};
use flannel_tests::etcd::Etcd;
use tokio::{sync::mpsc::Receiver, time::timeout};

/// Long enough for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// What is left of a lease that was just written.
pub(crate) const NEARLY_A_DAY: Duration = Duration::from_secs(86_400 - 20);

pub(crate) fn options(endpoints: &str) -> Options {
    let endpoints = endpoints.split(',').map(ToOwned::to_owned).collect();
    Options { endpoints, prefix: "/coreos.com/network".to_owned(), ..Options::default() }
}

pub(crate) fn store(etcd: &Etcd) -> Store {
    Store::connect(&options(&etcd.endpoints())).unwrap()
}

/// The full key of a lease.
pub(crate) fn key(name: &str) -> String {
    format!("/coreos.com/network/subnets/{name}")
}

pub(crate) fn subnet(name: &str) -> Subnet {
    Subnet::parse_key(name).unwrap()
}

pub(crate) fn attrs(ip: &str) -> Attrs {
    Attrs::new(ip.parse().unwrap(), "host-gw")
}

pub(crate) fn range(network: &str, min: &str, max: &str, len: u8) -> Range {
    Range { network: network.parse().unwrap(), min: min.parse().unwrap(), max: max.parse().unwrap(), len, v6: None }
}

pub(crate) async fn create(store: &Store, name: &str, ip: &str) -> Lease {
    match store.create(&subnet(name), &attrs(ip), DAY).await.unwrap() {
        Create::Granted(lease) => lease,
        Create::Taken => panic!("{name} is taken"),
    }
}

/// Names and public addresses of leases.
pub(crate) fn brief(leases: &[Lease]) -> Vec<(String, String)> {
    leases.iter().map(|lease| (lease.subnet.key_name(), lease.attrs.public_ip.to_string())).collect()
}

pub(crate) async fn next(updates: &mut Receiver<Update>) -> Update {
    timeout(SOON, updates.recv()).await.expect("no update in time").expect("the watch ended")
}

/// Waits for an update that is looked for; others pass by.
pub(crate) async fn find<T>(updates: &mut Receiver<Update>, mut wanted: impl FnMut(&Update) -> Option<T>) -> T {
    let search = async {
        loop {
            let update = updates.recv().await.expect("the watch ended");
            if let Some(found) = wanted(&update) {
                return found;
            }
        }
    };
    timeout(SOON, search).await.expect("no such update in time")
}

pub(crate) async fn snapshot(updates: &mut Receiver<Update>) -> Vec<(String, String)> {
    find(updates, |update| match update {
        Update::Snapshot { leases, .. } => Some(brief(leases)),
        _ => None,
    })
    .await
}

/// Waits until a lease is told with this address, by an event or in a snapshot.
pub(crate) async fn put(updates: &mut Receiver<Update>, name: &str, ip: &str) {
    let wanted = (name.to_owned(), ip.to_owned());
    find(updates, |update| match update {
        Update::Put(lease) => (brief(std::slice::from_ref(lease))[0] == wanted).then_some(()),
        Update::Snapshot { leases, .. } => brief(leases).contains(&wanted).then_some(()),
        _ => None,
    })
    .await;
}

pub(crate) async fn delete(updates: &mut Receiver<Update>, name: &str) {
    find(updates, |update| (*update == Update::Delete(subnet(name))).then_some(())).await;
}

pub(crate) async fn connected(updates: &mut Receiver<Update>) {
    find(updates, |update| matches!(update, Update::Connected { .. }).then_some(())).await;
}

pub(crate) async fn disconnected(updates: &mut Receiver<Update>) -> String {
    find(updates, |update| match update {
        Update::Disconnected { error } => Some(error.clone()),
        _ => None,
    })
    .await
}

/// A watch that hurries.
pub(crate) fn quick() -> Pace {
    Pace { audit: Duration::from_millis(500), forgotten: Duration::from_secs(4), ..Pace::default() }
}

pub(crate) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, ip)| ((*name).to_owned(), (*ip).to_owned())).collect()
}
