//! A map from growing message numbers to one word each, in about 8 octets a message: where the live messages of one queue are.
//! Knows nothing of what the words mean, but that none of them is 0.
//!
//! ```text
//!   chunks (BTreeMap by seq / 128):  Few: sorted (seq % 128, word) pairs      Many: [word; 128], 0 where there is none
//! ```

use std::collections::BTreeMap;

const CHUNK: u64 = 128;
/// A chunk with more messages is an array.
const FEW_MAX: usize = 48;
/// An array with fewer is a list of pairs again; well below, so that nothing goes to and fro.
const MANY_MIN: u16 = 24;

/// The map.
#[derive(Debug, Default)]
pub struct Index {
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
}

#[derive(Debug)]
enum Chunk {
    Few(Vec<(u8, u64)>),
    Many(Box<[u64; CHUNK as usize]>, u16),
}

impl Index {
    /// How many messages there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a word, not 0, in the place of a message; what was there before.
    pub fn insert(&mut self, seq: u64, word: u64) -> Option<u64> {
        let chunk = self.chunks.entry(seq / CHUNK).or_insert_with(|| Chunk::Few(Vec::new()));
        let before = chunk.insert((seq % CHUNK) as u8, word);
        self.len += u64::from(before.is_none());
        before
    }

    /// The word of a message.
    pub fn get(&self, seq: u64) -> Option<u64> {
        self.chunks.get(&(seq / CHUNK))?.get((seq % CHUNK) as u8)
    }

    /// Takes a message out.
    pub fn remove(&mut self, seq: u64) -> Option<u64> {
        let chunk = self.chunks.get_mut(&(seq / CHUNK))?;
        let word = chunk.remove((seq % CHUNK) as u8)?;
        if chunk.is_empty() {
            self.chunks.remove(&(seq / CHUNK));
        }
        self.len -= 1;
        Some(word)
    }

    /// Takes out every message from `first` to `last`, and calls `taken` with each word. Costs what is there, not what the
    /// run spans.
    pub fn remove_run(&mut self, first: u64, last: u64, mut taken: impl FnMut(u64)) {
        if first > last {
            return;
        }
        let mut emptied = Vec::new();
        for (&number, chunk) in self.chunks.range_mut(first / CHUNK..=last / CHUNK) {
            let base = number * CHUNK;
            let from = first.saturating_sub(base).min(CHUNK) as u8;
            let to = last.saturating_sub(base).min(CHUNK - 1) as u8;
            for slot in from..=to {
                if let Some(word) = chunk.remove(slot) {
                    self.len -= 1;
                    taken(word);
                }
            }
            if chunk.is_empty() {
                emptied.push(number);
            }
        }
        for number in emptied {
            self.chunks.remove(&number);
        }
    }

    /// Splits off every message below `seq`, without looking at each.
    pub fn split_below(&mut self, seq: u64) -> Self {
        let mut behind = Self { chunks: self.chunks.split_off(&(seq / CHUNK)), len: 0 };
        std::mem::swap(self, &mut behind);
        let mut before = behind;
        if let Some(shared) = self.chunks.get_mut(&(seq / CHUNK)) {
            for slot in 0..(seq % CHUNK) as u8 {
                if let Some(word) = shared.remove(slot) {
                    before.insert(seq / CHUNK * CHUNK + u64::from(slot), word);
                }
            }
            if shared.is_empty() {
                self.chunks.remove(&(seq / CHUNK));
            }
        }
        let count = |chunks: &BTreeMap<u64, Chunk>| chunks.values().map(Chunk::len).sum();
        (before.len, self.len) = (count(&before.chunks), count(&self.chunks));
        before
    }

    /// Takes out the messages of the first chunk; their words. For those who have to look at many, a few at a time.
    pub fn pop_chunk(&mut self) -> Option<Vec<u64>> {
        let (_, chunk) = self.chunks.pop_first()?;
        self.len -= chunk.len();
        Some(chunk.iter().map(|(_, word)| word).collect())
    }

    /// Messages and words in order, from `seq` on.
    pub fn iter_from(&self, seq: u64) -> impl Iterator<Item = (u64, u64)> {
        let chunks = self.chunks.range(seq / CHUNK..);
        let each = chunks
            .flat_map(|(number, chunk)| chunk.iter().map(move |(slot, word)| (number * CHUNK + u64::from(slot), word)));
        each.skip_while(move |(at, _)| *at < seq)
    }
}

