//! What all queues of one broker share: counters, the journal, numbers by which the journal knows them, and the time. It knows no
//! queue.

use crate::clock::Tick;
use crate::counters::Counters;
use crate::limits;
use crate::queue::pager::Pager;
use crate::store::journal::Journal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all queues of one broker share.
#[derive(Debug)]
pub struct Shared {
    counters: Arc<Counters>,
    journal: Option<Arc<Journal>>,
    last_number: AtomicU64,
    pager: Pager,
    page_at: u64,
    now: AtomicU64,
    wall_at_zero: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            counters: Arc::default(),
            journal: None,
            last_number: AtomicU64::default(),
            pager: Pager::default(),
            page_at: limits::PAGE_AT,
            now: AtomicU64::default(),
            wall_at_zero: AtomicU64::default(),
        }
    }
}

impl Shared {
    /// For a broker that keeps what is durable in `journal`, where `last_number` is the largest number of any queue.
    pub fn with_journal(counters: Arc<Counters>, journal: Arc<Journal>, last_number: u64) -> Self {
        Self { counters, journal: Some(journal), last_number: AtomicU64::new(last_number), ..Self::default() }
    }

    /// Has messages go to the journal before they are charged with `memory_high_watermark` octets.
    #[must_use]
    pub fn paging_below(self, memory_high_watermark: u64) -> Self {
        Self { page_at: limits::PAGE_AT.min(memory_high_watermark / 2), ..self }
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

    /// Who reads messages back.
    pub fn pager(&self) -> &Pager {
        &self.pager
    }

    /// Octets charged for all messages from which on even those that are not kept for good go to the journal.
    pub fn page_at(&self) -> u64 {
        self.page_at
    }

    /// The wall clock as it was when somebody last told the time, in ms since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.wall_at_zero.load(Ordering::Relaxed).saturating_add(self.now.load(Ordering::Relaxed))
    }

    /// Tells what the wall clock says now, in ms since 1970.
    pub fn set_wall_ms(&self, now: Tick, wall_ms: u64) {
        self.wall_at_zero.store(wall_ms.saturating_sub(now.0), Ordering::Relaxed);
        self.tell(now);
    }

    /// Tells the time.
    pub fn tell(&self, now: Tick) {
        self.now.store(now.0, Ordering::Relaxed);
    }
}
