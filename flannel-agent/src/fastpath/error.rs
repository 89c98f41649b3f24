//! What can go wrong between us and the kernel's BPF.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError, sys::SyscallError};

/// Why the fast path, or a part of it, does not work. The routes do, whatever this says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No BPF in the kernel, or no right to it.
    #[error("the kernel refuses BPF to this process ({why}); run as root, or choose --fastpath=off")]
    Refused {
        /// What the kernel said.
        why: String,
    },
    /// The object that we carry is not what the kernel or the loader understands.
    #[error("cannot load the BPF object: {source}; the routes carry everything meanwhile")]
    Object {
        /// What the loader said.
        source: Box<EbpfError>,
    },
    /// The verifier (or a missing feature) refused a program.
    #[error("cannot load the BPF program {program}: {why}; the routes carry everything meanwhile")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said; of the verifier's log, the last words.
        why: String,
    },
    /// A map could not be opened, read or written.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A program could not be attached to an interface.
    #[error("cannot attach {program} to {interface}: {why}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        why: String,
    },
    /// Something under the pin directory could not be made or removed.
    #[error("{path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A reader finds no fast path.
    #[error("no fast path is pinned under {path}; is flanneld running in this network namespace with --fastpath on?")]
    NotPinned {
        /// Where it was looked for.
        path: PathBuf,
    },
}

impl Error {
    /// For the map of this name.
    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }

    /// For this path.
    pub(super) fn pin(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Pin { path: path.into(), source }
    }

    /// What it is about, so that a hundred interfaces or leases with the same trouble make one warning.
    pub(super) const fn about(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "rights",
            Self::Object { .. } => "object",
            Self::Pin { .. } | Self::NotPinned { .. } => "pins",
            Self::Program { program, .. } | Self::Attach { program, .. } => program,
            Self::Map { map, .. } => map,
        }
    }

    /// From the loader: tells "no rights" and "no BPF" from a broken object.
    pub(super) fn from_load(error: EbpfError) -> Self {
        if let EbpfError::MapError(MapError::CreateError { name, io_error }) = &error
            && is_refusal(io_error)
        {
            return Self::Refused { why: format!("map {name}: {io_error}") };
        }
        Self::Object { source: Box::new(error) }
    }

    /// From loading a program.
    pub(super) fn from_program(program: &'static str, error: ProgramError) -> Self {
        if let ProgramError::LoadError { io_error, .. } = &error
            && is_refusal(io_error)
        {
            return Self::Refused { why: format!("program {program}: {io_error}") };
        }
        Self::Program { program, why: last_words(&error) }
    }
}

/// Whether the kernel knows no BPF, or gives it to others only.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(nix::libc::ENOSYS)
}

/// What the verifier ended with: its whole log is some thousand lines.
fn last_words(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let statistics = ["processed ", "verification time ", "stack depth "];
    let said = log
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !statistics.iter().any(|prefix| line.starts_with(prefix)));
    said.map_or_else(|| io_error.to_string(), |said| format!("{io_error}: {}", said.trim()))
}

/// The errno inside whatever aya wraps it in, if there is one.
pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) | ProgramError::IOError(io_error) => {
            io_error.raw_os_error()
        }
        ProgramError::NetlinkError(error) => error.raw_os_error(),
        ProgramError::TcError(aya::programs::tc::TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(aya::programs::tc::TcError::IoError(error)) => error.raw_os_error(),
        ProgramError::XdpError(aya::programs::xdp::XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}

/// An error with all its causes in one line: aya's own messages name the system call and hide the errno.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The errno of a failed pin.
pub(super) fn pin_error(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other @ (PinError::NoFd { .. } | PinError::InvalidPinPath { .. }) => io::Error::other(other.to_string()),
    }
}
