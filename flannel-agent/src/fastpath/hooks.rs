//! The hooks that are attached, and the way from those to the ones that should be. Doing so twice changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::programs::{
    TcAttachType,
    links::{FdLink, PinnedLink},
};
use flannel_common::abi::Hook;
use ipnet::Ipv4Net;

use super::{
    attach::{self, Tc},
    cleanup::remove_filters,
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
    /// Nothing: the filter is the interface's. When it was last put.
    Filter(Instant),
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
    /// Whether filters of a run before us, on interfaces that are not ours any more, were looked for.
    swept: bool,
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
            swept: false,
        }
    }

    /// What is attached, and what is not and why.
    pub(super) fn states(&self) -> &[HookState] {
        &self.states
    }

    /// Attaches what is wanted, swaps what is there for our programs, takes away what is not wanted.
    pub(super) fn sync(&mut self, programs: &mut Programs, wants: &[Want]) -> Pass {
        let mut pass = Pass::default();
        self.states = wants.iter().map(|want| self.bring(programs, want, &mut pass)).collect();
        let wanted = wants.iter().filter(|want| want.refusal.is_none()).map(place).collect();
        self.remove_unwanted(&wanted, &mut pass);
        pass
    }

    /// Brings one hook to where it should be, and says where it is.
    fn bring(&mut self, programs: &mut Programs, want: &Want, pass: &mut Pass) -> HookState {
        let (rung, reason) = match self.attach(programs, want, pass) {
            Ok(Ok(rung)) => (rung, None),
            Ok(Err(reason)) => ("none", Some(reason)),
            Err(error) => {
                let reason = error.to_string();
                pass.failures.push(error);
                // What is still pinned there is found again at the next pass.
                if let Some(path) = self.own_path(want).filter(|path| path.exists()) {
                    self.inherited.entry(place(want)).or_default().push(path);
                }
                ("none", Some(reason))
            }
        };
        HookState {
            interface: want.link.name.clone(),
            ifindex: want.link.ifindex,
            program: want.hook.label().to_owned(),
            rung: rung.to_owned(),
            reason,
        }
    }

    /// The rung that the hook is on, or why it is on none.
    fn attach(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        pass: &mut Pass,
    ) -> Result<Result<&'static str, String>, Error> {
        if let Some(reason) = want.refusal.map(str::to_owned).or_else(|| self.known_refusal(programs, want)) {
            return Ok(Err(reason));
        }
        let before = self.attached.remove(&place(want));
        pass.outdated |= before.as_ref().is_some_and(|before| changed(&before.link, &want.link));
        let before = before.map(|before| before.held);
        let (held, rung) = match (direction(want.hook), self.tc) {
            (None, _) => match self.attach_xdp(programs, want, before)? {
                Ok(held) => (held, "xdp"),
                Err(reason) => return Ok(Err(reason)),
            },
            (Some(direction), Tc::Tcx) => (self.attach_tcx(programs, want, direction, before)?, "tcx"),
            (Some(direction), Tc::Clsact) => (self.put_filter(programs, want, direction, before)?, "clsact"),
        };
        self.attached.insert(place(want), Attached { held, link: want.link.clone() });
        Ok(Ok(rung))
    }

    /// What is known to be refused without asking again.
    fn known_refusal(&self, programs: &Programs, want: &Want) -> Option<String> {
        if want.hook != Hook::Transit {
            return None;
        }
        let by_driver = || self.refused.get(&(want.link.ifindex, want.link.mtu)).cloned();
        programs.no_xdp().map(str::to_owned).or_else(by_driver)
    }

    fn attach_tcx(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        direction: TcAttachType,
        before: Option<Held>,
    ) -> Result<Held, Error> {
        let program = programs.tc(want.program)?;
        let found = self.found(want, before);
        let held = found.links.into_iter().find_map(|link| attach::update_tcx(program, link));
        let link = match held {
            Some(link) => link,
            None => {
                attach::attach_tcx(program, &name(want)?, direction).map_err(|error| failed(want, chain(&error)))?
            }
        };
        self.pin(want, link, &found.pins)
    }

    fn attach_xdp(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        before: Option<Held>,
    ) -> Result<Result<Held, String>, Error> {
        let program = programs.xdp(want.program)?;
        let found = self.found(want, before);
        let held = found.links.into_iter().find_map(|link| attach::update_xdp(program, link));
        match held.map_or_else(|| attach::attach_xdp(program, want.link.ifindex), Ok) {
            Ok(link) => self.pin(want, link, &found.pins).map(Ok),
            Err(reason) => {
                tracing::info!(interface = want.link.name, reason, "no XDP on this interface");
                self.refused.insert((want.link.ifindex, want.link.mtu), reason.clone());
                Ok(Err(reason))
            }
        }
    }

    fn put_filter(
        &mut self,
        programs: &mut Programs,
        want: &Want,
        direction: TcAttachType,
        before: Option<Held>,
    ) -> Result<Held, Error> {
        let name = name(want)?;
        match before {
            Some(Held::Filter(at)) if at.elapsed() < FILTERS_AGAIN => return Ok(Held::Filter(at)),
            _ => {}
        }
        let made_qdisc = attach::put_filter(programs.tc(want.program)?, &name, direction, self.network)
            .map_err(|error| failed(want, chain(&error)))?;
        if let (true, Some(dir)) = (made_qdisc, &self.dir) {
            let path = dir.qdisc(want.link.ifindex);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::pin(path)(error)),
                _ => {}
            }
        }
        // A link from a run on the other rung would be a second program there.
        for path in self.inherited.remove(&place(want)).unwrap_or_default() {
            pins::unpin(&path)?;
        }
        Ok(Held::Filter(Instant::now()))
    }

    /// Links that may be at this place already: the one we hold, or those that were pinned before us.
    fn found(&mut self, want: &Want, before: Option<Held>) -> Found {
        let mut found = Found { links: Vec::new(), pins: Vec::new() };
        if let Some(Held::Link(link)) = before {
            found.links.push(link);
        }
        for path in self.inherited.remove(&place(want)).unwrap_or_default() {
            match PinnedLink::from_pin(&path) {
                Ok(link) => found.links.push(FdLink::from(link)),
                Err(error) => {
                    tracing::debug!(path = %path.display(), error = chain(&error), "cannot open a pinned link");
                }
            }
            found.pins.push(path);
        }
        found
    }

    /// Makes sure that the link is pinned at its place, and nothing else is pinned for it. While there is nowhere to pin it, it is
    /// held all the same: pinning consumes a link, and one that is dropped takes its program off.
    fn pin(&self, want: &Want, link: FdLink, others: &[PathBuf]) -> Result<Held, Error> {
        let path = self.own_path(want).filter(|path| path.parent().is_some_and(Path::exists));
        let Some(path) = path else { return Ok(Held::Link(link)) };
        let id = |link: &FdLink| link.info().map(|info| info.id()).ok();
        let there = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        let link = if there.is_some_and(|there| id(&there) == id(&link)) {
            link
        } else {
            pins::unpin(&path)?;
            FdLink::from(link.pin(&path).map_err(|error| Error::pin(&path)(pin_error(error)))?)
        };
        for other in others.iter().filter(|other| **other != path) {
            pins::unpin(other)?;
        }
        Ok(Held::Link(link))
    }

    /// Where this hook's link is pinned, if links are pinned at all.
    fn own_path(&self, want: &Want) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.link(want.hook, want.link.ifindex))
    }

    /// Takes away what is attached or inherited, but not wanted any more.
    fn remove_unwanted(&mut self, wanted: &BTreeSet<Place>, pass: &mut Pass) {
        let gone: Vec<Place> = self.attached.keys().filter(|place| !wanted.contains(place)).copied().collect();
        for place in gone {
            pass.outdated = true;
            // Dropping an unpinned link detaches it.
            let Some(attached) = self.attached.remove(&place) else { continue };
            match (attached.held, &self.dir) {
                (Held::Filter(_), _) => self.remove_filter(place),
                (Held::Link(_), Some(dir)) => pass.failures.extend(pins::unpin(&dir.link(place.0, place.1)).err()),
                (Held::Link(_), None) => {}
            }
        }
        let left: Vec<Place> = self.inherited.keys().filter(|place| !wanted.contains(place)).copied().collect();
        for path in left.iter().filter_map(|place| self.inherited.remove(place)).flatten() {
            pass.outdated = true;
            pass.failures.extend(pins::unpin(&path).err());
        }
        if !self.swept {
            let ours = |ifindex, direction| self.has_filter(ifindex, direction);
            remove_filters(self.network, |ifindex, direction| !ours(ifindex, direction));
            self.swept = true;
        }
    }

    /// Whether a filter of ours should be there.
    fn has_filter(&self, ifindex: u32, at: TcAttachType) -> bool {
        Hook::ALL.into_iter().filter(|hook| direction(*hook) == Some(at)).any(|hook| {
            self.attached.get(&(hook, ifindex)).is_some_and(|attached| matches!(attached.held, Held::Filter(_)))
        })
    }

    fn remove_filter(&self, (hook, ifindex): Place) {
        if let (Some(direction), Some(name)) = (direction(hook), attach::current_name(ifindex)) {
            attach::remove_filter(&name, direction, self.network);
        }
    }
}

/// Links found at a place, and where they are pinned.
struct Found {
    links: Vec<FdLink>,
    pins: Vec<PathBuf>,
}

fn place(want: &Want) -> Place {
    (want.hook, want.link.ifindex)
}

/// The interface's name now.
fn name(want: &Want) -> Result<String, Error> {
    attach::current_name(want.link.ifindex).ok_or_else(|| failed(want, "the interface has gone".to_owned()))
}

/// Whether flows that were verified through `before` cannot be trusted on `now`. A new name alone changes nothing.
fn changed(before: &Link, now: &Link) -> bool {
    before.mac != now.mac || before.mtu != now.mtu
}

fn failed(want: &Want, why: String) -> Error {
    Error::Attach { program: want.program, interface: want.link.name.clone(), why }
}
