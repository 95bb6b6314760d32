//! What the store holds, in memory: where each live message of each queue is, the definitions, and how much of each segment is
//! still needed. One function applies a change, whether it is new or read back. Knows no file.
//!
//! What is charged to a segment is the size of its live records, shared out over the places a message had when it was
//! written. A purge does not walk a long queue under the lock: what it took away is `doomed`, and uncharged in pieces.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::store::index::Index;
use crate::store::list::{Run, SEQ_MAX, Target};
use crate::store::position::{Entry, Position};
use crate::store::record::{Operation, Publish};

/// What is live.
#[derive(Debug, Default)]
pub struct Live {
    queues: HashMap<u64, Queue>,
    definitions: BTreeMap<Box<[u8]>, Entry>,
    /// Octets needed of each segment, from `oldest` on.
    tallies: VecDeque<u64>,
    oldest: u64,
    octets: u64,
    doomed: Vec<Index>,
}

/// What is live of one queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// Message numbers and [`Entry`] words.
    pub messages: Index,
    /// One more than the largest number that any record names.
    pub next_seq: u64,
    /// Messages up to this number may have been delivered.
    pub handed_out: u64,
}

impl Live {
    /// Nothing, in a journal whose first needed segment is `oldest`.
    pub fn new(oldest: u64) -> Self {
        Self { oldest, ..Self::default() }
    }

