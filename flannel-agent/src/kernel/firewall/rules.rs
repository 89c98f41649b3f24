//! Which rules there should be, in the texts that `iptables-save` and `nft list` print. Pure.

use std::{collections::BTreeSet, fmt::Display};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Overlay, Rules, chain::Wanted};

/// The two chains that hold our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// What is masqueraded.
    Masquerade,
    /// What is forwarded.
    Forward,
}

/// What differs between the families.
pub(super) trait Family: Copy + Display + PartialEq + 'static {
    /// Multicast, which is never masqueraded.
    const MULTICAST: &'static str;
    /// Name of the family in nft's language.
    const NFT: &'static str;

    /// An exempt network, if it is of this family.
    fn of(net: IpNet) -> Option<Self>;

    /// As nft prints it: a single address without its length.
    fn short(self) -> String;
}

impl Family for Ipv4Net {
    const MULTICAST: &'static str = "224.0.0.0/4";
    const NFT: &'static str = "ip";

    fn of(net: IpNet) -> Option<Self> {
        if let IpNet::V4(net) = net { Some(net) } else { None }
    }

    fn short(self) -> String {
        if self.prefix_len() == self.max_prefix_len() { self.addr().to_string() } else { self.to_string() }
    }
}

impl Family for Ipv6Net {
    const MULTICAST: &'static str = "ff00::/8";
    const NFT: &'static str = "ip6";

    fn of(net: IpNet) -> Option<Self> {
        if let IpNet::V6(net) = net { Some(net) } else { None }
    }

    fn short(self) -> String {
        if self.prefix_len() == self.max_prefix_len() { self.addr().to_string() } else { self.to_string() }
    }
}

/// How rules are spelled.
pub(super) trait Dialect {
    /// The rule that keeps our hands off what kube-proxy has marked.
    const MARKED: &'static str;

    /// A rule from its matches and its verdict; `exempt` is the network whose exemption it is.
    fn rule<F: Family>(matches: &[Match<F>], verdict: Verdict, chain: Chain, exempt: Option<F>) -> String;

    /// What only exemptions of this network have in their texts.
    fn exempt_mark<F: Family>(network: F) -> String;

    /// The rule of masquerading that lets packets from outside into our subnet unchanged. flannel's nftables rules have
    /// source and destination mixed up there, which disarms the rule for packets from the host: that one is stale.
    fn mistaken<F: Family>(overlay: &Overlay<F>) -> Option<String>;
}

/// What a packet must be.
pub(super) enum Match<F> {
    From(F),
    NotFrom(F),
    To(F),
    NotToMulticast,
}

/// What happens to it.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    Return,
    Accept,
    Masquerade { random_fully: bool },
}

/// What we want of both chains of a family.
pub(super) struct Chains {
    pub masquerade: Wanted,
    pub forward: Wanted,
}

/// The chains of a family: `overlay` now, `previous` before the last start.
pub(super) fn chains<D: Dialect, F: Family>(
    rules: &Rules,
    overlay: Option<Overlay<F>>,
    previous: Option<Overlay<F>>,
    random_fully: bool,
) -> Chains {
    let mut masquerade = Wanted { shared: Some(D::MARKED.to_owned()), ..Wanted::default() };
    let mut forward = Wanted::default();
    for known in [overlay, previous].into_iter().flatten() {
        let exempt: Vec<F> = rules.exempt.iter().filter_map(|net| F::of(*net)).collect();
        if Some(known) == overlay && rules.masquerade {
            masquerade.own = masquerading::<D, F>(&known, &exempt, random_fully);
        }
        for random_fully in [true, false] {
            masquerade.stale.extend(masquerading::<D, F>(&known, &[], random_fully));
        }
        masquerade.stale.extend(D::mistaken(&known));
        masquerade.stale_marks.push(D::exempt_mark(known.network));
        if Some(known) == overlay && rules.forward {
            forward.own = forwarding::<D, F>(known.network);
        }
        forward.stale.extend(forwarding::<D, F>(known.network));
    }
    Chains { masquerade: masquerade.settled(), forward: forward.settled() }
}

impl Wanted {
    /// A rule that is wanted is not stale.
    fn settled(mut self) -> Self {
        self.stale = self.stale.difference(&self.own.iter().cloned().collect::<BTreeSet<_>>()).cloned().collect();
        self
    }
}

fn masquerading<D: Dialect, F: Family>(overlay: &Overlay<F>, exempt: &[F], random_fully: bool) -> Vec<String> {
    use Match::{From, NotFrom, NotToMulticast, To};
    let Overlay { network, subnet } = *overlay;
    let rule = |matches: &[Match<F>], verdict| D::rule(matches, verdict, Chain::Masquerade, None);
    let masquerade = Verdict::Masquerade { random_fully };
    let mut rules = vec![
        rule(&[From(subnet), To(network)], Verdict::Return),
        rule(&[From(network), To(subnet)], Verdict::Return),
        rule(&[NotFrom(network), To(subnet)], Verdict::Return),
    ];
    for net in exempt {
        for one in [From(*net), To(*net)] {
            rules.push(D::rule(&[one], Verdict::Return, Chain::Masquerade, Some(network)));
        }
    }
    rules.push(rule(&[From(network), NotToMulticast], masquerade));
    rules.push(rule(&[NotFrom(network), To(network)], masquerade));
    rules
}

fn forwarding<D: Dialect, F: Family>(network: F) -> Vec<String> {
    let accept = |one| D::rule(&[one], Verdict::Accept, Chain::Forward, None);
    vec![accept(Match::From(network)), accept(Match::To(network))]
}

impl Chains {
    /// Whether no rule is wanted at all.
    pub(super) fn are_none(&self) -> bool {
        self.masquerade.own.is_empty() && self.forward.own.is_empty()
    }
}
