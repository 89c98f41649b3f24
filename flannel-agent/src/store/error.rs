//! What can go wrong with the store.

use std::{error::Error as _, io};

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to connect to.
    #[error("-etcd-endpoints names no endpoint; expected http://host:2379, several separated by commas")]
    NoEndpoints,
    /// An endpoint that cannot be read.
    #[error("endpoint {endpoint:?}: {why}")]
    BadEndpoint {
        /// As given, without credentials.
        endpoint: String,
        /// What is wrong, or what to do.
        why: &'static str,
    },
    /// A file that cannot be read.
    #[error("{flag} {path} cannot be read: {source}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{flag} {path} holds no usable PEM block {wanted:?}")]
    NotPem {
        /// The flag that names it.
        flag: &'static str,
        /// Its path.
        path: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// No endpoint gave an answer in time. Asking again later may help.
    #[error("{what}: no answer from etcd: {tried}")]
    Unanswered {
        /// What was asked.
        what: &'static str,
        /// The endpoints and what became of each.
        tried: String,
    },
    /// The store will not do this, whoever of its members is asked: a matter of its users and permissions.
    #[error("{what}: refused by {endpoint}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Who refused.
        endpoint: String,
        /// The store's words.
        why: String,
        /// Whether that stays so until somebody changes something.
        lasting: bool,
    },
}

impl Error {
    /// Whether asking again cannot help before somebody changes the flags, the files or the store's permissions.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Unanswered { .. } | Self::Refused { lasting: false, .. })
    }
}

// Status codes of gRPC (https://grpc.io/docs/guides/status-codes/).
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// What an error of the client library means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another endpoint, or the same one a moment later, may do better.
    Passing,
    /// Our token is out of date; a new connection gets a new one.
    StaleToken,
    /// The answer is no, and stays so.
    Refusal,
    /// The answer is no as things are: something is missing, or there already.
    Conflict,
}

pub(super) fn classify(error: &etcd_client::Error) -> Failure {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            // etcd says so when users or roles changed after we logged in, or authentication was switched on.
            let stale = ["revision of auth store is old", "user name is empty"];
            let stale = stale.iter().any(|text| status.message().contains(text));
            match i32::from(status.code()) {
                UNAUTHENTICATED => Failure::StaleToken,
                INVALID_ARGUMENT if stale => Failure::StaleToken,
                INVALID_ARGUMENT | PERMISSION_DENIED | UNIMPLEMENTED => Failure::Refusal,
                NOT_FOUND | ALREADY_EXISTS | FAILED_PRECONDITION | OUT_OF_RANGE => Failure::Conflict,
                _ => Failure::Passing,
            }
        }
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => Failure::Refusal,
        _ => Failure::Passing,
    }
}

/// The store's words, without the noise of the client library.
pub(super) fn brief(error: &etcd_client::Error) -> String {
    let (mut text, mut source) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        etcd_client::Error::TransportError(error) => (error.to_string(), error.source()),
        error => return error.to_string(),
    };
    while let Some(error) = source {
        let deeper = error.to_string();
        if !text.contains(&deeper) {
            text = format!("{text}: {deeper}");
        }
        source = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
