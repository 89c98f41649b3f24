//! The shortcut: loads, pins, attaches and feeds the BPF programs, and reads their counters. The only user of aya.
//!
//! A [`FastPath`] is told the whole of its [`Inputs`] whenever something changes and brings the kernel there; telling it
//! the same twice changes nothing. Maps and links are pinned (see `pins.rs`), so that a dead agent changes nothing for
//! traffic, and the next one takes over what it finds: maps of the same shape are used on, and every link is made to run
//! the new agent's program in one step, whichever version of the layouts pinned it. Nothing is detached when an agent ends.

mod attach;
mod attached;
pub mod bench_object;
mod cleanup;
mod error;
mod hooks;
mod inputs;
mod layout;
mod live;
mod maps;
mod neighbours;
mod object;
mod options;
mod peers;
mod pins;
mod probe;
mod programs;
mod reader;
mod traffic;
mod wanted;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{SystemTime, UNIX_EPOCH},
};

use flannel_common::abi::{Peer, Settings};
use ipnet::Ipv4Net;

pub use self::{
    attached::{attached, program_name, serves},
    cleanup::{Removed, cleanup},
    error::Error,
    inputs::{Bridge, Endpoint, Inputs, Link, PeerInput},
    live::{pinned_hooks, pinned_networks},
    object::Object,
    options::{Attach, HookKind, Mode, Options, PIN_ROOT, UnknownChoice, Xdp},
    probe::{Feature, probe},
    reader::{Counters, Reader},
};
use self::{
    hooks::Hooks, layout::Sizes, maps::Maps, neighbours::Neighbours, peers::Step, pins::NetworkDir, programs::Programs,
    wanted::wanted,
};
use crate::state::{self, Warning};

/// The fast path of this host, or the fact that it is off.
pub struct FastPath {
    options: Options,
    running: Option<Running>,
}

/// A fast path that is not off.
struct Running {
    programs: Programs,
    maps: Maps,
    hooks: Hooks,
    reader: Reader,
    /// Where things are pinned, and the version that is ours; `Err` says why nowhere.
    pins: Result<(NetworkDir, u32), String>,
    /// What is in `PEERS`.
    peers: BTreeMap<Ipv4Net, Peer>,
    settings: Settings,
    /// Who the neighbours on our interfaces are.
    neighbours: Neighbours,
    /// Whether anything was synced yet: before, we only know what our predecessor left.
    synced: bool,
}

impl FastPath {
    /// Loads the programs and opens or makes the maps. Touches nothing that carries traffic: the first
    /// [`sync`](Self::sync) does.
    ///
    /// Must run in the network namespace that it is for, like everything here.
    pub fn start(options: &Options) -> Result<Self, Error> {
        Self::start_object(options, &Object::built_in())
    }

    /// The same with another object, as an upgraded agent would carry it.
    pub fn start_object(options: &Options, object: &Object) -> Result<Self, Error> {
        let running = if options.mode == Mode::Off {
            cleanup(&options.pin_root, Some(options.network))?;
            None
        } else {
            // Programs that nobody feeds must not stay: what cannot be taken over is taken away.
            let started = Running::start(options, object);
            Some(started.inspect_err(|_| drop(cleanup(&options.pin_root, Some(options.network))))?)
        };
        Ok(Self { options: options.clone(), running })
    }

    /// Brings maps and hooks to what the inputs ask for, and says what an operator should know.
    pub fn sync(&mut self, inputs: &Inputs) -> Vec<Warning> {
        self.running.as_mut().map(|running| running.sync(&self.options, inputs)).unwrap_or_default()
    }

    /// Tells who an interface's neighbours are. If one of them has another MAC address than before, flows that carry the
    /// old one verify again at once, and not when their time has come.
    pub fn neighbours(&mut self, ifindex: u32, resolved: impl IntoIterator<Item = (Ipv4Addr, [u8; 6])>) {
        let Some(running) = &mut self.running else { return };
        if running.neighbours.note(ifindex, resolved)
            && let Err(error) = running.outdate()
        {
            tracing::debug!(error = error::chain(&error), "flows of a neighbour that moved stay until they are due");
        }
    }

