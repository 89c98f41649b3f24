//! What the packet suites share: frames as bytes, and the programs loaded by themselves.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(clippy::unwrap_used, reason = "part of tests: a failure is a failed test")]

pub(crate) mod frame;
pub(crate) mod random;
pub(crate) mod rig;
