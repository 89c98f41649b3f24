//! Reading counters and flows, beside the agent's loop or from another process.

use std::{collections::BTreeMap, os::fd::AsFd as _, path::Path, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use flannel_common::{
    abi::{ABI_VERSION, Flow, FlowKey, Hook, PeerTally, Settings, Tally, counter_index, map},
    reason::Reason,
};
use ipnet::Ipv4Net;

use super::{
    error::Error,
    maps::missing,
    pins::{Dir, NetworkDir},
};

/// Packets and bytes of each hook and reason, over all CPUs. Only what has counted anything.
pub type Counters = BTreeMap<(Hook, Reason), Tally>;

/// Reads the maps without owning the fast path; cheap to clone. That of a fast path that is off reads nothing.
#[derive(Clone, Default)]
pub struct Reader(Option<Arc<Handles>>);

/// Our own descriptors of the maps.
struct Handles {
    /// Capacity of the flow map.
    capacity: u32,
    flows: HashMap<MapData, FlowKey, Flow>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Tally>,
    peer_counters: PerCpuArray<MapData, PeerTally>,
}

impl Reader {
    /// Of a loaded object.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, Error> {
        Self::from_handles(|name| {
            let map = ebpf.map(name).ok_or_else(|| missing(name))?;
            duplicate(map).map_err(Error::map(name))
        })
    }

    /// Of what is pinned in the calling thread's network namespace, without an agent: for `network`, or for the first
    /// one there is.
    pub fn open(pin_root: &Path, network: Option<Ipv4Net>) -> Result<Self, Error> {
        let dirs = match network {
            Some(network) => vec![NetworkDir::of(pin_root, network)?],
            None => NetworkDir::all(pin_root)?,
        };
        // Another version's layouts mean nothing to us.
        let dir = dirs.iter().map(|dir| dir.version(ABI_VERSION)).find(|dir| dir.path().exists());
        Self::open_dir(&dir.ok_or_else(|| Error::NotPinned { path: pin_root.to_owned() })?)
    }

    fn open_dir(dir: &Dir) -> Result<Self, Error> {
        Self::from_handles(|name| {
            let data = MapData::from_pin(dir.map(name)).map_err(Error::map(name))?;
            Map::from_map_data(data).map_err(Error::map(name))
        })
    }

    fn from_handles(open: impl Fn(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        let flows = open(map::FLOWS)?;
        Ok(Self(Some(Arc::new(Handles {
            capacity: capacity(&flows)?,
            flows: flows.try_into().map_err(Error::map(map::FLOWS))?,
            settings: open(map::SETTINGS)?.try_into().map_err(Error::map(map::SETTINGS))?,
            counters: open(map::COUNTERS)?.try_into().map_err(Error::map(map::COUNTERS))?,
            peer_counters: open(map::PEER_COUNTERS)?.try_into().map_err(Error::map(map::PEER_COUNTERS))?,
        }))))
    }

    /// What every hook has counted, by reason.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::new();
        let Some(handles) = &self.0 else { return Ok(counters) };
        for hook in Hook::ALL {
            for reason in Reason::ALL {
                let tallies =
                    handles.counters.get(&counter_index(hook, reason), 0).map_err(Error::map(map::COUNTERS))?;
                let sum = tallies.iter().fold(Tally::default(), |sum, tally| add(sum, *tally));
                if sum != Tally::default() {
                    counters.insert((hook, reason), sum);
                }
            }
        }
        Ok(counters)
    }

    /// What was counted in a peer's slot; zero if it has none.
    pub fn peer_tally(&self, index: u32) -> Result<PeerTally, Error> {
        let Some(handles) = &self.0 else { return Ok(PeerTally::default()) };
        if index >= handles.peer_counters.len() {
            return Ok(PeerTally::default());
        }
        let tallies = handles.peer_counters.get(&index, 0).map_err(Error::map(map::PEER_COUNTERS))?;
        Ok(tallies.iter().fold(PeerTally::default(), |sum, tally| add_peer(sum, *tally)))
    }

    /// What was counted in each of these slots.
    pub fn peer_tallies(&self, indexes: impl IntoIterator<Item = u32>) -> Result<BTreeMap<u32, PeerTally>, Error> {
        indexes.into_iter().map(|index| Ok((index, self.peer_tally(index)?))).collect()
    }

    /// Up to `limit` of the flows that `wanted` picks. What comes and goes meanwhile may be missing.
    pub fn flows(
        &self,
        limit: usize,
        wanted: impl Fn(&FlowKey, &Flow) -> bool,
    ) -> Result<BTreeMap<FlowKey, Flow>, Error> {
        let mut flows = BTreeMap::new();
        let Some(handles) = &self.0 else { return Ok(flows) };
        // An entry that goes under the iteration sends it back to the start: never walk the map more than twice.
        let steps = 2 * handles.capacity as usize;
        for entry in handles.flows.iter().take(steps) {
            if flows.len() >= limit {
                break;
            }
            let (key, flow) = entry.map_err(Error::map(map::FLOWS))?;
            if wanted(&key, &flow) {
                flows.insert(key, flow);
            }
        }
        Ok(flows)
    }

    /// One flow.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, Error> {
        let Some(handles) = &self.0 else { return Ok(None) };
        match handles.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::map(map::FLOWS)(error)),
        }
    }

    /// The settings as the programs see them; `None` if the fast path is off.
    pub fn settings(&self) -> Result<Option<Settings>, Error> {
        let Some(handles) = &self.0 else { return Ok(None) };
        handles.settings.get(&0, 0).map(Some).map_err(Error::map(map::SETTINGS))
    }
}

/// Capacity of the flow map.
fn capacity(map: &Map) -> Result<u32, Error> {
    let Map::LruHashMap(data) = map else {
        return Err(Error::map(map::FLOWS)(another_type()));
    };
    Ok(data.info().map_err(Error::map(map::FLOWS))?.max_entries())
}

/// A second descriptor of the same map, with the shape that the kernel gives it.
fn duplicate(map: &Map) -> Result<Map, MapError> {
    let (Map::LruHashMap(data) | Map::Array(data) | Map::PerCpuArray(data)) = map else { return Err(another_type()) };
    Map::from_map_data(MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?)
}

fn another_type() -> MapError {
    MapError::IoError(std::io::Error::other("not of the type that the object says"))
}

fn add(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets.wrapping_add(b.packets), bytes: a.bytes.wrapping_add(b.bytes) }
}

fn add_peer(a: PeerTally, b: PeerTally) -> PeerTally {
    PeerTally {
        fast_to: add(a.fast_to, b.fast_to),
        fast_from: add(a.fast_from, b.fast_from),
        slow_to: add(a.slow_to, b.slow_to),
        slow_from: add(a.slow_from, b.slow_from),
    }
}