    /// What is attached where, for the node's state.
    pub fn state(&self) -> state::FastPath {
        let mut state = state::FastPath { mode: self.options.mode.label().to_owned(), ..Default::default() };
        if let Some(running) = &self.running {
            state.reason = running.pins.as_ref().err().cloned();
            state.hooks = running.hooks.states().to_vec();
            state.epoch = running.settings.epoch;
            state.flows_capacity = self.options.flows;
            if let Ok((dir, abi)) = &running.pins {
                state.pin_dir = dir.version(*abi).path().display().to_string();
            }
        }
        state
    }

    /// Reads counters and flows while the agent's loop owns this.
    pub fn reader(&self) -> Reader {
        self.running.as_ref().map(|running| running.reader.clone()).unwrap_or_default()
    }

    /// Slot of a peer in the per-peer counters, if it has one.
    pub fn peer_index(&self, subnet: Ipv4Net) -> Option<u32> {
        let peer = self.running.as_ref()?.peers.get(&subnet)?;
        (peer.index != peers::NO_SLOT).then_some(peer.index)
    }
}

impl Running {
    fn start(options: &Options, object: &Object) -> Result<Self, Error> {
        let network_dir = NetworkDir::of(&options.pin_root, options.network)?;
        let dir = network_dir.version(object.abi);
        let pinned = pins::ensure_bpffs(&options.pin_root).and_then(|()| {
            live::discard_dead_namespaces(&options.pin_root)?;
            // A namespace may get the number of one that has gone: what was pinned then is not of this one.
            if live::is_dead(&dir)? {
                dir.remove()?;
            }
            dir.make()
        });
        let pins = match pinned {
            Ok(()) => Ok((network_dir, object.abi)),
            Err(error) => Err(format!("not pinned, so it ends with the agent: {error}")),
        };
        let dir = pins.is_ok().then_some(dir);
        let sizes = Sizes { flows: options.flows, peer_slots: options.peer_slots() };
        let (ebpf, maps, reader) = Maps::load(object, dir.as_ref(), sizes)?;
        let programs = Programs::load(ebpf, options)?;
        let mut inherited = Vec::new();
        if let Ok((network_dir, _)) = &pins {
            for version in network_dir.versions()? {
                inherited.extend(version.links()?);
            }
        }
        tracing::info!(mode = %options.mode, pinned = pins.is_ok(), links = inherited.len(), "fast path loaded");
        let hooks = Hooks::new(attach::tc_rung(options.hook), options.network, dir, inherited);
        let (peers, settings) = (maps.recorded_peers()?, maps.settings()?);
        Ok(Self {
            programs,
            maps,
            hooks,
            reader,
            pins,
            peers,
            settings,
            neighbours: Neighbours::default(),
            synced: false,
        })
    }

    fn sync(&mut self, options: &Options, inputs: &Inputs) -> Vec<Warning> {
        let mut failures = Vec::new();
        failures.extend(self.restore_pins(options).err());
        // Whatever changed while no agent looked is unknown: flows verify once more after a start.
        let mut outdated = !self.synced;
        outdated |= self.sync_peers(inputs, options, &mut failures);
        if options.mode == Mode::Trusted {
            self.sync_endpoints(inputs, &mut failures);
        }
        match self.sync_settings(options, inputs) {
            Ok(flows_depend_on_it) => outdated |= flows_depend_on_it,
            Err(error) => failures.push(error),
        }
        let pass = self.hooks.sync(&mut self.programs, &wanted(options, inputs));
        failures.extend(pass.failures);
        if outdated || pass.outdated {
            failures.extend(self.outdate().err());
        }
        if !self.synced {
            failures.extend(self.discard_other_versions().err());
            self.synced = true;
        }
        warnings(&failures)
    }

    /// What is not pinned ends with the agent, so what somebody has unpinned is pinned again. The hooks do that for their links.
    fn restore_pins(&self, options: &Options) -> Result<(), Error> {
        let Ok((network_dir, abi)) = &self.pins else { return Ok(()) };
        pins::ensure_bpffs(&options.pin_root)?;
        let dir = network_dir.version(*abi);
        dir.make()?;
        self.maps.pin_missing(&dir)
    }

