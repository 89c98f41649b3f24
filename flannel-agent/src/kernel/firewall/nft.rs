//! Rules in nftables: what `nft -a list table` prints, and what `nft -f -` is fed. Pure.

use std::collections::BTreeMap;

use super::{
    Overlay,
    chain::{Step, Wanted, steps},
    rules::{Chain, Chains, Dialect, Family, Match, Verdict},
};

/// One of our chains.
struct Place {
    chain: &'static str,
    hook: &'static str,
    comment: &'static str,
}

const MASQUERADE: Place = Place {
    chain: "postrtg",
    hook: "type nat hook postrouting priority srcnat",
    comment: "chain to manage traffic masquerading by flannel",
};

const FORWARD: Place = Place {
    chain: "forward",
    hook: "type filter hook forward priority filter",
    comment: "chain to accept flannel traffic",
};

/// A rule as it is listed, and the handle by which it is deleted.
type Rule = (String, String);

/// The chains of a table with their rules; `None` if there is no table.
pub(super) type Listed = Option<BTreeMap<String, Vec<Rule>>>;

/// The spelling of `nft list`.
pub(super) struct Nft;

impl Dialect for Nft {
    const MARKED: &'static str = "meta mark 0x4000 return";

    fn rule<F: Family>(matches: &[Match<F>], verdict: Verdict, _chain: Chain, exempt: Option<F>) -> String {
        let ip = F::NFT;
        let mut words: Vec<String> = matches
            .iter()
            .map(|one| match one {
                Match::From(net) => format!("{ip} saddr {}", net.short()),
                Match::NotFrom(net) => format!("{ip} saddr != {}", net.short()),
                Match::To(net) => format!("{ip} daddr {}", net.short()),
                Match::NotToMulticast => format!("{ip} daddr != {}", F::MULTICAST),
            })
            .collect();
        words.push(
            match verdict {
                Verdict::Return => "return",
                Verdict::Accept => "accept",
                Verdict::Masquerade { random_fully: true } => "masquerade fully-random",
                Verdict::Masquerade { random_fully: false } => "masquerade",
            }
            .to_owned(),
        );
        words.extend(exempt.map(Self::exempt_mark));
        words.join(" ")
    }

    fn exempt_mark<F: Family>(network: F) -> String {
        format!(r#"comment "flanneld masq exempt {network}""#)
    }

    fn mistaken<F: Family>(overlay: &Overlay<F>) -> Option<String> {
        let matches = [Match::NotFrom(overlay.subnet), Match::To(overlay.network)];
        Some(Self::rule(&matches, Verdict::Return, Chain::Masquerade, None))
    }
}

/// Name of the table of a family.
pub(super) fn table<F: Family>() -> &'static str {
    if F::NFT == "ip" { "ip flannel-ipv4" } else { "ip6 flannel-ipv6" }
}

/// Reads what `nft -a list table` prints.
pub(super) fn parse(text: &str) -> BTreeMap<String, Vec<Rule>> {
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    let mut chain = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("chain ") {
            let name = rest.split(' ').next().unwrap_or_default().to_owned();
            chains.entry(name.clone()).or_default();
            chain = Some(name);
        } else if line == "}" {
            chain = None;
        } else if let (Some(chain), Some((rule, handle))) = (&chain, line.split_once(" # handle ")) {
            chains.entry(chain.clone()).or_default().push((plain(rule), handle.to_owned()));
        }
    }
    chains
}

/// With numbers as we write them: nft lists marks with leading zeros.
fn plain(rule: &str) -> String {
    let word = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => format!("0x{}", digits.trim_start_matches('0')),
        None => word.to_owned(),
    };
    rule.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// What one transaction of `nft -f -` must do for a family's table; empty if all is well. Without any wanted rule, the
/// table goes unless others use it; `keep` makes it even so.
pub(super) fn script<F: Family>(listed: &Listed, wanted: &Chains, keep: bool) -> Vec<String> {
    let table = table::<F>();
    let places = [(&FORWARD, &wanted.forward), (&MASQUERADE, &wanted.masquerade)];
    let texts = |place: &Place| -> Option<Vec<String>> {
        let rules = listed.as_ref()?.get(place.chain)?;
        Some(rules.iter().map(|(text, _)| text.clone()).collect())
    };
    let ours = |chain: &String| places.iter().any(|(place, _)| place.chain == chain);
    let unused = listed.iter().flat_map(BTreeMap::keys).all(ours)
        && places.iter().all(|(place, wanted)| {
            wanted.own.is_empty() && texts(place).is_none_or(|found| wanted.leaves_nothing(&found))
        });
    if unused && !keep {
        return listed.iter().map(|_| format!("delete table {table}")).collect();
    }
    let mut lines = Vec::new();
    if listed.is_none() {
        let name = table.split_once(' ').map_or(table, |(_, name)| name);
        lines.push(format!("add table {table} {{ comment \"rules for {name}\"; }}"));
    }
    for (place, wanted) in places {
        let found = texts(place);
        if found.is_none() && !wanted.own.is_empty() {
            let Place { chain, hook, comment } = place;
            lines.push(format!("add chain {table} {chain} {{ {hook}; policy accept; comment \"{comment}\"; }}"));
        }
        let handles = listed.as_ref().and_then(|chains| chains.get(place.chain)).map(Vec::as_slice).unwrap_or_default();
        lines.extend(place.lines(table, wanted, &found.unwrap_or_default(), handles));
    }
    lines
}

impl Place {
    fn lines(&self, table: &str, wanted: &Wanted, found: &[String], handles: &[Rule]) -> Vec<String> {
        let place = format!("{table} {}", self.chain);
        let line = |step| match step {
            Step::Delete(at) => {
                let handle: &String = handles.get(at).map_or(&found[at], |(_, handle)| handle);
                format!("delete rule {place} handle {handle}")
            }
            Step::Insert(rule) => format!("insert rule {place} {rule}"),
            Step::Append(rule) => format!("add rule {place} {rule}"),
        };
        steps(found, wanted).into_iter().map(line).collect()
    }
}
