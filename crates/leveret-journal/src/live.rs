//! The live set: the position of each live message of each queue, the definitions, and the octets
//! still needed of each segment. One function applies a change, whether it is new or read by a
//! recovery.
//!
//! A queue exists from the first message published to it until its deletion. A settlement or a
//! delivery mark that names any other queue is ignored: after a deletion clients may still settle
//! what they had.
//!
//! Each segment is charged with its live records' octets, shared among the queues that a message
//! had when it was written. No change walks a long queue under the lock: messages that a purge, a
//! deletion or the settlement of a long run removes go to `deferred_frees`, and are uncharged in
//! steps.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::list::{Run, SEQ_MAX, Target};
use crate::message_map::{MessageMap, NEVER_EXPIRES, Totals};
use crate::position::{IndexEntry, Position};
use crate::record::{Operation, PublishRecord};

/// Length of a run from which its messages are not settled one by one.
const LONG_RUN: u64 = 1024;

/// The live messages and definitions of a journal.
#[derive(Debug, Default)]
pub struct Live {
    queues: HashMap<u64, LiveQueue>,
    definitions: BTreeMap<Box<[u8]>, IndexEntry>,
    /// Octets needed of each segment, by number from `oldest` on.
    segment_octets: VecDeque<u64>,
    oldest: u64,
    octets: u64,
    deferred_frees: Vec<MessageMap>,
}

/// The live messages of one queue.
#[derive(Debug, Default)]
pub struct LiveQueue {
    /// The live messages.
    pub messages: MessageMap,
    /// One more than the largest message number in any record.
    pub next_seq: u64,
    /// The number up to which messages may have been delivered.
    pub delivered_upto: u64,
}

impl Live {
    /// Creates an empty live set for a journal whose first needed segment is `oldest`.
    pub fn new(oldest: u64) -> Self {
        Self { oldest, ..Self::default() }
    }

    /// Applies a change whose record is at `position` and has `size` octets. In a `replay`,
    /// transient messages are ignored.
    pub fn apply(&mut self, operation: &Operation<'_>, position: Position, size: u64, replay: bool) {
        match *operation {
            Operation::Publish(publish) => self.publish(&publish, position, size, replay),
            Operation::Settle { queue, runs } => runs.iter().for_each(|run| self.settle(queue, run)),
            Operation::Purge { queue, below } => {
                let Some(state) = self.queues.get_mut(&queue) else { return };
                let gone = state.messages.split_run(0, below.saturating_sub(1));
                defer(&mut self.deferred_frees, gone);
                if below <= SEQ_MAX {
                    state.next_seq = state.next_seq.max(below);
                }
            }
            Operation::QueueGone { queue } => {
                let gone = self.queues.remove(&queue).map(|gone| gone.messages);
                gone.into_iter().for_each(|gone| defer(&mut self.deferred_frees, gone));
            }
            Operation::Delivered { queue, upto } => {
                let Some(queue) = self.queues.get_mut(&queue) else { return };
                queue.note_delivered(upto);
                queue.saw(upto);
            }
            Operation::Define { key, .. } => {
                let entry = IndexEntry::new(position, size, false);
                self.charge(entry);
                let before = match self.definitions.get_mut(key) {
                    Some(place) => Some(std::mem::replace(place, entry)),
                    None => self.definitions.insert(key.into(), entry),
                };
                before.into_iter().for_each(|before| self.uncharge(before));
            }
            Operation::Undefine { key } => {
                let before = self.definitions.remove(key);
                before.into_iter().for_each(|before| self.uncharge(before));
            }
        }
    }

    fn publish(&mut self, publish: &PublishRecord<'_>, position: Position, size: u64, replay: bool) {
        let share = size / (publish.targets.len() as u64).max(1);
        for target in publish.targets.iter() {
            let queue = self.queues.entry(target.queue).or_default();
            queue.saw(target.seq);
            if replay && target.transient {
                continue;
            }
            if target.delivered {
                queue.note_delivered(target.seq);
            }
            let entry = IndexEntry::new(position, share, target.transient);
            let before = queue.messages.insert(target.seq, entry, publish.expires_at.unwrap_or(NEVER_EXPIRES));
            self.charge(entry);
            // A copy replaces its original.
            before.into_iter().for_each(|before| self.uncharge(before));
        }
    }

    /// Removes settled messages of a queue. An unknown queue is ignored: it was deleted before.
    pub fn settle(&mut self, queue: u64, run: Run) {
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        queue.saw(run.last);
        if run.last.saturating_sub(run.first) >= LONG_RUN {
            let gone = queue.messages.split_run(run.first, run.last);
            return defer(&mut self.deferred_frees, gone);
        }
        let (segments, octets, oldest) = (&mut self.segment_octets, &mut self.octets, self.oldest);
        queue.messages.remove_run(run.first, run.last, |entry| uncharge(segments, octets, oldest, entry));
    }

