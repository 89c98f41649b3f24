//! The BPF object that we carry.

use std::borrow::Cow;

use flannel_common::abi::ABI_VERSION;

static BYTES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel"));

/// A BPF object and the version of the map layouts that it speaks.
#[derive(Clone, Debug)]
pub struct Object {
    /// The ELF file.
    pub bytes: Cow<'static, [u8]>,
    /// Part of the pin path: two versions never share a map.
    pub abi: u32,
}

impl Object {
    /// The one that was built with this agent.
    pub const fn built_in() -> Self {
        Self { bytes: Cow::Borrowed(BYTES), abi: ABI_VERSION }
    }
}
