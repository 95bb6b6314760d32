//! The admission of messages to a queue: which stay in memory, which are stored in the journal.
//! Decided before the command is applied, as it depends on the broker's memory; the order of
//! messages does not depend on it.

use crate::message::Message;
use crate::queue::settled::Storage;

/// The admission of one run of messages to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The queue is durable: its persistent messages are stored durably.
    pub durable: bool,
    /// The id of the run's first message.
    pub first: u64,
    /// The number of messages that the queue has room for.
    pub taken: usize,
    /// The number of messages that stay in memory; the bodies of the others are in the journal
    /// only.
    pub resident: usize,
    /// Index in the run of the first transient message that is spilled to the journal.
    pub spilled_from: usize,
    /// The run is enqueued uncommitted: nothing of it is delivered before
    /// [`Command::Commit`](crate::queue::command::Command::Commit).
    pub commits_later: bool,
}

impl Admission {
    /// Returns an admission that keeps all messages in memory; the first one gets the id `first`.
    pub fn in_memory(first: u64) -> Self {
        Self {
            durable: false,
            first,
            taken: usize::MAX,
            resident: usize::MAX,
            spilled_from: usize::MAX,
            commits_later: false,
        }
    }

    /// Returns where the message at index `at` of the run is stored.
    pub fn storage(&self, at: usize, message: &Message) -> Storage {
        match () {
            () if self.durable && message.is_persistent() => Storage::Durable,
            () if at >= self.spilled_from => Storage::Spilled,
            () => Storage::Memory,
        }
    }

    /// Returns those messages of the run that the queue takes.
    pub fn taken<'a>(&self, run: &'a [Message]) -> &'a [Message] {
        run.get(..self.taken).unwrap_or(run)
    }

    /// Returns true if a message of the run is written to the journal.
    pub fn concerns_journal(&self, run: &[Message]) -> bool {
        let run = self.taken(run);
        self.spilled_from < run.len() || self.durable && run.iter().any(Message::is_persistent)
    }
}
