//! host-gw: a route per peer through its host address. No device, no encapsulation; all nodes share one link.

use super::{Advert, Desired, Error, Observed, peers};
use crate::{kernel::iface::Uplink, lease::Lease};

pub(super) const NAME: &str = "host-gw";

/// The backend's state: where we stand.
#[derive(Clone, Debug)]
pub struct HostGw {
    pub(super) here: peers::Here,
}

impl HostGw {
    /// The peers route to the address we publish, so it has to be the interface's own.
    pub(super) fn new(uplink: Uplink) -> Result<Self, Error> {
        if uplink.public_ip != uplink.address {
            return Err(Error::Unfit {
                backend: NAME,
                problem: format!(
                    "the public address {} is not the address {} of {}",
                    uplink.public_ip, uplink.address, uplink.name
                ),
                remedy: "host-gw has no way through NAT: leave -public-ip out, or use vxlan".into(),
            });
        }
        Ok(Self { here: peers::Here { uplink, own: None } })
    }

    pub(super) fn advert() -> Advert {
        Advert { backend_type: NAME.into(), ..Advert::default() }
    }

    pub(super) fn desired<'a>(
        &self,
        leases: impl IntoIterator<Item = &'a Lease> + Clone,
        observed: &Observed,
    ) -> Desired {
        let shared = peers::by_address(leases.clone());
        let mut desired = Desired::default();
        for peer in leases {
            let reached = self.here.refuse(peer, Some(NAME)).unwrap_or_else(|| {
                let mut reached = self.here.direct(peer, observed, &mut desired.objects);
                peers::note_shared_address(peer, &shared, &mut reached);
                reached
            });
            desired.peers.insert(peer.subnet, reached);
        }
        desired
    }
}
