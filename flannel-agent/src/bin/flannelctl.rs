//! The operator's tool for a node agent.
fn main() {}
