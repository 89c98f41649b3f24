//! What a site notices of flannel without a packet: configuration, flags and subnet.env, as tables.

mod config;
mod flags;
mod process;
mod subnet_file;
