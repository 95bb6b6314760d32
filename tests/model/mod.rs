//! A peer in memory and a model of what a broker owes it, for property tests and fuzzers alike. No
//! socket, no task.
#![expect(clippy::expect_used, reason = "a broken promise of the broker is to fail the test")]

pub mod any;
pub mod broker_model;
pub mod client;
pub mod decoder;
pub mod methods;
pub mod ops;
pub mod world;
