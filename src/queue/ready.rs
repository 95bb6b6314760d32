//! The ready messages of one queue, in order of id: returned ones, those in memory, and a run whose
//! bodies are in the journal only. Names no consumer, lock or journal.

use crate::message::Message;
use crate::queue::settled::Storage;
use leveret_journal::list::Run;
use std::collections::{BTreeMap, VecDeque};

/// A queue's entry for a message: all but the body, which may be in the journal only.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The id: ascending by one with each message of the queue, and never changed.
    pub id: u64,
    /// Route, properties and body; `None` while they are in the journal only.
    pub body: Option<Message>,
    /// Octets of route, properties and body.
    pub octets: u32,
    /// The number of deliveries so far, as far as known; saturates.
    pub deliveries: u16,
    /// Where the message is stored besides memory.
    pub storage: Storage,
}

/// Octets charged for an entry, without its body.
pub const ENTRY_OCTETS: u64 = 64;

impl Entry {
    /// Creates the entry of a message in memory.
    pub fn resident(id: u64, message: Message, deliveries: u16, storage: Storage) -> Self {
        Self { id, octets: message.octets(), body: Some(message), deliveries, storage }
    }

    /// Returns the `redelivered` flag of basic.deliver and basic.get-ok.
    pub fn is_redelivered(&self) -> bool {
        self.deliveries > 0
    }

    /// Returns the octets charged for the body, if it is in memory.
    pub fn charge(&self) -> u64 {
        self.body.as_ref().map_or(0, Message::charge)
    }
}

/// The front of the ready messages.
#[derive(Debug)]
pub enum Front<'a> {
    /// The next message, with its body in memory.
    Resident(&'a Entry),
    /// The next message, whose body has to be read from the journal first.
    Stored,
    /// No message is ready.
    Empty,
}

/// A run of messages whose bodies are in the journal only. Some ids of the range may be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredRun {
    /// A lower bound of the ids.
    pub first: u64,
    /// An upper bound of the ids.
    pub last: u64,
    /// The number of messages.
    pub count: usize,
}

/// The ready messages of a queue.
///
/// A returned message was once at the front, so each returned id is smaller than each of the
/// others, and the parts need no merging. While the stored run has messages, new ones join it.
#[derive(Debug, Default)]
pub struct ReadyMessages {
    returned: BTreeMap<u64, Entry>,
    resident: VecDeque<Entry>,
    stored: StoredRun,
    /// Octets charged for the messages in `resident`.
    resident_charge: u64,
}

/// Messages taken out by a purge.
#[derive(Debug, Default)]
pub struct Purged {
    /// Number of messages, those in the journal only included.
    pub count: usize,
    /// Those that had come back and are to be settled one by one: ids among theirs are unacked.
    pub unsettled: BTreeMap<u64, Entry>,
    /// Those that had come back and are settled with all others.
    pub returned: BTreeMap<u64, Entry>,
    /// Those in memory that never came back.
    pub resident: VecDeque<Entry>,
}

impl Purged {
    /// Returns the number of entries that have to be freed one by one.
    pub fn entries(&self) -> usize {
        self.unsettled.len() + self.returned.len() + self.resident.len()
    }
}

/// Places kept by an empty deque; beyond, its memory is given back.
const KEEP_PLACES: usize = 1024;

impl ReadyMessages {
    /// Returns the number of ready messages.
    pub fn len(&self) -> usize {
        self.returned.len() + self.resident.len() + self.stored.count
    }

    /// Returns true if no message is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the octets charged for ready messages in memory that were never returned.
    pub fn resident_charge(&self) -> u64 {
        self.resident_charge
    }

    /// Returns the number of entries kept for single messages.
    pub fn entries(&self) -> usize {
        self.returned.len() + self.resident.len()
    }

    /// Returns the run whose bodies are in the journal only.
    pub fn stored(&self) -> StoredRun {
        self.stored
    }

    /// Adds a message in memory behind all others; the stored run has to be empty.
    pub fn push(&mut self, entry: Entry) {
        self.resident_charge += entry.charge();
        self.resident.push_back(entry);
    }

    /// Adds `count` messages with ids from `first` to `last`, which are in the journal only, behind
    /// all others.
    pub fn push_stored(&mut self, first: u64, last: u64, count: usize) {
        if self.stored.count == 0 {
            self.stored.first = first;
        }
        self.stored.last = last;
        self.stored.count += count;
    }

    /// Puts an unacked message back to its place, among the returned ones.
    pub fn put_back(&mut self, entry: Entry) {
        self.returned.insert(entry.id, entry);
    }

