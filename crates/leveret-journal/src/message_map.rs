//! A map from message numbers to [`IndexEntry`]s: where the live messages of one queue are, in
//! about 9 octets a message.
//!
//! ```text
//!   blocks (by number / 16,384):        their chunks, the number of messages and their octets
//!   chunks (BTreeMap by number / 128):  which of the 128 are there (128 bits) | their entries
//!                                       octets of the chunk | earliest expiry of the chunk
//! ```
//!
//! A chunk knows its octets and the earliest time at which one of its messages expires, so that a
//! question about a long run costs one look a chunk. Many messages at once are split off as a map
//! of their own, a block by one move: a backlog of 100 million is 6,100 blocks.

use std::collections::{BTreeMap, VecDeque};

use crate::position::IndexEntry;

const CHUNK: u64 = 128;
/// Chunks of a block.
const CHUNKS: u64 = 128;
/// Message numbers of a block.
const BLOCK: u64 = CHUNKS * CHUNK;
/// The expiry of a message that never expires.
pub const NEVER_EXPIRES: u64 = u64::MAX;

/// A map from message numbers to entries.
#[derive(Debug, Default)]
pub struct MessageMap {
    /// In order of their numbers; none is empty.
    blocks: VecDeque<Block>,
    len: u64,
    octets: u64,
}

/// The chunks of 16,384 message numbers.
#[derive(Debug, Default)]
struct Block {
    /// The message numbers divided by [`BLOCK`].
    number: u64,
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
    octets: u64,
}

/// Facts about a run of messages that are known without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// How many there are.
    pub messages: u64,
    /// Octets of their records, about: at most an eighth less than they are.
    pub octets: u64,
    /// A time, in ms since 1970, before which none of them expires; [`NEVER_EXPIRES`] if none ever
    /// does.
    pub earliest_expiry: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { messages: 0, octets: 0, earliest_expiry: NEVER_EXPIRES }
    }
}

#[derive(Debug)]
struct Chunk {
    /// Bit n is set if message n of the chunk is there.
    present: u128,
    /// The entries of those that are there, in order, as numbers.
    entries: Vec<u64>,
    octets: u64,
    earliest_expiry: u64,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { present: 0, entries: Vec::new(), octets: 0, earliest_expiry: NEVER_EXPIRES }
    }
}

impl MessageMap {
    /// Returns the number of messages.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the octets of all messages' records, about.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Puts a message in its place and returns what was there before. It expires at `expires_at` in
    /// ms since 1970.
    pub fn insert(&mut self, seq: u64, entry: IndexEntry, expires_at: u64) -> Option<IndexEntry> {
        let number = seq / BLOCK;
        let at = match self.find(number) {
            Ok(at) => at,
            Err(at) => {
                self.blocks.insert(at, Block { number, ..Block::default() });
                at
            }
        };
        let block = self.blocks.get_mut(at)?;
        let chunk = block.chunks.entry(seq / CHUNK).or_default();
        chunk.earliest_expiry = chunk.earliest_expiry.min(expires_at);
        let before = chunk.insert((seq % CHUNK) as u32, entry);
        let (len, octets) = before.map_or((1, 0), |before| (0, before.size()));
        (self.len, block.len) = (self.len + len, block.len + len);
        self.octets = self.octets + entry.size() - octets;
        block.octets = block.octets + entry.size() - octets;
        before
    }

    /// Returns the place of a block, or where it would be. Mostly it is the last one.
    fn find(&self, number: u64) -> Result<usize, usize> {
        match self.blocks.back() {
            Some(last) if last.number == number => Ok(self.blocks.len() - 1),
            Some(last) if last.number < number => Err(self.blocks.len()),
            _ => self.blocks.binary_search_by_key(&number, |block| block.number),
        }
    }

    fn chunk(&self, number: u64) -> Option<&Chunk> {
        let at = self.find(number / CHUNKS).ok()?;
        self.blocks.get(at)?.chunks.get(&number)
    }

    /// Returns the entry of a message.
    pub fn get(&self, seq: u64) -> Option<IndexEntry> {
        self.chunk(seq / CHUNK)?.get((seq % CHUNK) as u32)
    }