    /// A change at a position, of `size` octets there. `replay`: places that do not outlive the process are not taken.
    pub fn apply(&mut self, operation: &Operation<'_>, position: Position, size: u64, replay: bool) {
        match *operation {
            Operation::Publish(publish) => self.publish(&publish, position, size, replay),
            Operation::Settle { queue, runs } => runs.iter().for_each(|run| self.settle(queue, run)),
            Operation::Purge { queue, below } => {
                let Some(state) = self.queues.get_mut(&queue) else { return };
                self.doomed.push(state.messages.split_below(below));
                if below <= SEQ_MAX {
                    state.next_seq = state.next_seq.max(below);
                }
            }
            Operation::QueueGone { queue } => self.doomed.extend(self.queues.remove(&queue).map(|gone| gone.messages)),
            Operation::HandedOut { queue, upto } => {
                let queue = self.queues.entry(queue).or_default();
                queue.hand_out(upto);
                queue.saw(upto);
            }
            Operation::Define { key, .. } => {
                let entry = Entry::new(position, size, false);
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

    fn publish(&mut self, publish: &Publish<'_>, position: Position, size: u64, replay: bool) {
        let share = size / (publish.targets.len() as u64).max(1);
        for target in publish.targets.iter() {
            let queue = self.queues.entry(target.queue).or_default();
            queue.saw(target.seq);
            if replay && target.transient {
                continue;
            }
            if target.handed_out {
                queue.hand_out(target.seq);
            }
            let entry = Entry::new(position, share, target.transient);
            let before = queue.messages.insert(target.seq, entry.number()).and_then(Entry::from_number);
            self.charge(entry);
            // A copy takes the place of what it was copied from.
            before.into_iter().for_each(|before| self.uncharge(before));
        }
    }

    /// Messages of a queue are done with.
    pub fn settle(&mut self, queue: u64, run: Run) {
        let queue = self.queues.entry(queue).or_default();
        queue.saw(run.last);
        let (tallies, octets, oldest) = (&mut self.tallies, &mut self.octets, self.oldest);
        queue.messages.remove_run(run.first, run.last, |word| {
            let entry = Entry::from_number(word);
            entry.into_iter().for_each(|entry| uncharge(tallies, octets, oldest, entry));
        });
    }

    fn charge(&mut self, entry: Entry) {
        let Some(at) = entry.position().segment().checked_sub(self.oldest) else { return };
        let at = at as usize;
        if self.tallies.len() <= at {
            self.tallies.resize(at + 1, 0);
        }
        if let Some(tally) = self.tallies.get_mut(at) {
            *tally += entry.size();
            self.octets += entry.size();
        }
    }

    fn uncharge(&mut self, entry: Entry) {
        uncharge(&mut self.tallies, &mut self.octets, self.oldest, entry);
    }

    /// Uncharges a piece of what purges and deleted queues left; whether there was any.
    pub fn sweep(&mut self) -> bool {
        let Some(doomed) = self.doomed.last_mut() else { return false };
        match doomed.pop_chunk() {
            Some(words) => {
                words.into_iter().filter_map(Entry::from_number).for_each(|entry| self.uncharge(entry));
            }
            None => {
                self.doomed.pop();
            }
        }
        true
    }

    /// Segments before this one are not needed any more, and never will be.
    pub fn forget_before(&mut self, oldest: u64) {
        while self.oldest < oldest {
            self.octets -= self.tallies.pop_front().unwrap_or(0);
            self.oldest += 1;
        }
    }

    /// The first segment that is needed.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Octets needed of a segment.
    pub fn octets_in(&self, segment: u64) -> u64 {
        let at = segment.checked_sub(self.oldest).map(|at| at as usize);
        at.and_then(|at| self.tallies.get(at)).copied().unwrap_or(0)
    }

    /// Octets needed in all.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Where a message is.
    pub fn find(&self, queue: u64, seq: u64) -> Option<Position> {
        self.entry(queue, seq).map(Entry::position)
    }

    /// What the index keeps of a message.
    pub fn entry(&self, queue: u64, seq: u64) -> Option<Entry> {
        self.queues.get(&queue)?.messages.get(seq).and_then(Entry::from_number)
    }

    /// Where the definition of that key is.
    pub fn find_definition(&self, key: &[u8]) -> Option<Position> {
        self.definitions.get(key).map(|entry| entry.position())
    }

    /// Those places of a message at `position` that are still taken there, each marked if it had been handed out.
    pub fn remaining(&self, position: Position, targets: impl Iterator<Item = Target>) -> Vec<Target> {
        let is_there = |target: &Target| self.find(target.queue, target.seq) == Some(position);
        let mark = |target: Target| {
            let upto = self.queues.get(&target.queue).map_or(0, |queue| queue.handed_out);
            Target { handed_out: target.seq <= upto, ..target }
        };
        targets.filter(is_there).map(mark).collect()
    }

    /// What is live of a queue that any record names.
    pub fn queue(&self, queue: u64) -> Option<&Queue> {
        self.queues.get(&queue)
    }

    /// All queues, by number.
    pub fn queues(&self) -> Vec<(u64, &Queue)> {
        let mut all: Vec<(u64, &Queue)> = self.queues.iter().map(|(number, queue)| (*number, queue)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// All definitions' keys and places, in order.
    pub fn definitions(&self) -> impl Iterator<Item = (&[u8], Entry)> {
        self.definitions.iter().map(|(key, entry)| (&**key, *entry))
    }

    /// Puts a queue back as a checkpoint remembers it.
    pub fn restore_queue(&mut self, number: u64, next_seq: u64, handed_out: u64, words: &[(u64, u64)]) {
        let mut messages = Index::default();
        for &(seq, word) in words {
            if let Some(entry) = Entry::from_number(word) {
                self.charge(entry);
                messages.insert(seq, word);
            }
        }
        self.queues.insert(number, Queue { messages, next_seq, handed_out });
    }

    /// Puts a definition back as a checkpoint remembers it.
    pub fn restore_definition(&mut self, key: &[u8], entry: Entry) {
        self.charge(entry);
        self.definitions.insert(key.into(), entry);
    }
}

impl Queue {
    fn saw(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq.min(SEQ_MAX) + 1);
    }

    fn hand_out(&mut self, upto: u64) {
        self.handed_out = self.handed_out.max(upto);
    }

    /// Its messages' numbers, as runs without a gap.
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

fn uncharge(tallies: &mut VecDeque<u64>, octets: &mut u64, oldest: u64, entry: Entry) {
    let at = entry.position().segment().checked_sub(oldest).map(|at| at as usize);
    // A segment that was given up is not charged any more.
    if let Some(tally) = at.and_then(|at| tallies.get_mut(at)) {
        let size = entry.size().min(*tally);
        *tally -= size;
        *octets -= size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::list::List;

    fn publish(live: &mut Live, segment: u64, offset: u64, targets: &[Target]) {
        let publish =
            Publish { at_ms: 0, flags: 0, targets: List::Given(targets), route: b"", properties: b"", body: b"" };
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
        // The copy of what is left takes it out of the first segment.
        let left = live.remaining(Position::new(1, 64), [Target::new(1, 1), Target::new(2, 1)].into_iter());
        assert_eq!(left, [Target::new(2, 1)]);
        publish(&mut live, 3, 64, &left);
        assert_eq!((live.octets_in(1), live.octets_in(3)), (0, 160));
        live.forget_before(2);
        live.apply(&Operation::QueueGone { queue: 2 }, Position::new(3, 640), 24, false);
        while live.sweep() {}
        assert_eq!((live.octets_in(3), live.octets()), (0, 160));
        assert_eq!(
            live.queue(1).map(|queue| (queue.next_seq, queue.runs())),
            Some((3, vec![Run { first: 2, last: 2 }]))
        );
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
