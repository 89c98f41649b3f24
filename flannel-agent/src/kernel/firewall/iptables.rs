//! Rules in iptables: what `iptables-save` prints, and what `iptables-restore` is fed. Pure.

use std::collections::BTreeMap;

use super::{
    Overlay,
    chain::{Step, Wanted, steps},
    rules::{Chain, Chains, Dialect, Family, Match, Verdict},
};

/// Comment of the rules of [`Chain::Masquerade`].
const MASQUERADE_COMMENT: &str = "flanneld masq";
/// Comment of the rules of [`Chain::Forward`].
const FORWARD_COMMENT: &str = "flanneld forward";

/// Where one of our chains is, and what leads there.
struct Place {
    table: &'static str,
    parent: &'static str,
    chain: &'static str,
    jump: &'static str,
}

const MASQUERADE: Place = Place {
    table: "nat",
    parent: "POSTROUTING",
    chain: "FLANNEL-POSTRTG",
    jump: r#"-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#,
};

const FORWARD: Place = Place {
    table: "filter",
    parent: "FORWARD",
    chain: "FLANNEL-FWD",
    jump: r#"-m comment --comment "flanneld forward" -j FLANNEL-FWD"#,
};

/// The chains of a table with their rules (the text after `-A CHAIN `), by the names of both.
pub(super) type Saved = BTreeMap<(String, String), Vec<String>>;

/// The spelling of `iptables-save`.
pub(super) struct Iptables;

impl Dialect for Iptables {
    const MARKED: &'static str = r#"-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#;

    fn rule<F: Family>(matches: &[Match<F>], verdict: Verdict, chain: Chain, exempt: Option<F>) -> String {
        let mut words: Vec<String> = matches
            .iter()
            .map(|one| match one {
                Match::From(net) => format!("-s {net}"),
                Match::NotFrom(net) => format!("! -s {net}"),
                Match::To(net) => format!("-d {net}"),
                Match::NotToMulticast => format!("! -d {}", F::MULTICAST),
            })
            .collect();
        words.push(match (exempt, chain) {
            (Some(network), _) => comment(&exemption(network)),
            (None, Chain::Masquerade) => comment(MASQUERADE_COMMENT),
            (None, Chain::Forward) => comment(FORWARD_COMMENT),
        });
        words.push(
            match verdict {
                Verdict::Return => "-j RETURN",
                Verdict::Accept => "-j ACCEPT",
                Verdict::Masquerade { random_fully: true } => "-j MASQUERADE --random-fully",
                Verdict::Masquerade { random_fully: false } => "-j MASQUERADE",
            }
            .to_owned(),
        );
        words.join(" ")
    }

    fn exempt_mark<F: Family>(network: F) -> String {
        comment(&exemption(network))
    }

    fn mistaken<F: Family>(_overlay: &Overlay<F>) -> Option<String> {
        None
    }
}

fn comment(text: &str) -> String {
    format!(r#"-m comment --comment "{text}""#)
}

fn exemption<F: Family>(network: F) -> String {
    format!("{MASQUERADE_COMMENT} exempt {network}")
}

/// Reads what `iptables-save` prints; the error is what it says instead of a table's rules.
pub(super) fn parse(text: &str) -> Result<Saved, String> {
    let mut saved = Saved::new();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            saved.entry((table.clone(), name.to_owned())).or_default();
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            saved.entry((table.clone(), chain.to_owned())).or_default().push(rule.to_owned());
        } else if line.contains("is incompatible") && (line.contains("`nat'") || line.contains("`filter'")) {
            return Err(line.trim_start_matches(['#', ' ']).to_owned());
        }
    }
    Ok(saved)
}

/// What must be done, by table; empty if all is well.
pub(super) fn changes(saved: &Saved, wanted: &Chains) -> Vec<(&'static str, Vec<String>)> {
    let places = [(&MASQUERADE, &wanted.masquerade), (&FORWARD, &wanted.forward)];
    let tables = places.into_iter().map(|(place, wanted)| (place.table, place.lines(saved, wanted)));
    tables.filter(|(_, lines)| !lines.is_empty()).collect()
}

/// The same as `iptables-restore --noflush` reads it.
pub(super) fn restore(changes: &[(&'static str, Vec<String>)]) -> String {
    let tables: Vec<String> =
        changes.iter().map(|(table, lines)| format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"))).collect();
    tables.concat()
}

impl Place {
    fn lines(&self, saved: &Saved, wanted: &Wanted) -> Vec<String> {
        let rules = |chain: &str| saved.get(&(self.table.to_owned(), chain.to_owned()));
        let found = rules(self.chain);
        let jumps = rules(self.parent).into_iter().flatten().filter(|rule| *rule == self.jump).count();
        let chain = self.chain;
        let leads_here = |rule: &&String| ["-j", "-g"].iter().any(|how| rule.contains(&format!("{how} {chain}")));
        let in_table = saved.iter().filter(|((table, _), _)| table == self.table).flat_map(|(_, rules)| rules);
        let only_jumps = in_table.filter(leads_here).count() == jumps;
        if wanted.own.is_empty() && only_jumps && found.is_none_or(|found| wanted.leaves_nothing(found)) {
            let unjump = std::iter::repeat_n(format!("-D {} {}", self.parent, self.jump), jumps);
            let remove = found.map(|_| [format!("-F {chain}"), format!("-X {chain}")]);
            return unjump.chain(remove.into_iter().flatten()).collect();
        }
        let mut lines = Vec::new();
        if found.is_none() {
            // Unlike a declaration, this does not empty a chain that a neighbour has made in the meantime.
            lines.push(format!("-N {chain}"));
        }
        if !wanted.own.is_empty() && jumps != 1 {
            lines.extend(std::iter::repeat_n(format!("-D {} {}", self.parent, self.jump), jumps));
            lines.push(format!("-A {} {}", self.parent, self.jump));
        }
        let found = found.map(Vec::as_slice).unwrap_or_default();
        lines.extend(steps(found, wanted).into_iter().map(|step| match step {
            Step::Delete(at) => format!("-D {chain} {}", found[at]),
            Step::Insert(rule) => format!("-I {chain} 1 {rule}"),
            Step::Append(rule) => format!("-A {chain} {rule}"),
        }));
        lines
    }
}
