//! One chain that several agents share: what to change in it so that it holds our rules in order. Pure.

use std::collections::BTreeSet;

/// What we want of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A rule that every agent wants first; nobody takes it away from the others.
    pub shared: Option<String>,
    /// Our own rules, in order.
    pub own: Vec<String>,
    /// Rules that were ours, and are no longer wanted.
    pub stale: BTreeSet<String>,
    /// Ends of the texts of rules that were ours; such a rule is stale unless it is in `own`.
    pub stale_marks: Vec<String>,
}

/// One step; `at` is an index into the chain as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take away the rule at this index.
    Delete(usize),
    /// Put a rule in front of all.
    Insert(String),
    /// Put a rule behind all.
    Append(String),
}

/// The steps from what was found to what is wanted; none if all is well. Rules of others stay where they are.
pub(super) fn steps(found: &[String], wanted: &Wanted) -> Vec<Step> {
    let positions = |rule: &String| -> Vec<usize> { (0..found.len()).filter(|i| found[*i] == *rule).collect() };
    let mut delete: BTreeSet<usize> = (0..found.len()).filter(|i| wanted.is_stale(&found[*i])).collect();
    let own: Vec<Vec<usize>> = wanted.own.iter().map(positions).collect();
    let in_order = own.iter().all(|p| p.len() == 1) && own.is_sorted();
    let mut add = Vec::new();
    if !in_order {
        delete.extend(own.iter().flatten());
        add.extend(wanted.own.iter().cloned().map(Step::Append));
    }
    if let Some(shared) = &wanted.shared
        && !wanted.own.is_empty()
    {
        let at = positions(shared);
        let first_own = if in_order { own[0][0] } else { found.len() };
        if at.len() != 1 || at[0] > first_own {
            delete.extend(at);
            add.insert(0, Step::Insert(shared.clone()));
        }
    }
    delete.into_iter().map(Step::Delete).chain(add).collect()
}

impl Wanted {
    fn is_stale(&self, rule: &String) -> bool {
        let marked = || self.stale_marks.iter().any(|mark| rule.contains(mark.as_str()));
        !self.own.contains(rule) && (self.stale.contains(rule) || marked())
    }

    /// Whether nothing but the shared rule is left once the steps are done, so that nobody needs the chain.
    pub(super) fn leaves_nothing(&self, found: &[String]) -> bool {
        self.own.is_empty() && found.iter().all(|rule| self.is_stale(rule) || self.shared.as_ref() == Some(rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rules: &str) -> Vec<String> {
        rules.split_whitespace().map(str::to_owned).collect()
    }

    fn wanted(shared: &str, own: &str, stale: &str) -> Wanted {
        Wanted {
            shared: Some(shared.to_owned()),
            own: texts(own),
            stale: texts(stale).into_iter().collect(),
            stale_marks: vec!["?".to_owned()],
        }
    }

    fn apply(found: &[String], steps: &[Step]) -> Vec<String> {
        let gone: BTreeSet<usize> =
            steps.iter().filter_map(|s| if let Step::Delete(i) = s { Some(*i) } else { None }).collect();
        let mut rules: Vec<String> =
            found.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, r)| r.clone()).collect();
        for step in steps {
            match step {
                Step::Delete(_) => {}
                Step::Insert(rule) => rules.insert(0, rule.clone()),
                Step::Append(rule) => rules.push(rule.clone()),
            }
        }
        rules
    }

    #[test]
    fn own_rules_are_put_in_order_and_foreign_ones_stay() {
        for (found, own, stale, after) in [
            ("", "a b c", "", "s a b c"),
            ("s a b c", "a b c", "", "s a b c"),
            ("s x a y b c z", "a b c", "", "s x a y b c z"),
            ("a b c", "a b c", "", "s a b c"),
            ("a b c s", "a b c", "", "s a b c"),
            ("x s a b c", "a b c", "", "x s a b c"),
            ("s a c x", "a b c", "", "s x a b c"),
            ("s b a c", "a b c", "", "s a b c"),
            ("s a b c a", "a b c", "", "s a b c"),
            ("s s a b c", "a b c", "", "s a b c"),
            ("s o a b c x o", "a b c", "o p", "s a b c x"),
            ("s old? a b c", "a b c", "", "s a b c"),
            ("s a b c x", "", "a b c", "s x"),
            ("x", "", "a", "x"),
        ] {
            let (found, wanted) = (texts(found), wanted("s", own, stale));
            let once = apply(&found, &steps(&found, &wanted));
            assert_eq!(once, texts(after), "from {found:?}");
            assert_eq!(steps(&once, &wanted), [], "a second pass changes nothing");
        }
    }

    #[test]
    fn two_agents_with_different_rules_come_to_rest() {
        let (one, two) = (wanted("s", "a b c", ""), wanted("s", "d e f", ""));
        for start in ["", "s a b c", "a b c s d e f", "d a s", "f e d c b a s s", "x s d a y"] {
            let mut rules = texts(start);
            for _ in 0..2 {
                rules = apply(&rules, &steps(&rules, &one));
                rules = apply(&rules, &steps(&rules, &two));
            }
            assert_eq!(steps(&rules, &one), [], "from {start:?}: {rules:?}");
            assert_eq!(steps(&rules, &two), [], "from {start:?}: {rules:?}");
        }
    }

    #[test]
    fn a_chain_that_others_use_is_not_empty() {
        let wanted = wanted("s", "", "a");
        assert!(wanted.leaves_nothing(&texts("s a")));
        assert!(!wanted.leaves_nothing(&texts("s a x")));
    }
}
