//! Rules by iptables' binaries, in network namespaces: texts, order, repair, neighbours.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod firewall_common;

use std::time::{Duration, Instant};

use firewall_common::{Variant, firewall, no_rules, overlay, previous, programs, rules, wake};
use flannel_agent::{
    kernel::firewall::{Firewall, Mode, Rules},
    subnet_file::Previous,
};
use flannel_tests::{
    netns::Netns,
    require,
    skip::{self, Feature},
};

/// What `iptables -t nat -S` must show, as flannel's own tests have it.
const MASQUERADE: &str = r#"-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N FLANNEL-POSTRTG
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.5.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -d 10.42.5.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.5.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;

const FORWARD: &str = r#"-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N FLANNEL-FWD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"#;

const MASQUERADE_V6: &str = r#"-N FLANNEL-POSTRTG
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s fd00:10:244:5::/64 -d fd00:10:244::/56 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s fd00:10:244::/56 -d fd00:10:244:5::/64 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s fd00:10:244::/56 -d fd00:10:244:5::/64 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s fd00:10:244::/56 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s fd00:10:244::/56 -d fd00:10:244::/56 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;

fn texts(variant: Variant) {
    let ns = Netns::new("fw").unwrap();
    let programs = programs(variant);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        let report = firewall.ensure().await.unwrap();
        assert!(!report.changes.is_empty());
        assert_eq!(firewall.ensure().await.unwrap().changes, Vec::<String>::new(), "a second look changes nothing");
    })
    .unwrap();
    assert_eq!(ns.run(&variant.tool("iptables", "-t nat -S")).unwrap(), MASQUERADE);
    assert_eq!(ns.run(&variant.tool("iptables", "-t filter -S")).unwrap(), FORWARD);
    let v6 = ns.run(&variant.tool("ip6tables", "-t nat -S")).unwrap();
    assert!(v6.ends_with(MASQUERADE_V6), "{v6}");
    let v6 = ns.run(&variant.tool("ip6tables", "-t filter -S FLANNEL-FWD")).unwrap();
    assert!(v6.contains("-A FLANNEL-FWD -s fd00:10:244::/56 -m comment"), "{v6}");
}

#[test]
fn texts_and_order_nf_tables() {
    require!(Feature::Root, Feature::Tool("iptables"));
    texts(Variant::Nft);
}

#[test]
fn texts_and_order_legacy() {
    require!(Feature::Root, Feature::Tool("iptables"));
    if !Variant::Legacy.works() {
        skip::skip("iptables-legacy does not work on this kernel");
        return;
    }
    texts(Variant::Legacy);
}

#[test]
fn a_deleted_rule_is_back_within_a_second_and_in_order() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        for spoil in [
            "iptables -t nat -D FLANNEL-POSTRTG 3",
            "iptables -t nat -D FLANNEL-POSTRTG 1",
            "iptables -t nat -D POSTROUTING 1",
            "iptables -t nat -F",
            "iptables -F FLANNEL-FWD",
            "iptables -F FORWARD",
            "nft delete table ip filter",
            "nft flush ruleset",
        ] {
            ns.run(spoil).unwrap();
            let start = Instant::now();
            wake(&mut firewall).await;
            assert!(start.elapsed() < Duration::from_secs(1), "{spoil}: noticed after {:?}", start.elapsed());
            assert!(!firewall.ensure().await.unwrap().changes.is_empty(), "{spoil}");
            assert!(start.elapsed() < Duration::from_secs(1), "{spoil}: repaired after {:?}", start.elapsed());
            let rules =
                |text: String| text.lines().filter(|l| l.contains("flanneld")).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(rules(ns.run("iptables -t nat -S").unwrap()), rules(MASQUERADE.to_owned()), "{spoil}");
            assert_eq!(rules(ns.run("iptables -S").unwrap()), rules(FORWARD.to_owned()), "{spoil}");
        }
    })
    .unwrap();
}

#[test]
fn nothing_is_spawned_while_nothing_of_ours_changes() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        let before = programs.spawned();
        // The resync interval passes five times, and others change rules of theirs.
        for _ in 0..5 {
            ns.run("iptables -t nat -I POSTROUTING -s 192.0.2.1 -j ACCEPT").unwrap();
            ns.run("iptables -A INPUT -s 192.0.2.1 -j ACCEPT").unwrap();
            let quiet = tokio::time::timeout(Duration::from_secs(1), firewall.disturbed()).await;
            assert!(quiet.is_err(), "somebody else's rule is no reason to look");
        }
        assert_eq!(programs.spawned(), before);
    })
    .unwrap();
}

