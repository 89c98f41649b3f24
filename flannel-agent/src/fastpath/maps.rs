//! The maps: opened where the last agent left them, or made anew, and written.

use std::{collections::BTreeMap, net::Ipv4Addr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    util::nr_cpus,
};
use flannel_common::abi::{Endpoint, PEERS_CAPACITY, Peer, PeerKey, PeerTally, Settings, map};
use ipnet::Ipv4Net;

use super::{
    error::{Error, pin_error},
    layout::{self, Layout, Sizes},
    object::Object,
    pins::Dir,
    reader::Reader,
};

/// Our own list of what is in `PEERS`, pinned beside it: kernels up to 6.12 can skip keys when a trie is iterated, so an
/// agent that takes over reads this one. What is in the trie is always in here: it is written first and removed last.
pub(super) const RECORD: &str = "PEERS_RECORD";
/// `BPF_F_NO_PREALLOC`: memory for the entries that exist, not for all that could.
const NO_PREALLOC: u32 = 1;

/// Address and prefix length.
type RecordKey = [u8; 5];

/// The maps that the agent writes.
pub(super) struct Maps {
    peers: LpmTrie<MapData, PeerKey, Peer>,
    record: HashMap<MapData, RecordKey, Peer>,
    endpoints: HashMap<MapData, [u8; 4], Endpoint>,
    settings: Array<MapData, Settings>,
    peer_counters: PerCpuArray<MapData, PeerTally>,
    /// One more descriptor of each map that is pinned, by which it can be pinned again.
    pinned: Vec<(&'static str, MapData)>,
}

impl Maps {
    /// Loads the object's maps, taking over those pinned in `dir` whose shape fits.
    pub(super) fn load(object: &Object, dir: Option<&Dir>, sizes: Sizes) -> Result<(Ebpf, Self, Reader), Error> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        let layouts = layout::layouts(sizes);
        for layout in &layouts {
            loader.map_max_entries(layout.name, layout.max_entries);
        }
        if let Some(dir) = dir {
            layout::discard_misfits(dir, sizes)?;
            for layout in &layouts {
                loader.map_pin_path(layout.name, dir.map(layout.name));
            }
        }
        let mut ebpf = loader.load(&object.bytes).map_err(Error::from_load)?;
        let reader = Reader::of(&ebpf)?;
        let maps = Self {
            peers: take(&mut ebpf, map::PEERS)?,
            record: open_record(dir)?,
            pinned: dir.map_or(Ok(Vec::new()), |dir| open_pinned(dir, &layouts))?,
            endpoints: take(&mut ebpf, map::ENDPOINTS)?,
            settings: take(&mut ebpf, map::SETTINGS)?,
            peer_counters: take(&mut ebpf, map::PEER_COUNTERS)?,
        };
        Ok((ebpf, maps, reader))
    }

    /// Pins again what was pinned in `dir` and is not any more.
    pub(super) fn pin_missing(&self, dir: &Dir) -> Result<(), Error> {
        for (name, map) in &self.pinned {
            let path = dir.map(name);
            if !path.exists() {
                map.pin(&path).map_err(|error| Error::pin(&path)(pin_error(error)))?;
                tracing::info!(map = name, "pinned again: somebody had removed the pin");
            }
        }
        Ok(())
    }

    /// What is in `PEERS`, by our own record.
    pub(super) fn recorded_peers(&self) -> Result<BTreeMap<Ipv4Net, Peer>, Error> {
        let entries: Result<Vec<(RecordKey, Peer)>, _> = self.record.iter().collect();
        let entries = entries.map_err(Error::map(RECORD))?;
        let subnet = |[a, b, c, d, len]: RecordKey| Ipv4Net::new(Ipv4Addr::new(a, b, c, d), len).ok();
        Ok(entries.into_iter().filter_map(|(key, peer)| Some((subnet(key)?, peer))).collect())
    }

    /// Puts a peer, or replaces it.
    pub(super) fn put_peer(&mut self, subnet: Ipv4Net, peer: Peer) -> Result<(), Error> {
        self.record.insert(record_key(subnet), peer, 0).map_err(Error::map(RECORD))?;
        self.peers.insert(&trie_key(subnet), peer, 0).map_err(Error::map(map::PEERS))
    }

