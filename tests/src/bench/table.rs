//! Tables for the terminal.

use std::fmt::Write as _;

use super::{row::Row, workload::Case};

/// The table of one case.
pub fn of_case(case: &Case, rows: &[Row]) -> String {
    let mut text = format!("{} ({})\n", case.title(), case.unit);
    for row in rows {
        writeln!(text, "  {}", line(row)).ok();
    }
    text
}

fn line(row: &Row) -> String {
    let Some(spread) = row.spread() else {
        let why = row.skipped.as_deref().unwrap_or_default();
        return format!("{:<16} skipped: {}", row.arm, why.lines().next().unwrap_or_default());
    };
    let ratio = row.ratio.map(|ratio| format!("× {ratio:.2}")).unwrap_or_default();
    let verdict = row.verdict.as_deref().filter(|verdict| *verdict == "no difference").unwrap_or_default();
    let mut text = format!(
        "{:<16} {:>9} {:>21} {ratio:>8} {verdict}",
        row.arm,
        figure(spread.median),
        format!("({} … {})", figure(spread.min), figure(spread.max)),
    );
    for (name, value) in row.extras.iter().filter(|(name, value)| is_shown(name, **value)) {
        write!(text, "  {name}={}", figure(*value)).ok();
    }
    if row.invalid > 0 {
        write!(text, "  ({} samples did not count)", row.invalid).ok();
    }
    text
}

/// Shares are shown only where they say that something disturbed the sample.
fn is_shown(name: &str, value: f64) -> bool {
    match name {
        "loss" | "kernel_share" => false,
        "stolen_share" => value > 0.05,
        _ => true,
    }
}

/// A number with three or four digits that matter.
pub fn figure(value: f64) -> String {
    let size = value.abs();
    let decimals = if size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn figures_have_the_digits_that_matter() {
        let cases = [(0.4123, "0.412"), (1.2345, "1.23"), (17.31, "17.3"), (3051.7, "3052"), (0.0, "0.000")];
        for (value, expected) in cases {
            assert_eq!(figure(value), expected);
        }
    }
}
