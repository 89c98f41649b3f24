//! What a site notices of flannel without a packet: configuration, flags and subnet.env, as tables.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod config;
mod flags;
mod process;
mod subnet_file;
