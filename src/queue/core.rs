//! The decisions of one queue, as a deterministic state machine: no lock, clock, IO, randomness or
//! memory counter. The next consumer is chosen by the delivery layer, which knows which connections
//! take deliveries.

use crate::message::Message;
use crate::queue::admission::Admission;
use crate::queue::command::{Command, Disposition};
use crate::queue::consumers::{ConsumeError, ConsumerKey};
use crate::queue::effects::{Dead, DeadReason, Effects};
use crate::queue::options::Options;
use crate::queue::ready::{ENTRY_OCTETS, Entry, Front, ReadyMessages};
use crate::queue::settled::Storage;
use crate::sequence_map::SequenceMap;
use leveret_journal::list::Run;
use std::collections::VecDeque;
use std::sync::Arc;

/// The ready and unacked messages of a queue, and the keys of its consumers.
#[derive(Debug)]
pub struct Core {
    options: Arc<Options>,
    ready: ReadyMessages,
    unacked: SequenceMap<Unacked>,
    next_id: u64,
    /// Durable messages up to this id may have been delivered.
    delivered_upto: u64,
    /// The first ids of uncommitted runs, ascending: nothing from the first of them on is
    /// delivered.
    uncommitted: VecDeque<u64>,
    consumers: usize,
    exclusive: Option<ConsumerKey>,
    had_consumer: bool,
    /// Octets charged for bodies of unacked messages in memory.
    unacked_body_charge: u64,
}

/// A delivered, unsettled message, by its id.
#[derive(Debug)]
struct Unacked {
    body: Option<Message>,
    octets: u32,
    deliveries: u16,
    storage: Storage,
    /// The consumer; `None` for basic.get.
    consumer: Option<ConsumerKey>,
}

const _: () = assert!(size_of::<Option<Unacked>>() <= 24);

impl Unacked {
    /// Returns the octets charged for the body, if it is in memory.
    fn body_charge(&self) -> u64 {
        self.body.as_ref().map_or(0, Message::charge)
    }

    fn into_entry(self, id: u64) -> Entry {
        let Self { body, octets, deliveries, storage, .. } = self;
        Entry { id, body, octets, deliveries, storage }
    }
}

/// The mode of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryMode {
    /// The delivery is acknowledged at once (`no-ack`).
    pub no_ack: bool,
    /// The body of a durable message stays in memory only while fewer octets are charged for bodies
    /// of unacked messages.
    pub unacked_octets: u64,
}

/// The id of a queue's first message.
const FIRST_ID: u64 = 1;

impl Default for Core {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Core {
    /// Creates an empty queue.
    pub fn new(options: Arc<Options>) -> Self {
        Self {
            options,
            ready: ReadyMessages::default(),
            unacked: SequenceMap::default(),
            next_id: FIRST_ID,
            delivered_upto: 0,
            uncommitted: VecDeque::new(),
            consumers: 0,
            exclusive: None,
            had_consumer: false,
            unacked_body_charge: 0,
        }
    }

    /// Creates a queue with `count` messages in the journal, with ids from `first` on and below
    /// `next_id`; those up to `delivered_upto` may have been delivered.
    pub fn recovered(options: Arc<Options>, first: u64, count: usize, next_id: u64, delivered_upto: u64) -> Self {
        let next_id = next_id.max(FIRST_ID);
        let mut core = Self { next_id, delivered_upto, ..Self::new(options) };
        if count > 0 {
            core.ready.push_stored(first, next_id - 1, count);
        }
        core
    }

    /// Applies a command and adds its effects.
    pub fn apply(&mut self, command: Command<'_>, effects: &mut Effects) {
        match command {
            Command::Enqueue { messages, admission } => self.enqueue(messages, &admission),
            Command::Commit(admission) => {
                if let Ok(at) = self.uncommitted.binary_search(&admission.first) {
                    self.uncommitted.remove(at);
                }
            }
            Command::Settle { ids, disposition } => self.settle(ids, disposition, effects),
            Command::Consume { key, exclusive } => {
                self.consumers += 1;
                self.had_consumer = true;
                self.exclusive = exclusive.then_some(key);
            }
            Command::Cancel(key) => {
                self.consumers -= 1;
                self.exclusive = self.exclusive.filter(|exclusive| *exclusive != key);
                effects.unused = self.options.auto_delete && self.is_unused();
            }
            Command::Purge => self.purge(effects),
            Command::Configure(options) => self.options = options,
        }
    }

