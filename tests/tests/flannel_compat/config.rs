//! The cluster configuration.

use flannel_agent::config::{Backend, ConfigError, Effect, NetworkConfig, diff};

fn parse(text: &str) -> Result<NetworkConfig, ConfigError> {
    NetworkConfig::parse(text)
}

/// `min..max /len` of the IPv4 subnets, or the complaint.
fn v4(text: &str) -> String {
    match parse(text) {
        Ok(config) => format!("{}..{} /{}", config.v4.subnet_min, config.v4.subnet_max, config.v4.subnet_len),
        Err(error) => error.to_string(),
    }
}

/// The same for IPv6.
fn v6(text: &str) -> String {
    match parse(text) {
        Ok(config) => {
            let range = config.v6.expect("EnableIPv6 is given");
            format!("{}..{} /{}", range.subnet_min, range.subnet_max, range.subnet_len)
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn defaults_of_ipv4_subnets() {
    for (network, expected) in [
        ("10.3.0.0/16", "10.3.1.0..10.3.255.0 /24"),
        ("10.3.7.9/16", "10.3.1.0..10.3.255.0 /24"),
        ("10.3.0.0/22", "10.3.1.0..10.3.3.0 /24"),
        ("10.3.0.0/23", "10.3.0.128..10.3.1.128 /25"),
        ("10.3.0.0/24", "10.3.0.64..10.3.0.192 /26"),
        ("10.3.0.0/28", "10.3.0.4..10.3.0.12 /30"),
        ("172.16.0.0/16", "172.16.1.0..172.16.255.0 /24"),
        ("255.255.0.0/16", "255.255.1.0..255.255.255.0 /24"),
        ("10.3.0.0/29", "Network: network is too small; the minimum useful network prefix is /28"),
        ("10.3.0.0/32", "Network: network is too small; the minimum useful network prefix is /28"),
    ] {
        assert_eq!(v4(&format!(r#"{{"Network":"{network}"}}"#)), expected, "{network}");
    }
}

#[test]
fn ipv4_subnets_of_given_size_and_limits() {
    for (members, expected) in [
        (r#""SubnetLen":18"#, "10.3.64.0..10.3.192.0 /18"),
        (r#""SubnetLen":30"#, "10.3.0.4..10.3.255.252 /30"),
        (r#""SubnetLen":0"#, "10.3.1.0..10.3.255.0 /24"),
        (r#""SubnetLen":null"#, "10.3.1.0..10.3.255.0 /24"),
        (r#""SubnetLen":31"#, "SubnetLen: SubnetLen must be less than /31"),
        (r#""SubnetLen":4294967320"#, "SubnetLen: SubnetLen must be less than /31"),
        (
            r#""SubnetLen":17"#,
            "SubnetLen: network must be able to accommodate at least four subnets; make it /18 or longer",
        ),
        (r#""SubnetLen":-1"#, "SubnetLen: -1 is not a whole number of 0 or more"),
        (r#""SubnetLen":24.0"#, "SubnetLen: 24.0 is not a whole number of 0 or more"),
        (r#""SubnetLen":"24""#, "SubnetLen: \"24\" is not a whole number of 0 or more"),
        (r#""SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28"#, "10.3.5.0..10.3.8.0 /28"),
        (r#""SubnetMin":"10.3.0.0""#, "10.3.0.0..10.3.255.0 /24"),
        (r#""SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0""#, "10.3.9.0..10.3.8.0 /24"),
        (r#""SubnetMin":"10.4.0.0""#, "SubnetMin is not in the range of the Network: 10.4.0.0"),
        (r#""SubnetMax":"10.2.0.0""#, "SubnetMax is not in the range of the Network: 10.2.0.0"),
        (r#""SubnetMin":"10.3.1.128""#, "SubnetMin is not on a SubnetLen boundary: 10.3.1.128"),
        (r#""SubnetMax":"10.3.1.1""#, "SubnetMax is not on a SubnetLen boundary: 10.3.1.1"),
        (r#""SubnetMin":"""#, "SubnetMin: \"\" is not an IPv4 address like \"10.5.1.0\""),
        (r#""SubnetMin":null"#, "SubnetMin: null is not an IPv4 address like \"10.5.1.0\""),
        (r#""SubnetMax":7"#, "SubnetMax: 7 is not a string"),
        (r#""SubnetMax":"10.3.08.0""#, "SubnetMax: \"10.3.08.0\" is not an IPv4 address like \"10.5.1.0\""),
    ] {
        assert_eq!(v4(&format!(r#"{{"Network":"10.3.0.0/16",{members}}}"#)), expected, "{members}");
    }
}

#[test]
fn ipv6_subnets() {
    for (members, expected) in [
        (r#""IPv6Network":"fc00::/48""#, "fc00:0:0:1::..fc00:0:0:ffff:: /64"),
        (r#""IPv6Network":"fc00::7/48""#, "fc00:0:0:1::..fc00:0:0:ffff:: /64"),
        (r#""IPv6Network":"fc00::/62""#, "fc00:0:0:1::..fc00:0:0:3:: /64"),
        (r#""IPv6Network":"fc00::/63""#, "fc00::8000:0:0:0..fc00:0:0:1:8000:: /65"),
        (r#""IPv6Network":"fc00::/64""#, "fc00::4000:0:0:0..fc00::c000:0:0:0 /66"),
        (r#""IPv6Network":"fc00::/124""#, "fc00::4..fc00::c /126"),
        (
            r#""IPv6Network":"fc00::/125""#,
            "IPv6Network: network is too small; the minimum useful network prefix is /124",
        ),
        (r#""IPv6Network":"fc00::/48","IPv6SubnetLen":127"#, "IPv6SubnetLen: SubnetLen must be less than /127"),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetLen":49"#,
            "IPv6SubnetLen: network must be able to accommodate at least four subnets; make it /50 or longer",
        ),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:f::","IPv6SubnetLen":124"#,
            "fc00:0:0:1::..fc00:0:0:f:: /124",
        ),
        (r#""IPv6Network":"fc00::/48","IPv6SubnetMin":null"#, "fc00:0:0:1::..fc00:0:0:ffff:: /64"),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fd00::""#,
            "IPv6SubnetMin is not in the range of the IPv6Network: fd00::",
        ),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00::1""#,
            "IPv6SubnetMax is not on a SubnetLen boundary: fc00::1",
        ),
    ] {
        let text = format!(r#"{{"Network":"10.3.0.0/16","EnableIPv6":true,{members}}}"#);
        assert_eq!(v6(&text), expected, "{members}");
    }
    for none in [r#""EnableIPv6":true"#, r#""EnableIPv6":true,"IPv6Network":"::/0""#] {
        let text = format!(r#"{{"Network":"10.3.0.0/16",{none}}}"#);
        assert_eq!(parse(&text), Err(ConfigError::NoNetwork { key: "IPv6Network" }), "{none}");
    }
    let mixed = parse(r#"{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"10.4.0.0/16"}"#).unwrap_err();
    assert!(mixed.to_string().starts_with("IPv6Network: \"10.4.0.0/16\" is not an IPv6 network"), "{mixed}");
}

#[test]
fn names_in_any_case_and_the_last_duplicate_wins() {
    for (text, expected) in [
        (r#"{ "network": "10.3.0.0/16" }"#, "10.3.1.0..10.3.255.0 /24"),
        (r#"{"NETWORK":"10.3.0.0/16","subnetLEN":26}"#, "10.3.0.64..10.3.255.192 /26"),
        (r#"{"Network":"10.3.0.0/16","network":"10.4.0.0/16"}"#, "10.4.1.0..10.4.255.0 /24"),
        (r#"{"network":"10.3.0.0/16","Network":"10.4.0.0/16"}"#, "10.4.1.0..10.4.255.0 /24"),
        (r#"{"Network":"10.3.0.0/16","Unknown":{"a":[1,2.5e9,null]}}"#, "10.3.1.0..10.3.255.0 /24"),
        (" \n\t{\"Network\":\"10.3.0.0/16\"}\n", "10.3.1.0..10.3.255.0 /24"),
    ] {
        assert_eq!(v4(text), expected, "{text}");
    }
    let nested = parse(r#"{"Network":"10.3.0.0/16","backend":{"TYPE":"VXLAN","vni":7,"VNI":9,"directrouting":true}}"#);
    let expected = Backend::Vxlan { vni: 9, port: 0, mtu: None, gbp: false, learning: false, direct_routing: true };
    assert_eq!(nested.unwrap().backend, expected);
}

#[test]
fn what_is_no_configuration_is_named() {
    for (text, named) in [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (r#"{"Network":"10.3.0.0/16"} x"#, "not valid JSON"),
        (r#"{"Network":"10.3.0.0/16"}{}"#, "not valid JSON"),
        ("[]", "must be a JSON object"),
        ("7", "must be a JSON object"),
        ("null", "define a correct Network"),
        ("{}", "define a correct Network"),
        (r#"{"Network":"0.0.0.0/0"}"#, "define a correct Network"),
        (r#"{"Network":""}"#, r#"Network: "" is not an IPv4 network"#),
        (r#"{"Network":"fc00::/48"}"#, r#"Network: "fc00::/48" is not an IPv4 network"#),
        (r#"{"Network":"10.03.0.0/16"}"#, "is not an IPv4 network"),
        (r#"{"Network":"10.3.0.0"}"#, "is not an IPv4 network"),
        (r#"{"Network":"10.3.0.0/33"}"#, "is not an IPv4 network"),
        (r#"{"Network":"10.3.0.0/+16"}"#, "is not an IPv4 network"),
        (r#"{"Network":7}"#, "Network: 7 is not a string"),
        (r#"{"Network":"10.3.0.0/16","EnableIPv4":"yes"}"#, r#"EnableIPv4: "yes" is not true or false"#),
        (r#"{"Network":"10.3.0.0/16","Backend":"vxlan"}"#, r#"Backend: "vxlan" is not an object"#),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":7}}"#, "Backend.Type: 7 is not a string"),
        (
            r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#,
            "Backend.VNI: \"1\" is not a whole number",
        ),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, "Backend.VNI: 16777216 is not in"),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","Port":65536}}"#, "Backend.Port: 65536 is not in"),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":50}}"#, "Backend.MTU: 50 is not in"),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"udp","Port":-1}}"#, "Backend.Port: -1 is not in"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(named), "{text}: {error}");
        assert!(!error.is_fatal(), "{text}: an operator can correct the key while we wait");
    }
}

#[test]
fn what_cannot_work_at_all_ends_the_agent() {
    for (text, named) in [
        (r#"{"Network":"10.3.0.0/16","Backend":{}}"#, "unknown backend type \"\""),
        (r#"{"Network":"10.3.0.0/16","Backend":null}"#, "unknown backend type \"\""),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":null}}"#, "unknown backend type \"\""),
        (
            r#"{"Network":"10.3.0.0/16","Backend":{"Type":"foo"}}"#,
            "unknown backend type \"foo\"; supported are host-gw, vxlan",
        ),
        (
            r#"{"Network":"10.3.0.0/16","Backend":{"Type":"WireGuard"}}"#,
            "\"WireGuard\" is not supported; supported are host-gw",
        ),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"ipsec"}}"#, "is not supported"),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"extension"}}"#, "is not supported"),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"tencent-vpc"}}"#, "is not supported"),
        (r#"{"Network":"10.3.0.0/16","EnableIPv4":false}"#, "both false"),
        (r#"{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false }"#, "IPv6 only is not supported"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(named), "{text}: {error}");
        assert!(error.is_fatal(), "{text}");
    }
}

#[test]
fn backends_and_their_defaults() {
    let vxlan = |vni, port, mtu, gbp, learning, direct_routing| Backend::Vxlan {
        vni,
        port,
        mtu,
        gbp,
        learning,
        direct_routing,
    };
    for (backend, expected) in [
        (None, Backend::Udp { port: 8285 }),
        (Some(r#"{"Type":"host-gw"}"#), Backend::HostGw),
        (Some(r#"{"Type":"Host-GW"}"#), Backend::HostGw),
        (Some(r#"{"Type":"alloc"}"#), Backend::Alloc),
        (Some(r#"{"Type":"udp"}"#), Backend::Udp { port: 8285 }),
        (Some(r#"{"Type":"udp","Port":7890}"#), Backend::Udp { port: 7890 }),
        (Some(r#"{"Type":"ipip"}"#), Backend::Ipip { direct_routing: false }),
        (Some(r#"{"Type":"ipip","DirectRouting":true}"#), Backend::Ipip { direct_routing: true }),
        (Some(r#"{"Type":"vxlan"}"#), vxlan(1, 0, None, false, false, false)),
        (Some(r#"{"Type":"vxlan","VNI":null,"Port":null,"GBP":null}"#), vxlan(1, 0, None, false, false, false)),
        (
            Some(r#"{"Type":"vxlan","VNI":42,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true}"#),
            vxlan(42, 4789, Some(9000), true, true, true),
        ),
    ] {
        let member = backend.map(|b| format!(r#","Backend":{b}"#)).unwrap_or_default();
        let config = parse(&format!(r#"{{"Network":"10.3.0.0/16"{member}}}"#)).unwrap();
        assert_eq!(config.backend, expected, "{backend:?}");
    }
}

#[test]
fn the_seed_configuration() {
    let config = parse(r#"{"Network":"172.16.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    assert_eq!(config.backend.name(), "host-gw");
    assert!(!config.nftables && config.v6.is_none());
    assert!(parse(r#"{"Network":"172.16.0.0/16","EnableNFTables":true}"#).unwrap().nftables);
    let range = config.range();
    assert_eq!((range.network.to_string(), range.len), ("172.16.0.0/16".to_owned(), 24));
}

#[test]
fn a_change_says_when_it_takes_effect() {
    let before = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#;
    for (after, expected) in [
        (r#"{"network":"10.3.0.0/16","SubnetLen":24,"Backend":{"Type":"VXLAN","VNI":1}}"#, vec![]),
        (
            r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#,
            vec![("Backend.DirectRouting", Effect::Live)],
        ),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":1400}}"#, vec![("Backend.MTU", Effect::Restart)]),
        (
            r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","Backend":{"Type":"vxlan"}}"#,
            vec![("SubnetMin", Effect::NextLease)],
        ),
        (
            r#"{"Network":"10.3.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#,
            vec![("EnableNFTables", Effect::Restart)],
        ),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"host-gw"}}"#, vec![("Backend.Type", Effect::Restart)]),
        (
            r#"{"Network":"10.4.0.0/16","Backend":{"Type":"vxlan"}}"#,
            vec![("Network", Effect::Restart), ("SubnetMin", Effect::NextLease), ("SubnetMax", Effect::NextLease)],
        ),
    ] {
        let differences = diff(&parse(before).unwrap(), &parse(after).unwrap());
        let found: Vec<_> = differences.iter().map(|d| (d.key, d.effect)).collect();
        assert_eq!(found, expected, "{after}");
    }
    let differences = diff(&parse(before).unwrap(), &parse(r#"{"Network":"10.3.0.0/16"}"#).unwrap());
    let text = differences[0].to_string();
    assert_eq!(text, "Backend.Type changed from vxlan to udp: needs a restart of flanneld on every node");
}
