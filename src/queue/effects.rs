//! The effects of commands beyond the queue's own state: for the journal, the delivery layer and
//! the broker.

use crate::queue::consumers::ConsumerKey;
use crate::queue::ready::{Entry, Purged};
use crate::queue::settled::SettledRuns;

/// The reason why a message left a queue unprocessed (`reason` of RabbitMQ's `x-death`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// A consumer rejected it without requeue.
    Rejected,
}

/// A message that left a queue unprocessed.
#[derive(Clone, Debug)]
pub struct Dead {
    /// The message; its body may be in the journal only.
    pub entry: Entry,
    /// The reason.
    pub reason: DeadReason,
}

/// The effects of commands, collected until they are taken.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages that left the queue and that the journal still has.
    pub settled: SettledRuns,
    /// All messages of the queue below this id were removed.
    pub purged_below: Option<u64>,
    /// Messages that left the queue unprocessed.
    pub dead: Vec<Dead>,
    /// Credit to return to consumers, in deliveries.
    pub credits: Vec<(ConsumerKey, u32)>,
    /// Messages that a purge took, to be settled and freed when no lock is held.
    pub purged: Purged,
    /// The last consumer is gone, and the queue is to be deleted with it.
    pub unused: bool,
}

impl Effects {
    /// Adds the credit of one delivery.
    pub fn add_credit(&mut self, consumer: ConsumerKey) {
        match self.credits.last_mut() {
            Some((last, count)) if *last == consumer => *count += 1,
            _ => self.credits.push((consumer, 1)),
        }
    }
}