#[test]
fn legacy_is_looked_at_every_resync_interval() {
    require!(Feature::Root, Feature::Tool("iptables"));
    if !Variant::Legacy.works() {
        skip::skip("iptables-legacy does not work on this kernel");
        return;
    }
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Legacy);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        ns.run("iptables-legacy -t nat -F FLANNEL-POSTRTG").unwrap();
        wake(&mut firewall).await;
        let before = programs.spawned();
        assert_eq!(firewall.ensure().await.unwrap().changes.len(), 6);
        wake(&mut firewall).await;
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
        // Two looks at two families, one of them with a repair.
        assert!(programs.spawned() - before <= 6, "{}", programs.log());
    })
    .unwrap();
    assert_eq!(ns.run("iptables-legacy -t nat -S").unwrap(), MASQUERADE);
}

#[test]
fn two_agents_share_the_chains_without_fighting() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut one = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        let mut two = firewall(Mode::Iptables, rules("10.43.0.0/16", "10.43.7.0/24"), &programs);
        one.ensure().await.unwrap();
        two.ensure().await.unwrap();
        // What an upstream neighbour does when it starts, and an operator who tidies up.
        for spoil in
            ["true", "iptables -t nat -F FLANNEL-POSTRTG", "iptables -t nat -F", "iptables -t nat -D FLANNEL-POSTRTG 1"]
        {
            ns.run(spoil).unwrap();
            // Both are woken by the event; they come to rest after a few looks.
            for _ in 0..3 {
                one.ensure().await.unwrap();
                two.ensure().await.unwrap();
            }
            assert!(one.ensure().await.unwrap().changes.is_empty(), "after {spoil}");
            assert!(two.ensure().await.unwrap().changes.is_empty(), "after {spoil}");
            let text = ns.run("iptables -t nat -S FLANNEL-POSTRTG").unwrap();
            assert_eq!(text.lines().count(), 1 + 1 + 5 + 5, "after {spoil}:\n{text}");
            assert!(text.lines().nth(1).unwrap().contains("0x4000/0x4000"), "after {spoil}:\n{text}");
        }
        let before = programs.spawned();
        let wake = Duration::from_secs(2);
        // The last repair may wake both once more; then there is silence.
        for firewall in [&mut one, &mut two] {
            if tokio::time::timeout(wake, firewall.disturbed()).await.is_ok() {
                assert!(firewall.ensure().await.unwrap().changes.is_empty());
            }
        }
        assert!(programs.spawned() - before <= 4, "{}", programs.log());
        let quiet = tokio::time::timeout(wake, async { tokio::join!(one.disturbed(), two.disturbed()) });
        assert!(quiet.await.is_err(), "two agents disturb each other for ever");
    })
    .unwrap();
}

#[test]
fn foreign_rules_in_our_chains_stay() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        ns.run("iptables -t nat -I FLANNEL-POSTRTG 3 -s 192.0.2.9 -j ACCEPT").unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
        ns.run("iptables -t nat -D FLANNEL-POSTRTG 7").unwrap();
        firewall.ensure().await.unwrap();
        let text = ns.run("iptables -t nat -S FLANNEL-POSTRTG").unwrap();
        assert!(text.contains("-s 192.0.2.9/32 -j ACCEPT"), "{text}");
    })
    .unwrap();
}

#[test]
fn rules_of_the_previous_subnet_and_settings_go() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut old = rules("10.41.0.0/16", "10.41.3.0/24");
        old.random_fully = false;
        old.exempt = vec!["192.0.2.0/24".parse().unwrap()];
        firewall(Mode::Iptables, old, &programs).ensure().await.unwrap();
        let mut new = Firewall::new(
            Mode::Iptables,
            rules("10.42.0.0/16", "10.42.5.0/24"),
            &previous("10.41.0.0/16", "10.41.3.0/24"),
            Duration::from_secs(1),
        )
        .search(programs.path());
        new.ensure().await.unwrap();
        assert!(new.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    assert_eq!(ns.run("iptables -t nat -S").unwrap(), MASQUERADE);
    assert_eq!(ns.run("iptables -S").unwrap(), FORWARD);
}

#[test]
fn without_ip_masq_and_forward_rules_nothing_of_ours_stays() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut rules = rules("10.42.0.0/16", "10.42.5.0/24");
        firewall(Mode::Iptables, rules.clone(), &programs).ensure().await.unwrap();
        rules.masquerade = false;
        rules.forward = false;
        let mut firewall = firewall(Mode::Iptables, rules, &programs);
        firewall.ensure().await.unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    for table in ["nat", "filter"] {
        let text = ns.run(&format!("iptables -t {table} -S")).unwrap();
        assert!(!text.to_lowercase().contains("flannel"), "{text}");
    }
}

