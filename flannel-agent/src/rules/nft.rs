//! Reads `nft list ruleset`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Chain, Hook, Match, Rule, Ruleset, Target, Test, iptables::proto};

pub(super) fn parse(text: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut table = None;
    let mut chain: Option<(String, Chain)> = None;
    // Depth of blocks that we do not read (sets, maps).
    let mut skipped = 0;
    for line in text.lines().map(str::trim) {
        if skipped > 0 {
            skipped += line.matches('{').count();
            skipped -= line.matches('}').count().min(skipped);
        } else if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
            table = (name.starts_with("ip ") || name.starts_with("inet ")).then(|| name.to_owned());
        } else if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            chain = Some((name.to_owned(), Chain::default()));
        } else if line == "}" {
            if let (Some((name, done)), Some(table)) = (chain.take(), &table) {
                rules.chains.insert((table.clone(), name), done);
            }
        } else if let Some((_, chain)) = &mut chain {
            if let Some(head) = line.strip_prefix("type ") {
                chain.hook = hook(head);
                chain.drops = head.contains("policy drop");
            } else if !line.is_empty() && !line.starts_with('#') {
                chain.rules.push(rule(line));
            }
        } else if line.ends_with('{') {
            skipped = 1;
        }
    }
    rules
}

fn hook(head: &str) -> Option<Hook> {
    let name = head.split(' ').skip_while(|word| *word != "hook").nth(1)?;
    match name {
        "prerouting" => Some(Hook::Prerouting),
        "forward" => Some(Hook::Forward),
        "postrouting" => Some(Hook::Postrouting),
        _ => None,
    }
}

/// Reads a rule word by word; a word that is not known makes the rule a "maybe".
fn rule(line: &str) -> Rule {
    let mut rule = Rule { text: line.to_owned(), matches: vec![], target: Target::Nothing };
    let (line, _comment) = line.split_once(" comment \"").unwrap_or((line, ""));
    let words: Vec<&str> = line.split(' ').collect();
    let mut rest = words.as_slice();
    while let [word, tail @ ..] = rest {
        rest = match (*word, tail) {
            ("counter", ["packets", _, "bytes", _, tail @ ..]) => tail,
            ("counter", tail) => tail,
            ("ip" | "tcp" | "udp" | "th" | "meta" | "ct", [field, tail @ ..]) => {
                implied(word, &mut rule.matches);
                condition(word, field, tail, &mut rule.matches)
            }
            ("iifname" | "oifname" | "iif" | "oif", tail) => condition("", word, tail, &mut rule.matches),
            (word, tail) => match target(word, tail) {
                Some(target) => {
                    rule.target = target;
                    break;
                }
                None => {
                    rule.matches.push(Match { not: false, test: Test::Unknown });
                    tail
                }
            },
        };
    }
    rule
}

/// `tcp dport 80` is about TCP alone.
fn implied(word: &str, matches: &mut Vec<Match>) {
    if let "tcp" | "udp" = word {
        matches.extend(proto(word).map(|number| Match { not: false, test: Test::Proto(number) }));
    }
}

fn target(word: &str, tail: &[&str]) -> Option<Target> {
    let chain = || tail.first().map_or_else(String::new, |name| (*name).to_owned());
    match word {
        "accept" => Some(Target::Accept),
        "drop" | "reject" => Some(Target::Drop),
        "return" => Some(Target::Return),
        "masquerade" | "snat" | "dnat" | "redirect" => Some(Target::Nat),
        "jump" => Some(Target::Jump(chain())),
        "goto" => Some(Target::Goto(chain())),
        "log" | "notrack" => Some(Target::Nothing),
        _ => None,
    }
}

/// Reads `[!=] VALUE` after a field; gives what follows.
fn condition<'a>(of: &str, field: &str, tail: &'a [&'a str], matches: &mut Vec<Match>) -> &'a [&'a str] {
    let (not, tail) = match tail {
        ["!=", tail @ ..] => (true, tail),
        ["==", tail @ ..] => (false, tail),
        tail => (false, tail),
    };
    // `meta mark set …` changes the packet; the walk only has to know that it does not decide.
    let (values, tail): (Vec<&str>, _) = match tail {
        ["{", tail @ ..] => {
            let end = tail.iter().position(|word| *word == "}").unwrap_or(tail.len());
            (tail[..end].iter().map(|value| value.trim_end_matches(',')).collect(), tail.get(end + 1..).unwrap_or(&[]))
        }
        [value, tail @ ..] => (value.split(',').collect(), tail),
        [] => (vec![], tail),
    };
    matches.push(Match { not, test: test(of, field, &values) });
    tail
}

fn test(of: &str, field: &str, values: &[&str]) -> Test {
    let one = values.first().copied().unwrap_or_default();
    let port = |make: fn(u16, u16) -> Test| {
        let (low, high) = one.split_once('-').unwrap_or((one, one));
        match (low.parse(), high.parse(), values.len()) {
            (Ok(low), Ok(high), 1) => make(low, high),
            _ => Test::Unknown,
        }
    };
    match (of, field) {
        ("ip", "saddr") => nets(values).map_or(Test::Unknown, Test::Src),
        ("ip", "daddr") => nets(values).map_or(Test::Unknown, Test::Dst),
        ("ip", "protocol") | ("meta", "l4proto") => proto(one).map_or(Test::Unknown, Test::Proto),
        (_, "iifname" | "iif") => Test::In(one.trim_matches('"').to_owned()),
        (_, "oifname" | "oif") => Test::Out(one.trim_matches('"').to_owned()),
        (_, "sport") => port(Test::SrcPort),
        (_, "dport") => port(Test::DstPort),
        ("ct", "state") => Test::State(values.iter().map(|state| (*state).to_owned()).collect()),
        _ => Test::Unknown,
    }
}

fn nets(values: &[&str]) -> Option<Vec<Ipv4Net>> {
    values.iter().map(|net| net.parse().ok().or_else(|| Some(Ipv4Net::from(net.parse::<Ipv4Addr>().ok()?)))).collect()
}
