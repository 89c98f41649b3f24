//! What flannel's BPF programs and its user-space agent agree on, and the packet logic that both can run.
//!
//! `no_std` and without allocation: every item here compiles for the kernel as well as for the host, where it is tested.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod bench;
pub mod reason;
