//! Walks a packet through the rules.

use serde::Serialize;

use super::{Chain, Hook, Match, Packet, Rule, Ruleset, Target, Test};

/// Jumps into jumps; the kernel allows 16, a loop is none.
const DEPTH: usize = 16;

/// A rule that decides a packet's fate, or may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Table and chain.
    pub chain: String,
    /// The rule as its tool writes it, or the chain's policy.
    pub rule: String,
    /// What it does.
    pub effect: Effect,
    /// Whether it surely applies; otherwise it has conditions that were not understood.
    pub certain: bool,
}

/// What a rule does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Lets it pass: no later rule of the same table is asked.
    Accept,
    /// Throws it away.
    Drop,
    /// Changes its addresses.
    Nat,
    /// Changes something else about it.
    Mangle,
}

/// How a chain ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// At its end, or by a return.
    Through,
    /// Decided.
    Decided,
}

/// Three-valued truth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

impl Ruleset {
    /// The rules that touch a packet on its way through this host, in the order in which it meets them.
    pub fn walk(&self, packet: &Packet) -> Vec<Hit> {
        let mut hits = Vec::new();
        for hook in [Hook::Prerouting, Hook::Forward, Hook::Postrouting] {
            for ((table, name), chain) in self.chains.iter().filter(|(_, chain)| chain.hook == Some(hook)) {
                let mut walk = Walk { rules: self, packet, table, hits: &mut hits };
                if walk.chain(name, chain, 0) == End::Through && chain.drops {
                    walk.hit(
                        name,
                        "the policy of the chain: nothing before it accepts the packet".to_owned(),
                        Effect::Drop,
                        true,
                    );
                }
            }
        }
        hits
    }

    /// The rule that surely drops a packet, if there is one.
    pub fn dropped(&self, packet: &Packet) -> Option<Hit> {
        self.walk(packet).into_iter().find(|hit| hit.effect == Effect::Drop && hit.certain)
    }
}

struct Walk<'a> {
    rules: &'a Ruleset,
    packet: &'a Packet,
    table: &'a str,
    hits: &'a mut Vec<Hit>,
}

impl Walk<'_> {
    fn hit(&mut self, chain: &str, rule: String, effect: Effect, certain: bool) {
        self.hits.push(Hit { chain: format!("{} {chain}", self.table), rule, effect, certain });
    }

    fn chain(&mut self, name: &str, chain: &Chain, depth: usize) -> End {
        for rule in &chain.rules {
            match self.rule(name, rule, depth) {
                Step::On => {}
                Step::Return => return End::Through,
                Step::Decided => return End::Decided,
            }
        }
        End::Through
    }

    fn rule(&mut self, chain: &str, rule: &Rule, depth: usize) -> Step {
        let truth = rule.matches.iter().map(|one| self.holds(one)).fold(Truth::Yes, |all, one| match (all, one) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Maybe, _) | (_, Truth::Maybe) => Truth::Maybe,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
        });
        if truth == Truth::No {
            return Step::On;
        }
        let certain = truth == Truth::Yes;
        let decided = if certain { Step::Decided } else { Step::On };
        match &rule.target {
            Target::Nothing => Step::On,
            Target::Return => {
                if certain {
                    Step::Return
                } else {
                    Step::On
                }
            }
            Target::Accept => {
                // An accept that is sure is worth a word only where something else might have dropped the packet.
                self.hit(chain, rule.text.clone(), Effect::Accept, certain);
                decided
            }
            Target::Drop => {
                self.hit(chain, rule.text.clone(), Effect::Drop, certain);
                decided
            }
            Target::Nat => {
                self.hit(chain, rule.text.clone(), Effect::Nat, certain);
                decided
            }
            Target::Mangle => {
                self.hit(chain, rule.text.clone(), Effect::Mangle, certain);
                Step::On
            }
            Target::Jump(to) | Target::Goto(to) => {
                self.jump(to, certain, matches!(rule.target, Target::Goto(_)), depth)
            }
        }
    }

    fn jump(&mut self, to: &str, certain: bool, goes: bool, depth: usize) -> Step {
        let key = (self.table.to_owned(), to.to_owned());
        let Some(chain) = self.rules.chains.get(&key).filter(|_| depth < DEPTH) else { return Step::On };
        let before = self.hits.len();
        let end = self.chain(to, chain, depth + 1);
        if !certain {
            for hit in &mut self.hits[before..] {
                hit.certain = false;
            }
            return Step::On;
        }
        match end {
            End::Decided => Step::Decided,
            End::Through if goes => Step::Return,
            End::Through => Step::On,
        }
    }

    fn holds(&self, one: &Match) -> Truth {
        let packet = self.packet;
        let port = |port: Option<u16>, low: u16, high: u16| port.map(|port| (low..=high).contains(&port));
        let holds = match &one.test {
            Test::Src(nets) => Some(nets.iter().any(|net| net.contains(&packet.src))),
            Test::Dst(nets) => Some(nets.iter().any(|net| net.contains(&packet.dst))),
            Test::In(name) => Some(is_interface(name, &packet.iif)),
            Test::Out(name) => Some(is_interface(name, &packet.oif)),
            Test::Proto(number) => packet.proto.map(|proto| proto == *number),
            Test::SrcPort(low, high) => port(packet.sport, *low, *high),
            Test::DstPort(low, high) => port(packet.dport, *low, *high),
            Test::State(states) => Some(states.iter().any(|state| state == "new")),
            // A forwarded packet is not for this host.
            Test::DstLocal => Some(false),
            Test::Unknown => return Truth::Maybe,
        };
        match holds {
            None => Truth::Maybe,
            Some(holds) if holds != one.not => Truth::Yes,
            Some(_) => Truth::No,
        }
    }
}

enum Step {
    On,
    Return,
    Decided,
}

fn is_interface(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['+', '*']) {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
