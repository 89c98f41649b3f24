//! Tables and numbers for people.

use std::fmt::{self, Write as _};

/// Rows under a head, in columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table<const N: usize> {
    head: [&'static str; N],
    right: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// An empty table. A column whose head begins with `>` is set to the right.
    pub fn new(head: [&'static str; N]) -> Self {
        let right = head.map(|name| name.starts_with('>'));
        Self { head: head.map(|name| name.trim_start_matches('>')), right, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let mut widths = [0; N];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in rows() {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                if right {
                    write!(line, "{cell:>width$}  ")?;
                } else {
                    write!(line, "{cell:<width$}  ")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `1536` as `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `15300` as `15.3 k`.
pub fn packets(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes per second as bits per second: `1.2 Gb/s`.
pub fn bit_rate(bytes_per_second: f64) -> String {
    scaled(bytes_per_second * 8.0, 1000.0, &["b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"])
}

/// Packets per second: `1.2 kpps`.
pub fn packet_rate(per_second: f64) -> String {
    scaled(per_second, 1000.0, &["pps", "kpps", "Mpps", "Gpps"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would be printed as "1000" or "1024" is printed as "1.0" of the next unit.
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

/// Seconds as the two largest units: `23 h 58 min`, `3 min 20 s`, `4 s`.
pub fn duration(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, size)| seconds >= *size) else { return "0 s".to_owned() };
    let (name, size) = units[first];
    let mut text = format!("{} {name}", seconds / size);
    if let Some((name, smaller)) = units.get(first + 1).filter(|(_, smaller)| seconds % size / smaller > 0) {
        text.push_str(&format!(" {} {name}", seconds % size / smaller));
    }
    text
}

/// How long ago a time was: `4 s ago`, or `never`.
pub fn ago(at: Option<u64>, now: u64) -> String {
    at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", duration(now.saturating_sub(at))))
}

/// A time of day in UTC: `17:45:03`.
pub fn clock(at: u64) -> String {
    let day = at % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 40, "1.0 TiB"),
            (150 << 20, "150 MiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!([0, 999, 1000, 15_300, 2_000_000].map(packets), ["0", "999", "1.0 k", "15.3 k", "2.0 M"]);
        assert_eq!(bit_rate(125_000_000.0), "1.0 Gb/s");
        assert_eq!(packet_rate(12.4), "12 pps");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn durations_have_two_units() {
        let cases =
            [(0, "0 s"), (4, "4 s"), (60, "1 min"), (200, "3 min 20 s"), (86_280, "23 h 58 min"), (90_000, "1 d 1 h")];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!((ago(None, 5), ago(Some(1), 5)), ("never".to_owned(), "4 s ago".to_owned()));
        assert_eq!(clock(86_400 + 3723), "01:02:03");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["SUBNET", ">BYTES"]);
        table.row(["172.16.1.0/24".into(), "5".into()]);
        table.row(["-".into(), "1234567".into()]);
        assert_eq!(table.to_string(), "SUBNET           BYTES\n172.16.1.0/24        5\n-              1234567\n");
    }
}
