use super::{Question, Step, incoming, steps};
use crate::{
    doctor::facts::Facts,
    kernel::inspect::{Address, Link, Route},
    rules::Ruleset,
    state::{NodeState, PeerState, PeerWay},
    traffic::FlowRow,
};

fn facts() -> Facts {
    let link = |name: &str, address: [u8; 4]| Link {
        name: name.into(),
        addresses: vec![Address { local: Some(address.into()), prefixlen: 24 }],
        ..Link::default()
    };
    let peer = PeerState {
        subnet: "172.16.2.0/24".parse().unwrap(),
        public_ip: [192, 0, 2, 12].into(),
        backend: "host-gw".into(),
        way: PeerWay::Direct,
        index: Some(0),
        problem: None,
    };
    Facts {
        node: Some(NodeState { peers: vec![peer], ..NodeState::default() }),
        network: "172.16.0.0/16".parse().ok(),
        subnet: "172.16.1.0/24".parse().ok(),
        bridge: "docker0".into(),
        uplink: Some("eth0".into()),
        links: vec![link("docker0", [172, 16, 1, 1]), link("eth0", [192, 0, 2, 11])],
        routes: vec![route("172.16.2.0/24", [192, 0, 2, 12])],
        ..Facts::default()
    }
}

fn route(dst: &str, gateway: [u8; 4]) -> Route {
    Route { dst: dst.into(), gateway: Some(gateway.into()), dev: Some("eth0".into()), ..Route::default() }
}

fn question() -> Question {
    Question {
        src: [172, 16, 1, 2].into(),
        dst: [172, 16, 2, 2].into(),
        proto: 6,
        sport: Some(40_000),
        dport: Some(80),
        iif: Some("docker0".into()),
        route: Ok(route("172.16.2.2", [192, 0, 2, 12])),
        flows: vec![],
    }
}

fn flow(slow: Option<&str>) -> FlowRow {
    FlowRow {
        src: question().src,
        sport: 40_000,
        dst: question().dst,
        dport: 80,
        proto: 6,
        path: "out".into(),
        slow: slow.map(str::to_owned),
        packets: 100,
        bytes: 140_000,
        verified_ms: 12,
        max_len: 1500,
        in_ifindex: 3,
        out_ifindex: 2,
    }
}

fn verdict(steps: &[Step]) -> &str {
    &steps.iter().find(|step| step.step == "verdict").unwrap().says
}

#[test]
fn packets_come_by_the_bridge_the_uplink_or_from_the_host_itself() {
    let facts = facts();
    assert_eq!(incoming(&facts, [172, 16, 1, 2].into()).as_deref(), Some("docker0"));
    assert_eq!(incoming(&facts, [172, 16, 2, 2].into()).as_deref(), Some("eth0"));
    assert_eq!(incoming(&facts, [192, 0, 2, 11].into()), None);
}

#[test]
fn the_flow_decides_between_fast_and_slow() {
    let with = |flows| verdict(&steps(&facts(), &Question { flows, ..question() })).to_owned();
    assert_eq!(with(vec![flow(None)]), "delivered by the fast path");
    assert_eq!(with(vec![flow(Some("flow_stale"))]), "delivered by the kernel: flow_stale");
    assert!(with(vec![]).contains("new, idle, or changed on its way by a rule"));
    let other = FlowRow { sport: 40_001, ..flow(None) };
    assert!(with(vec![other]).contains("new, idle"), "another connection of the same containers");
}

#[test]
fn what_the_fast_path_leaves_alone_is_said() {
    let icmp = Question { proto: 1, ..question() };
    assert_eq!(verdict(&steps(&facts(), &icmp)), "delivered by the kernel: the fast path is for TCP and UDP");
    let out = Question { dst: [203, 0, 113, 1].into(), route: Ok(route("203.0.113.1", [192, 0, 2, 1])), ..question() };
    assert_eq!(verdict(&steps(&facts(), &out)), "delivered by the kernel: one end is outside the flannel network");
}

#[test]
fn a_route_to_the_wrong_host_is_where_the_packet_is_lost() {
    let steps = steps(&facts(), &Question { route: Ok(route("172.16.2.2", [192, 0, 2, 77])), ..question() });
    assert_eq!(verdict(&steps), "lost at \"route\"");
    let step = steps.iter().find(|step| step.step == "route").unwrap();
    assert!(step.says.contains("via 192.0.2.77 by eth0, but the lease is 192.0.2.12's"), "{}", step.says);
    assert!(step.remedy.as_ref().unwrap().starts_with("ip route replace 172.16.2.0/24 via 192.0.2.12 dev eth0"));
}

#[test]
fn the_default_route_is_no_way_to_a_peer() {
    let mut facts = facts();
    facts.routes = vec![route("default", [192, 0, 2, 1])];
    let steps = steps(&facts, &Question { route: Ok(route("172.16.2.2", [192, 0, 2, 1])), ..question() });
    assert!(steps.iter().any(|step| step.says.contains("by the default route")), "{steps:?}");
    assert_eq!(verdict(&steps), "lost at \"route\"");
}

#[test]
fn nat_on_the_way_is_told_and_is_no_loss() {
    let mut facts = facts();
    let rule = "-A PREROUTING -d 172.16.2.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.16.3.3:81";
    facts.rules = Ruleset::parse(&format!("*nat\n:PREROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n"), "");
    let steps = steps(&facts, &question());
    assert!(
        steps.iter().any(|step| step.says.contains(&format!("nat PREROUTING rewrites its addresses: {rule}"))),
        "{steps:?}"
    );
    assert!(verdict(&steps).starts_with("delivered by the kernel"));
}
