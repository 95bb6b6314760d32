//! Counters that any thread may read without a lock: relaxed atomics. No decision depends on them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of one broker.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
}

impl Counters {
    /// Returns the number of connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Counts an accepted connection and returns its number.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed) + 1
    }
}
