//! What the watch tells, and when.

use std::time::{Duration, Instant};

use flannel_agent::{
    lease::Lease,
    store::{Renew, Store, Update},
};
use flannel_tests::etcd::Etcd;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    common::{
        attrs, connected, create, delete, disconnected, find, key, next, options, pairs, put, quick, snapshot, store,
        subnet,
    },
    proxy::{Mode, Proxy},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_and_every_change() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    let mut updates = store.watch();
    assert_eq!(next(&mut updates).await, Update::Config(None));
    assert!(matches!(next(&mut updates).await, Update::Snapshot { leases, .. } if leases.len() == 1));
    assert!(matches!(next(&mut updates).await, Update::Connected { revision } if revision == etcd.revision().unwrap()));
    store.put_config("{}").await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Config(Some("{}".to_owned())));
    let lease = create(&store, "10.1.6.0-24", "1.1.1.2").await;
    assert_eq!(next(&mut updates).await, Update::Put(lease.clone()));
    store.renew(&lease, &attrs("1.1.1.3")).await.unwrap();
    put(&mut updates, "10.1.6.0-24", "1.1.1.3").await;
    store.delete(&lease.subnet).await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Delete(lease.subnet));
    etcd.delete("/coreos.com/network/config").unwrap();
    assert_eq!(next(&mut updates).await, Update::Config(None));
}

/// Upstream takes one such event for an empty cluster and withdraws every route.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_key_or_value_hides_only_itself() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    create(&store, "10.1.6.0-24", "1.1.1.2").await;
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let mut updates = Store::connect(&options(&proxy.url)).unwrap().watch_with(quick());
    connected(&mut updates).await;

    for (name, value) in [
        ("10.1.5.0-24", "garbage"),
        ("10.1.7.0-24", "{\"PublicIP\":null}"),
        ("10.1.8.0-32", "{}"),
        ("stray", "{}"),
        ("\u{7f}\u{202e}%s", "\u{1}"),
    ] {
        etcd.put(&key(name), value).unwrap();
    }
    etcd.put("/coreos.com/network/subnets-old/10.1.9.0-24", r#"{"PublicIP":"9.9.9.9"}"#).unwrap();
    etcd.delete(&key("stray")).unwrap();
    create(&store, "10.1.10.0-24", "1.1.1.3").await;
    // The lease whose value became unreadable is told again as it was; the very next update is the good lease.
    assert!(matches!(next(&mut updates).await, Update::Put(lease) if lease.attrs == attrs("1.1.1.1")));
    assert!(matches!(next(&mut updates).await, Update::Put(lease) if lease.subnet == subnet("10.1.10.0-24")));

    // It also survives a new listing, until its key is deleted.
    proxy.set(Mode::Cut);
    etcd.compact().unwrap();
    disconnected(&mut updates).await;
    etcd.put("/elsewhere", "1").unwrap();
    etcd.compact().unwrap();
    proxy.set(Mode::Pass);
    let expected = [("10.1.10.0-24", "1.1.1.3"), ("10.1.5.0-24", "1.1.1.1"), ("10.1.6.0-24", "1.1.1.2")];
    assert_eq!(snapshot(&mut updates).await, pairs(&expected));
    etcd.delete(&key("10.1.5.0-24")).unwrap();
    delete(&mut updates, "10.1.5.0-24").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_break_is_resumed_and_checked() {
    let etcd = Etcd::loopback().unwrap();
    let direct = store(&etcd);
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let mut updates = Store::connect(&options(&proxy.url)).unwrap().watch_with(quick());
    connected(&mut updates).await;
    proxy.set(Mode::Cut);
    disconnected(&mut updates).await;
    create(&direct, "10.1.5.0-24", "1.1.1.1").await;
    direct.put_config("{}").await.unwrap();
    create(&direct, "10.1.6.0-24", "1.1.1.2").await;
    direct.delete(&subnet("10.1.5.0-24")).await.unwrap();
    proxy.set(Mode::Pass);
    let mut missed = Vec::new();
    find(&mut updates, |update| matches!(update, Update::Connected { .. }).then_some(())).await;
    while missed.len() < 4 {
        missed.push(next(&mut updates).await);
    }
    // The two watchers are independent of one another; each is in order.
    let config = missed.iter().position(|update| *update == Update::Config(Some("{}".to_owned()))).unwrap();
    missed.remove(config);
    assert!(matches!(&missed[0], Update::Put(lease) if lease.subnet == subnet("10.1.5.0-24")), "{missed:?}");
    assert!(matches!(&missed[1], Update::Put(lease) if lease.subnet == subnet("10.1.6.0-24")), "{missed:?}");
    assert_eq!(missed[2], Update::Delete(subnet("10.1.5.0-24")));
    assert_eq!(snapshot(&mut updates).await, pairs(&[("10.1.6.0-24", "1.1.1.2")]), "the check a while later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silently_dead_connection_is_noticed_within_ten_seconds() {
    let etcd = Etcd::loopback().unwrap();
    let direct = store(&etcd);
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let other = Proxy::start(&etcd.endpoints()).await;
    let behind = Store::connect(&options(&format!("{},{}", proxy.url, other.url))).unwrap();
    let mut updates = behind.watch();
    connected(&mut updates).await;
    // A while of silence first: an idle watch must not be taken for a dead one, nor asked so often that etcd hangs up.
    assert!(timeout(Duration::from_secs(13), updates.recv()).await.is_err(), "an idle watch says nothing");

    let used = if behind.endpoint() == proxy.url { &proxy } else { &other };
    used.set(Mode::Silent);
    create(&direct, "10.1.5.0-24", "1.1.1.1").await;
    let start = Instant::now();
    let error = disconnected(&mut updates).await;
    let noticed = start.elapsed();
    put(&mut updates, "10.1.5.0-24", "1.1.1.1").await;
    println!("noticed after {noticed:?} ({error}), events again after {:?}", start.elapsed());
    assert!(noticed < Duration::from_secs(10), "{noticed:?}");
    assert!(start.elapsed() < Duration::from_secs(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_yet_is_waited_for() {
    let mut etcd = Etcd::loopback().unwrap();
    etcd.kill(0).unwrap();
    let mut updates = store(&etcd).watch();
    let error = disconnected(&mut updates).await;
    assert!(error.contains("reading the leases") && error.contains(etcd.endpoint(0)), "{error}");
    etcd.start(0).unwrap();
    assert_eq!(snapshot(&mut updates).await, []);
    connected(&mut updates).await;
}

/// Watchers that etcd has, by its own metrics.
async fn watchers(etcd: &Etcd) -> String {
    let address = etcd.endpoints().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    line.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_misses_nothing_and_may_leave() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let mut updates = store.watch();
    connected(&mut updates).await;
    assert_eq!(watchers(&etcd).await, "2");
    let mut last = Lease { ttl_id: None, ..create(&store, "10.1.5.0-24", "1.1.1.1").await };
    for reads in [true, false] {
        // More than the queue holds.
        for _ in 0..600 {
            let Renew::Renewed(renewed) = store.renew(&last, &last.attrs).await.unwrap() else { panic!("lost") };
            last = Lease { ttl_id: None, ..renewed };
        }
        if reads {
            let is_last = |lease: &Lease| (lease.revision == last.revision).then_some(());
            find(&mut updates, |update| if let Update::Put(lease) = update { is_last(lease) } else { None }).await;
        }
    }
    // The task waits for room in the queue now; leaving ends it, and what it has at the store.
    let start = Instant::now();
    drop(updates);
    while watchers(&etcd).await != "0" {
        assert!(start.elapsed() < Duration::from_secs(3), "{}", watchers(&etcd).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
