//! Which shape every map must have, so that a map found pinned is used only if it is the one we would make.

use aya::maps::{MapInfo, MapType};
use flannel_common::abi::{
    COUNTERS_CAPACITY, ENDPOINTS_CAPACITY, Endpoint, Flow, FlowKey, PEERS_CAPACITY, Peer, PeerKey, PeerTally, Settings,
    Tally, map,
};

use super::{
    error::Error,
    maps::RECORD,
    pins::{self, Dir},
};

/// The capacities that are chosen at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of `FLOWS`.
    pub(super) flows: u32,
    /// Of `PEER_COUNTERS`.
    pub(super) peer_slots: u32,
}

/// The shape of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) max_entries: u32,
    kind: MapType,
    key: usize,
    value: usize,
}

/// The maps of the object, as we want them.
pub(super) const fn layouts(sizes: Sizes) -> [Layout; 6] {
    const INDEX: usize = size_of::<u32>();
    const PREFIX_LEN: usize = size_of::<u32>();
    [
        shape(map::PEERS, MapType::LpmTrie, PREFIX_LEN + size_of::<PeerKey>(), size_of::<Peer>(), PEERS_CAPACITY),
        shape(map::FLOWS, MapType::LruHash, size_of::<FlowKey>(), size_of::<Flow>(), sizes.flows),
        shape(map::ENDPOINTS, MapType::Hash, size_of::<[u8; 4]>(), size_of::<Endpoint>(), ENDPOINTS_CAPACITY),
        shape(map::SETTINGS, MapType::Array, INDEX, size_of::<Settings>(), 1),
        shape(map::COUNTERS, MapType::PerCpuArray, INDEX, size_of::<Tally>(), COUNTERS_CAPACITY),
        shape(map::PEER_COUNTERS, MapType::PerCpuArray, INDEX, size_of::<PeerTally>(), sizes.peer_slots),
    ]
}

const fn shape(name: &'static str, kind: MapType, key: usize, value: usize, max_entries: u32) -> Layout {
    Layout { name, max_entries, kind, key, value }
}

impl Layout {
    /// Whether the map pinned in `dir` under this name has this shape; `None` if there is none.
    fn fits(&self, dir: &Dir) -> Option<bool> {
        let info = MapInfo::from_pin(dir.map(self.name)).ok()?;
        Some(
            info.map_type().is_ok_and(|kind| kind == self.kind)
                && info.key_size() as usize == self.key
                && info.value_size() as usize == self.value
                && info.max_entries() == self.max_entries,
        )
    }
}

/// Unpins what we could not use: programs that still run on such a map keep it until they are swapped for ours.
pub(super) fn discard_misfits(dir: &Dir, sizes: Sizes) -> Result<(), Error> {
    for layout in layouts(sizes) {
        if layout.fits(dir) == Some(false) {
            tracing::info!(map = layout.name, "pinned map has another shape; making a new one");
            pins::unpin(&dir.map(layout.name))?;
        }
    }
    // The trie and our record of it are worth nothing without each other.
    let exists = |name| dir.map(name).exists();
    if exists(map::PEERS) != exists(RECORD) {
        pins::unpin(&dir.map(map::PEERS))?;
        pins::unpin(&dir.map(RECORD))?;
    }
    // Flows carry epochs of the settings they were verified under.
    if exists(map::FLOWS) && !exists(map::SETTINGS) {
        pins::unpin(&dir.map(map::FLOWS))?;
    }
    Ok(())
}
