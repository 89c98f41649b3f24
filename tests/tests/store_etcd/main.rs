//! The store against a real etcd: what is written, what is read, what is noticed, and what is survived.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and names the line")]

mod common;
mod proxy;

mod chaos;
mod contract;
mod keeper;
mod outage;
mod secure;
mod upstream;
mod watch;
