//! The programs of the object: which hook runs which in which mode, loaded.

use std::{collections::BTreeSet, io, time::Duration};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, SchedClassifier, TcAttachType, Xdp},
};
use flannel_common::abi::{Hook, program};

use super::{
    error::Error,
    options::{self, Mode, Options},
};

/// The program that `hook` runs in `mode`, if it runs any. `has_peer` tells a port that packets can be handed past.
pub(super) const fn name(mode: Mode, hook: Hook, has_peer: bool) -> Option<&'static str> {
    match (mode, hook) {
        (Mode::Verified, Hook::FromPort) => Some(program::FROM_PORT),
        (Mode::Verified, Hook::ToPort) if has_peer => Some(program::TO_PORT),
        (Mode::Verified, Hook::ToPort) => Some(program::TO_BRIDGE),
        (Mode::Verified, Hook::FromUplink) => Some(program::FROM_UPLINK),
        (Mode::Verified, Hook::ToUplink) => Some(program::TO_UPLINK),
        (Mode::Verified, Hook::Transit) => Some(program::TRANSIT),
        (Mode::Trusted, Hook::FromPort) => Some(program::TRUSTED_FROM_PORT),
        (Mode::Trusted, Hook::FromUplink) => Some(program::TRUSTED_FROM_UPLINK),
        (Mode::Trusted, Hook::Transit) => Some(program::TRUSTED_TRANSIT),
        (Mode::Trusted, Hook::ToPort | Hook::ToUplink) | (Mode::Off, _) => None,
    }
}

/// Which way packets pass a TC hook; `None` for XDP.
pub(super) const fn direction(hook: Hook) -> Option<TcAttachType> {
    match hook {
        Hook::FromPort | Hook::FromUplink => Some(TcAttachType::Ingress),
        Hook::ToPort | Hook::ToUplink => Some(TcAttachType::Egress),
        Hook::Transit => None,
    }
}

/// The loaded programs of one mode.
pub(super) struct Programs {
    ebpf: Ebpf,
    /// Why the XDP program is not loaded.
    no_xdp: Option<String>,
}

impl Programs {
    /// Loads what the mode needs. Without the XDP program the rest works: the kernel may be too old for it alone.
    pub(super) fn load(mut ebpf: Ebpf, options: &Options) -> Result<Self, Error> {
        let names = |hook| [true, false].map(|has_peer| name(options.mode, hook, has_peer));
        let tc_hooks = Hook::ALL.into_iter().filter(|hook| direction(*hook).is_some());
        for name in tc_hooks.flat_map(names).flatten().collect::<BTreeSet<_>>() {
            let program = tc_of(&mut ebpf, name)?;
            patiently(|| program.load()).map_err(|error| Error::from_program(name, error))?;
        }
        let no_xdp = match name(options.mode, Hook::Transit, false) {
            Some(name) if options.xdp != options::Xdp::Off => {
                let program = xdp_of(&mut ebpf, name)?;
                patiently(|| program.load()).err().map(|error| Error::from_program(name, error).to_string())
            }
            _ => Some("--xdp=off".to_owned()),
        };
        Ok(Self { ebpf, no_xdp })
    }

    /// Why no XDP program can be attached anywhere.
    pub(super) fn no_xdp(&self) -> Option<&str> {
        self.no_xdp.as_deref()
    }

    /// The TC program of this name.
    pub(super) fn tc(&mut self, name: &'static str) -> Result<&mut SchedClassifier, Error> {
        tc_of(&mut self.ebpf, name)
    }

    /// The XDP program of this name.
    pub(super) fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, Error> {
        xdp_of(&mut self.ebpf, name)
    }
}

/// Loads, and loads again as long as the verifier gives up for a signal to this process: it answers `EAGAIN` then, and
/// has said nothing about the program.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(2);
    let interrupted = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::WouldBlock);
    for _ in 1..TRIES {
        match load() {
            Err(error) if interrupted(&error) => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    load()
}

fn tc_of<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    <&mut SchedClassifier>::try_from(program_of(ebpf, name)?).map_err(|error| Error::from_program(name, error))
}

fn xdp_of<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    <&mut Xdp>::try_from(program_of(ebpf, name)?).map_err(|error| Error::from_program(name, error))
}

fn program_of<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    ebpf.program_mut(name).ok_or_else(|| Error::from_program(name, ProgramError::NotLoaded))
}
