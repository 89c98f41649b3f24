//! Empty: it exists so that cargo can track `flannel-ebpf` as a dependency. The programs are in `main.rs`.
#![no_std]
