//! Members that die, leaders that die, everything that dies, and data that comes back older.

use std::time::{Duration, Instant};

use flannel_agent::store::{Create, Renew, Store, Update};
use flannel_tests::etcd::{Etcd, Place};
use serde_json::Value;

use crate::common::{
    DAY, attrs, connected, create, disconnected, find, options, pairs, put, quick, snapshot, store, subnet,
};

fn three() -> Etcd {
    Etcd::start_at(&[Place::Loopback, Place::Loopback, Place::Loopback]).unwrap()
}

fn leader(etcd: &Etcd) -> usize {
    let status: Vec<Value> = serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"]).unwrap()).unwrap();
    let leads = |member: &&Value| member["Status"]["leader"] == member["Status"]["header"]["member_id"];
    index(etcd, status.iter().find(leads).unwrap()["Endpoint"].as_str().unwrap())
}

fn index(etcd: &Etcd, url: &str) -> usize {
    (0..3).find(|index| etcd.endpoint(*index) == url).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_member_in_use_dies_freezes_and_the_leader_dies() {
    let mut etcd = three();
    let store = store(&etcd);
    let mut updates = store.watch_with(quick());
    connected(&mut updates).await;
    let lease = create(&store, "10.1.5.0-24", "1.1.1.1").await;
    put(&mut updates, "10.1.5.0-24", "1.1.1.1").await;

    let used = index(&etcd, store.endpoint());
    etcd.kill(used).unwrap();
    let start = Instant::now();
    create(&store, "10.1.6.0-24", "1.1.1.2").await;
    put(&mut updates, "10.1.6.0-24", "1.1.1.2").await;
    println!("the member in use killed: {:?}", start.elapsed());
    etcd.start(used).unwrap();

    let frozen = index(&etcd, store.endpoint());
    etcd.stop(frozen).unwrap();
    let start = Instant::now();
    create(&store, "10.1.7.0-24", "1.1.1.3").await;
    println!("the member in use frozen, request: {:?}", start.elapsed());
    put(&mut updates, "10.1.7.0-24", "1.1.1.3").await;
    println!("the member in use frozen, watch: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(15));
    etcd.resume(frozen).unwrap();

    let leader = leader(&etcd);
    etcd.kill(leader).unwrap();
    let start = Instant::now();
    let renewed = store.renew(&lease, &attrs("1.1.1.9")).await.unwrap();
    assert!(matches!(renewed, Renew::Renewed(_)));
    put(&mut updates, "10.1.5.0-24", "1.1.1.9").await;
    println!("the leader killed: {:?}", start.elapsed());
    etcd.start(leader).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_stop_and_start_and_nothing_is_lost() {
    let mut etcd = three();
    let store = store(&etcd);
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    let mut updates = store.watch_with(quick());
    connected(&mut updates).await;
    (0..3).for_each(|index| etcd.kill(index).unwrap());
    disconnected(&mut updates).await;
    let start = Instant::now();
    let error = store.create(&subnet("10.1.6.0-24"), &attrs("1.1.1.2"), DAY).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(12), "no request hangs: {:?}", start.elapsed());
    assert!(!error.is_permanent());
    let text = error.to_string();
    assert!((0..3).all(|index| text.contains(etcd.endpoint(index))), "{text}");

    // Together: alone, none of them answers.
    etcd.start_all().unwrap();
    let mut deletes = 0;
    find(&mut updates, |update| matches!(update, Update::Connected { .. }).then_some(())).await;
    assert!(matches!(store.create(&subnet("10.1.6.0-24"), &attrs("1.1.1.2"), DAY).await.unwrap(), Create::Granted(_)));
    find(&mut updates, |update| match update {
        Update::Delete(_) => {
            deletes += 1;
            None
        }
        Update::Put(lease) => (lease.subnet == subnet("10.1.6.0-24")).then_some(()),
        _ => None,
    })
    .await;
    assert_eq!(deletes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_from_a_backup_takes_no_lease_away_at_once() {
    let mut etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    etcd.backup("early").unwrap();
    create(&store, "10.1.6.0-24", "1.1.1.2").await;
    create(&store, "10.1.7.0-24", "1.1.1.3").await;
    let mut updates = store.watch_with(quick());
    assert_eq!(snapshot(&mut updates).await.len(), 3);
    connected(&mut updates).await;

    etcd.restore("early").unwrap();
    let all = [("10.1.5.0-24", "1.1.1.1"), ("10.1.6.0-24", "1.1.1.2"), ("10.1.7.0-24", "1.1.1.3")];
    assert_eq!(snapshot(&mut updates).await, pairs(&all), "forgotten leases are kept");
    connected(&mut updates).await;
    // One owner claims its subnet again, the other is gone for good.
    create(&store, "10.1.6.0-24", "1.1.1.2").await;
    put(&mut updates, "10.1.6.0-24", "1.1.1.2").await;
    assert_eq!(snapshot(&mut updates).await, pairs(&all[..2]), "the truth, a while later");
    create(&store, "10.1.8.0-24", "1.1.1.4").await;
    put(&mut updates, "10.1.8.0-24", "1.1.1.4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_endpoints_in_the_list_cost_nothing() {
    let etcd = Etcd::loopback().unwrap();
    let dead = format!("http://127.0.0.1:{}", flannel_tests::etcd::free_port().unwrap());
    let list = format!(",{dead},{}/, http://no.such.host.invalid:2379,{dead}", etcd.endpoints());
    for _ in 0..4 {
        let store = Store::connect(&options(&list)).unwrap();
        let start = Instant::now();
        store.put_config("{}").await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(store.endpoint(), etcd.endpoints());
        let start = Instant::now();
        store.config().await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(500), "from then on it is asked first");
    }
}

/// A member that lost the others still has open connections and old data: it must say so, and be left.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_leader_is_left() {
    let etcd = three();
    let store = store(&etcd);
    let mut updates = store.watch();
    connected(&mut updates).await;
    let used = index(&etcd, store.endpoint());
    let others: Vec<usize> = (0..3).filter(|index| *index != used).collect();
    for index in &others {
        etcd.stop(*index).unwrap();
    }
    let start = Instant::now();
    let error = disconnected(&mut updates).await;
    println!("noticed after {:?}: {error}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
    for index in others {
        etcd.resume(index).unwrap();
    }
    connected(&mut updates).await;
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    put(&mut updates, "10.1.5.0-24", "1.1.1.1").await;
}
