//! What all queues of one broker share: counters, the journal, numbers by which the journal knows them. It knows no queue.

use crate::counters::Counters;
use crate::store::journal::Journal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all queues of one broker share.
#[derive(Debug, Default)]
pub struct Shared {
    counters: Arc<Counters>,
    journal: Option<Arc<Journal>>,
    last_number: AtomicU64,
}

impl Shared {
    /// For a broker that keeps what is durable in `journal`, where `last_number` is the largest number of any queue.
    pub fn with_journal(counters: Arc<Counters>, journal: Arc<Journal>, last_number: u64) -> Self {
        Self { counters, journal: Some(journal), last_number: AtomicU64::new(last_number) }
    }

    /// The counters that queues book on.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where durable things are kept; none: in memory only.
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }

    /// The number of a new queue: never used before.
    pub fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
