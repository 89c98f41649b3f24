//! What changed between two runs, beyond their noise.

use std::fmt::Write as _;

use super::{
    row::{Outcome, Row, verdict},
    table::figure,
};

/// A table of every row that both runs have, and whether the runs agree on the order of the arms; equal machines are not
/// taken for granted, so what differs is said first.
pub fn compare(old: &Outcome, new: &Outcome) -> String {
    let mut text = String::new();
    for (name, before, after) in machine_differences(old, new) {
        writeln!(text, "note: {name} differs: {before} → {after}").ok();
    }
    let (mut changed, mut same, mut missing) = (0, 0, 0);
    for row in &new.rows {
        let Some(before) = old.rows.iter().find(|other| other.title() == row.title() && other.arm == row.arm) else {
            missing += 1;
            continue;
        };
        let (Some(was), Some(is)) = (before.spread(), row.spread()) else { continue };
        let what = verdict(&is, &was, row.better);
        if what == "no difference" {
            same += 1;
            continue;
        }
        changed += 1;
        writeln!(text, "{}", line(row, what, was.median, is.median)).ok();
    }
    writeln!(text, "{changed} changed beyond noise, {same} did not").ok();
    if missing > 0 {
        writeln!(text, "{missing} are in the new run only").ok();
    }
    let swapped = swapped_arms(old, new);
    for (title, better, worse) in &swapped {
        writeln!(text, "order: {title}: {better} was better than {worse}, and is worse now").ok();
    }
    if swapped.is_empty() {
        writeln!(text, "both runs agree on the order of the arms").ok();
    }
    text
}

/// Pairs of arms of one workload that the two runs put in opposite order, each beyond its noise.
fn swapped_arms(old: &Outcome, new: &Outcome) -> Vec<(String, String, String)> {
    let mut swapped = Vec::new();
    for (a, b) in new.rows.iter().flat_map(|a| new.rows.iter().map(move |b| (a, b))) {
        let before = |row: &Row| old.rows.iter().find(|old| old.title() == row.title() && old.arm == row.arm)?.spread();
        let (Some(a_now), Some(b_now), Some(a_was), Some(b_was)) = (a.spread(), b.spread(), before(a), before(b))
        else {
            continue;
        };
        let is_worse_now = a.title() == b.title() && verdict(&a_now, &b_now, a.better) == "worse";
        if is_worse_now && verdict(&a_was, &b_was, a.better) == "better" {
            swapped.push((a.title(), a.arm.clone(), b.arm.clone()));
        }
    }
    swapped
}

fn line(row: &Row, what: &str, was: f64, is: f64) -> String {
    let percent = (is / was - 1.0) * 100.0;
    let name = format!("{} {}", row.title(), row.arm);
    format!("{what:<7} {name:<56} {:>9} → {:>9} {} ({percent:+.0} %)", figure(was), figure(is), row.unit)
}

fn machine_differences(old: &Outcome, new: &Outcome) -> Vec<(&'static str, String, String)> {
    let (a, b) = (&old.machine, &new.machine);
    let all = [
        ("kernel", a.kernel.clone(), b.kernel.clone()),
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("number of cores", a.cores.to_string(), b.cores.to_string()),
        ("length of samples in ms", a.sample_ms.to_string(), b.sample_ms.to_string()),
        ("number of rounds", a.rounds.to_string(), b.rounds.to_string()),
        ("compiled with optimisation", a.optimised.to_string(), b.optimised.to_string()),
    ];
    all.into_iter().filter(|(_, before, after)| before != after).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::{machine::Machine, sample::Better};

    fn outcome(arm: &str, min: f64, max: f64) -> Outcome {
        let row = Row {
            workload: "pps-out".to_owned(),
            params: BTreeMap::new(),
            arm: arm.to_owned(),
            unit: "Mpps".to_owned(),
            better: Better::Higher,
            median: Some(f64::midpoint(min, max)),
            min: Some(min),
            max: Some(max),
            samples: Vec::new(),
            rounds: 5,
            invalid: 0,
            ratio: None,
            verdict: None,
            skipped: None,
            failed: false,
            extras: BTreeMap::new(),
        };
        Outcome { version: 1, machine: Machine::default(), rows: vec![row] }
    }

    #[test]
    fn only_what_is_beyond_the_noise_has_changed() {
        let old = outcome("verified", 1.0, 1.2);
        let cases = [
            (outcome("verified", 1.1, 1.3), "0 changed beyond noise, 1 did not"),
            (outcome("verified", 1.3, 1.5), "1 changed beyond noise, 0 did not"),
            (outcome("trusted", 1.3, 1.5), "1 are in the new run only"),
        ];
        for (new, expected) in cases {
            assert!(compare(&old, &new).contains(expected), "{}", compare(&old, &new));
        }
        assert!(compare(&old, &outcome("verified", 0.5, 0.6)).starts_with("worse   pps-out verified"));
    }

    #[test]
    fn arms_that_changed_places_are_named() {
        let both = |a: (f64, f64), b: (f64, f64)| {
            let mut all = outcome("verified", a.0, a.1);
            all.rows.extend(outcome("trusted", b.0, b.1).rows);
            all
        };
        let old = both((2.0, 2.2), (1.0, 1.2));
        let swapped = compare(&old, &both((1.0, 1.2), (2.0, 2.2)));
        assert!(swapped.contains("order: pps-out: verified was better than trusted, and is worse now"), "{swapped}");
        let overlapping = compare(&old, &both((1.0, 2.1), (1.0, 2.2)));
        assert!(overlapping.ends_with("both runs agree on the order of the arms\n"), "{overlapping}");
    }

    #[test]
    fn another_machine_is_said() {
        let (old, mut new) = (outcome("verified", 1.0, 1.2), outcome("verified", 1.0, 1.2));
        new.machine.kernel = "Linux 6.6".to_owned();
        assert!(compare(&old, &new).starts_with("note: kernel differs:  → Linux 6.6"));
    }
}
