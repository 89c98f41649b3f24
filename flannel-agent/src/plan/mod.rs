//! What to do, as values: pure functions without clock, randomness, async or I/O.

pub mod allocate;
pub mod renew;
pub mod table;

pub mod desired;
pub mod diff;
