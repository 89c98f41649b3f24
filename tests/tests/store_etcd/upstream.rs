//! The cases of flannel's own tests of its etcd registry and lease manager.

use std::time::Duration;

use flannel_agent::{
    keeper::acquire,
    lease::{Attrs, Subnet},
    store::{Create, Renew},
};
use flannel_tests::etcd::Etcd;

use crate::{
    common::{
        DAY, NEARLY_A_DAY, attrs, brief, connected, create, delete, key, pairs, put, quick, range, snapshot, store,
        subnet,
    },
    proxy::{Mode, Proxy},
};

#[tokio::test(flavor = "multi_thread")]
async fn registry_creates_lists_deletes_and_watches() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let mut updates = store.watch();
    assert_eq!(snapshot(&mut updates).await, []);
    let plain = Attrs::new([1, 2, 3, 4].into(), "");
    store.create(&subnet("10.1.5.0-24"), &plain, DAY).await.unwrap();
    assert_eq!(brief(&store.leases().await.unwrap().0).len(), 1);
    store.delete(&subnet("10.1.5.0-24")).await.unwrap();
    assert_eq!(brief(&store.leases().await.unwrap().0).len(), 0);
    put(&mut updates, "10.1.5.0-24", "1.2.3.4").await;
    delete(&mut updates, "10.1.5.0-24").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_acquired_as_by_flannels_manager() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    for net in [1, 2, 4, 5, 31] {
        create(&store, &format!("10.3.{net}.0-24"), "1.1.1.1").await;
    }
    let wide = range("10.3.0.0/16", "10.3.1.0", "10.3.25.0", 24);
    let ours = attrs("1.2.3.4");
    let first = acquire(&store, &wide, &ours, None).await.unwrap();
    assert!(wide.allows(&first.subnet) && ![1, 2, 4, 5].contains(&first.subnet.v4.addr().octets()[2]), "{first:?}");
    let again = acquire(&store, &wide, &ours, None).await.unwrap();
    assert_eq!(again.subnet, first.subnet);
    assert!(again.revision > first.revision, "renewed in place");

    let previous = Some(subnet("10.3.6.0-24"));
    store.release(&again).await.unwrap();
    let remembered = acquire(&store, &wide, &ours, previous).await.unwrap();
    assert_eq!(Some(remembered.subnet), previous);
    let second = acquire(&store, &wide, &attrs("1.2.3.5"), previous).await.unwrap();
    assert_ne!(Some(second.subnet), previous, "held by another");
    let third = acquire(&store, &wide, &attrs("1.2.3.6"), Some(subnet("10.4.1.0-24"))).await.unwrap();
    assert!(wide.allows(&third.subnet), "outside the network");

    let other = range("10.4.0.0/16", "10.4.1.0", "10.4.255.0", 24);
    let moved = acquire(&store, &other, &ours, Some(remembered.subnet)).await.unwrap();
    assert!(other.allows(&moved.subnet));
    assert_eq!(store.lease(&remembered.subnet).await.unwrap(), None, "the lease of the old network is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flannel_does_with_leases_that_it_finds() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let wide = range("10.3.0.0/16", "10.3.1.0", "10.3.25.0", 24);

    // Two leases with our address: the first in the order of keys is used, the other left alone.
    create(&store, "10.3.9.0-24", "1.1.1.1").await;
    create(&store, "10.3.10.0-24", "1.1.1.1").await;
    assert_eq!(acquire(&store, &wide, &attrs("1.1.1.1"), None).await.unwrap().subnet, subnet("10.3.10.0-24"));
    assert_eq!(store.leases().await.unwrap().0.len(), 2);

    // A reservation with our address is used and stays one.
    store.reserve(&subnet("10.3.11.0-24"), &attrs("2.2.2.2")).await.unwrap();
    let reserved = acquire(&store, &wide, &attrs("2.2.2.2"), None).await.unwrap();
    assert_eq!((reserved.subnet, reserved.ttl_id), (subnet("10.3.11.0-24"), None));
    assert_eq!(store.time_left(&reserved).await.unwrap(), None);

    // The wrong length: deleted, and another subnet is taken.
    create(&store, "10.3.16.0-20", "3.3.3.3").await;
    let shorter = acquire(&store, &wide, &attrs("3.3.3.3"), Some(subnet("10.3.17.0-24"))).await.unwrap();
    assert!(wide.allows(&shorter.subnet) && shorter.subnet.v4.addr().octets()[2] < 16, "{shorter:?}");

    // A previous subnet inside another node's larger lease is not free.
    create(&store, "10.3.20.0-22", "4.4.4.4").await;
    let previous: Subnet = subnet("10.3.21.0-24");
    let free = acquire(&store, &wide, &attrs("5.5.5.5"), Some(previous)).await.unwrap();
    assert_ne!(free.subnet, previous);

    // Nothing free, and a range without subnets.
    let one = range("10.3.0.0/16", "10.3.9.0", "10.3.9.0", 24);
    let full = acquire(&store, &one, &attrs("6.6.6.6"), None).await.unwrap_err().to_string();
    assert!(full.contains("out of subnets") && full.contains("10.3.9.0"), "{full}");
    let none = range("10.3.0.0/16", "10.3.9.0", "10.3.8.0", 24);
    assert!(acquire(&store, &none, &attrs("6.6.6.6"), None).await.is_err());
    // An unreadable value is somebody's: its subnet is not tried.
    store.delete(&subnet("10.3.9.0-24")).await.unwrap();
    etcd.put(&key("10.3.9.0-24"), "garbage").unwrap();
    assert!(acquire(&store, &one, &attrs("6.6.6.6"), None).await.unwrap_err().to_string().contains("out of subnets"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_nodes_that_start_at_once_get_thirty_subnets() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let exact = range("10.3.0.0/16", "10.3.1.0", "10.3.30.0", 24);
    let nodes: Vec<Attrs> = (1..=30).map(|i| attrs(&format!("192.0.2.{i}"))).collect();
    let all = futures::future::join_all(nodes.iter().map(async |node| {
        // The very last ones meet so often that one round of attempts may not do.
        loop {
            if let Ok(lease) = acquire(&store, &exact, node, None).await {
                return lease.subnet;
            }
        }
    }));
    let mut subnets = tokio::time::timeout(Duration::from_mins(1), all).await.unwrap();
    subnets.sort_unstable();
    subnets.dedup();
    assert_eq!(subnets.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_leases_come_and_go() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let mut updates = store.watch();
    snapshot(&mut updates).await;
    store.create(&subnet("10.3.31.0-24"), &attrs("1.1.1.1"), Duration::from_secs(2)).await.unwrap();
    put(&mut updates, "10.3.31.0-24", "1.1.1.1").await;
    delete(&mut updates, "10.3.31.0-24").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_leaves_the_value_as_it_is() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let attrs = Attrs {
        backend_data: Some(r#"{"Dummy":"test string"}"#.to_owned()),
        ..Attrs::new([1, 1, 1, 1].into(), "vxlan")
    };
    let created = store.create(&subnet("10.3.1.0-24"), &attrs, Duration::from_mins(10)).await.unwrap();
    let Create::Granted(lease) = created else { panic!("taken") };
    let Renew::Renewed(lease) = store.renew(&lease, &attrs).await.unwrap() else { panic!("lost") };
    assert!(store.time_left(&lease).await.unwrap().unwrap() > NEARLY_A_DAY);
    let value =
        r#"{"PublicIP":"1.1.1.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"Dummy":"test string"}}"#;
    assert_eq!(etcd.get(&key("10.3.1.0-24")).unwrap(), value);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_2470_compacted_watch_recovers() {
    let etcd = Etcd::loopback().unwrap();
    let direct = store(&etcd);
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let behind = flannel_agent::store::Store::connect(&crate::common::options(&proxy.url)).unwrap();
    let mut updates = behind.watch_with(quick());
    assert_eq!(snapshot(&mut updates).await, []);
    connected(&mut updates).await;

    proxy.set(Mode::Cut);
    create(&direct, "10.1.5.0-24", "1.2.3.4").await;
    create(&direct, "10.1.7.0-24", "1.2.3.6").await;
    direct.delete(&subnet("10.1.7.0-24")).await.unwrap();
    for i in 0..5 {
        etcd.put("/elsewhere", &i.to_string()).unwrap();
    }
    etcd.compact().unwrap();
    proxy.set(Mode::Pass);
    assert_eq!(snapshot(&mut updates).await, pairs(&[("10.1.5.0-24", "1.2.3.4")]));
    create(&direct, "10.1.6.0-24", "1.2.3.5").await;
    put(&mut updates, "10.1.6.0-24", "1.2.3.5").await;
}

/// Upstream does not see a peer that moved while it was disconnected before the peer's next renewal.
#[tokio::test(flavor = "multi_thread")]
async fn upstream_1247_attributes_that_changed_in_a_gap_are_seen() {
    let etcd = Etcd::loopback().unwrap();
    let direct = store(&etcd);
    let lease = create(&direct, "10.1.5.0-24", "1.2.3.4").await;
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let behind = flannel_agent::store::Store::connect(&crate::common::options(&proxy.url)).unwrap();
    let mut updates = behind.watch();
    connected(&mut updates).await;
    for (compact, ip) in [(false, "1.2.3.5"), (true, "1.2.3.6")] {
        proxy.set(Mode::Cut);
        crate::common::disconnected(&mut updates).await;
        etcd.put(&key("10.1.5.0-24"), &attrs(ip).to_json()).unwrap();
        if compact {
            etcd.compact().unwrap();
        }
        proxy.set(Mode::Pass);
        if compact {
            assert_eq!(snapshot(&mut updates).await, pairs(&[("10.1.5.0-24", ip)]));
        } else {
            put(&mut updates, "10.1.5.0-24", ip).await;
        }
    }
    assert_ne!(lease.attrs, attrs("1.2.3.6"));
}
