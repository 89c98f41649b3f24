//! Which programs are attached, as the kernel tells it: for those who doubt the agent.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use flannel_common::abi::Hook;

use super::{options::Mode, programs};

/// How much of a program's name the kernel keeps, in bytes.
const NAME_KEPT: usize = 15;

/// Names of the programs that hang on an interface as tcx links, with their direction. The kernel cuts names to 15 bytes.
///
/// Empty on kernels without tcx, where filters of the clsact qdisc do the same work.
pub fn attached(interface: &str) -> Vec<(&'static str, String)> {
    let directions = [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")];
    let mut found = Vec::new();
    for (direction, label) in directions {
        let Ok((_revision, programs)) = SchedClassifier::query_tcx(interface, direction) else { continue };
        found.extend(programs.iter().filter_map(|program| Some((label, program.name_as_str()?.to_owned()))));
    }
    found
}

/// The name of a loaded program, cut to 15 bytes; `None` without the right to look, or if it has gone.
pub fn program_name(id: u32) -> Option<String> {
    let found = loaded_programs().flatten().find(|program| program.id() == id)?;
    Some(found.name_as_str()?.to_owned())
}

/// Whether a program of this name, whole or as the kernel cuts it, is one that the hook with this label runs in some mode.
pub fn serves(program: &str, label: &str) -> bool {
    let names: BTreeSet<&str> = Hook::ALL
        .into_iter()
        .filter(|hook| hook.label() == label)
        .flat_map(|hook| {
            let names = [Mode::Verified, Mode::Trusted].map(|mode| [true, false].map(|peer| (mode, peer)));
            names.into_iter().flatten().filter_map(move |(mode, peer)| programs::name(mode, hook, peer))
        })
        .collect();
    names.into_iter().any(|name| program == name || program == &name[..name.len().min(NAME_KEPT)])
}

#[cfg(test)]
mod tests {
    use super::serves;

    #[test]
    fn a_hook_is_served_by_the_programs_of_each_mode() {
        for (program, label) in [
            ("from_port", "from_port"),
            ("trusted_from_po", "from_port"),
            ("trusted_from_up", "from_uplink"),
            ("to_bridge", "to_port"),
            ("trusted_transit", "transit"),
        ] {
            assert!(serves(program, label), "{program} at {label}");
        }
        assert!(!serves("from_port", "to_port"));
        assert!(!serves("somebody_else", "from_port"));
    }
}
