//! Rules in nftables, in network namespaces: texts, repair, neighbours, and the way between the two modes.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod firewall_common;

use std::time::{Duration, Instant};

use firewall_common::{Variant, firewall, previous, programs, rules, wake};
use flannel_agent::kernel::firewall::{Firewall, Mode};
use flannel_tests::{netns::Netns, require, skip::Feature};

const LIST: &str = "nft list table ip flannel-ipv4";
const LIST_V6: &str = "nft list table ip6 flannel-ipv6";

/// The listing of a family; the fourth rule lets packets from outside into the own subnet, as the iptables rule does.
fn listing(ip: &str, table: &str, network: &str, subnet: &str, multicast: &str) -> String {
    format!(
        r#"table {ip} {table} {{
	comment "rules for {table}"
	chain forward {{
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		{ip} saddr {network} accept
		{ip} daddr {network} accept
	}}

	chain postrtg {{
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		{ip} saddr {subnet} {ip} daddr {network} return
		{ip} saddr {network} {ip} daddr {subnet} return
		{ip} saddr != {network} {ip} daddr {subnet} return
		{ip} saddr {network} {ip} daddr != {multicast} masquerade fully-random
		{ip} saddr != {network} {ip} daddr {network} masquerade fully-random
	}}
}}
"#
    )
}

fn v4() -> String {
    listing("ip", "flannel-ipv4", "10.42.0.0/16", "10.42.5.0/24", "224.0.0.0/4")
}

fn v6() -> String {
    listing("ip6", "flannel-ipv6", "fd00:10:244::/56", "fd00:10:244:5::/64", "ff00::/8")
}

#[test]
fn texts_and_order() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Nftables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        let written: Vec<String> = programs.log().lines().filter(|l| *l == "nft -f -").map(str::to_owned).collect();
        assert_eq!(written.len(), 1, "one transaction: {}", programs.log());
        assert!(firewall.ensure().await.unwrap().changes.is_empty(), "a second look changes nothing");
    })
    .unwrap();
    assert_eq!(ns.run(LIST).unwrap(), v4());
    assert_eq!(ns.run(LIST_V6).unwrap(), v6());
}

#[test]
fn both_tables_exist_even_without_ipv6_subnets() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut rules = rules("10.42.0.0/16", "10.42.5.0/24");
        rules.v6 = None;
        let mut firewall = firewall(Mode::Nftables, rules, &programs);
        firewall.ensure().await.unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    assert_eq!(ns.run(LIST).unwrap(), v4());
    let v6 = ns.run(LIST_V6).unwrap();
    assert_eq!(v6, "table ip6 flannel-ipv6 {\n\tcomment \"rules for flannel-ipv6\"\n}\n");
}

#[test]
fn a_deleted_rule_is_back_within_a_second_and_in_order() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Nftables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        for spoil in [
            "nft flush chain ip flannel-ipv4 postrtg",
            "nft delete chain ip flannel-ipv4 forward",
            "nft delete table ip flannel-ipv4",
            "nft delete table ip6 flannel-ipv6",
            "nft flush ruleset",
        ] {
            ns.run(spoil).unwrap();
            let start = Instant::now();
            wake(&mut firewall).await;
            assert!(!firewall.ensure().await.unwrap().changes.is_empty(), "{spoil}");
            assert!(start.elapsed() < Duration::from_secs(1), "{spoil}: repaired after {:?}", start.elapsed());
            let rules =
                |text: String| text.lines().filter(|l| l.contains("ip saddr")).map(str::to_owned).collect::<Vec<_>>();
            let mut found = rules(ns.run(LIST).unwrap());
            let mut wanted = rules(v4());
            // A chain made anew stands behind the other.
            found.sort_by_key(|rule| rule.contains("accept"));
            wanted.sort_by_key(|rule| rule.contains("accept"));
            assert_eq!(found, wanted, "{spoil}");
        }
    })
    .unwrap();
}

#[test]
fn nothing_is_spawned_while_nothing_of_ours_changes() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Nftables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        let before = programs.spawned();
        for number in 0..5 {
            ns.run(&format!("nft add table ip other{number}")).unwrap();
            ns.run(&format!("nft delete table ip other{number}")).unwrap();
            assert!(tokio::time::timeout(Duration::from_secs(1), firewall.disturbed()).await.is_err());
        }
        assert_eq!(programs.spawned(), before);
    })
    .unwrap();
}

