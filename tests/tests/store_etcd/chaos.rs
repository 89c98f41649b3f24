//! Whatever happens on the way, the table ends up as the store is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use flannel_agent::{
    lease::{Attrs, Subnet},
    plan::table::Table,
    store::Store,
};
use flannel_tests::etcd::Etcd;
use tokio::time::timeout;

use crate::{
    common::{attrs, key, options, quick, store},
    proxy::{Mode, Proxy},
};

/// A small generator (xorshift), so that a run can be repeated from the number that it printed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

async fn truth(store: &Store) -> BTreeMap<Subnet, Attrs> {
    store.leases().await.unwrap().0.into_iter().map(|lease| (lease.subnet, lease.attrs)).collect()
}

fn told(table: &Table) -> BTreeMap<Subnet, Attrs> {
    table.leases().map(|lease| (lease.subnet, lease.attrs.clone())).collect()
}

fn step(dice: &mut Dice, etcd: &Etcd, proxy: &Proxy) {
    let name = key(&format!("10.3.{}.0-24", dice.roll(6)));
    match dice.roll(12) {
        0..=4 => etcd.put(&name, &attrs(&format!("192.0.2.{}", dice.roll(4))).to_json()).unwrap(),
        5..=6 => etcd.delete(&name).unwrap(),
        7 => etcd.put(&key("stray"), "x").unwrap(),
        // Refused where there is nothing new since the last time.
        8 => drop(etcd.compact().ok()),
        9 => proxy.set(Mode::Cut),
        10 => proxy.set(Mode::Silent),
        _ => proxy.set(Mode::Pass),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_converges_whatever_happens() {
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let etcd = Etcd::loopback().unwrap();
    let direct = store(&etcd);
    let proxy = Proxy::start(&etcd.endpoints()).await;
    let mut updates = Store::connect(&options(&proxy.url)).unwrap().watch_with(quick());
    let mut table = Table::default();
    for _ in 0..3 {
        for _ in 0..40 {
            step(&mut dice, &etcd, &proxy);
            while let Ok(update) = updates.try_recv() {
                table.apply(update);
            }
        }
        proxy.set(Mode::Pass);
        let wanted = truth(&direct).await;
        let start = Instant::now();
        while told(&table) != wanted {
            assert!(start.elapsed() < Duration::from_secs(30), "{:#?}\ninstead of\n{wanted:#?}", told(&table));
            if let Ok(Some(update)) = timeout(Duration::from_millis(100), updates.recv()).await {
                table.apply(update);
            }
        }
    }
}