    fn charge(&mut self, entry: IndexEntry) {
        let Some(at) = entry.position().segment().checked_sub(self.oldest) else { return };
        let at = at as usize;
        if self.segment_octets.len() <= at {
            self.segment_octets.resize(at + 1, 0);
        }
        if let Some(octets) = self.segment_octets.get_mut(at) {
            *octets += entry.size();
            self.octets += entry.size();
        }
    }

    fn uncharge(&mut self, entry: IndexEntry) {
        uncharge(&mut self.segment_octets, &mut self.octets, self.oldest, entry);
    }

    /// Uncharges at most 128 messages of those in `deferred_frees`; returns false if there are
    /// none.
    pub fn free_some(&mut self) -> bool {
        let Some(mut gone) = self.deferred_frees.pop() else { return false };
        gone.pop_chunk(|entry| self.uncharge(entry));
        defer(&mut self.deferred_frees, gone);
        true
    }

    /// Returns true if there are messages in `deferred_frees`.
    pub fn has_deferred_frees(&self) -> bool {
        !self.deferred_frees.is_empty()
    }

    /// Marks all segments before `oldest` as not needed.
    pub fn forget_before(&mut self, oldest: u64) {
        while self.oldest < oldest {
            self.octets -= self.segment_octets.pop_front().unwrap_or(0);
            self.oldest += 1;
        }
    }

    /// Returns the number of the first segment that is needed.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Returns the octets needed of a segment.
    pub fn octets_in(&self, segment: u64) -> u64 {
        let at = segment.checked_sub(self.oldest).map(|at| at as usize);
        at.and_then(|at| self.segment_octets.get(at)).copied().unwrap_or(0)
    }

    /// Returns the octets needed of all segments.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Returns the position of a message.
    pub fn find(&self, queue: u64, seq: u64) -> Option<Position> {
        self.entry(queue, seq).map(IndexEntry::position)
    }

    /// Returns the entry of a message.
    pub fn entry(&self, queue: u64, seq: u64) -> Option<IndexEntry> {
        self.queues.get(&queue)?.messages.get(seq)
    }

    /// Returns the position of a definition.
    pub fn find_definition(&self, key: &[u8]) -> Option<Position> {
        self.definitions.get(key).map(|entry| entry.position())
    }

    /// Returns the targets of the message at `position` that still refer to it, with their marks
    /// for delivered messages.
    pub fn remaining(&self, position: Position, targets: impl Iterator<Item = Target>) -> Vec<Target> {
        let is_there = |target: &Target| self.find(target.queue, target.seq) == Some(position);
        let mark = |target: Target| {
            let upto = self.queues.get(&target.queue).map_or(0, |queue| queue.delivered_upto);
            Target { delivered: target.seq <= upto, ..target }
        };
        targets.filter(is_there).map(mark).collect()
    }

    /// Returns the live messages of a queue, if any record has named it.
    pub fn queue(&self, queue: u64) -> Option<&LiveQueue> {
        self.queues.get(&queue)
    }

    /// Returns all queues by number.
    pub fn queues(&self) -> Vec<(u64, &LiveQueue)> {
        let mut all: Vec<(u64, &LiveQueue)> = self.queues.iter().map(|(number, queue)| (*number, queue)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// Returns the keys and entries of all definitions, in order of keys.
    pub fn definitions(&self) -> impl Iterator<Item = (&[u8], IndexEntry)> {
        self.definitions.iter().map(|(key, entry)| (&**key, *entry))
    }

    /// Adds a queue from a checkpoint: its messages, and the earliest expiry of some chunks.
    pub fn restore_queue(&mut self, number: u64, marks: (u64, u64), words: &[(u64, u64)], expiries: &[(u64, u64)]) {
        let mut messages = MessageMap::default();
        for &(seq, word) in words {
            if let Some(entry) = IndexEntry::from_number(word) {
                self.charge(entry);
                messages.insert(seq, entry, NEVER_EXPIRES);
            }
        }
        expiries.iter().for_each(|(seq, earliest)| messages.set_expiry(*seq, *earliest));
        let (next_seq, delivered_upto) = marks;
        self.queues.insert(number, LiveQueue { messages, next_seq, delivered_upto });
    }

    /// Returns the totals of a queue's messages from `first` to `last`, without reading them.
    pub fn totals(&self, queue: u64, first: u64, last: u64) -> Totals {
        self.queues.get(&queue).map_or_else(Totals::default, |queue| queue.messages.totals(first, last))
    }

    /// Adds a definition from a checkpoint.
    pub fn restore_definition(&mut self, key: &[u8], entry: IndexEntry) {
        self.charge(entry);
        self.definitions.insert(key.into(), entry);
    }
}

impl LiveQueue {
    fn saw(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq.min(SEQ_MAX) + 1);
    }

    fn note_delivered(&mut self, upto: u64) {
        self.delivered_upto = self.delivered_upto.max(upto);
    }

    /// Returns the message numbers as runs without gaps.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (seq, _) in self.messages.iter_from(0) {
            match runs.last_mut() {
                Some(run) if run.last + 1 == seq => run.last = seq,
                _ => runs.push(Run { first: seq, last: seq }),
            }
        }
        runs
    }
}

fn defer(deferred: &mut Vec<MessageMap>, gone: MessageMap) {
    if !gone.is_empty() {
        deferred.push(gone);
    }
}

