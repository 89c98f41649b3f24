//! The benchmark: what the fast path gains over the kernel's own ways, measured so that one can believe it.
//!
//! Arms ([`arm`]) stand side by side in network namespaces ([`lab`]) and take turns in every round ([`run`]). Packets are
//! made in the kernel ([`generator`]) and counted where they arrive ([`sink`]), never where they are sent. Every sample
//! carries what would make it wrong: loss, packets that went another way than the arm's name says, and the share of the
//! core that others took ([`probe`]).

pub mod agent;
pub mod arm;
pub mod chart;
pub mod compare;
pub mod counters;
pub mod generator;
pub mod lab;
pub mod leases;
pub mod machine;
pub mod net;
pub mod nodes;
pub mod probe;
pub mod progress;
pub mod row;
mod rules;
pub mod run;
pub mod sample;
pub mod sink;
pub mod soak;
pub mod suite;
pub mod table;
pub mod workload;
