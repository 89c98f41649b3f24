//! The hooks that are attached, and the way from those to the ones that should be. Doing so twice changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::programs::links::{FdLink, PinnedLink};
use flannel_common::abi::Hook;
use ipnet::Ipv4Net;

use super::{
    attach::{self, Tc},
    error::{Error, chain, pin_error},
    inputs::Link,
    pins::{self, Dir, LinkPin},
    programs::{Programs, direction},
    wanted::Want,
};
use crate::state::HookState;

/// A hook at an interface index.
type Place = (Hook, u32);

/// How often clsact filters are put again, in case somebody took them away: unlike links, they cannot be asked cheaply.
const FILTERS_AGAIN: Duration = Duration::from_secs(10);

/// What keeps a program attached.
enum Held {
    /// A descriptor of the link, which is pinned as well if there is somewhere to pin it.
    Link(FdLink),
    /// Nothing: the filter is the interface's. When it was last put, and on which name.
    Filter(Instant, String),
}

/// An attached hook.
struct Attached {
    held: Held,
    /// The interface as it was when its flows were verified.
    link: Link,
}

/// All hooks.
pub(super) struct Hooks {
    tc: Tc,
    network: Ipv4Net,
    dir: Option<Dir>,
    attached: BTreeMap<Place, Attached>,
    /// Links that an agent before us has pinned, in our directory or in that of another version.
    inherited: BTreeMap<Place, Vec<PathBuf>>,
    /// What the driver refused at which MTU; asked again only if that changes.
    refused: BTreeMap<(u32, u32), String>,
    states: Vec<HookState>,
}

/// What a pass did.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Some interface went or changed: what was verified through it must verify again.
    pub(super) outdated: bool,
    /// What did not work.
    pub(super) failures: Vec<Error>,
}

impl Hooks {
    /// None attached by us yet; `inherited` are those of agents before us, ours first.
    pub(super) fn new(tc: Tc, network: Ipv4Net, dir: Option<Dir>, inherited: Vec<LinkPin>) -> Self {
        let mut by_place = BTreeMap::<Place, Vec<PathBuf>>::new();
        for pin in inherited {
            by_place.entry((pin.hook, pin.ifindex)).or_default().push(pin.path);
        }
        Self {
            tc,
            network,
            dir,
            attached: BTreeMap::new(),
            inherited: by_place,
            refused: BTreeMap::new(),
            states: Vec::new(),
        }
    }

    /// What is attached, and what is not and why.
    pub(super) fn states(&self) -> &[HookState] {
        &self.states
    }

    /// Attaches what is wanted, swaps what is there for our programs, takes away what is not wanted.
    pub(super) fn sync(&mut self, programs: &mut Programs, wants: &[Want]) -> Pass {
        let mut pass = Pass::default();
        let mut states = Vec::with_capacity(wants.len());
        for want in wants {
            let (rung, reason) = match self.attach(programs, want, &mut pass) {
                Ok(Ok(rung)) => (rung, None),
                Ok(Err(reason)) => ("none", Some(reason)),
                Err(error) => {
                    let reason = error.to_string();
                    pass.failures.push(error);
                    ("none", Some(reason))
                }
            };
            states.push(HookState {
                interface: want.link.name.clone(),
                ifindex: want.link.ifindex,
                program: want.hook.label().to_owned(),
                rung: rung.to_owned(),
                reason,
            });
        }
        self.remove_unwanted(&states, &mut pass);
        self.states = states;
        pass
    }

