//! Records of enqueued messages, appended to the journal together. Takes no queue's lock.

use crate::message::Message;
use crate::queue::admission::Admission;
use crate::queue::settled::Storage;
use hashbrown::HashMap;
use leveret_journal::index::Index;
use leveret_journal::journal::{CommitMode, Journal, Refused};
use leveret_journal::list::{List, Target};
use leveret_journal::record::{Operation, PublishRecord};

/// A flag of records: the message is persistent.
pub const PERSISTENT: u32 = 1;

/// The atomicity of several changes in the journal, and how soon they are to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// All of them or nothing. Confirms wait for them.
    Whole,
    /// Each by itself. Confirms wait if one of them has to be durable.
    Each(CommitMode),
}

/// Messages to be written, each with its places in queues.
#[derive(Debug, Default)]
pub struct JournalBatch {
    messages: Vec<Message>,
    /// Queue and id, each with the index of its message.
    places: Vec<(usize, Target)>,
    /// Indexes of messages for several queues, by address.
    multi_queue: HashMap<usize, usize>,
    waits: bool,
}

impl JournalBatch {
    /// Creates an empty batch in which each of `multi_queue` will be written once, for all its
    /// queues.
    pub fn new(multi_queue: &[Message]) -> Self {
        let by_address = multi_queue.iter().enumerate().map(|(at, message)| (message.address(), at)).collect();
        Self { messages: multi_queue.to_vec(), multi_queue: by_address, ..Self::default() }
    }

    /// Adds the admitted messages of a run that are stored in the journal for `queue`; returns true
    /// if there are any.
    pub fn add(&mut self, queue: u64, admission: &Admission, run: &[Message]) -> bool {
        let before = self.places.len();
        for (seq, (at, message)) in (admission.first..).zip(admission.taken(run).iter().enumerate()) {
            let storage = admission.storage(at, message);
            if storage == Storage::Memory {
                continue;
            }
            let transient = storage == Storage::Spilled;
            self.waits |= !transient;
            let known =
                if self.multi_queue.is_empty() { None } else { self.multi_queue.get(&message.address()).copied() };
            let index = known.unwrap_or(self.messages.len());
            if known.is_none() {
                self.messages.push(message.clone());
            }
            self.places.push((index, Target { queue, seq, transient, delivered: false }));
        }
        self.places.len() > before
    }

    /// Appends the batch, with `more` behind it. Returns the index, if any, that has to be durable
    /// before the publisher is told.
    pub fn append(
        mut self,
        journal: &Journal,
        at_ms: u64,
        more: &[Operation<'_>],
        atomicity: Atomicity,
    ) -> Option<Index> {
        if !self.multi_queue.is_empty() {
            self.places.sort_by_key(|(index, _)| *index);
        }
        let targets: Vec<Target> = self.places.iter().map(|(_, target)| *target).collect();
        let mut operations = Vec::with_capacity(targets.len() + more.len());
        let mut start = 0;
        for places in self.places.chunk_by(|(one, _), (other, _)| one == other) {
            let end = start + places.len();
            if let Some(message) = places.first().and_then(|(index, _)| self.messages.get(*index)) {
                let targets = List::Given(targets.get(start..end).unwrap_or_default());
                operations.push(Operation::Publish(publish(message, at_ms, targets)));
            }
            start = end;
        }
        operations.extend_from_slice(more);
        if operations.is_empty() {
            return None;
        }
        let waits = self.waits || atomicity == Atomicity::Whole;
        let appended = match atomicity {
            Atomicity::Whole if operations.len() > 1 => journal.append_batch(&operations),
            Atomicity::Whole => journal.append_all(&operations, CommitMode::Now),
            Atomicity::Each(mode) => journal.append_all(&operations, if waits { mode } else { CommitMode::Deferred }),
        };
        match taken(journal, appended) {
            index if waits || index == Index::NEVER => Some(index),
            _ => None,
        }
    }
}

/// Returns the index of what was appended; that which never comes if it was refused.
pub fn taken(journal: &Journal, appended: Result<Index, Refused>) -> Index {
    appended.unwrap_or_else(|refused| {
        refuse(journal, &refused);
        Index::NEVER
    })
}

/// Fails the journal for a change that it does not take: memory and disk would go apart.
pub fn refuse(journal: &Journal, refused: &Refused) {
    if let Refused::TooLarge = refused {
        journal.fail("a change is larger than the journal can hold");
    }
}

fn publish<'a>(message: &'a Message, at_ms: u64, targets: List<'a, Target>) -> PublishRecord<'a> {
    PublishRecord {
        at_ms,
        expires_at: None,
        flags: if message.is_persistent() { PERSISTENT } else { 0 },
        targets,
        route: message.route(),
        properties: message.properties(),
        body: message.body(),
    }
}