#[test]
fn exempt_networks_come_before_masquerading() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    ns.block_on(|| async {
        let mut rules = rules("10.42.0.0/16", "10.42.5.0/24");
        rules.exempt =
            vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let mut firewall = firewall(Mode::Iptables, rules, &programs);
        firewall.ensure().await.unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    let text = ns.run("iptables -t nat -S FLANNEL-POSTRTG").unwrap();
    let rules: Vec<&str> = text.lines().skip(5).collect();
    let exempt = r#"-m comment --comment "flanneld masq exempt 10.42.0.0/16" -j RETURN"#;
    assert_eq!(
        rules[..4],
        [
            format!("-A FLANNEL-POSTRTG -s 192.0.2.0/24 {exempt}"),
            format!("-A FLANNEL-POSTRTG -d 192.0.2.0/24 {exempt}"),
            format!("-A FLANNEL-POSTRTG -s 198.51.100.7/32 {exempt}"),
            format!("-A FLANNEL-POSTRTG -d 198.51.100.7/32 {exempt}"),
        ]
    );
    assert!(rules[4].contains("MASQUERADE") && rules[5].contains("MASQUERADE"), "{text}");
    let text = ns.run("ip6tables -t nat -S FLANNEL-POSTRTG").unwrap();
    assert!(text.contains("-d 2001:db8::/32 -m comment"), "{text}");
}

#[test]
fn a_missing_program_is_named_with_its_remedy() {
    require!(Feature::Root, Feature::Tool("iptables"));
    let ns = Netns::new("fw").unwrap();
    let nothing = tempfile::tempdir().unwrap();
    ns.block_on(|| async {
        for (mode, name, package) in [(Mode::Iptables, "iptables", "iptables"), (Mode::Nftables, "nft", "nftables")] {
            let mut firewall = Firewall::new(
                mode,
                rules("10.42.0.0/16", "10.42.5.0/24"),
                &Previous::default(),
                Duration::from_millis(300),
            )
            .search(nothing.path());
            let error = firewall.ensure().await.unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(&format!("install the package {package}")), "{error}");
            // It is tried again, because somebody may install it.
            wake(&mut firewall).await;
        }
        // Where no rule is wanted, no program is missing.
        let none = Rules { v4: Some(overlay("10.42.0.0/16", "10.42.5.0/24")), ..no_rules() };
        let mut firewall =
            Firewall::new(Mode::Iptables, none, &Previous::default(), Duration::from_secs(1)).search(nothing.path());
        firewall.ensure().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_table_that_iptables_cannot_read_is_named() {
    require!(Feature::Root, Feature::Tool("iptables-nft"), Feature::Tool("nft"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    // Somebody else's nftables rules in the place of iptables' table.
    ns.sh("nft add table ip nat
         nft 'add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }'
         nft add set ip nat them '{ type ipv4_addr; }'
         nft add rule ip nat POSTROUTING ip saddr @them counter masquerade")
        .unwrap();
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        let error = firewall.ensure().await.unwrap_err().to_string();
        assert!(error.contains("nat") && error.contains("incompatible"), "{error}");
    })
    .unwrap();
}

#[test]
fn another_agent_at_the_same_moment_only_delays() {
    require!(Feature::Root, Feature::Tool("iptables-nft"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    let flag = programs.path().join("once");
    programs.replace(
        "iptables-restore",
        &format!(
            "[ -e {0} ] || {{ : > {0}; iptables-nft -t nat -N FLANNEL-POSTRTG; }}; exec iptables-nft-restore \"$@\"",
            flag.display()
        ),
    );
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        assert!(firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
    assert_eq!(ns.run("iptables-nft -t nat -S").unwrap(), MASQUERADE);
}

#[test]
fn an_iptables_with_a_spelling_of_its_own_is_reported_once() {
    require!(Feature::Root, Feature::Tool("iptables-nft"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    programs.replace("iptables-save", "iptables-nft-save | sed s/-j/--jump/");
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        let error = firewall.ensure().await.unwrap_err().to_string();
        assert!(error.contains("iptables-save shows other rules than were written"), "{error}");
        let before = programs.spawned();
        assert!(firewall.ensure().await.unwrap().changes.is_empty(), "it does not pile up rules");
        assert_eq!(programs.spawned(), before);
    })
    .unwrap();
}