    /// Brings one hook to where it should be: the rung it is on, or why it is on none.
    fn attach(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        pass: &mut Pass,
    ) -> Result<Result<&'static str, String>, Error> {
        if let Some(reason) = want.refusal {
            return Ok(Err(reason.to_owned()));
        }
        let place = (want.hook, want.link.ifindex);
        let before = self.attached.remove(&place);
        pass.outdated |= before.as_ref().is_some_and(|before| changed(&before.link, &want.link));
        let before = before.map(|before| before.held);
        let (held, rung) = match (direction(want.hook), self.tc) {
            (None, _) => match self.attach_xdp(programs, want, before)? {
                Ok(held) => (held, "xdp"),
                Err(reason) => return Ok(Err(reason)),
            },
            (Some(_), Tc::Tcx) => (self.attach_tcx(programs, want, before)?, "tcx"),
            (Some(_), Tc::Clsact) => (self.put_filter(programs, want, before)?, "clsact"),
        };
        self.attached.insert(place, Attached { held, link: want.link.clone() });
        Ok(Ok(rung))
    }

    fn attach_tcx(&mut self, programs: &mut Programs, want: &Want, before: Option<Held>) -> Result<Held, Error> {
        let program = programs.tc(want.program)?;
        let found = self.found(want, before);
        let pinned_elsewhere = found.iter().filter_map(|(_, path)| path.clone()).collect::<Vec<_>>();
        let kept = found.into_iter().find_map(|(link, _)| attach::update_tcx(program, link));
        let link = match (kept, direction(want.hook)) {
            (Some(link), _) => link,
            (None, None) => return Err(failed(want, "not a TC hook".to_owned())),
            (None, Some(direction)) => {
                let name = self.name(want)?;
                attach::attach_tcx(program, &name, direction).map_err(|error| failed(want, chain(&error)))?
            }
        };
        // A filter of ours from a run with --hook=clsact would be a second program there.
        self.pin(want, link, &pinned_elsewhere)
    }

    fn attach_xdp(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        before: Option<Held>,
    ) -> Result<Result<Held, String>, Error> {
        if let Some(reason) = programs.no_xdp() {
            return Ok(Err(reason.to_owned()));
        }
        let asked = (want.link.ifindex, want.link.mtu);
        if let Some(reason) = self.refused.get(&asked) {
            return Ok(Err(reason.clone()));
        }
        let program = programs.xdp(want.program)?;
        let found = self.found(want, before);
        let pinned_elsewhere = found.iter().filter_map(|(_, path)| path.clone()).collect::<Vec<_>>();
        let kept = found.into_iter().find_map(|(link, _)| attach::update_xdp(program, link));
        match kept.map_or_else(|| attach::attach_xdp(program, want.link.ifindex), Ok) {
            Ok(link) => self.pin(want, link, &pinned_elsewhere).map(Ok),
            Err(reason) => {
                tracing::info!(interface = want.link.name, reason, "no XDP on this interface");
                self.refused.insert(asked, reason.clone());
                Ok(Err(reason))
            }
        }
    }

    fn put_filter(&mut self, programs: &mut Programs, want: &Want, before: Option<Held>) -> Result<Held, Error> {
        let name = self.name(want)?;
        if let Some(Held::Filter(at, on)) = before
            && at.elapsed() < FILTERS_AGAIN
            && on == name
        {
            return Ok(Held::Filter(at, on));
        }
        let Some(direction) = direction(want.hook) else { return Err(failed(want, "not a TC hook".to_owned())) };
        let made_qdisc = attach::put_filter(programs.tc(want.program)?, &name, direction, self.network)
            .map_err(|error| failed(want, chain(&error)))?;
        if let (true, Some(dir)) = (made_qdisc, &self.dir) {
            let path = dir.qdisc(want.link.ifindex);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::pin(path)(error)),
                _ => {}
            }
        }
        Ok(Held::Filter(Instant::now(), name))
    }

    /// Links that may be at this place already: the one we hold, or those that were pinned before us.
    fn found(&mut self, want: &Want, before: Option<Held>) -> Vec<(FdLink, Option<PathBuf>)> {
        let mut found = Vec::new();
        if let Some(Held::Link(link)) = before {
            found.push((link, None));
        }
        for path in self.inherited.remove(&(want.hook, want.link.ifindex)).unwrap_or_default() {
            match PinnedLink::from_pin(&path) {
                Ok(link) => found.push((FdLink::from(link), Some(path))),
                Err(error) => {
                    tracing::debug!(path = %path.display(), error = chain(&error), "cannot open a pinned link")
                }
            }
        }
        found
    }

    /// Makes sure that the link is pinned at its place, and nothing else is pinned for it.
    fn pin(&self, want: &Want, link: FdLink, elsewhere: &[PathBuf]) -> Result<Held, Error> {
        let Some(dir) = &self.dir else { return Ok(Held::Link(link)) };
        let path = dir.link(want.hook, want.link.ifindex);
        let id = |link: &FdLink| link.info().map(|info| info.id()).ok();
        let there = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        let link = if there.is_some_and(|there| id(&there) == id(&link)) {
            link
        } else {
            pins::unpin(&path)?;
            FdLink::from(link.pin(&path).map_err(|error| Error::pin(&path)(pin_error(error)))?)
        };
        for old in elsewhere.iter().filter(|old| **old != path) {
            pins::unpin(old)?;
        }
        Ok(Held::Link(link))
    }

    /// Takes away what is attached or inherited, but not wanted any more.
    fn remove_unwanted(&mut self, states: &[HookState], pass: &mut Pass) {
        let wanted: BTreeSet<(&str, u32)> = states
            .iter()
            .filter(|state| state.rung != "none")
            .map(|state| (state.program.as_str(), state.ifindex))
            .collect();
        let unwanted = |place: &Place| !wanted.contains(&(place.0.label(), place.1));
        let gone: Vec<Place> = self.attached.keys().filter(|place| unwanted(place)).copied().collect();
        for place in gone {
            pass.outdated = true;
            if let Some(Attached { held: Held::Filter(..), .. }) = self.attached.remove(&place) {
                self.remove_filter(place);
            } else if let Some(dir) = &self.dir
                && let Err(error) = pins::unpin(&dir.link(place.0, place.1))
            {
                pass.failures.push(error);
            }
        }
        for path in std::mem::take(&mut self.inherited).into_values().flatten() {
            pass.outdated = true;
            pass.failures.extend(pins::unpin(&path).err());
        }
    }

    fn remove_filter(&self, (hook, ifindex): Place) {
        if let (Some(direction), Some(name)) = (direction(hook), attach::current_name(ifindex)) {
            attach::remove_filter(&name, direction, self.network);
        }
    }

    /// The interface's name now.
    fn name(&self, want: &Want) -> Result<String, Error> {
        attach::current_name(want.link.ifindex).ok_or_else(|| failed(want, "the interface has gone".to_owned()))
    }
}

/// Whether flows that were verified through `before` can not be trusted on `now`. A new name alone changes nothing.
fn changed(before: &Link, now: &Link) -> bool {
    before.mac != now.mac || before.mtu != now.mtu
}

fn failed(want: &Want, why: String) -> Error {
    Error::Attach { program: want.hook.label(), interface: want.link.name.clone(), why }
}
