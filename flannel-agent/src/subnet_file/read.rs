//! Reading the file back: whatever can be understood of it.

use std::{collections::BTreeMap, fs, io, path::Path, str::FromStr};

use super::{Previous, SubnetFileError};

/// Reads what an earlier run, flannel's or ours, left in the file. A missing file says nothing, and neither does a key
/// that is missing or cannot be understood: only a file that is there and cannot be read is an error.
pub fn read(path: &Path) -> Result<Previous, SubnetFileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Previous::default()),
        Err(e) => Err(SubnetFileError::new(path, "reading it", e)),
    }
}

fn parse(text: &str) -> Previous {
    let mut values = BTreeMap::new();
    variables(text, &mut values);
    Previous {
        network: only(&values, "FLANNEL_NETWORK").map(|n: ipnet::Ipv4Net| n.trunc()),
        subnet: only(&values, "FLANNEL_SUBNET").map(|n: ipnet::Ipv4Net| n.trunc()),
        v6_network: only(&values, "FLANNEL_IPV6_NETWORK").map(|n: ipnet::Ipv6Net| n.trunc()),
        v6_subnet: only(&values, "FLANNEL_IPV6_SUBNET").map(|n: ipnet::Ipv6Net| n.trunc()),
    }
}

/// The one network of a comma-separated list; members that are none do not count, and two are as good as none.
fn only<N: FromStr>(values: &BTreeMap<String, String>, key: &str) -> Option<N> {
    let mut networks = values.get(key)?.split(',').filter_map(|member| member.trim().parse().ok());
    let first = networks.next()?;
    networks.next().is_none().then_some(first)
}

/// Adds the variables of a file in the syntax of a shell or of an environment file.
pub(crate) fn variables(text: &str, values: &mut BTreeMap<String, String>) {
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if line.starts_with('#') {
            continue;
        }
        let Some(end) = line.find(['=', ':']) else { continue };
        let value = value(line[end + 1..].trim(), values);
        values.insert(line[..end].trim().to_owned(), value);
    }
}

/// A value without its quotes and comment; `$NAME` and `${NAME}` stand for earlier values, except in single quotes.
fn value(text: &str, earlier: &BTreeMap<String, String>) -> String {
    let quoted = |quote| text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)).map(|(inner, _)| inner);
    if let Some(inner) = quoted('\'') {
        return inner.to_owned();
    }
    let plain = quoted('"').unwrap_or_else(|| text.split_once(" #").map_or(text, |(before, _)| before).trim_end());
    expand(plain, earlier)
}

fn expand(text: &str, earlier: &BTreeMap<String, String>) -> String {
    let mut parts = text.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|p| p.split_once('}'));
        let (name, rest) = braced.unwrap_or_else(|| {
            part.split_at(part.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(part.len()))
        });
        out.push_str(earlier.get(name).map_or("", String::as_str));
        out.push_str(rest);
    }
    out
}
