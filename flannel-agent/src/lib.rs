//! flannel's node agent as a library: the two binaries `flanneld` and `flannelctl` only parse, choose and exit.
#![forbid(unsafe_code)]

// Where each idea lives, in reading order.
pub mod lease;
pub mod state;

pub mod plan;

pub mod backend;
pub mod kernel;

pub mod cli;
pub mod config;
pub mod fastpath;
pub mod store;

pub mod keeper;

pub mod docker_opts;
pub mod subnet_file;

pub mod events;
pub mod logging;
pub mod traffic;

pub mod admin;
pub mod agent;
pub mod http;
pub mod metrics;

pub mod rules;

pub mod doctor;
pub mod explain;

pub mod ctl;
