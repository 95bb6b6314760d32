//! Damage: octets of the journal that are not what was written, and the list of those that a
//! running journal has found.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// Most entries in the list of a running journal; further ones are in the log only.
const REMEMBERED: usize = 1_000;

/// A stretch of damaged octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file's name in the directory.
    pub file: String,
    /// The first of them, as an offset in the file.
    pub offset: u64,
    /// Their number.
    pub octets: u64,
    /// Description of the damage.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, octets, what } = self;
        write!(f, "{file}: {octets} octets from octet {offset}: {what}")
    }
}

/// An observer of messages that are lost because nobody can read them.
pub trait OnLost: fmt::Debug + Send + Sync {
    /// Called when a message was found to be lost while its segment was given up.
    fn lost(&self, queue: u64, seq: u64, damage: &Damage);
}

/// The damage that a running journal has found so far.
#[derive(Debug, Default)]
pub struct Damages {
    found: Mutex<Vec<Damage>>,
    lost: AtomicU64,
    on_lost: OnceLock<Arc<dyn OnLost>>,
}

impl Damages {
    /// Returns the damage found since the start, in the order in which it was found; at most the
    /// first 1,000 entries.
    pub fn found(&self) -> Vec<Damage> {
        self.found.lock().clone()
    }

    /// Returns the number of messages that could not be read back since the start.
    pub fn lost_messages(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Counts messages that could not be read back and were settled.
    pub fn count_lost(&self, messages: u64) {
        self.lost.fetch_add(messages, Ordering::Relaxed);
    }

    /// Sets the observer of lost messages; the first one set stays.
    pub fn observe(&self, who: Arc<dyn OnLost>) {
        // There is one broker to a journal.
        let _ = self.on_lost.set(who);
    }

    /// Notes a message that is lost and was settled.
    pub(crate) fn lost(&self, queue: u64, seq: u64, damage: &Damage) {
        self.remember(damage);
        self.count_lost(1);
        if let Some(who) = self.on_lost.get() {
            who.lost(queue, seq, damage);
        }
    }

    /// Adds damage to the list; returns true if it was not in it.
    pub(crate) fn remember(&self, damage: &Damage) -> bool {
        let mut found = self.found.lock();
        let is_new = !found.contains(damage);
        if is_new && found.len() < REMEMBERED {
            found.push(damage.clone());
        }
        is_new
    }
}

#[cfg(test)]
mod tests;
