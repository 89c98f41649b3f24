//! What the pure middle costs as a cluster grows: `cargo bench -p flannel-agent`.

use std::net::{IpAddr, Ipv4Addr};

use divan::{Bencher, black_box, counter::ItemsCount};
use flannel_agent::{
    backend::{Object, Objects, Slot},
    lease::{Attrs, Lease, Subnet, Update},
    plan::{
        allocate::{Range, choose},
        diff::diff,
        table::Table,
    },
};
use ipnet::{IpNet, Ipv4Net};

const PEERS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Leases of a /8 cut into /24: none, some, and all but one.
const TAKEN: [u32; 5] = [0, 100, 1_000, 10_000, 65_534];

fn main() {
    divan::main();
}

fn subnet(number: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | (number << 8)), 24)
}

fn routes(count: u32) -> Objects {
    let route = |number| {
        let gateway = Some(IpAddr::V4(Ipv4Addr::from(0xac1e_0000 + number)));
        (Slot::Route(IpNet::V4(subnet(number))), Object::Route { gateway, ifindex: 2, onlink: false })
    };
    (0..count).map(route).collect()
}

fn lease(number: u32) -> Lease {
    Lease {
        subnet: Subnet { v4: subnet(number), v6: None },
        attrs: Attrs {
            public_ip: Ipv4Addr::from(0xac1e_0000 + number),
            public_ipv6: None,
            backend_type: "host-gw".to_owned(),
            backend_data: None,
            backend_v6_data: None,
        },
        ttl_id: Some(1),
        revision: i64::from(number),
    }
}

/// Nothing to do: what every pass of a quiet node costs.
#[divan::bench(args = PEERS)]
fn diff_of_equal_states(bencher: Bencher<'_, '_>, peers: u32) {
    let state = routes(peers);
    bencher.counter(ItemsCount::new(peers)).bench_local(|| diff(black_box(&state), black_box(&state)));
}

/// Everything to do: a node that starts.
#[divan::bench(args = PEERS)]
fn diff_from_nothing(bencher: Bencher<'_, '_>, peers: u32) {
    let (desired, observed) = (routes(peers), Objects::new());
    bencher.counter(ItemsCount::new(peers)).bench_local(|| diff(black_box(&desired), black_box(&observed)));
}

/// One peer has gone and one has come.
#[divan::bench(args = PEERS)]
fn diff_of_one_change(bencher: Bencher<'_, '_>, peers: u32) {
    let observed = routes(peers);
    let mut desired = routes(peers + 1);
    desired.pop_first();
    bencher.counter(ItemsCount::new(peers)).bench_local(|| diff(black_box(&desired), black_box(&observed)));
}

/// A snapshot that says what the table holds already.
#[divan::bench(args = PEERS)]
fn table_takes_snapshot(bencher: Bencher<'_, '_>, peers: u32) {
    let leases: Vec<Lease> = (0..peers).map(lease).collect();
    let mut table = Table::default();
    table.apply(Update::Snapshot { leases: leases.clone(), revision: 1 });
    bencher
        .counter(ItemsCount::new(peers))
        .with_inputs(|| Update::Snapshot { leases: leases.clone(), revision: 2 })
        .bench_local_values(|update| table.apply(update));
}

/// A subnet for a new node of a /8, by the number of those that are taken.
#[divan::bench(args = TAKEN)]
fn allocate_in_a_full_network(bencher: Bencher<'_, '_>, taken: u32) {
    let network = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
    let (min, max) = (Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(10, 255, 255, 0));
    let range = Range { network, min, max, len: 24, v6: None };
    let leases: Vec<Subnet> = (0..taken).map(|number| Subnet { v4: subnet(number), v6: None }).collect();
    bencher.counter(ItemsCount::new(taken)).bench_local(|| choose(&range, black_box(&leases), None, 7));
}
