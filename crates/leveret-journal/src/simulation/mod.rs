//! Simulations of a store with seeded crashes: nothing confirmed is lost, nothing settled comes
//! back, nothing is invented.

mod tests;
mod world;
