//! Hosts in network namespaces, real etcd and real packets, for the tests, the demo and the benchmark.
//!
//! Everything here cleans up after itself when it is dropped, also by a panic; what a killed process left behind is
//! swept by the next one ([`netns`]). Functions return [`anyhow::Result`]; tests unwrap it.
#![forbid(unsafe_code)]

pub mod process;
pub mod scratch;
pub mod wait;

pub mod netns;
pub mod topology;

pub mod docker;
pub mod etcd;
pub mod flanneld;
pub mod packets;

pub mod cluster;
pub mod demo;
pub mod traffic;

pub mod skip;

pub mod bench;