fn uncharge(segments: &mut VecDeque<u64>, octets: &mut u64, oldest: u64, entry: IndexEntry) {
    let at = entry.position().segment().checked_sub(oldest).map(|at| at as usize);
    // A segment that was given up is not charged any more.
    if let Some(charged) = at.and_then(|at| segments.get_mut(at)) {
        let size = entry.size().min(*charged);
        *charged -= size;
        *octets -= size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::List;

    fn publish(live: &mut Live, segment: u64, offset: u64, targets: &[Target]) {
        let publish = PublishRecord { targets: List::Given(targets), ..PublishRecord::default() };
        live.apply(&Operation::Publish(publish), Position::new(segment, offset), 160, false);
    }

    #[test]
    fn a_segment_is_charged_with_what_is_live_in_it() {
        let mut live = Live::new(1);
        publish(&mut live, 1, 64, &[Target::new(1, 1), Target::new(2, 1)]);
        publish(&mut live, 2, 64, &[Target::new(1, 2)]);
        assert_eq!((live.octets_in(1), live.octets_in(2), live.octets()), (160, 160, 320));
        let runs = [Run { first: 0, last: 1 }];
        live.apply(&Operation::Settle { queue: 1, runs: List::Given(&runs) }, Position::new(2, 640), 48, false);
        assert_eq!((live.octets_in(1), live.octets()), (80, 240));
        // The copy for the remaining targets uncharges the first segment.
        let left = live.remaining(Position::new(1, 64), [Target::new(1, 1), Target::new(2, 1)].into_iter());
        assert_eq!(left, [Target::new(2, 1)]);
        publish(&mut live, 3, 64, &left);
        assert_eq!((live.octets_in(1), live.octets_in(3)), (0, 160));
        live.forget_before(2);
        live.apply(&Operation::QueueGone { queue: 2 }, Position::new(3, 640), 24, false);
        while live.free_some() {}
        assert_eq!((live.octets_in(3), live.octets()), (0, 160));
        assert_eq!(
            live.queue(1).map(|queue| (queue.next_seq, queue.runs())),
            Some((3, vec![Run { first: 2, last: 2 }]))
        );
    }

    #[test]
    fn only_a_publication_brings_a_queue_into_being() {
        let mut live = Live::new(1);
        let runs = [Run { first: 1, last: 1 }];
        let settle = Operation::Settle { queue: 1, runs: List::Given(&runs) };
        for change in [settle, Operation::Delivered { queue: 1, upto: 1 }, Operation::Purge { queue: 1, below: 2 }] {
            live.apply(&change, Position::new(1, 64), 48, false);
            live.settle(1, runs[0]);
            assert!(live.queues().is_empty(), "{change:?}");
        }
        publish(&mut live, 1, 128, &[Target::new(1, 1)]);
        live.apply(&Operation::QueueGone { queue: 1 }, Position::new(1, 640), 24, false);
        live.apply(&settle, Position::new(1, 704), 48, false);
        assert!(live.queues().is_empty());
    }

    /// Many messages are removed at once without a look at each, and uncharged in steps.
    #[test]
    fn long_runs_are_freed_in_pieces() {
        let settle = |first, last| [Run { first, last }];
        let (some, all) = (settle(100, 9_000), settle(0, u64::MAX));
        let changes = [
            (Operation::Settle { queue: 1, runs: List::Given(&some) }, 1_099),
            (Operation::Settle { queue: 1, runs: List::Given(&all) }, 0),
            (Operation::Purge { queue: 1, below: 9_001 }, 1_000),
            (Operation::Purge { queue: 1, below: u64::MAX }, 0),
            (Operation::QueueGone { queue: 1 }, 0),
        ];
        for (change, left) in changes {
            let mut live = Live::new(1);
            (1..=10_000).for_each(|seq| publish(&mut live, 1, 64 * seq, &[Target::new(1, seq)]));
            let charged = live.octets();
            live.apply(&change, Position::new(1, 64 * 20_000), 48, false);
            assert_eq!(live.queue(1).map_or(0, |queue| queue.messages.len()), left, "{change:?}");
            let mut pieces = 0;
            while live.free_some() {
                let octets = live.octets();
                pieces += 1;
                assert!(charged - octets <= 160 * 128 * pieces, "{change:?}");
            }
            assert_eq!((live.octets(), live.octets_in(1)), (160 * left, 160 * left), "{change:?}");
            assert!(!live.has_deferred_frees() && pieces >= 70);
        }
    }

    #[test]
    fn a_definition_is_charged_once() {
        let mut live = Live::new(1);
        for offset in [64, 128] {
            live.apply(&Operation::Define { key: b"k", value: b"v" }, Position::new(1, offset), 64, false);
        }
        assert_eq!((live.octets(), live.find_definition(b"k")), (64, Some(Position::new(1, 128))));
        live.apply(&Operation::Undefine { key: b"k" }, Position::new(1, 192), 64, false);
        assert_eq!((live.octets(), live.find_definition(b"k")), (0, None));
    }
}
