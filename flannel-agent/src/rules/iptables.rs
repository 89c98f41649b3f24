//! Reads `iptables-save`.

use ipnet::Ipv4Net;

use super::{Chain, Hook, Match, Rule, Ruleset, Target, Test};

pub(super) fn parse(text: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(head) = line.strip_prefix(':') {
            let mut words = head.split(' ');
            let (name, policy) = (words.next().unwrap_or_default(), words.next());
            let chain = Chain { hook: hook(name), drops: policy == Some("DROP"), rules: vec![] };
            rules.chains.insert((table.clone(), name.to_owned()), chain);
        } else if line.starts_with("-A ") {
            let (chain, rule) = rule(line);
            if let Some(chain) = rules.chains.get_mut(&(table.clone(), chain)) {
                chain.rules.push(rule);
            }
        }
    }
    rules
}

fn hook(chain: &str) -> Option<Hook> {
    match chain {
        "PREROUTING" => Some(Hook::Prerouting),
        "FORWARD" => Some(Hook::Forward),
        "POSTROUTING" => Some(Hook::Postrouting),
        _ => None,
    }
}

/// Splits at blanks outside double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Options that take no argument.
const BARE: [&str; 3] = ["--random", "--random-fully", "--persistent"];
/// Options that say nothing about whether a packet matches.
const HARMLESS: [&str; 3] = ["-m", "--comment", "--reject-with"];

/// The chain and the rule of an `-A` line.
fn rule(line: &str) -> (String, Rule) {
    let words = words(line);
    let chain = words.get(1).cloned().unwrap_or_default();
    let mut rule = Rule { text: line.to_owned(), matches: vec![], target: Target::Nothing };
    let (mut not, mut rest) = (false, words.iter().skip(2).peekable());
    while let Some(option) = rest.next() {
        if option == "!" {
            not = true;
            continue;
        }
        if BARE.contains(&option.as_str()) {
            continue;
        }
        // An option's argument is what follows up to the next option.
        let value = rest.next_if(|next| !next.starts_with("--") && !matches!(next.as_str(), "!" | "-m" | "-j" | "-g"));
        let value = value.map_or("", String::as_str);
        match option.as_str() {
            "-j" => {
                rule.target = target(value);
                // What follows belongs to the target.
                break;
            }
            "-g" => rule.target = Target::Goto(value.to_owned()),
            name if HARMLESS.contains(&name) => {}
            name => rule.matches.push(Match { not, test: test(name, value) }),
        }
        not = false;
    }
    (chain, rule)
}

fn target(name: &str) -> Target {
    match name {
        "ACCEPT" => Target::Accept,
        "DROP" | "REJECT" => Target::Drop,
        "RETURN" => Target::Return,
        "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => Target::Nat,
        "MARK" | "CONNMARK" | "DSCP" | "TOS" | "TTL" | "CLASSIFY" | "TCPMSS" => Target::Mangle,
        "LOG" | "NFLOG" | "NOTRACK" | "CT" | "TRACE" | "AUDIT" => Target::Nothing,
        chain => Target::Jump(chain.to_owned()),
    }
}

fn test(option: &str, value: &str) -> Test {
    let range = |make: fn(u16, u16) -> Test| {
        let (low, high) = value.split_once(':').unwrap_or((value, value));
        low.parse().ok().zip(high.parse().ok()).map_or(Test::Unknown, |(low, high)| make(low, high))
    };
    match option {
        "-s" => nets(value).map_or(Test::Unknown, Test::Src),
        "-d" => nets(value).map_or(Test::Unknown, Test::Dst),
        "-i" => Test::In(value.to_owned()),
        "-o" => Test::Out(value.to_owned()),
        "-p" => proto(value).map_or(Test::Unknown, Test::Proto),
        "--sport" => range(Test::SrcPort),
        "--dport" => range(Test::DstPort),
        "--ctstate" | "--state" => Test::State(value.split(',').map(str::to_lowercase).collect()),
        "--dst-type" if value == "LOCAL" => Test::DstLocal,
        _ => Test::Unknown,
    }
}

fn nets(value: &str) -> Option<Vec<Ipv4Net>> {
    value
        .split(',')
        .map(|net| net.parse().ok().or_else(|| Some(Ipv4Net::from(net.parse::<std::net::Ipv4Addr>().ok()?))))
        .collect()
}

pub(super) fn proto(name: &str) -> Option<u8> {
    match name {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        number => number.parse().ok(),
    }
}
