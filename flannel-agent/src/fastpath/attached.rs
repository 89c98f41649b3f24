//! Which programs are attached, as the kernel tells it: for those who doubt the agent.

use aya::programs::{SchedClassifier, TcAttachType};

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
