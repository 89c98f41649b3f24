//! The shortcut: loads, pins, attaches and feeds the BPF programs, and reads their counters. The only user of aya.

pub mod bench_object;
