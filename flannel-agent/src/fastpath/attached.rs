//! Which programs are attached, as the kernel tells it: for those who doubt the agent.

use aya::programs::{SchedClassifier, TcAttachType};
use flannel_common::abi::Hook;

use super::{options::Mode, programs};

/// How much of a program's name the kernel keeps.
const NAME: usize = 15;

/// Whether the kernel calls a program so that the hook of this label runs in some mode and at some interface.
pub fn runs(label: &str, kernel_name: &str) -> bool {
    let cut = |name: &'static str| &name[..name.len().min(NAME)];
    let hooks = Hook::ALL.into_iter().filter(|hook| hook.label() == label);
    let names = hooks.flat_map(|hook| {
        [(Mode::Verified, true), (Mode::Verified, false), (Mode::Trusted, true)]
            .map(|(mode, has_peer)| programs::name(mode, hook, has_peer))
    });
    names.flatten().any(|name| cut(name) == kernel_name)
}

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

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn a_hook_is_known_by_the_programs_of_all_modes() {
        for (label, name, expected) in [
            ("from_port", "from_port", true),
            ("from_port", "trusted_from_po", true),
            ("to_port", "to_port", true),
            ("to_port", "to_bridge", true),
            ("to_port", "from_port", false),
            ("to_uplink", "trusted_from_up", false),
        ] {
            assert_eq!(runs(label, name), expected, "{name} at {label}");
        }
    }
}
