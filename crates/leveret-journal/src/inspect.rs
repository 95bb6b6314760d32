//! Views of the live set for tests: the messages of a queue, and their octets.

use std::collections::{BTreeMap, BTreeSet};

use crate::appender::HoldWork;
use crate::error::StoreError;
use crate::journal::Journal;
use crate::position::IndexEntry;
use crate::record::PublishRecord;

/// A message read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The number in the queue.
    pub seq: u64,
    /// The wall time of the publication, in ms since 1970.
    pub at_ms: u64,
    /// The flags of the publication.
    pub flags: u32,
    /// Route, properties and body, one after the other.
    pub octets: Vec<u8>,
    /// The index of the properties in `octets`.
    pub properties_at: u32,
    /// The index of the body in `octets`.
    pub body_at: u32,
}

impl Stored {
    fn new(seq: u64, publish: &PublishRecord<'_>) -> Self {
        let properties_at = publish.route.len();
        let body_at = properties_at + publish.properties.len();
        let octets = [publish.route, publish.properties, publish.body].concat();
        let (properties_at, body_at) = (properties_at as u32, body_at as u32);
        Self { seq, at_ms: publish.at_ms, flags: publish.flags, octets, properties_at, body_at }
    }
}

impl Journal {
    /// Returns the messages of a queue from number `from` on, read as by [`Journal::visit_run`].
    ///
    /// # Errors
    /// The error of the first message that cannot be read back.
    pub fn read_run(&self, queue: u64, from: u64, messages: usize, octets: u64) -> Result<Vec<Stored>, StoreError> {
        let mut found = Vec::new();
        let visit = &mut |seq, publish: PublishRecord<'_>| found.push(Stored::new(seq, &publish));
        match self.visit_run(queue, from, messages, octets, visit).into_iter().next() {
            Some(unreadable) => Err(unreadable.error),
            None => Ok(found),
        }
    }

    /// Returns the numbers of a queue's messages from `from` on, at most `messages` of them.
    pub fn seqs(&self, queue: u64, from: u64, messages: usize) -> Vec<u64> {
        let appender = self.hold_appender();
        let Some(queue) = appender.live.queue(queue) else { return Vec::new() };
        queue.messages.iter_from(from).take(messages).map(|(seq, _)| seq).collect()
    }

    /// Returns the message numbers of every queue in the live set, by queue number; a queue may
    /// have none.
    pub fn live_messages(&self) -> BTreeMap<u64, BTreeSet<u64>> {
        let appender = self.hold_appender();
        let queues = appender.live.queues().into_iter();
        queues.map(|(number, queue)| (number, queue.messages.iter_from(0).map(|(seq, _)| seq).collect())).collect()
    }

    /// Returns the work done under holds of the appender's lock so far.
    pub fn hold_work(&self) -> HoldWork {
        self.appender.lock().work
    }

    /// Returns true if a message is live and transient.
    pub fn is_transient(&self, queue: u64, seq: u64) -> bool {
        self.hold_appender().live.entry(queue, seq).is_some_and(IndexEntry::is_transient)
    }
}
