//! Putting one program on one interface, and taking it off: tcx links, clsact filters, XDP links.

use aya::{
    programs::{
        Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::FdLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use ipnet::Ipv4Net;
use nix::{libc, net::if_::if_indextoname};

use super::{
    error::{chain, errno},
    options::HookKind,
};

/// Priority of our clsact filters: late, so that those of others come first.
const FILTER_PRIORITY: u16 = 0xf1a0;

/// Where TC programs go on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tc {
    /// tcx links: pinned, and replaced in one step.
    Tcx,
    /// Filters at a fixed priority and handle: found again by these two, and replaced in one step.
    Clsact,
}

/// The rung that a choice leads to.
pub(super) fn tc_rung(kind: HookKind) -> Tc {
    match kind {
        HookKind::Tcx => Tc::Tcx,
        HookKind::Clsact => Tc::Clsact,
        HookKind::Auto if has_tcx() => Tc::Tcx,
        HookKind::Auto => Tc::Clsact,
    }
}

/// Whether the kernel knows tcx (6.6, or a distribution's own older one). Every network namespace has a `lo`.
pub(super) fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// Whether the running kernel is this version or newer.
fn kernel_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|current| current >= KernelVersion::new(major, minor, 0))
}

/// The interface's name now: it may have been renamed since we were told.
pub(super) fn current_name(ifindex: u32) -> Option<String> {
    // nix gives an empty name, not an error, for an index that nobody has.
    if_indextoname(ifindex).ok()?.into_string().ok().filter(|name| !name.is_empty())
}

/// Makes an existing tcx link run this program. `None` if the link is dead, of another kind, or cannot be changed; it is
/// dropped then.
pub(super) fn update_tcx(program: &mut SchedClassifier, link: FdLink) -> Option<FdLink> {
    let link = SchedClassifierLink::try_from(link).ok()?;
    // The kernel answers ENOLINK if the interface has gone, and does nothing if the program is there already.
    let id = program.attach_to_link(link).ok()?;
    program.take_link(id).ok()?.try_into().ok()
}

/// Attaches after all programs that are there, so that those of others come first.
pub(super) fn attach_tcx(
    program: &mut SchedClassifier,
    name: &str,
    direction: TcAttachType,
) -> Result<FdLink, ProgramError> {
    let id = program.attach_with_options(name, direction, TcAttachOptions::TcxOrder(LinkOrder::last()))?;
    let link = program.take_link(id)?;
    FdLink::try_from(link).map_err(|error| ProgramError::IOError(std::io::Error::other(error.to_string())))
}

/// The handle of our filters: two networks on one host must not replace each other's.
fn filter_handle(network: Ipv4Net) -> TcHandle {
    TcHandle::from(u32::from(network.network()) | u32::from(network.prefix_len()))
}

/// Puts our filter there, or replaces it in one step. Also says whether the clsact qdisc had to be made.
pub(super) fn put_filter(
    program: &mut SchedClassifier,
    name: &str,
    direction: TcAttachType,
    network: Ipv4Net,
) -> Result<bool, ProgramError> {
    let made_qdisc = match tc::qdisc_add_clsact(name) {
        Ok(()) => true,
        Err(TcError::AlreadyAttached) => false,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let handle = filter_handle(network);
    let ours = SchedClassifierLink::attached(name, direction, FILTER_PRIORITY, handle, None)?;
    let replaced = program.attach_to_link(ours);
    let id = match replaced {
        Ok(id) => id,
        // There was none.
        Err(_) => {
            let options = NlOptions { priority: FILTER_PRIORITY, handle, classid: None };
            program.attach_with_options(name, direction, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would detach the filter: it must outlive us.
    std::mem::forget(program.take_link(id)?);
    Ok(made_qdisc)
}

/// Takes our filter away; false if there was none.
pub(super) fn remove_filter(name: &str, direction: TcAttachType, network: Ipv4Net) -> bool {
    SchedClassifierLink::attached(name, direction, FILTER_PRIORITY, filter_handle(network), None)
        .is_ok_and(|link| link.detach().is_ok())
}

/// Makes an existing XDP link run this program; like [`update_tcx`].
pub(super) fn update_xdp(program: &mut Xdp, link: FdLink) -> Option<FdLink> {
    let link = link.try_into().ok()?;
    let id = program.attach_to_link(link).ok()?;
    program.take_link(id).ok()?.try_into().ok()
}

/// Attaches in the driver, or says why that cannot be.
pub(super) fn attach_xdp(program: &mut Xdp, ifindex: u32) -> Result<FdLink, String> {
    if !kernel_at_least(5, 9) {
        return Err("XDP links need kernel 5.9".to_owned());
    }
    let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(|error| explain_xdp(&error))?;
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(link).map_err(|error| error.to_string())
}

fn explain_xdp(error: &ProgramError) -> String {
    match errno(error) {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached".to_owned(),
        Some(libc::ERANGE | libc::EINVAL) => {
            format!("the driver refuses native XDP at this MTU or with these features ({})", chain(error))
        }
        _ => chain(error),
    }
}
