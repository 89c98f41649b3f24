//! Rules by iptables on a host that is in trouble: programs that hang, notices that the kernel cannot deliver.
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod firewall_common;

use std::time::{Duration, Instant};

use firewall_common::{Variant, firewall, programs, rules, wake};
use flannel_agent::kernel::firewall::Mode;
use flannel_tests::{netns::Netns, require, skip::Feature};

#[test]
fn a_program_that_hangs_is_given_up() {
    require!(Feature::Root, Feature::Tool("iptables-nft"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    programs.replace("iptables-save", "exec sleep 60");
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs)
            .patience(Duration::from_millis(200));
        let error = firewall.ensure().await.unwrap_err().to_string();
        assert!(error.contains("iptables-save: did not end within") && error.contains("lock"), "{error}");
    })
    .unwrap();
}

/// So many changes that the socket cannot hold the notices of them.
#[test]
fn lost_notices_lead_to_a_look() {
    require!(Feature::Root, Feature::Tool("iptables-nft"), Feature::Tool("nft"));
    let ns = Netns::new("fw").unwrap();
    let programs = programs(Variant::Nft);
    let flood = programs.path().join("flood.nft");
    let rule = "add rule ip flood c ip saddr 192.0.2.1 counter accept\n";
    std::fs::write(&flood, format!("add table ip flood\nadd chain ip flood c\n{}", rule.repeat(10_000))).unwrap();
    ns.block_on(|| async {
        let mut firewall = firewall(Mode::Iptables, rules("10.42.0.0/16", "10.42.5.0/24"), &programs);
        firewall.ensure().await.unwrap();
        ns.run(&format!("nft -f {}", flood.display())).unwrap();
        ns.run("iptables-nft -t nat -F FLANNEL-POSTRTG").unwrap();
        let start = Instant::now();
        wake(&mut firewall).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(!firewall.ensure().await.unwrap().changes.is_empty());
    })
    .unwrap();
}
