//! What flannel's BPF programs and its user-space agent agree on, and the packet logic that both can run.
//!
//! `no_std` and without allocation: every item here compiles for the kernel as well as for the host, where it is tested.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "BPF programs are one function each: a call costs, and hides bounds from the verifier"
)]

pub mod abi;
pub mod bench;
pub mod checksum;
pub mod flow;
pub mod header;
pub mod reason;
