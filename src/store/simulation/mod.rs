//! A store under seeded crashes: nothing confirmed is lost, nothing settled returns, nothing is invented.

mod tests;
mod world;