    /// Brings the trie to the leases; whether that outdates flows.
    fn sync_peers(&mut self, inputs: &Inputs, options: &Options, failures: &mut Vec<Error>) -> bool {
        let mut outdated = false;
        for step in peers::steps(&self.peers, inputs, options.peer_slots(), !self.synced) {
            outdated |= peers::outdates_flows(&self.peers, &step);
            if let Err(error) = self.apply(step) {
                failures.push(error);
            }
        }
        outdated
    }

    fn apply(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Put { subnet, peer, new_slot } => {
                if new_slot {
                    self.maps.clear_peer_counter(peer.index)?;
                }
                self.maps.put_peer(subnet, peer)?;
                self.peers.insert(subnet, peer);
            }
            Step::Remove(subnet) => {
                self.maps.remove_peer(subnet)?;
                self.peers.remove(&subnet);
            }
        }
        Ok(())
    }

    /// Brings the endpoints to where the containers are. A plain hash that only we write can be read back safely.
    fn sync_endpoints(&mut self, inputs: &Inputs, failures: &mut Vec<Error>) {
        let known = match self.maps.endpoints() {
            Ok(known) => known,
            Err(error) => return failures.push(error),
        };
        for addr in known.keys().filter(|addr| !inputs.endpoints.contains_key(addr)) {
            failures.extend(self.maps.remove_endpoint(*addr).err());
        }
        for (addr, endpoint) in inputs.endpoints.iter().filter(|(addr, endpoint)| known.get(addr) != Some(endpoint)) {
            failures.extend(self.maps.put_endpoint(*addr, *endpoint).err());
        }
    }

    /// Writes the settings if they differ; whether flows were verified under something else than they say now.
    fn sync_settings(&mut self, options: &Options, inputs: &Inputs) -> Result<bool, Error> {
        let mut settings = Settings {
            revalidate_ns: u64::try_from(options.revalidate.as_nanos()).unwrap_or(u64::MAX),
            epoch: self.settings.epoch,
            network: options.network.network().octets(),
            network_mask: options.network.netmask().octets(),
            subnet: inputs.subnet.network().octets(),
            subnet_mask: inputs.subnet.netmask().octets(),
            enabled: 1,
            bridge_mac: [0; 6],
            reserved: [0; 2],
        };
        if let [bridge] = inputs.bridges.as_slice() {
            settings.bridge_mac = bridge.mac;
        }
        let Settings { bridge_mac, .. } = settings;
        let outdated = settings != Settings { bridge_mac, ..self.settings };
        if settings != self.settings {
            self.put_settings(settings)?;
        }
        Ok(outdated)
    }

    /// Makes every flow verify again.
    fn outdate(&mut self) -> Result<(), Error> {
        self.put_settings(Settings { epoch: next_epoch(self.settings.epoch), ..self.settings })
    }

    fn put_settings(&mut self, settings: Settings) -> Result<(), Error> {
        self.maps.put_settings(settings)?;
        self.settings = settings;
        Ok(())
    }

    /// What other versions pinned and we have not taken over is nobody's.
    fn discard_other_versions(&self) -> Result<(), Error> {
        let Ok((dir, abi)) = &self.pins else { return Ok(()) };
        let ours = dir.version(*abi);
        for version in dir.versions()?.into_iter().filter(|version| *version != ours) {
            version.remove()?;
        }
        Ok(())
    }
}

/// The epoch after this one. The first one of a new map depends on the time: flows that outlived their settings must not
/// meet their own epoch again.
fn next_epoch(epoch: u32) -> u32 {
    if epoch == 0 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs() as u32)
    } else {
        epoch.wrapping_add(1).max(1)
    }
}

/// One warning for each thing that failed, however often it did.
fn warnings(failures: &[Error]) -> Vec<Warning> {
    let mut by_subject = BTreeMap::<&str, Vec<&Error>>::new();
    for failure in failures {
        by_subject.entry(failure.about()).or_default().push(failure);
    }
    let text = |failures: &[&Error]| match failures {
        [] => String::new(),
        [only] => error::chain(*only),
        [first, more @ ..] => format!("{}; and {} more like it", error::chain(*first), more.len()),
    };
    by_subject
        .into_iter()
        .map(|(subject, failures)| Warning {
            code: format!("fastpath-{}", subject.to_lowercase().replace('_', "-")),
            text: text(&failures),
            remedy: "the kernel's routes carry what the fast path does not; flannelctl doctor looks for the cause"
                .to_owned(),
        })
        .collect()
}