impl Chunk {
    fn len(&self) -> u64 {
        match self {
            Self::Few(pairs) => pairs.len() as u64,
            Self::Many(_, len) => u64::from(*len),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, slot: u8) -> Option<u64> {
        match self {
            Self::Few(pairs) => {
                let at = pairs.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                pairs.get(at).map(|(_, word)| *word)
            }
            Self::Many(words, _) => words.get(usize::from(slot)).copied().filter(|word| *word != 0),
        }
    }

    fn insert(&mut self, slot: u8, word: u64) -> Option<u64> {
        match self {
            Self::Few(pairs) => match pairs.binary_search_by_key(&slot, |(slot, _)| *slot) {
                Ok(at) => pairs.get_mut(at).map(|(_, place)| std::mem::replace(place, word)),
                Err(at) => {
                    pairs.insert(at, (slot, word));
                    if pairs.len() > FEW_MAX {
                        let mut words = Box::new([0; CHUNK as usize]);
                        for (slot, word) in pairs.iter() {
                            if let Some(place) = words.get_mut(usize::from(*slot)) {
                                *place = *word;
                            }
                        }
                        *self = Self::Many(words, FEW_MAX as u16 + 1);
                    }
                    None
                }
            },
            Self::Many(words, len) => {
                let before = words.get_mut(usize::from(slot)).map_or(0, |place| std::mem::replace(place, word));
                *len += u16::from(before == 0);
                (before != 0).then_some(before)
            }
        }
    }

    fn remove(&mut self, slot: u8) -> Option<u64> {
        match self {
            Self::Few(pairs) => {
                let at = pairs.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                Some(pairs.remove(at).1)
            }
            Self::Many(words, len) => {
                let before = words.get_mut(usize::from(slot)).map_or(0, std::mem::take);
                if before == 0 {
                    return None;
                }
                *len -= 1;
                if *len < MANY_MIN {
                    *self = Self::Few(self.iter().collect());
                }
                Some(before)
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u8, u64)> {
        let (pairs, words): (&[(u8, u64)], &[u64]) = match self {
            Self::Few(pairs) => (pairs, &[]),
            Self::Many(words, _) => (&[], &**words),
        };
        let words = words.iter().zip(0..).filter(|(word, _)| **word != 0).map(|(word, slot)| (slot, *word));
        pairs.iter().copied().chain(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Append(u64),
        Insert(u64),
        Remove(u64),
        RemoveRun(u64, u64),
        SplitBelow(u64),
        PopChunk,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (1u64..200).prop_map(Op::Append),
            2 => (0u64..2000).prop_map(Op::Insert),
            6 => (0u64..2000).prop_map(Op::Remove),
            2 => (0u64..2000, 0u64..300).prop_map(|(first, length)| Op::RemoveRun(first, first + length)),
            1 => (0u64..2000).prop_map(Op::SplitBelow),
            1 => Just(Op::PopChunk),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(ops in proptest::collection::vec(op(), 0..80)) {
            let (mut index, mut model, mut next) = (Index::default(), BTreeMap::new(), 0);
            for op in ops {
                match op {
                    Op::Append(count) => for _ in 0..count {
                        next += 1;
                        prop_assert_eq!(index.insert(next, next + 1), model.insert(next, next + 1));
                    },
                    Op::Insert(seq) => prop_assert_eq!(index.insert(seq, 7), model.insert(seq, 7)),
                    Op::Remove(seq) => {
                        prop_assert_eq!(index.get(seq), model.get(&seq).copied());
                        prop_assert_eq!(index.remove(seq), model.remove(&seq));
                    }
                    Op::RemoveRun(first, last) => {
                        let mut taken = Vec::new();
                        index.remove_run(first, last, |word| taken.push(word));
                        let expected: Vec<u64> = model.range(first..=last).map(|(_, word)| *word).collect();
                        model.retain(|seq, _| !(first..=last).contains(seq));
                        prop_assert_eq!(taken, expected);
                    }
                    Op::SplitBelow(seq) => {
                        let before = index.split_below(seq);
                        let rest = model.split_off(&seq);
                        let before: Vec<(u64, u64)> = before.iter_from(0).collect();
                        prop_assert_eq!(before, std::mem::replace(&mut model, rest).into_iter().collect::<Vec<_>>());
                    }
                    Op::PopChunk => if let Some(words) = index.pop_chunk() {
                        for word in words {
                            let first = model.pop_first();
                            prop_assert_eq!(first.map(|(_, word)| word), Some(word));
                        }
                    },
                }
                prop_assert_eq!(index.len(), model.len() as u64);
            }
            for from in [0, 100, 1000] {
                let rest: Vec<(u64, u64)> = model.range(from..).map(|(seq, word)| (*seq, *word)).collect();
                prop_assert_eq!(index.iter_from(from).collect::<Vec<_>>(), rest);
            }
        }
    }
}
