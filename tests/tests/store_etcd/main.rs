//! The store against a real etcd: what is written, what is read, what is noticed, and what is survived.

mod common;
mod proxy;

mod chaos;
mod contract;
mod keeper;
mod outage;
mod secure;
mod upstream;
mod watch;
