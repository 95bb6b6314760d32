//! The end of messages that purges and deletions have taken out of queues. However many messages
//! that is, no lock is held for longer than for a few: they leave the queue together, the journal
//! is told in one record or in bounded ones, and their memory is freed later.

use crate::limits;
use crate::queue::context::QueueContext;
use crate::queue::journal_batch::taken;
use crate::queue::ready::Entry;
use crate::queue::settled::SettledRuns;
use leveret_journal::index::Index;
use leveret_journal::journal::{CommitMode, Journal};
use leveret_journal::list::List;
use leveret_journal::record::Operation;
use std::collections::BTreeMap;

/// Appends that messages are settled which no queue has any more, a bounded number under each hold
/// of the appender's lock. Returns the index of the last record.
pub(super) fn settle(journal: &Journal, queue: u64, entries: &BTreeMap<u64, Entry>) -> Option<Index> {
    let mut index = None;
    let (mut settled, mut entries) = (SettledRuns::default(), entries.values().peekable());
    while entries.peek().is_some() {
        entries.by_ref().take(limits::SETTLES_PER_HOLD).for_each(|entry| settled.add(entry.id, entry.storage));
        if !settled.durable.is_empty() {
            let operation = Operation::Settle { queue, runs: List::Given(&settled.durable) };
            index = Some(taken(journal, journal.append_all(&[operation], CommitMode::Deferred)));
        }
        settled.spilled.iter().for_each(|run| journal.forget(queue, *run));
        settled.clear();
    }
    index
}

/// Frees messages, and what else holds `entries` of them: at once if they are few.
pub(super) fn free<T: Send + 'static>(context: &QueueContext, entries: usize, messages: T) {
    if entries > limits::FREED_AT_ONCE {
        context.offload().later(Box::new(move || drop(messages)));
    }
}