    fn enqueue(&mut self, messages: &mut Vec<Message>, admission: &Admission) {
        let taken = admission.taken.min(messages.len());
        if admission.commits_later && taken > 0 {
            self.uncommitted.push_back(self.next_id);
        }
        for (at, message) in messages.drain(..taken).enumerate() {
            let id = self.next_id;
            self.next_id += 1;
            if at < admission.resident {
                let storage = admission.storage(at, &message);
                self.ready.push(Entry::resident(id, message, 0, storage));
            } else {
                self.ready.push_stored(id, id, 1);
            }
        }
    }

    /// Returns how many of `messages` publications the queue takes before it is full.
    pub fn room(&self, messages: usize) -> usize {
        self.options.max_length.map_or(messages, |max| messages.min(max.saturating_sub(self.ready.len())))
    }

    /// Returns the front of the ready messages.
    #[inline]
    pub fn front(&self) -> Front<'_> {
        match self.ready.front() {
            _ if self.is_held_back() => Front::Empty,
            front => front,
        }
    }

    fn is_held_back(&self) -> bool {
        self.uncommitted.front().is_some_and(|first| self.ready.first_id().is_none_or(|id| id >= *first))
    }

    /// Delivers the message at the front to a consumer.
    #[inline(always)]
    pub fn delivered(&mut self, consumer: ConsumerKey, mode: DeliveryMode, effects: &mut Effects) {
        let Some(entry) = self.ready.pop() else { return };
        if mode.no_ack {
            effects.settled.add(entry.id, entry.storage);
        } else {
            self.hold_unacked(entry, Some(consumer), mode);
        }
    }

    /// Takes the message at the front for basic.get.
    pub fn get(&mut self, mode: DeliveryMode, effects: &mut Effects) -> Option<Entry> {
        let Front::Resident(entry) = self.front() else { return None };
        let entry = entry.clone();
        self.ready.pop();
        if mode.no_ack {
            effects.settled.add(entry.id, entry.storage);
        } else {
            self.hold_unacked(entry.clone(), None, mode);
        }
        Some(entry)
    }

    #[inline(always)]
    fn hold_unacked(&mut self, entry: Entry, consumer: Option<ConsumerKey>, mode: DeliveryMode) {
        let Entry { id, mut body, octets, deliveries, storage } = entry;
        if storage == Storage::Durable {
            self.delivered_upto = self.delivered_upto.max(id);
        }
        if storage != Storage::Memory && self.unacked_body_charge >= mode.unacked_octets {
            body = None;
        }
        self.unacked_body_charge += body.as_ref().map_or(0, Message::charge);
        let deliveries = deliveries.saturating_add(1);
        self.unacked.insert_with(id, || Unacked { body, octets, deliveries, storage, consumer });
    }

    fn settle(&mut self, ids: &[u64], disposition: Disposition, effects: &mut Effects) {
        for id in ids {
            // An id that is not unacked: the queue was deleted, or the id was settled.
            let Some(unacked) = self.unacked.remove(*id) else { continue };
            self.unacked_body_charge -= unacked.body_charge();
            unacked.consumer.into_iter().for_each(|consumer| effects.add_credit(consumer));
            match disposition {
                Disposition::Ack => effects.settled.add(*id, unacked.storage),
                Disposition::Requeue => self.ready.put_back(unacked.into_entry(*id)),
                Disposition::Reject => {
                    effects.settled.add(*id, unacked.storage);
                    effects.dead.push(Dead { entry: unacked.into_entry(*id), reason: DeadReason::Rejected });
                }
            }
        }
    }

