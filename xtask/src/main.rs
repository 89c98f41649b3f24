//! `cargo xtask VERB`: everything that one does with this repository.
fn main() {}
