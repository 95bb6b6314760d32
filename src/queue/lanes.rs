//! The messages of one queue that nobody has: in the order of their positions, returned ones back in their old place, those
//! far behind by number only. Knows no consumer, no lock and no journal.

use crate::message::Message;
use crate::queue::leaving::Kept;
use std::collections::{BTreeMap, VecDeque};

/// A message with its place in the queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position: grows by one with each message of the queue, and never changes.
    pub seq: u64,
    /// What was published.
    pub message: Message,
    /// Whether it was handed out before (`redelivered` of basic.deliver and basic.get-ok).
    pub redelivered: bool,
    /// Where else it is.
    pub kept: Kept,
}

/// Ready messages.
///
/// What comes back was once at the front, so every returned position is smaller than every fresh one, and the two
/// parts need no merging. What is deep has larger positions than both, and is nowhere but in the journal; as long as there is
/// any, what arrives is deep too.
#[derive(Debug, Default)]
pub struct Lanes {
    returned: BTreeMap<u64, Entry>,
    fresh: VecDeque<Entry>,
    /// Octets charged for the fresh.
    charge: u64,
    deep: Deep,
}

/// Messages that are in the journal only: so many with positions from `from` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deep {
    /// None has a smaller position.
    pub from: u64,
    /// How many.
    pub count: usize,
}

/// A drained lane gives its memory back above this many places.
const KEEP_PLACES: usize = 1024;

impl Lanes {
    /// How many messages are ready.
    pub fn len(&self) -> usize {
        self.returned.len() + self.fresh.len() + self.deep.count
    }

    /// Whether none is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets charged for messages that were never handed out and are in memory.
    pub fn charge(&self) -> u64 {
        self.charge
    }

    /// What is in the journal only.
    pub fn deep(&self) -> Deep {
        self.deep
    }

    /// Adds a message that was never handed out. Its position is the highest of the queue, and nothing is deep.
    pub fn push(&mut self, entry: Entry) {
        self.charge += entry.message.charge();
        self.fresh.push_back(entry);
    }

    /// Adds messages that are in the journal only, the first at `from`, which is the highest position of the queue.
    pub fn push_deep(&mut self, from: u64, count: usize) {
        if self.deep.count == 0 {
            self.deep.from = from;
        }
        self.deep.count += count;
    }

    /// The first of what is deep is here, with what follows up to `next`.
    pub fn raise(&mut self, entries: impl Iterator<Item = Entry>, next: u64) {
        for entry in entries {
            self.deep.count = self.deep.count.saturating_sub(1);
            self.push(entry);
        }
        self.deep.from = next;
    }

    /// Drops what is deep; what that was.
    pub fn drop_deep(&mut self) -> Deep {
        std::mem::take(&mut self.deep)
    }

    /// Puts a message that was handed out back at its old place.
    pub fn put_back(&mut self, entry: Entry) {
        self.returned.insert(entry.seq, entry);
    }

    /// The next message; none as well if it is deep.
    pub fn front(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            Some((_, entry)) => Some(entry),
            None => self.fresh.front(),
        }
    }

    /// Takes the next message; none as well if it is deep.
    pub fn pop(&mut self) -> Option<Entry> {
        if let Some((_, entry)) = self.returned.pop_first() {
            return Some(entry);
        }
        let entry = self.fresh.pop_front()?;
        self.charge -= entry.message.charge();
        if self.fresh.is_empty() && self.fresh.capacity() > KEEP_PLACES {
            self.fresh = VecDeque::new();
        }
        Some(entry)
    }
}
