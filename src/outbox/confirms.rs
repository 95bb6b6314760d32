//! The holds of one outbox: places from which its octets wait until the journal is durable, so that
//! confirms and replies keep their order. Names no octets and no journal.

use leveret_journal::index::Index;
use std::collections::VecDeque;

/// Places in a buffer, each with the journal's index that has to be durable before anything behind
/// it is written. Both ascend.
#[derive(Debug, Default)]
pub struct Holds(VecDeque<(usize, Index)>);

impl Holds {
    /// Holds everything appended behind `place` until `index` is durable.
    pub fn add(&mut self, place: usize, index: Index) {
        if self.0.back().is_none_or(|(_, last)| *last < index) {
            self.0.push_back((place, index));
        }
    }

    /// Returns the place of the first held octet.
    pub fn first_place(&self) -> Option<usize> {
        self.0.front().map(|(place, _)| *place)
    }

    /// Returns the index that has to be durable for the first held octet.
    pub fn first_index(&self) -> Option<Index> {
        self.0.front().map(|(_, index)| *index)
    }

    /// Returns the index that has to be durable for all octets.
    pub fn last_index(&self) -> Option<Index> {
        self.0.back().map(|(_, index)| *index)
    }

    /// Removes the holds for indexes up to `durable`.
    pub fn release(&mut self, durable: Index) {
        while self.0.front().is_some_and(|(_, index)| *index <= durable) {
            self.0.pop_front();
        }
    }

    /// Moves all places back by `octets` that were inserted at the front.
    pub fn shift_back(&mut self, octets: usize) {
        self.0.iter_mut().for_each(|(place, _)| *place += octets);
    }

    /// Moves all places forward by `octets` that were taken from the front.
    pub fn shift_forward(&mut self, octets: usize) {
        self.0.iter_mut().for_each(|(place, _)| *place -= octets);
    }

    /// Removes all holds.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
