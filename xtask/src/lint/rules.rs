//! Rules of the architecture that no compiler checks, as plain searches in the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Longest file, in lines.
const MAX_LINES: usize = 400;
/// Folders with Rust sources.
const FOLDERS: [&str; 5] = ["flannel-common", "flannel-ebpf", "flannel-agent", "xtask", "tests"];
/// Crates whose every root forbids unsafe code.
const SAFE_CRATES: [&str; 3] = ["flannel-agent", "xtask", "tests"];

/// Words that only files under some paths may contain in code.
struct Confined {
    words: &'static [&'static str],
    /// Where the rule looks.
    within: &'static str,
    /// Where the words may stand.
    only_in: &'static [&'static str],
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        words: &["rtnetlink::", "netlink_packet_route::", "new(\"nft\"", "new(\"ip", "\"/proc/sys"],
        within: "flannel-agent/src",
        only_in: &["flannel-agent/src/kernel"],
        why: "only kernel/ touches the kernel's tables",
    },
    Confined {
        words: &["etcd_client::"],
        within: "flannel-agent/src",
        only_in: &["flannel-agent/src/store"],
        why: "only store/ knows etcd",
    },
    Confined {
        words: &["aya::", "aya_log::"],
        within: "flannel-agent/src",
        only_in: &["flannel-agent/src/fastpath"],
        why: "only fastpath/ uses aya",
    },
    Confined {
        words: &["prometheus_client::"],
        within: "flannel-agent/src",
        only_in: &["flannel-agent/src/metrics", "flannel-agent/src/http"],
        why: "only metrics and http know Prometheus",
    },
    Confined {
        words: &["async ", "Instant", "SystemTime", "rand::", "std::fs", "std::io", "tokio::", "tracing::", "std::env"],
        within: "flannel-agent/src/plan",
        only_in: &[],
        why: "plan/ is pure",
    },
    Confined {
        words: &["#[ignore", "todo!(", "unimplemented!("],
        within: "",
        only_in: &["xtask/src/lint"],
        why: "nothing is left for later",
    },
];

/// Checks all rules below `root`; prints every breach.
pub(super) fn run(root: &Path) -> Result<()> {
    let mut breaches = Vec::new();
    for folder in FOLDERS {
        for file in sources(&root.join(folder))? {
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let path = file.strip_prefix(root).unwrap_or(&file);
            check_file(path, &text, &mut breaches);
        }
    }
    for breach in &breaches {
        eprintln!("{breach}");
    }
    if !breaches.is_empty() {
        bail!("{} breaches of the rules", breaches.len());
    }
    Ok(())
}

fn check_file(path: &Path, text: &str, breaches: &mut Vec<String>) {
    let shown = path.display();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        breaches.push(format!("{shown}: {lines} lines, more than {MAX_LINES}: one responsibility each"));
    }
    if is_safe_root(path) && !text.contains("#![forbid(unsafe_code)]") {
        breaches.push(format!("{shown}: lacks #![forbid(unsafe_code)]"));
    }
    for rule in CONFINED
        .iter()
        .filter(|rule| path.starts_with(rule.within) && !rule.only_in.iter().any(|at| path.starts_with(at)))
    {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in rule.words.iter().filter(|word| code.contains(**word)) {
                breaches.push(format!("{shown}:{}: {word:?}: {}", number + 1, rule.why));
            }
        }
    }
}

/// Whether the file is the root of a library, binary or test suite in a crate without unsafe code.
fn is_safe_root(path: &Path) -> bool {
    let Some(krate) = SAFE_CRATES.iter().find(|krate| path.starts_with(krate)) else { return false };
    let Ok(inner) = path.strip_prefix(krate) else { return false };
    let parent = inner.parent().unwrap_or(inner);
    inner == Path::new("src/lib.rs") || inner == Path::new("src/main.rs") || parent == Path::new("src/bin")
}

/// All Rust files below a folder, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::check_file;

    #[test]
    fn breaches_are_found_where_the_rules_hold() {
        let cases = [
            ("flannel-agent/src/agent/mod.rs", "use rtnetlink::Handle;", 1),
            ("flannel-agent/src/kernel/netlink.rs", "use rtnetlink::Handle;", 0),
            ("flannel-agent/src/plan/diff.rs", "let now = Instant::now();", 1),
            ("flannel-agent/src/plan/diff.rs", "// an Instant would not be pure", 0),
            ("flannel-agent/src/lib.rs", "//! No such attribute.", 1),
            ("flannel-agent/src/lib.rs", "#![forbid(unsafe_code)]", 0),
            ("tests/src/wait.rs", "#[ignore]", 1),
        ];
        for (path, text, expected) in cases {
            let mut breaches = Vec::new();
            check_file(Path::new(path), text, &mut breaches);
            assert_eq!(breaches.len(), expected, "{path}: {text}: {breaches:?}");
        }
        let mut breaches = Vec::new();
        check_file(Path::new("tests/src/wait.rs"), &"\n".repeat(401), &mut breaches);
        assert_eq!(breaches.len(), 1);
    }
}
