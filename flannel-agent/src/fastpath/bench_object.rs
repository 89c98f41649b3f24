//! The benchmark's generator and sinks. They are compiled with flannel's programs, and only the benchmark refers to them,
//! so the linker leaves them out of the agent.

/// The object file; names of what is in it are in [`flannel_common::bench::name`].
pub static BENCH_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-bench"));