#[test]
fn two_agents_share_the_tables() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut one = firewall(Mode::Nftables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        let mut two = firewall(Mode::Nftables, rules("10.43.0.0/16", "10.43.7.0/24"), &programs);
        for spoil in ["true", "nft flush chain ip flannel-ipv4 postrtg", "nft flush ruleset"] {
            ns.run(spoil).unwrap();
            for _ in 0..2 {
                one.ensure().await.unwrap();
                two.ensure().await.unwrap();
            }
            assert!(one.ensure().await.unwrap().changes.is_empty(), "after {spoil}");
            assert!(two.ensure().await.unwrap().changes.is_empty(), "after {spoil}");
        }
    })
    .unwrap();
    let text = ns.run(LIST).unwrap();
    assert_eq!(text.matches("return").count(), 1 + 3 + 3, "{text}");
    assert_eq!(text.matches("masquerade fully-random").count(), 4, "{text}");
    assert_eq!(text.matches("accept\n").count(), 4, "{text}");
}

#[test]
fn rules_that_flannel_left_are_replaced() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    // As flannel writes them, with its fourth rule, and for a subnet that this host had before.
    let upstream = v4()
        .replace("ip saddr != 10.42.0.0/16 ip daddr 10.42.5.0/24", "ip saddr != 10.42.5.0/24 ip daddr 10.42.0.0/16");
    let upstream = upstream.replace("10.42.5.0/24", "10.42.4.0/24");
    assert!(upstream.contains("saddr != 10.42.4.0/24"));
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), upstream).unwrap();
    ns.run(&format!("nft -f {}", script.path().display())).unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let previous = previous("10.42.0.0/16", "10.42.4.0/24");
        let rules = rules("10.42.0.0/16", "10.42.5.0/24");
        let mut firewall =
            Firewall::new(Mode::Nftables, rules, &previous, Duration::from_secs(1)).search(programs.path());
        firewall.ensure().await.unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    assert_eq!(ns.run(LIST).unwrap(), v4());
}

#[test]
fn exempt_networks_come_before_masquerading() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut rules = rules("10.42.0.0/16", "10.42.5.0/24");
        rules.exempt = vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap()];
        let mut first = firewall(Mode::Nftables, rules.clone(), &programs);
        first.ensure().await.unwrap();
        assert!(first.ensure().await.unwrap().changes.is_empty());
        let text = ns.run(LIST).unwrap();
        let at = |rule: &str| text.find(rule).unwrap_or_else(|| panic!("{rule} is missing:\n{text}"));
        let comment = "return comment \"flanneld masq exempt 10.42.0.0/16\"";
        assert!(at(&format!("ip saddr 192.0.2.0/24 {comment}")) < at("masquerade fully-random"));
        assert!(at(&format!("ip daddr 198.51.100.7 {comment}")) < at("masquerade fully-random"));
        // The next start has other exemptions.
        rules.exempt.clear();
        let mut second = firewall(Mode::Nftables, rules, &programs);
        second.ensure().await.unwrap();
    })
    .unwrap();
    assert_eq!(ns.run(LIST).unwrap(), v4());
}

#[test]
fn switching_modes_leaves_nothing_of_the_other() {
    require!(Feature::Root, Feature::Tool("nft"), Feature::Tool("iptables"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    let ensure = |mode| {
        ns.block_on(|| async {
            let mut firewall = firewall(mode, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
            firewall.ensure().await.unwrap();
            assert!(firewall.ensure().await.unwrap().changes.is_empty());
        })
        .unwrap();
    };
    ensure(Mode::Iptables);
    ensure(Mode::Nftables);
    for line in ["iptables-save", "ip6tables-save"] {
        let text = ns.run(line).unwrap();
        assert!(!text.contains("flanneld") && !text.contains("FLANNEL"), "{line}:\n{text}");
    }
    assert_eq!(ns.run(LIST).unwrap(), v4());
    ensure(Mode::Iptables);
    let tables = ns.run("nft list tables").unwrap();
    assert!(!tables.contains("flannel"), "{tables}");
    assert_eq!(ns.run("iptables-save").unwrap().matches("flanneld masq").count(), 7);
}

#[test]
fn nftables_mode_needs_no_iptables() {
    require!(Feature::Root, Feature::Tool("nft"));
    let ns = Netns::new("nft").unwrap();
    let programs = programs(Variant::Nft);
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"] {
        std::fs::remove_file(programs.path().join(name)).unwrap();
    }
    ns.block_on(|| async {
        firewall(Mode::Nftables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs).ensure().await.unwrap();
    })
    .unwrap();
    assert_eq!(ns.run(LIST).unwrap(), v4());
}
