//! What the kernel answers when it refuses, in its own words.

use std::io;

use nix::errno::Errno;
use rtnetlink::packet_core::ErrorMessage;

/// A netlink request that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket to the kernel.
    #[error("cannot open a netlink socket: {0}; flannel needs CAP_NET_ADMIN in its network namespace")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was asked, with the object.
        what: String,
        /// The kernel's extended acknowledgement where it gives one, else the name of the error number.
        why: String,
        /// The positive error number.
        errno: i32,
    },
    /// The connection to the kernel ended under the request.
    #[error("{what}: the netlink socket closed; another is opened at the next pass")]
    Closed {
        /// What was asked.
        what: String,
    },
    /// No answer.
    #[error("{what}: the kernel did not answer within {seconds} s; it is asked again at the next pass")]
    Silent {
        /// What was asked.
        what: String,
        /// How long we waited.
        seconds: u64,
    },
    /// A name that should be there.
    #[error("there is no interface {name}; `ip link` lists those of this network namespace")]
    NoLink {
        /// What was looked for.
        name: String,
    },
}

impl Error {
    /// The error number of a refusal, positive; 0 for every other error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Socket(_) | Self::Closed { .. } | Self::Silent { .. } | Self::NoLink { .. } => 0,
        }
    }

    pub(crate) fn new(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let what = what.into();
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::refused(what, message),
            rtnetlink::Error::RequestFailed => Self::Closed { what },
            other => Self::Refused { what, why: other.to_string(), errno: 0 },
        }
    }

    pub(crate) fn refused(what: String, message: &ErrorMessage) -> Self {
        let errno = message.code.map_or(0, |code| -code.get());
        let name = Errno::from_raw(errno).desc().to_lowercase();
        let why = match extended_ack(&message.header) {
            Some(text) => format!("{} ({name})", text.trim_end_matches('.').to_lowercase()),
            None => name,
        };
        Self::Refused { what, why, errno }
    }
}

/// The text (`NLMSGERR_ATTR_MSG`) of an extended acknowledgement.
///
/// `answer` is what follows the error number: our own message's header, of which the socket option `NETLINK_CAP_ACK`
/// leaves only its 16 bytes, and then attributes.
fn extended_ack(answer: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const ATTR_MSG: u16 = 1;
    let mut rest = answer.get(HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_ack_is_found_behind_other_attributes() {
        let mut answer = vec![0; 16];
        answer.extend([8, 0, 2, 0, 1, 2, 3, 4]);
        answer.extend([11, 0, 1, 0, b'n', b'o', b' ', b'w', b'a', b'y', 0, 0]);
        assert_eq!(extended_ack(&answer).as_deref(), Some("no way"));
    }

    #[test]
    fn broken_acknowledgements_have_no_text() {
        for answer in [&[][..], &[0; 16], &[0; 20], &[&[0; 16][..], &[255, 255, 1, 0]].concat()] {
            assert_eq!(extended_ack(answer), None, "{answer:?}");
        }
    }
}
