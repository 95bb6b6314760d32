//! Numbers that anyone may read without a lock: relaxed atomics. They decide nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of one broker.
#[derive(Debug, Default)]
pub struct Counters {
    memory: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    /// Octets of memory charged for messages that queues hold.
    pub fn memory(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// A queue was charged with `before` octets and is now charged with `after`.
    pub fn book_memory(&self, before: u64, after: u64) {
        if after != before {
            // Wraps to a subtraction when `after` is smaller.
            self.memory.fetch_add(after.wrapping_sub(before), Relaxed);
        }
    }

    /// Connections accepted so far; the number of the next one.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed) + 1
    }
}