    /// Returns the front.
    pub fn front(&self) -> Front<'_> {
        let first = match self.returned.is_empty() {
            true => self.resident.front(),
            false => self.returned.first_key_value().map(|(_, entry)| entry),
        };
        match first {
            Some(entry) if entry.body.is_some() => Front::Resident(entry),
            None if self.stored.count == 0 => Front::Empty,
            _ => Front::Stored,
        }
    }

    /// Returns the id of the next message.
    pub fn first_id(&self) -> Option<u64> {
        self.returned.first_key_value().map(|(id, _)| *id).or_else(|| self.first_undelivered())
    }

    /// Returns the smallest id that was never returned.
    pub fn first_undelivered(&self) -> Option<u64> {
        let stored = (self.stored.count > 0).then_some(self.stored.first);
        self.resident.front().map(|entry| entry.id).or(stored)
    }

    /// Removes and returns the next message, if its body is in memory.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Entry> {
        if !self.returned.is_empty() {
            return self.pop_returned();
        }
        let entry = self.resident.pop_front()?;
        self.resident_charge -= entry.charge();
        if self.resident.is_empty() && self.resident.capacity() > KEEP_PLACES {
            self.resident = VecDeque::new();
        }
        Some(entry)
    }

    #[cold]
    fn pop_returned(&mut self) -> Option<Entry> {
        let first = self.returned.first_entry()?;
        first.get().body.as_ref()?;
        Some(first.remove())
    }

    /// Returns the ids whose bodies are needed first, as one run: of returned messages, or of the
    /// stored run.
    pub fn wanted(&self) -> Option<Run> {
        let mut stored = self.returned.values().skip_while(|entry| entry.body.is_some());
        if let Some(first) = stored.next().map(|entry| entry.id) {
            let follows = |(at, entry): &(u64, &Entry)| entry.body.is_none() && entry.id == *at;
            let last = (first + 1..).zip(stored).take_while(follows).last().map_or(first, |(at, _)| at);
            return Some(Run { first, last });
        }
        let StoredRun { first, last, count } = self.stored;
        (count > 0).then_some(Run { first, last })
    }

    /// Restores a body read from the journal; `None`: unreadable, the message is dropped. Returns
    /// true if the message was waiting for it. Bodies of the stored run have to come in ascending
    /// order of id.
    pub fn page_in(&mut self, id: u64, body: Option<(Message, Storage)>, deliveries: u16) -> bool {
        if let Some(entry) = self.returned.get_mut(&id) {
            if entry.body.is_some() {
                return false;
            }
            match body {
                Some((message, _)) => {
                    entry.body = Some(message);
                }
                None => {
                    self.returned.remove(&id);
                }
            }
            return true;
        }
        let StoredRun { first, last, count } = self.stored;
        if count == 0 || id < first || id > last {
            return false;
        }
        self.stored.first = id + 1;
        self.stored.count -= 1;
        if let Some((message, storage)) = body {
            self.push(Entry::resident(id, message, deliveries, storage));
        }
        true
    }

    /// Drops the ids of the stored run up to `last`, which the journal does not have; returns the
    /// number of messages dropped.
    pub fn drop_missing(&mut self, last: u64) -> usize {
        if last < self.stored.last {
            self.stored.first = self.stored.first.max(last + 1);
            return 0;
        }
        std::mem::take(&mut self.stored).count
    }

    /// Drops bodies from memory, last messages first, until at most `keep` octets are charged for
    /// them; stops at a message that is not in the journal.
    pub fn page_out(&mut self, keep: u64) {
        while self.resident_charge > keep
            && self.resident.back().is_some_and(|entry| entry.storage != Storage::Memory)
            && let Some(entry) = self.resident.pop_back()
        {
            self.resident_charge -= entry.charge();
            if self.stored.count == 0 {
                self.stored.last = entry.id;
            }
            self.stored.first = entry.id;
            self.stored.count += 1;
        }
    }

    /// Takes all messages out that have ids below `below`, without looking at each: those that
    /// came back, those in memory, and the ids from the first of these on that were not yet
    /// delivered. What is left is walked: messages that are not committed.
    pub fn purge(&mut self, below: u64) -> Purged {
        let before = self.len();
        // Whatever came back had been committed.
        let returned = match self.returned.last_key_value() {
            Some((last, _)) if *last >= below => {
                let kept = self.returned.split_off(&below);
                std::mem::replace(&mut self.returned, kept)
            }
            _ => std::mem::take(&mut self.returned),
        };
        let at = self.resident.partition_point(|entry| entry.id < below);
        let kept = self.resident.split_off(at);
        let resident = std::mem::replace(&mut self.resident, kept);
        self.resident_charge = self.resident.iter().map(Entry::charge).sum();
        if self.stored.count > 0 && self.stored.first < below {
            // Ids from `below` on were enqueued one after the other, without a gap.
            let rest = (self.stored.last + 1).saturating_sub(below);
            self.stored =
                StoredRun { first: below, last: self.stored.last, count: (rest as usize).min(self.stored.count) };
        }
        Purged { count: before - self.len(), returned, resident, ..Purged::default() }
    }
}
