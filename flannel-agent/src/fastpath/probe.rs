//! What the fast path needs of the kernel, and whether this one has it: for `flannelctl doctor`.

use std::path::Path;

use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use nix::libc;

use super::{
    attach::has_tcx,
    error::{chain, errno},
    options::PIN_ROOT,
    pins,
};

/// Something that the fast path uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Whether nothing goes fast without it.
    pub needed: bool,
    /// `Err` says why it is missing and what happens without it.
    pub found: Result<(), String>,
}

/// Asks the kernel. Changes nothing.
pub fn probe() -> Vec<Feature> {
    let bpf = is_program_supported(ProgramType::SchedClassifier);
    if let Err(error) = &bpf
        && errno(error) == Some(libc::EPERM)
    {
        // Nor does it answer anything else.
        let why = "no right to it: needs root, or CAP_BPF and CAP_NET_ADMIN; routes alone until then".to_owned();
        return vec![Feature { name: "bpf", needed: true, found: Err(why) }];
    }
    let tc = |helper| is_helper_supported(ProgramType::SchedClassifier, helper);
    vec![
        feature("bpf", true, "no fast path: routes alone", bpf),
        feature("lru-hash", true, "no fast path: routes alone", map(MapType::LruHash)),
        feature("lpm-trie", true, "no fast path: routes alone", map(MapType::LpmTrie)),
        feature("redirect-peer", true, "no fast path: needs kernel 5.10", tc(BpfHelper::BPF_FUNC_redirect_peer)),
        feature("redirect-neigh", true, "no fast path: needs kernel 5.10", tc(BpfHelper::BPF_FUNC_redirect_neigh)),
        feature("tcx", false, "clsact filters instead of links: needs kernel 6.6", Ok(has_tcx())),
        feature("xdp", false, "packets in transit take the TC hooks", is_program_supported(ProgramType::Xdp)),
        bpffs(),
    ]
}

fn bpffs() -> Feature {
    let missing = format!("{PIN_ROOT} is not on a BPF file system; flanneld mounts it when it starts");
    let found = if pins::on_bpffs(Path::new(PIN_ROOT)) { Ok(()) } else { Err(missing) };
    Feature { name: "bpffs", needed: false, found }
}

fn map(kind: MapType) -> Result<bool, ProgramError> {
    is_map_supported(kind).map_err(ProgramError::from)
}

fn feature(name: &'static str, needed: bool, without: &str, answer: Result<bool, ProgramError>) -> Feature {
    let found = match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("not in this kernel; {without}")),
        Err(error) => Err(format!("{}; {without}", chain(&error))),
    };
    Feature { name, needed, found }
}
