//! A peer in memory and a model of what a broker owes it, for property tests and fuzzers alike. No socket, no task.
#![expect(clippy::expect_used, reason = "a broken promise of the broker is to fail the test")]

pub mod any;
pub mod books;
pub mod client;
pub mod ear;
pub mod line;
pub mod ops;
pub mod world;