    /// Takes a peer away; it is fine if it is not there.
    pub(super) fn remove_peer(&mut self, subnet: Ipv4Net) -> Result<(), Error> {
        absent_is_fine(self.peers.remove(&trie_key(subnet))).map_err(Error::map(map::PEERS))?;
        absent_is_fine(self.record.remove(&record_key(subnet))).map_err(Error::map(RECORD))
    }

    /// Zeroes a slot of the per-peer counters, before another peer gets it.
    pub(super) fn clear_peer_counter(&mut self, index: u32) -> Result<(), Error> {
        let zeroes = nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![PeerTally::default(); cpus]))
            .map_err(|error| Error::map(map::PEER_COUNTERS)(MapError::IoError(error)))?;
        self.peer_counters.set(index, zeroes, 0).map_err(Error::map(map::PEER_COUNTERS))
    }

    /// What is in `ENDPOINTS`.
    pub(super) fn endpoints(&self) -> Result<BTreeMap<Ipv4Addr, Endpoint>, Error> {
        let entries: Result<Vec<([u8; 4], Endpoint)>, _> = self.endpoints.iter().collect();
        let entries = entries.map_err(Error::map(map::ENDPOINTS))?;
        Ok(entries.into_iter().map(|(addr, endpoint)| (Ipv4Addr::from(addr), endpoint)).collect())
    }

    /// Puts a container's place, or replaces it.
    pub(super) fn put_endpoint(&mut self, addr: Ipv4Addr, endpoint: Endpoint) -> Result<(), Error> {
        self.endpoints.insert(addr.octets(), endpoint, 0).map_err(Error::map(map::ENDPOINTS))
    }

    /// Takes a container's place away; it is fine if it is not there.
    pub(super) fn remove_endpoint(&mut self, addr: Ipv4Addr) -> Result<(), Error> {
        absent_is_fine(self.endpoints.remove(&addr.octets())).map_err(Error::map(map::ENDPOINTS))
    }

    /// The settings as the programs see them; all zero in a new map.
    pub(super) fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(Error::map(map::SETTINGS))
    }

    /// Replaces the settings.
    pub(super) fn put_settings(&mut self, settings: Settings) -> Result<(), Error> {
        self.settings.set(0, settings, 0).map_err(Error::map(map::SETTINGS))
    }
}

/// Takes a map out of the loaded object.
fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    M::try_from(map).map_err(Error::map(name))
}

/// The object has no such map: it is not ours.
pub(super) fn missing(name: &'static str) -> Error {
    Error::map(name)(MapError::IoError(std::io::Error::other("not in the BPF object")))
}

/// Opens our record, or makes it.
fn open_record(dir: Option<&Dir>) -> Result<HashMap<MapData, RecordKey, Peer>, Error> {
    if let Some(data) = dir.and_then(|dir| MapData::from_pin(dir.map(RECORD)).ok()) {
        return HashMap::try_from(Map::HashMap(data)).map_err(Error::map(RECORD));
    }
    let record = HashMap::<MapData, _, _>::create(PEERS_CAPACITY, NO_PREALLOC).map_err(Error::map(RECORD))?;
    let Some(dir) = dir else { return Ok(record) };
    // Pinning consumes aya's handle: open what was just pinned.
    let path = dir.map(RECORD);
    record.pin(&path).map_err(|error| Error::pin(&path)(pin_error(error)))?;
    let data = MapData::from_pin(&path).map_err(Error::map(RECORD))?;
    HashMap::try_from(Map::HashMap(data)).map_err(Error::map(RECORD))
}

/// Opens every map that is pinned in `dir`, once more.
fn open_pinned(dir: &Dir, layouts: &[Layout]) -> Result<Vec<(&'static str, MapData)>, Error> {
    let names = layouts.iter().map(|layout| layout.name).chain([RECORD]);
    names.map(|name| Ok((name, MapData::from_pin(dir.map(name)).map_err(Error::map(name))?))).collect()
}

fn record_key(subnet: Ipv4Net) -> RecordKey {
    let [a, b, c, d] = subnet.network().octets();
    [a, b, c, d, subnet.prefix_len()]
}

fn trie_key(subnet: Ipv4Net) -> Key<PeerKey> {
    Key::new(u32::from(subnet.prefix_len()), PeerKey { addr: subnet.network().octets() })
}

/// Removing what is not there is what we wanted.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
