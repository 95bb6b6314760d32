//! The messages of one queue that nobody has: in the order of their positions, returned ones back in their old place.
//! Knows no consumer and no lock.

use crate::message::Message;
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
}

/// Ready messages.
///
/// What comes back was once at the front, so every returned position is smaller than every fresh one, and the two
/// parts need no merging.
#[derive(Debug, Default)]
pub struct Lanes {
    returned: BTreeMap<u64, Entry>,
    fresh: VecDeque<Entry>,
}

/// A drained lane gives its memory back above this many places.
const KEEP_PLACES: usize = 1024;

impl Lanes {
    /// How many messages are ready.
    pub fn len(&self) -> usize {
        self.returned.len() + self.fresh.len()
    }

    /// Whether none is ready.
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    /// Adds a message that was never handed out. Its position is the highest of the queue.
    pub fn push(&mut self, entry: Entry) {
        self.fresh.push_back(entry);
    }

    /// Puts a message that was handed out back at its old place.
    pub fn put_back(&mut self, entry: Entry) {
        self.returned.insert(entry.seq, entry);
    }

    /// The next message.
    pub fn front(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            Some((_, entry)) => Some(entry),
            None => self.fresh.front(),
        }
    }

    /// Takes the next message.
    pub fn pop(&mut self) -> Option<Entry> {
        if let Some((_, entry)) = self.returned.pop_first() {
            return Some(entry);
        }
        let entry = self.fresh.pop_front();
        if self.fresh.is_empty() && self.fresh.capacity() > KEEP_PLACES {
            self.fresh = VecDeque::new();
        }
        entry
    }
}
