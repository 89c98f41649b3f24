//! Keys and values byte for byte, and who gets what.

use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use flannel_agent::{
    lease::{Attrs, Lease},
    store::{Create, Renew},
};
use flannel_tests::etcd::Etcd;

use crate::common::{DAY, NEARLY_A_DAY, attrs, brief, create, key, pairs, store, subnet};

const VXLAN: &str = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;

fn ttls(etcd: &Etcd) -> usize {
    let list = etcd.ctl(&["lease", "list"]).unwrap();
    list.lines().filter(|line| !line.starts_with("found")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_what_flannel_writes() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let plain = Attrs::new([1, 2, 3, 4].into(), "");
    let vxlan = Attrs::from_json(VXLAN.as_bytes()).unwrap();
    let dual = Attrs { public_ipv6: Some("fd00::1".parse().unwrap()), ..attrs("1.2.3.5") };
    for (name, attrs, value) in [
        ("10.1.5.0-24", &plain, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#),
        ("10.1.6.0-24", &vxlan, VXLAN),
        (
            "10.1.7.0-24&fd00:12:13::-56",
            &dual,
            r#"{"PublicIP":"1.2.3.5","PublicIPv6":"fd00::1","BackendType":"host-gw"}"#,
        ),
    ] {
        let created = store.create(&subnet(name), attrs, DAY).await.unwrap();
        let Create::Granted(lease) = created else { panic!("{name} is taken") };
        assert_eq!(etcd.get(&key(name)).unwrap(), value);
        assert_eq!(store.lease(&subnet(name)).await.unwrap(), Some(lease.clone()));
        let left = store.time_left(&lease).await.unwrap().unwrap();
        assert!(left <= DAY && left > NEARLY_A_DAY, "{left:?}");
    }
    let names = ["10.1.5.0-24", "10.1.6.0-24", "10.1.7.0-24&fd00:12:13::-56"].map(key);
    assert_eq!(etcd.keys("/coreos.com/network/").unwrap(), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flannel_writes_is_read() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    assert_eq!(store.config().await.unwrap(), None);
    let config = r#"{ "Network": "10.3.0.0/16" }"#;
    store.put_config(config).await.unwrap();
    assert_eq!(etcd.get("/coreos.com/network/config").unwrap(), config);
    assert_eq!(store.config().await.unwrap(), Some((config.to_owned(), etcd.revision().unwrap())));

    etcd.put(&key("10.1.5.0-24"), r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#).unwrap();
    etcd.put(&key("10.1.6.0-24"), VXLAN).unwrap();
    etcd.put(&key("10.1.7.0-24&fd00:12:13::-56"), r#"{"PublicIP":"1.2.3.5","PublicIPv6":"fd00::1"}"#).unwrap();
    etcd.put(&key("10.1.8.0-24"), r#"{"PublicIP":"1.2.3.6","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}"#).unwrap();
    // Strays beside and among them.
    etcd.put("/coreos.com/network/subnets-old/10.9.9.0-24", r#"{"PublicIP":"9.9.9.9"}"#).unwrap();
    etcd.put(&key("note"), "{}").unwrap();
    etcd.put(&key("10.1.9.0-32"), r#"{"PublicIP":"9.9.9.9"}"#).unwrap();
    etcd.put(&key("10.1.10.0-24"), "garbage").unwrap();
    etcd.put(&key("10.1.11.0-24"), r#"{"PublicIP":"2001:db8::1"}"#).unwrap();

    let (leases, revision) = store.leases().await.unwrap();
    let expected = [
        ("10.1.5.0-24", "1.2.3.4"),
        ("10.1.6.0-24", "192.168.64.3"),
        ("10.1.7.0-24&fd00:12:13::-56", "1.2.3.5"),
        ("10.1.8.0-24", "1.2.3.6"),
    ];
    assert_eq!(brief(&leases), pairs(&expected));
    assert_eq!(revision, etcd.revision().unwrap());
    assert_eq!(leases[1].attrs.to_json(), VXLAN);
    assert!(leases.iter().all(|lease| lease.ttl_id.is_none()));
    assert_eq!(store.time_left(&leases[0]).await.unwrap(), None, "a reservation");
    let (_, unreadable) = store.claims().await.unwrap();
    assert_eq!(unreadable, [subnet("10.1.10.0-24"), subnet("10.1.11.0-24")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_has_one_owner() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    create(&store, "10.1.5.0-24", "1.1.1.1").await;
    let second = store.create(&subnet("10.1.5.0-24"), &attrs("2.2.2.2"), DAY).await.unwrap();
    assert_eq!(second, Create::Taken);
    assert_eq!(ttls(&etcd), 1, "the loser gives its TTL back");

    let attrs: Vec<Attrs> = (0..20).map(|i| attrs(&format!("1.1.2.{i}"))).collect();
    let name = subnet("10.1.6.0-24");
    let all = futures::future::join_all(attrs.iter().map(|attrs| store.create(&name, attrs, DAY))).await;
    let granted = all.into_iter().filter(|one| matches!(one, Ok(Create::Granted(_)))).count();
    assert_eq!(granted, 1, "of twenty at once");
    assert!(store.delete(&name).await.unwrap());
    assert!(!store.delete(&name).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_keeps_what_is_ours_and_nothing_else() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let name = "10.1.5.0-24";
    let Create::Granted(lease) = store.create(&subnet(name), &attrs("1.1.1.1"), Duration::from_mins(1)).await.unwrap()
    else {
        panic!("taken")
    };
    let renewed = |outcome: Renew| match outcome {
        Renew::Renewed(lease) => lease,
        Renew::Lost => panic!("lost"),
    };

    // In time, with the full time to live, under a new TTL.
    let again = renewed(store.renew(&lease, &lease.attrs).await.unwrap());
    assert_ne!(again.ttl_id, lease.ttl_id);
    assert_eq!(store.lease(&again.subnet).await.unwrap(), Some(again.clone()));
    assert!(store.time_left(&again).await.unwrap().unwrap() > NEARLY_A_DAY);

    // Behind the times: somebody wrote it with our address. It is still ours.
    let moved = renewed(store.renew(&lease, &attrs("1.1.1.2")).await.unwrap());
    assert!(etcd.get(&key(name)).unwrap().contains("1.1.1.2"), "a new address in the same lease");
    etcd.put(&key(name), r#"{"PublicIP":"1.1.1.2"}"#).unwrap();
    let reserved = renewed(store.renew(&moved, &moved.attrs).await.unwrap());
    assert_eq!(reserved.ttl_id, None, "made a reservation by an operator, it stays one");
    let reserved = renewed(store.renew(&reserved, &attrs("1.1.1.3")).await.unwrap());
    assert_eq!(store.time_left(&reserved).await.unwrap(), None);

    // A value that nobody can read is repaired.
    etcd.put(&key(name), "garbage").unwrap();
    let repaired = renewed(store.renew(&reserved, &reserved.attrs).await.unwrap());
    assert_eq!(etcd.get(&key(name)).unwrap(), reserved.attrs.to_json());

    // Another node's: not touched.
    let other = r#"{"PublicIP":"9.9.9.9","PublicIPv6":null}"#;
    etcd.put(&key(name), other).unwrap();
    assert_eq!(store.renew(&repaired, &repaired.attrs).await.unwrap(), Renew::Lost);
    assert!(!store.release(&repaired).await.unwrap());
    assert_eq!(etcd.get(&key(name)).unwrap(), other);

    // Gone: not made again.
    etcd.delete(&key(name)).unwrap();
    assert_eq!(store.renew(&repaired, &repaired.attrs).await.unwrap(), Renew::Lost);
    assert!(!store.release(&repaired).await.unwrap());
    assert_eq!(etcd.get(&key(name)).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_and_releases() {
    let etcd = Etcd::loopback().unwrap();
    let store = store(&etcd);
    let ours = create(&store, "10.1.5.0-24", "1.1.1.1").await;
    assert!(matches!(store.reserve(&ours.subnet, &attrs("2.2.2.2")).await.unwrap(), Create::Taken));
    let Create::Granted(reserved) = store.reserve(&ours.subnet, &ours.attrs).await.unwrap() else { panic!("taken") };
    assert_eq!(reserved.ttl_id, None);
    assert_eq!(store.lease(&ours.subnet).await.unwrap(), Some(reserved.clone()));
    let Create::Granted(free) = store.reserve(&subnet("10.1.6.0-24"), &attrs("2.2.2.2")).await.unwrap() else {
        panic!("taken")
    };
    assert_eq!(free.ttl_id, None);
    assert!(store.release(&ours).await.unwrap(), "ours by its address, although it was written since");
    assert!(!store.release(&ours).await.unwrap());
    assert_eq!(brief(&store.leases().await.unwrap().0), pairs(&[("10.1.6.0-24", "2.2.2.2")]));
}

/// Upstream needs a round trip for each of these.
#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_leases_are_read_in_less_than_a_second() {
    let etcd = Etcd::loopback().unwrap();
    let mut client = Client::connect([etcd.endpoints()], None).await.unwrap();
    let value = attrs("192.0.2.1").to_json();
    for hundred in 0..50_u32 {
        let id = client.lease_grant(86_400, None).await.unwrap().id();
        let put = |i: u32| {
            let net = hundred * 100 + i;
            let name = format!("10.{}.{}.0-24", net >> 8, net & 255);
            TxnOp::put(key(&name), value.as_str(), Some(PutOptions::new().with_lease(id)))
        };
        client.txn(Txn::new().and_then((0..100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let store = store(&etcd);
    store.config().await.unwrap();
    let start = Instant::now();
    let (leases, _) = store.leases().await.unwrap();
    let took = start.elapsed();
    assert_eq!(leases.len(), 5_000);
    assert!(leases.iter().all(|lease: &Lease| lease.ttl_id.is_some()));
    println!("5,000 leases in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}
