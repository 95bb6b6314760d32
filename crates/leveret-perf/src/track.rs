//! Exact tracking of received messages: loss, duplicates and disorder, exactly, one bit a message.

/// How far ahead of the newest message one may be and still be believed.
const LEAP: u64 = 1 << 32;
const WORD: u64 = u64::BITS as u64;

/// Set of the messages that one consumer received of one producer on one queue. Messages are
/// numbered from 0 without gaps.
#[derive(Clone, Default, Debug)]
pub struct Track {
    seen: Vec<u64>,
    next: u64,
    /// Came although it, too, had come before.
    pub duplicated: u64,
    /// Came for the first time, behind a newer one.
    pub disordered: u64,
    /// Numbers that no producer can have given.
    pub foreign: u64,
}

impl Track {
    /// A message came.
    #[inline]
    pub fn see(&mut self, number: u64) {
        let (word, bit) = ((number / WORD) as usize, 1 << (number % WORD));
        if let Some(seen) = self.seen.get_mut(word) {
            let again = *seen & bit != 0;
            *seen |= bit;
            if number >= self.next {
                self.next = number + 1;
            } else if again {
                self.duplicated += 1;
            } else {
                self.disordered += 1;
            }
        } else if number > self.next + LEAP {
            self.foreign += 1;
        } else {
            // Doubles, so that growing costs nothing per message.
            self.seen.resize((word + 1).max(2 * self.seen.len()).max(16), 0);
            self.see(number);
        }
    }

    /// Takes what another consumer of the same queue saw: each message belongs to one of them.
    /// Order holds for each consumer alone.
    pub fn merge(&mut self, other: Track) {
        if self.seen.len() < other.seen.len() {
            self.seen.resize(other.seen.len(), 0);
        }
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            self.duplicated += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
        self.next = self.next.max(other.next);
        self.duplicated += other.duplicated;
        self.disordered += other.disordered;
        self.foreign += other.foreign;
    }

    /// Returns true if this message was received.
    pub fn has(&self, number: u64) -> bool {
        self.seen.get((number / WORD) as usize).is_some_and(|seen| seen & 1 << (number % WORD) != 0)
    }

    /// How many of the first `published` did not come.
    pub fn missing(&self, published: u64) -> u64 {
        let mut came = 0;
        for (at, seen) in self.seen.iter().enumerate() {
            let first = at as u64 * WORD;
            let due = published.saturating_sub(first).min(WORD);
            let mask = if due == WORD { u64::MAX } else { (1 << due) - 1 };
            came += u64::from((seen & mask).count_ones());
        }
        published - came
    }

    /// How many came that are none of the first `published`, and numbers that cannot be.
    pub fn unexpected(&self, published: u64) -> u64 {
        let all: u64 = self.seen.iter().map(|seen| u64::from(seen.count_ones())).sum();
        self.foreign + all - (published - self.missing(published))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn track(numbers: &[u64]) -> Track {
        let mut track = Track::default();
        numbers.iter().for_each(|number| track.see(*number));
        track
    }

    #[test]
    fn all_in_order_is_no_fault() {
        let numbers: Vec<u64> = (0..1000).collect();
        let track = track(&numbers);
        assert_eq!((track.duplicated, track.disordered, track.missing(1000), track.unexpected(1000)), (0, 0, 0, 0));
        assert_eq!(track.missing(1003), 3);
    }

    #[test]
    fn loss_duplicates_and_disorder_are_told_apart() {
        let track = track(&[0, 1, 3, 4, 4, 2, 0, 6]);
        assert_eq!((track.duplicated, track.disordered), (2, 1));
        assert_eq!((track.missing(7), track.missing(8), track.missing(0)), (1, 2, 0));
        assert_eq!((track.unexpected(7), track.unexpected(5)), (0, 1));
        assert!(track.has(3) && !track.has(5) && !track.has(1 << 40));
    }

    #[test]
    fn nonsense_is_not_believed() {
        let track = track(&[0, 1 << 47]);
        assert_eq!((track.foreign, track.unexpected(1), track.missing(1)), (1, 1, 0));
    }

    #[test]
    fn consumers_of_a_queue_share_its_messages() {
        let mut one = track(&[0, 2, 4]);
        one.merge(track(&[1, 3, 200]));
        assert_eq!((one.missing(5), one.duplicated, one.disordered, one.unexpected(5)), (0, 0, 0, 1));
        one.merge(track(&[4, 5]));
        assert_eq!((one.duplicated, one.missing(6)), (1, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(0..300u64, 0..400), split in 0..400usize, published in 0..320u64) {
            let (first, second) = numbers.split_at(split.min(numbers.len()));
            let mut merged = track(first);
            merged.merge(track(second));
            let set: HashSet<u64> = numbers.iter().copied().collect();
            let came = set.iter().filter(|number| **number < published).count() as u64;
            prop_assert_eq!(merged.missing(published), published - came);
            prop_assert_eq!(merged.unexpected(published), set.len() as u64 - came);
            prop_assert_eq!(merged.duplicated, (numbers.len() - set.len()) as u64);
        }
    }
}
