//! The context that all queues of a broker share: counters, the journal, queue numbers, page-ins,
//! and the memory limits for messages. Names no queue.

use crate::clock::Tick;
use crate::counters::Counters;
use crate::limits;
use crate::memory::{AccountLease, MemoryAccount};
use crate::offload::Offload;
use crate::queue::page_in::PageInQueue;
use leveret_journal::journal::Journal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The context of all queues of one broker.
#[derive(Debug)]
pub struct QueueContext {
    counters: Arc<Counters>,
    memory: AccountLease,
    journal: Option<Arc<Journal>>,
    last_number: AtomicU64,
    page_ins: PageInQueue,
    definitions_max: u64,
    caches_max: u64,
    page_at: u64,
    resident_all: u64,
    backlogs: AtomicU64,
    now: AtomicU64,
    wall_at_zero: AtomicU64,
    offload: Offload,
}

impl Default for QueueContext {
    fn default() -> Self {
        Self {
            counters: Arc::default(),
            memory: AccountLease::default(),
            journal: None,
            last_number: AtomicU64::default(),
            page_ins: PageInQueue::default(),
            definitions_max: u64::MAX,
            caches_max: u64::MAX,
            page_at: limits::PAGE_AT,
            resident_all: limits::RESIDENT_ALL,
            backlogs: AtomicU64::default(),
            now: AtomicU64::default(),
            wall_at_zero: AtomicU64::default(),
            offload: Offload::default(),
        }
    }
}

impl QueueContext {
    /// Creates the context of a broker with a journal, in which `last_number` is the largest queue
    /// number.
    pub fn with_journal(counters: Arc<Counters>, journal: Arc<Journal>, last_number: u64) -> Self {
        Self { counters, journal: Some(journal), last_number: AtomicU64::new(last_number), ..Self::default() }
    }

    /// Sets the limit from which messages are spilled, below the memory alarm's
    /// `memory_high_watermark` in octets.
    #[must_use]
    pub fn paging_below(self, memory_high_watermark: u64) -> Self {
        Self {
            page_at: limits::PAGE_AT.min(memory_high_watermark / 2),
            resident_all: limits::RESIDENT_ALL.min(memory_high_watermark / 4),
            ..self
        }
    }

    /// Sets the limit from which new definitions are refused to half of the memory alarm's
    /// `memory_high_watermark` in octets.
    #[must_use]
    pub fn definitions_below(self, memory_high_watermark: u64) -> Self {
        Self { definitions_max: memory_high_watermark / 2, ..self }
    }

    /// Sets the limit of all caches together to a part of the memory alarm's
    /// `memory_high_watermark`, in octets.
    #[must_use]
    pub fn caches_below(self, memory_high_watermark: u64) -> Self {
        Self { caches_max: memory_high_watermark / limits::CACHES_PART, ..self }
    }

    /// Returns true if caches may grow: their owners would keep them however long they do nothing.
    pub fn has_room_for_caches(&self) -> bool {
        self.memory().used_by_caches() < self.caches_max
    }

    /// Returns true if a definition of `octets` may be added: a client that declares is not held
    /// back by an alarm, so that what is declared is limited by itself.
    pub fn has_room_for_definition(&self, octets: u64) -> bool {
        self.memory().used_by_definitions().saturating_add(octets) <= self.definitions_max
    }

    /// Returns the way to run long work.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// Returns the broker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns the broker's memory account.
    pub fn memory(&self) -> MemoryAccount {
        self.memory.account()
    }

    /// Returns the journal; `None`: the broker keeps everything in memory.
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }

    /// Returns the number of a new queue, never used before.
    pub fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the queues that have requested page-ins.
    pub fn page_ins(&self) -> &PageInQueue {
        &self.page_ins
    }

    /// Returns the octets of memory in use from which transient messages are spilled to the
    /// journal.
    pub fn page_at(&self) -> u64 {
        self.page_at
    }

    /// Returns true if transient messages may be spilled now: the broker is short of memory, or a
    /// queue has a backlog in the journal.
    pub fn is_spilling(&self) -> bool {
        self.journal.is_some() && (self.backlogs.load(Ordering::Relaxed) > 0 || self.memory().estimate() > self.page_at)
    }

    /// Updates the number of queues with a backlog in the journal, by whether one had and has one.
    pub fn count_backlog(&self, had: bool, has: bool) {
        match (had, has) {
            (false, true) => _ = self.backlogs.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.backlogs.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Returns the octets of durable ready messages that one queue keeps in memory as well, while
    /// `memory` is in use and at most [`QueueContext::page_at`].
    pub fn resident_octets(&self, memory: u64) -> u64 {
        if memory > self.resident_all { limits::RESIDENT_MIN } else { limits::RESIDENT_MAX }
    }

    /// Returns the octets of durable unacked messages that one queue keeps in memory as well.
    pub fn unacked_octets(&self) -> u64 {
        let memory = self.memory().estimate();
        if memory > self.page_at { 0 } else { self.resident_octets(memory) }
    }

    /// Returns the octets read from the journal at a time for one queue.
    pub fn page_in_octets(&self) -> u64 {
        match self.memory().estimate() {
            memory if memory > self.page_at => limits::PAGE_IN_OCTETS_MIN,
            memory if memory > self.resident_all => limits::RESIDENT_MIN,
            _ => limits::PAGE_IN_OCTETS,
        }
    }

    /// Returns the wall time set last, in ms since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.wall_at_zero.load(Ordering::Relaxed).saturating_add(self.now.load(Ordering::Relaxed))
    }

    /// Sets the wall time, in ms since 1970.
    pub fn set_wall_ms(&self, now: Tick, wall_ms: u64) {
        self.wall_at_zero.store(wall_ms.saturating_sub(now.0), Ordering::Relaxed);
        self.tell(now);
    }

    /// Sets the current tick, unless a later one is known. Most calls only read: what all threads
    /// share is written once a millisecond.
    pub fn tell(&self, now: Tick) {
        if now.0 > self.now.load(Ordering::Relaxed) {
            self.now.fetch_max(now.0, Ordering::Relaxed);
        }
    }
}