    /// Takes out every message from `first` to `last`, and calls `taken` with each. Costs what is
    /// there, not what the run spans; [`MessageMap::split_run`] costs less than that.
    pub fn remove_run(&mut self, first: u64, last: u64, mut taken: impl FnMut(IndexEntry)) {
        if first > last {
            return;
        }
        let mut at = self.find(first / BLOCK).unwrap_or_else(|at| at);
        while let Some(block) = self.blocks.get_mut(at).filter(|block| block.number <= last / BLOCK) {
            let (len, octets) = (block.len, block.octets);
            block.remove_run(first, last, &mut taken);
            self.len -= len - block.len;
            self.octets -= octets - block.octets;
            if block.len == 0 {
                self.blocks.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Splits off every message from `first` to `last`. A block costs a move, and only those that
    /// the run takes part of are looked into: at most two.
    pub fn split_run(&mut self, first: u64, last: u64) -> Self {
        let mut taken = Self::default();
        if first > last {
            return taken;
        }
        let start = self.find(first / BLOCK).unwrap_or_else(|at| at);
        let end = self.find(last / BLOCK).map_or_else(|at| at, |at| at + 1);
        let mut above = self.blocks.split_off(end);
        taken.blocks = self.blocks.split_off(start);
        let within = taken.blocks.len();
        for at in [0, 1.max(within) - 1].iter().take(within) {
            let kept = taken.blocks.get_mut(*at).map(|block| block.split_outside(first, last));
            self.blocks.extend(kept.filter(|block| block.len > 0));
        }
        self.blocks.append(&mut above);
        taken.blocks.retain(|block| block.len > 0);
        for block in &taken.blocks {
            looked(1);
            taken.len += block.len;
            taken.octets += block.octets;
        }
        (self.len, self.octets) = (self.len - taken.len, self.octets - taken.octets);
        taken
    }

    /// Takes out the messages of the first chunk, at most 128, and calls `taken` with each. False:
    /// there is none.
    pub fn pop_chunk(&mut self, taken: impl FnMut(IndexEntry)) -> bool {
        let Some(block) = self.blocks.front_mut() else { return false };
        let Some((_, chunk)) = block.chunks.pop_first() else { return false };
        let (len, octets) = (chunk.entries.len() as u64, chunk.octets);
        (self.len, self.octets) = (self.len - len, self.octets - octets);
        (block.len, block.octets) = (block.len - len, block.octets - octets);
        if block.len == 0 {
            self.blocks.pop_front();
        }
        chunk.entries.into_iter().filter_map(IndexEntry::from_number).for_each(taken);
        true
    }

    /// Returns the chunks from the one with this number on, in order.
    fn chunks_from(&self, number: u64) -> impl Iterator<Item = (u64, &Chunk)> {
        let at = self.find(number / CHUNKS).unwrap_or_else(|at| at);
        let chunks = self.blocks.range(at..).flat_map(|block| &block.chunks);
        chunks.map(|(number, chunk)| (*number, chunk)).skip_while(move |(at, _)| *at < number)
    }

    /// Returns messages and entries in order, from `seq` on.
    pub fn iter_from(&self, seq: u64) -> impl Iterator<Item = (u64, IndexEntry)> {
        let each = self.chunks_from(seq / CHUNK).flat_map(|(number, chunk)| {
            chunk.iter().map(move |(slot, entry)| (number * CHUNK + u64::from(slot), entry))
        });
        each.skip_while(move |(at, _)| *at < seq)
    }

    /// Returns what is known of the messages from `first` to `last`. A chunk that the run takes
    /// part of counts with the earliest expiry of all its messages.
    pub fn totals(&self, first: u64, last: u64) -> Totals {
        let mut totals = Totals::default();
        if first > last {
            return totals;
        }
        for (number, chunk) in self.chunks_from(first / CHUNK).take_while(|(number, _)| *number <= last / CHUNK) {
            let (from, to) = slots(number, first, last);
            let (messages, octets) = chunk.totals(from, to);
            if messages > 0 {
                totals.messages += messages;
                totals.octets += octets;
                totals.earliest_expiry = totals.earliest_expiry.min(chunk.earliest_expiry);
            }
        }
        totals
    }

    /// Returns the chunks in which a message expires: a message number of each, and the earliest
    /// expiry.
    pub fn expiries(&self) -> impl Iterator<Item = (u64, u64)> {
        let chunks = self.chunks_from(0).filter(|(_, chunk)| chunk.earliest_expiry != NEVER_EXPIRES);
        chunks.map(|(number, chunk)| (number * CHUNK, chunk.earliest_expiry))
    }

    /// Sets the earliest expiry of the chunk of a message, if any of its messages is there.
    pub fn set_expiry(&mut self, seq: u64, earliest: u64) {
        let Ok(at) = self.find(seq / BLOCK) else { return };
        let chunk = self.blocks.get_mut(at).and_then(|block| block.chunks.get_mut(&(seq / CHUNK)));
        if let Some(chunk) = chunk {
            chunk.earliest_expiry = earliest;
        }
    }
}

impl Block {
    fn remove_run(&mut self, first: u64, last: u64, taken: &mut impl FnMut(IndexEntry)) {
        let (mut next, highest) = (first / CHUNK, last / CHUNK);
        while let Some((&number, chunk)) = self.chunks.range_mut(next..=highest).next() {
            let (from, to) = slots(number, first, last);
            let (len, octets) = (chunk.entries.len(), chunk.octets);
            chunk.take(from, to, taken);
            self.len -= (len - chunk.entries.len()) as u64;
            self.octets -= octets - chunk.octets;
            if chunk.entries.is_empty() {
                self.chunks.remove(&number);
            }
            if number == highest {
                return;
            }
            next = number + 1;
        }
    }

    /// Splits off the messages that are not from `first` to `last`.
    fn split_outside(&mut self, first: u64, last: u64) -> Self {
        let mut inside = self.chunks.split_off(&(first / CHUNK));
        let above = inside.split_off(&(last / CHUNK + 1));
        let mut kept =
            Self { number: self.number, chunks: std::mem::replace(&mut self.chunks, inside), ..Self::default() };
        for number in [first / CHUNK, last / CHUNK] {
            let Some(chunk) = self.chunks.get_mut(&number) else { continue };
            let (from, to) = slots(number, first, last);
            let outside = chunk.split_outside(from, to);
            if chunk.entries.is_empty() {
                self.chunks.remove(&number);
            }
            // The run may begin and end in the same chunk: then nothing is outside any more.
            if !outside.entries.is_empty() {
                kept.chunks.insert(number, outside);
            }
        }
        kept.chunks.extend(above);
        kept.count();
        self.count();
        kept
    }

    fn count(&mut self) {
        looked(self.chunks.len());
        self.len = self.chunks.values().map(|chunk| chunk.entries.len() as u64).sum();
        self.octets = self.chunks.values().map(|chunk| chunk.octets).sum();
    }
}

#[cfg(not(test))]
fn looked(_: usize) {}

/// Counts blocks and chunks that were looked at, for the test that bounds them.
#[cfg(test)]
fn looked(parts: usize) {
    tests::LOOKS.with(|looks| looks.set(looks.get() + parts));
}

/// The first and last slot of chunk `number` that a run takes.
fn slots(number: u64, first: u64, last: u64) -> (u32, u32) {
    let base = number * CHUNK;
    (first.saturating_sub(base).min(CHUNK - 1) as u32, (last - base).min(CHUNK - 1) as u32)
}

/// The bits of the slots from `from` to `to`.
fn bits(from: u32, to: u32) -> u128 {
    (u128::MAX >> (CHUNK as u32 - 1 - to)) & (u128::MAX << from)
}

impl Chunk {
    /// The place in `entries` of a message that is there, or where it would be.
    fn rank(&self, slot: u32) -> usize {
        (self.present & !(u128::MAX << slot)).count_ones() as usize
    }

    fn has(&self, slot: u32) -> bool {
        self.present >> slot & 1 == 1
    }

    fn get(&self, slot: u32) -> Option<IndexEntry> {
        if !self.has(slot) {
            return None;
        }
        self.entries.get(self.rank(slot)).copied().and_then(IndexEntry::from_number)
    }

    fn insert(&mut self, slot: u32, entry: IndexEntry) -> Option<IndexEntry> {
        self.octets += entry.size();
        let rank = self.rank(slot);
        if self.has(slot) {
            let place = self.entries.get_mut(rank)?;
            let before = IndexEntry::from_number(std::mem::replace(place, entry.number()));
            self.octets -= before.map_or(0, IndexEntry::size);
            return before;
        }
        self.present |= 1 << slot;
        self.entries.insert(rank, entry.number());
        None
    }

    /// Takes out the messages in the slots from `from` to `to`.
    fn take(&mut self, from: u32, to: u32, taken: &mut impl FnMut(IndexEntry)) {
        let gone = self.present & bits(from, to);
        if gone == 0 {
            return;
        }
        let start = self.rank(from);
        let end = start + gone.count_ones() as usize;
        for entry in self.entries.drain(start..end).filter_map(IndexEntry::from_number) {
            self.octets -= entry.size();
            taken(entry);
        }
        self.present &= !gone;
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Splits off the messages that are not in the slots from `from` to `to`.
    fn split_outside(&mut self, from: u32, to: u32) -> Self {
        let mut inside = Self { earliest_expiry: self.earliest_expiry, ..Self::default() };
        for slot in from..=to {
            if let Some(entry) = self.get(slot) {
                inside.insert(slot, entry);
            }
        }
        self.take(from, to, &mut |_| {});
        std::mem::replace(self, inside)
    }

    /// Messages in the slots from `from` to `to`, and their octets.
    fn totals(&self, from: u32, to: u32) -> (u64, u64) {
        let there = self.present & bits(from, to);
        if there == self.present {
            return (self.entries.len() as u64, self.octets);
        }
        let (start, count) = (self.rank(from), there.count_ones() as usize);
        let entries = self.entries.get(start..start + count).unwrap_or_default();
        (count as u64, entries.iter().copied().filter_map(IndexEntry::from_number).map(IndexEntry::size).sum())
    }

    fn iter(&self) -> impl Iterator<Item = (u32, IndexEntry)> {
        let mut left = self.present;
        self.entries.iter().filter_map(move |entry| {
            let slot = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            Some((slot, IndexEntry::from_number(*entry)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Position;
    use proptest::prelude::*;
    use std::cell::Cell;

    thread_local! {
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Debug, Clone)]
    enum Op {
        Append(u64),
        Insert(u64),
        Remove(u64),
        RemoveRun(u64, u64),
        SplitRun(u64, u64),
        PopChunk,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (1u64..200).prop_map(Op::Append),
            2 => (0u64..2000).prop_map(Op::Insert),
            6 => (0u64..2000).prop_map(Op::Remove),
            2 => (0u64..2000, 0u64..300).prop_map(|(first, length)| Op::RemoveRun(first, first + length)),
            2 => (0u64..2000, 0u64..3000).prop_map(|(first, length)| Op::SplitRun(first, first + length)),
            1 => (0u64..2000).prop_map(|below| Op::SplitRun(0, below)),
            1 => Just(Op::PopChunk),
        ]
    }

    /// An entry that tells `n`, of a size that depends on it.
    fn entry(n: u64) -> IndexEntry {
        IndexEntry::new(Position::new(1 + n, 64), 8 * (n % 7), false)
    }

    type Model = BTreeMap<u64, (IndexEntry, u64)>;

    /// Compares a map with the model, in every view of it.
    fn check(map: &MessageMap, model: &Model) {
        assert_eq!(map.len(), model.len() as u64);
        assert_eq!(map.octets(), model.values().map(|(entry, _)| entry.size()).sum::<u64>());
        assert_eq!(map.is_empty(), model.is_empty());
        for from in [0, 100, 1000] {
            let rest: Vec<(u64, IndexEntry)> = model.range(from..).map(|(seq, (entry, _))| (*seq, *entry)).collect();
            assert_eq!(map.iter_from(from).collect::<Vec<_>>(), rest);
        }
        for (first, last) in [(0, u64::MAX), (5, 700), (128, 255), (300, 310)] {
            let (found, run) = (map.totals(first, last), model.range(first..=last));
            let octets: u64 = run.clone().map(|(_, (entry, _))| entry.size()).sum();
            assert_eq!((found.messages, found.octets), (run.clone().count() as u64, octets));
            // Never later than it is.
            assert!(run.clone().all(|(_, (_, expires_at))| found.earliest_expiry <= *expires_at));
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(ops in proptest::collection::vec(op(), 0..80)) {
            let (mut map, mut model, mut next) = (MessageMap::default(), Model::new(), 0);
            for op in ops {
                match op {
                    Op::Append(count) => for _ in 0..count {
                        next += 1;
                        let expires_at = if next % 3 == 0 { next } else { NEVER_EXPIRES };
                        let before = model.insert(next, (entry(next), expires_at)).map(|(entry, _)| entry);
                        prop_assert_eq!(map.insert(next, entry(next), expires_at), before);
                    },
                    Op::Insert(seq) => {
                        let before = model.insert(seq, (entry(seq + 1), 7)).map(|(entry, _)| entry);
                        prop_assert_eq!(map.insert(seq, entry(seq + 1), 7), before);
                    }
                    Op::Remove(seq) => {
                        prop_assert_eq!(map.get(seq), model.get(&seq).map(|(entry, _)| *entry));
                        let mut taken = None;
                        map.remove_run(seq, seq, |entry| taken = Some(entry));
                        prop_assert_eq!(taken, model.remove(&seq).map(|(entry, _)| entry));
                    }
                    Op::RemoveRun(first, last) => {
                        let mut taken = Vec::new();
                        map.remove_run(first, last, |entry| taken.push(entry));
                        let expected: Vec<IndexEntry> = model.range(first..=last).map(|(_, (entry, _))| *entry).collect();
                        model.retain(|seq, _| !(first..=last).contains(seq));
                        prop_assert_eq!(taken, expected);
                    }
                    Op::SplitRun(first, last) => {
                        let taken: Model = model.extract_if(first..=last, |_, _| true).collect();
                        check(&map.split_run(first, last), &taken);
                    }
                    Op::PopChunk => {
                        map.pop_chunk(|entry| assert_eq!(model.pop_first().map(|(_, (entry, _))| entry), Some(entry)));
                    }
                }
                check(&map, &model);
            }
        }
    }

    #[test]
    fn a_message_takes_ten_octets() {
        let mut map = MessageMap::default();
        (1..=100_000).for_each(|seq| {
            map.insert(seq, entry(seq), NEVER_EXPIRES);
        });
        let chunks = || map.chunks_from(0).map(|(_, chunk)| chunk);
        let capacity: usize = chunks().map(|chunk| 8 * chunk.entries.capacity() + 16).sum();
        // A node of the tree that was filled in order is half full.
        let nodes = chunks().count() * (size_of::<Chunk>() + 8) * 2 + map.blocks.capacity() * size_of::<Block>();
        assert!((capacity + nodes) as u64 <= 10 * map.len(), "{capacity} and {nodes}");
    }

    /// A purge does this under the appender's lock.
    #[test]
    fn many_messages_are_split_off_in_few_steps() {
        for messages in [200_000, 800_000] {
            for (first, last) in [(0, messages), (0, u64::MAX), (777, messages - 777), (messages / 2, u64::MAX)] {
                let mut map = MessageMap::default();
                (1..=messages).for_each(|seq| _ = map.insert(seq, entry(1), NEVER_EXPIRES));
                LOOKS.set(0);
                let taken = map.split_run(first, last);
                assert_eq!(taken.len() + map.len(), messages);
                // Two blocks are looked into; the others are moved.
                let most = 2 * (CHUNKS as usize + 2) + (messages / BLOCK) as usize + 1;
                assert!(LOOKS.get() <= most, "{} looks for {messages} messages", LOOKS.get());
            }
        }
    }
}