    /// Checks whether a consumer may be added.
    ///
    /// # Errors
    /// The new consumer or an existing one is exclusive.
    pub fn check_consume(&self, exclusive: bool) -> Result<(), ConsumeError> {
        if self.exclusive.is_some() || exclusive && self.consumers > 0 {
            return Err(ConsumeError::ExclusiveUse);
        }
        Ok(())
    }

    fn purge(&mut self, effects: &mut Effects) {
        let below = self.uncommitted.front().copied().unwrap_or(self.next_id);
        let first = self.ready.first_undelivered();
        let mut purged = self.ready.purge(below);
        if self.unacked.is_empty() {
            effects.purged_below = Some(below);
        } else {
            purged.unsettled = std::mem::take(&mut purged.returned);
            // No id from the first undelivered one on is unacked.
            if let Some(first) = first.filter(|first| *first < below) {
                effects.settled.durable.push(Run { first, last: below - 1 });
            }
        }
        effects.purged = purged;
    }

    /// Restores bodies read from the journal, in ascending order of id; `None`: unreadable, the
    /// message is dropped.
    pub fn page_in(
        &mut self,
        bodies: impl IntoIterator<Item = (u64, Option<(Message, Storage)>)>,
        effects: &mut Effects,
    ) {
        for (id, body) in bodies {
            let is_lost = body.is_none();
            let deliveries = u16::from(id <= self.delivered_upto);
            if self.ready.page_in(id, body, deliveries) && is_lost {
                effects.settled.add(id, Storage::Durable);
            }
        }
    }

    /// Drops messages of a wanted run that the journal does not have; returns their number.
    pub fn drop_missing(&mut self, wanted: Run, effects: &mut Effects) -> usize {
        let stored = self.ready.stored();
        if stored.count > 0 && stored.first == wanted.first {
            return self.ready.drop_missing(wanted.last);
        }
        self.page_in((wanted.first..=wanted.last).map(|id| (id, None)), effects);
        usize::try_from(wanted.last - wanted.first + 1).unwrap_or(usize::MAX)
    }

    /// Drops bodies of durable ready messages from memory, beyond `keep` octets.
    pub fn page_out(&mut self, keep: u64) {
        self.ready.page_out(keep);
    }

    /// Returns the ids whose bodies are needed first, all of them committed.
    pub fn wanted(&self) -> Option<Run> {
        let run = self.ready.wanted()?;
        let last = self.uncommitted.front().map_or(run.last, |first| run.last.min(first - 1));
        (run.first <= last).then_some(Run { last, ..run })
    }

    /// Returns the options.
    pub fn options(&self) -> &Arc<Options> {
        &self.options
    }

    /// Returns the number of ready messages.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Returns the ready messages.
    pub fn ready_messages(&self) -> &ReadyMessages {
        &self.ready
    }

    /// Returns true if there are ready messages whose bodies are in the journal only.
    pub fn has_backlog(&self) -> bool {
        self.ready.stored().count > 0
    }

    /// Returns the number of unacked messages.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Returns the id of the next message.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Returns the largest id of a durable message that was delivered.
    pub fn delivered_upto(&self) -> u64 {
        self.delivered_upto
    }

    /// Returns the number of consumers.
    pub fn consumer_count(&self) -> usize {
        self.consumers
    }

    /// Returns true if the queue had consumers and has none any more.
    fn is_unused(&self) -> bool {
        self.had_consumer && self.consumers == 0
    }

    /// Returns the number of messages that it knows one by one.
    pub fn entries(&self) -> usize {
        self.ready.entries() + self.unacked.len()
    }

    /// Returns the octets that its entries take. Their messages are charged once, whoever holds
    /// them.
    pub fn charge(&self) -> u64 {
        self.entries() as u64 * ENTRY_OCTETS
    }

    /// Returns the octets charged for bodies of unacked messages in memory.
    pub fn unacked_body_charge(&self) -> u64 {
        self.unacked_body_charge
    }
}

#[cfg(test)]
mod tests;
