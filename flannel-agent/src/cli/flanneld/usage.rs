//! The text of `flanneld -help`.

use super::table::TABLE;
use crate::cli::goflag::{Flag, Kind};

/// Column at which explanations start.
const COLUMN: usize = 34;
/// Columns that a line may take.
const WIDTH: usize = 120;

/// Every flag with its default, by group.
pub(super) fn text() -> String {
    let mut lines = vec![
        "Usage: flanneld [-flag | -flag=value | -flag value]...".to_owned(),
        "       flanneld mk-docker-opts [-h]".to_owned(),
        String::new(),
        "Joins this host to a flannel network: leases a subnet, and makes packets travel to the other nodes."
            .to_owned(),
        "One dash or two. Each flag can also come from the environment (-ip-masq from FLANNELD_IP_MASQ); the command"
            .to_owned(),
        "line wins. Exit codes: 0 stopped by a signal, 1 cannot work, 2 wrong command line.".to_owned(),
    ];
    let mut group = "";
    for flag in TABLE {
        if flag.group != group {
            group = flag.group;
            lines.push(format!("\n{group}:"));
        }
        let head = format!("  -{}{}", flag.name, placeholder(flag));
        let mut help = format!("{}{}", flag.help, default(flag));
        if COLUMN + help.len() > WIDTH {
            help = format!("{}\n{:COLUMN$}{}", flag.help, "", default(flag).trim_start());
        }
        lines.push(if head.len() < COLUMN {
            format!("{head:COLUMN$}{help}")
        } else {
            format!("{head}\n{:COLUMN$}{help}", "")
        });
    }
    lines.push(String::new());
    lines.join("\n")
}

fn placeholder(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool(_) => "",
        Kind::Int(_) => " N",
        Kind::Text(_) | Kind::List => " VALUE",
    }
}

fn default(flag: &Flag) -> String {
    match flag.kind {
        Kind::Bool(true) => " (default true)".to_owned(),
        Kind::Int(default) if default != 0 => format!(" (default {default})"),
        Kind::Text(default) if !default.is_empty() => format!(" (default {default})"),
        _ => String::new(),
    }
}
