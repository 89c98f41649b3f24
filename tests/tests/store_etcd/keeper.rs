//! The keeper: renewals, losses and their repair.

use std::time::Duration;

use flannel_agent::{
    keeper::{Keeper, KeeperEvent, acquire},
    lease::{Attrs, Lease},
    plan::{
        allocate::{Range, RangeV6},
        renew::Margin,
    },
    store::{Store, Update},
};
use flannel_tests::etcd::Etcd;
use tokio::{sync::mpsc, time::timeout};

use crate::common::{NEARLY_A_DAY, SOON, attrs, create, key, options, quick, range, store, subnet};
use crate::proxy::{Mode, Proxy};

/// A node as far as its lease is concerned: the keeper, and the watch that the agent feeds it from.
struct Node {
    store: Store,
    events: mpsc::UnboundedReceiver<KeeperEvent>,
    held: Lease,
    orders: mpsc::UnboundedSender<Attrs>,
}

fn wide() -> Range {
    range("10.3.0.0/16", "10.3.1.0", "10.3.255.0", 24)
}

impl Node {
    async fn start(store: Store, ip: &str) -> Self {
        Self::start_behind(store.clone(), store, ip).await
    }

    /// The watch goes another way than the requests.
    async fn start_behind(watched: Store, store: Store, ip: &str) -> Self {
        let lease = acquire(&store, &wide(), &attrs(ip), None).await.unwrap();
        let (mut keeper, events) = Keeper::spawn(store.clone(), wide(), lease.clone(), Margin::default());
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let mut updates = watched.watch_with(quick());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(update) = updates.recv() => keeper.observe(&update),
                    attrs = inbox.recv() => match attrs {
                        Some(attrs) => keeper.advertise(attrs),
                        None => return,
                    },
                }
            }
        });
        Self { store, events, held: lease, orders }
    }

    async fn next(&mut self) -> KeeperEvent {
        timeout(SOON, self.events.recv()).await.expect("the keeper says nothing").unwrap()
    }

    async fn quiet(&mut self) {
        let event = timeout(Duration::from_secs(1), self.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_expired_lease_is_claimed_again() {
    let etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    node.quiet().await;
    let name = node.held.subnet.key_name();
    for _ in 0..2 {
        etcd.delete(&key(&name)).unwrap();
        assert!(matches!(node.next().await, KeeperEvent::Lost { why } if why.contains("ended or was deleted")));
        assert!(matches!(node.next().await, KeeperEvent::Reacquired(lease) if lease.subnet == node.held.subnet));
    }
    assert_eq!(etcd.get(&key(&name)).unwrap(), node.held.attrs.to_json());
    let id = node.store.lease(&node.held.subnet).await.unwrap().unwrap().ttl_id.unwrap();
    etcd.ctl(&["lease", "revoke", &format!("{id:x}")]).unwrap();
    assert!(matches!(node.next().await, KeeperEvent::Lost { .. }));
    assert!(matches!(node.next().await, KeeperEvent::Reacquired(_)));
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_another_node_took_is_left_to_it() {
    let etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    let name = node.held.subnet.key_name();
    let thief = r#"{"PublicIP":"9.9.9.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
    etcd.put(&key(&name), thief).unwrap();
    assert!(matches!(node.next().await, KeeperEvent::Lost { why } if why.contains("taken over by 9.9.9.9")));
    let KeeperEvent::Replaced { old, new } = node.next().await else { panic!("not replaced") };
    assert_eq!(old.subnet, node.held.subnet);
    assert_ne!(new.subnet, old.subnet);
    assert_eq!(etcd.get(&key(&name)).unwrap(), thief);
    assert_eq!(node.store.lease(&new.subnet).await.unwrap(), Some(new));
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_public_address_stays_in_the_same_lease() {
    let etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    node.orders.send(attrs("1.1.1.2")).unwrap();
    let KeeperEvent::Renewed(lease) = node.next().await else { panic!("not renewed") };
    assert_eq!((lease.subnet, lease.attrs), (node.held.subnet, attrs("1.1.1.2")));
    assert_eq!(node.store.leases().await.unwrap().0.len(), 1);
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_writes_is_put_right_or_respected() {
    let etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    let name = node.held.subnet.key_name();
    etcd.put(&key(&name), "garbage").unwrap();
    assert!(matches!(node.next().await, KeeperEvent::Renewed(lease) if lease.attrs == attrs("1.1.1.1")));
    etcd.put(&key(&name), r#"{"PublicIP":"1.1.1.1","BackendType":"vxlan"}"#).unwrap();
    assert!(matches!(node.next().await, KeeperEvent::Renewed(lease) if lease.ttl_id.is_none()));
    assert_eq!(
        etcd.get(&key(&name)).unwrap(),
        node.held.attrs.to_json(),
        "our attributes, and it is a reservation now"
    );
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_with_one_address_do_not_fight() {
    let etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    let twin = Attrs { backend_type: "vxlan".into(), ..attrs("1.1.1.1") };
    for _ in 0..3 {
        etcd.put(&key(&node.held.subnet.key_name()), &twin.to_json()).unwrap();
        assert!(matches!(node.next().await, KeeperEvent::Renewed(_)));
    }
    assert_eq!(etcd.get(&key(&node.held.subnet.key_name())).unwrap(), twin.to_json(), "put right once, then left");
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing() {
    let mut etcd = Etcd::loopback().unwrap();
    let mut node = Node::start(store(&etcd), "1.1.1.1").await;
    etcd.kill(0).unwrap();
    node.quiet().await;
    etcd.start(0).unwrap();
    node.quiet().await;
    assert_eq!(node.store.lease(&node.held.subnet).await.unwrap().unwrap(), node.held);
}

/// The lease was made after the backup: the node claims it again before anybody else can.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_our_lease_gets_it_back() {
    let mut etcd = Etcd::loopback().unwrap();
    let first = store(&etcd);
    create(&first, "10.3.200.0-24", "7.7.7.7").await;
    etcd.backup("before").unwrap();
    let mut node = Node::start(first, "1.1.1.1").await;
    etcd.restore("before").unwrap();
    assert!(matches!(node.next().await, KeeperEvent::Lost { .. }));
    assert!(matches!(node.next().await, KeeperEvent::Reacquired(lease) if lease.subnet == node.held.subnet));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_a_margin_before_its_end() {
    let etcd = Etcd::loopback().unwrap();
    let first = store(&etcd);
    let lease = create(&first, "10.3.1.0-24", "1.1.1.1").await;
    // The keeper counts on a whole day; somebody shortened it to less than the margin.
    let (mut keeper, mut events) = Keeper::spawn(first.clone(), wide(), lease.clone(), Margin::default());
    assert!(keeper.held().expires_at.is_some() && !keeper.held().lost);
    let id = etcd.ctl(&["lease", "grant", "600"]).unwrap();
    let id = id.split_whitespace().nth(1).unwrap().to_owned();
    etcd.ctl(&["put", &format!("--lease={id}"), "--", &key("10.3.1.0-24"), &lease.attrs.to_json()]).unwrap();
    let shortened = first.lease(&subnet("10.3.1.0-24")).await.unwrap().unwrap();
    assert!(first.time_left(&shortened).await.unwrap().unwrap() < Duration::from_secs(601));
    keeper.observe(&Update::Put(shortened));
    let wait = async {
        loop {
            let KeeperEvent::Renewed(lease) = events.recv().await.unwrap() else { panic!("not renewed") };
            if first.time_left(&lease).await.unwrap().unwrap() > NEARLY_A_DAY {
                return lease;
            }
        }
    };
    let renewed = timeout(SOON, wait).await.expect("renewed at once");
    assert_eq!(keeper.held().lease, renewed);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_2470_a_lease_deleted_before_a_compaction_is_claimed_again() {
    let etcd = Etcd::loopback().unwrap();
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let watched = Store::connect(&options(&proxy.url)).unwrap();
    let mut node = Node::start_behind(watched, store(&etcd), "1.1.1.1").await;
    node.quiet().await;
    proxy.set(Mode::Cut);
    etcd.delete(&key(&node.held.subnet.key_name())).unwrap();
    etcd.put("/elsewhere", "1").unwrap();
    etcd.compact().unwrap();
    node.quiet().await;
    proxy.set(Mode::Pass);
    assert!(matches!(node.next().await, KeeperEvent::Lost { .. }));
    assert!(matches!(node.next().await, KeeperEvent::Reacquired(lease) if lease.subnet == node.held.subnet));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_leased_in_one_key() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let v6 = RangeV6 {
        network: "fc00::/48".parse().unwrap(),
        min: "fc00:0:0:1::".parse().unwrap(),
        max: "fc00:0:0:ffff::".parse().unwrap(),
        len: 64,
    };
    let both = Range { v6: Some(v6), ..wide() };
    // Leases of one family only are respected, and ours is replaced.
    create(&store, "10.3.1.0-24", "9.9.9.9").await;
    create(&store, "10.3.2.0-24", "1.1.1.1").await;
    let dual = Attrs { public_ipv6: Some("fd00::1".parse().unwrap()), ..attrs("1.1.1.1") };
    let lease = acquire(&store, &both, &dual, None).await.unwrap();
    assert!(both.allows(&lease.subnet), "{lease:?}");
    assert!(![1, 2].contains(&lease.subnet.v4.addr().octets()[2]));
    assert_eq!(store.lease(&subnet("10.3.2.0-24")).await.unwrap(), None);
    let value = r#"{"PublicIP":"1.1.1.1","PublicIPv6":"fd00::1","BackendType":"host-gw"}"#;
    assert_eq!(etcd.get(&key(&lease.subnet.key_name())).unwrap(), value);
    assert_eq!(acquire(&store, &both, &dual, None).await.unwrap().subnet, lease.subnet);
    store.release(&lease).await.unwrap();
    let previous = subnet("10.3.7.0-24&fc00:0:0:7::-64");
    assert_eq!(acquire(&store, &both, &dual, Some(previous)).await.unwrap().subnet, previous);
}
