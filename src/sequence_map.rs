//! A map from ever growing numbers to values, most of which leave in about the order in which they
//! came: delivery tags to deliveries, message ids to messages.
//!
//! ```text
//!   stragglers (BTreeMap)      ring (slots)
//!   every key < base           base .. base + len; None: removed; the first is always Some
//! ```
//!
//! Insert, find and remove cost O(1) as long as keys arrive in order. One key that stays for ever
//! cannot pin the ring: when few slots are still taken, those few move to the stragglers.

use std::collections::BTreeMap;

/// Slots below which the ring is kept, however few values are left in it.
const SPARSE_AT: usize = 256;
/// A ring with fewer than one value in this many slots is sparse.
const SPARSE_RATIO: usize = 8;

/// A map with unique keys, whose values come back in the order of their keys.
#[derive(Debug)]
pub struct SequenceMap<T> {
    stragglers: BTreeMap<u64, T>,
    base: u64,
    ring: Ring<T>,
    live: usize,
}

impl<T> Default for SequenceMap<T> {
    fn default() -> Self {
        Self { stragglers: BTreeMap::new(), base: 0, ring: Ring::default(), live: 0 }
    }
}

impl<T> SequenceMap<T> {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.live + self.stragglers.len()
    }

    /// Returns true if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of values for which there is memory.
    pub fn places(&self) -> usize {
        self.ring.capacity() + self.stragglers.len()
    }

    /// Inserts `value` under `key`, and replaces the value that was there.
    #[inline(always)]
    pub fn insert(&mut self, key: u64, value: T) {
        self.insert_with(key, || value);
    }

    /// Inserts what `value` returns under `key`, and replaces the value that was there.
    // Always inline, and with a closure: a value that is made in its place does not pass through
    // memory, where a wide load of fields just written is a stall.
    #[inline(always)]
    pub fn insert_with(&mut self, key: u64, value: impl FnOnce() -> T) {
        if !self.ring.is_empty() && key >= self.base && (key - self.base) as usize == self.ring.len() {
            self.ring.push_with(|| Some(value()));
            self.live += 1;
        } else {
            self.insert_out_of_order(key, value());
        }
    }

    #[cold]
    fn insert_out_of_order(&mut self, key: u64, value: T) {
        if self.ring.is_empty() {
            // Going back below the stragglers would put them out of order.
            if self.stragglers.last_key_value().is_some_and(|(&last, _)| last >= key) {
                self.stragglers.insert(key, value);
                return;
            }
            self.base = key;
        } else if key < self.base {
            self.stragglers.insert(key, value);
            return;
        }
        let mut at = (key - self.base) as usize;
        if at > self.ring.len() + SPARSE_AT {
            self.spill();
            self.base = key;
            at = 0;
        }
        while self.ring.len() < at {
            self.ring.push_with(|| None);
        }
        if at == self.ring.len() {
            self.ring.push_with(|| Some(value));
            self.live += 1;
        } else if let Some(slot) = self.ring.get_mut(at)
            && slot.replace(value).is_none()
        {
            self.live += 1;
        }
    }

    /// Returns the value under `key`.
    pub fn get(&self, key: u64) -> Option<&T> {
        if key < self.base || self.ring.is_empty() {
            return self.stragglers.get(&key);
        }
        self.ring.get((key - self.base) as usize)?.as_ref()
    }

    /// Removes and returns the value under `key`.
    #[inline(always)]
    pub fn remove(&mut self, key: u64) -> Option<T> {
        if key < self.base || self.ring.is_empty() {
            return self.stragglers.remove(&key);
        }
        let value = self.ring.get_mut((key - self.base) as usize)?.take()?;
        self.live -= 1;
        self.trim();
        if self.ring.len() > SPARSE_AT && self.live * SPARSE_RATIO < self.ring.len() {
            self.spill();
        }
        Some(value)
    }

    /// Removes and returns the value with the smallest key, if that key is at most `limit`.
    pub fn pop_through(&mut self, limit: u64) -> Option<(u64, T)> {
        if let Some((&key, _)) = self.stragglers.first_key_value() {
            return if key <= limit { self.stragglers.pop_first() } else { None };
        }
        if self.ring.is_empty() || self.base > limit {
            return None;
        }
        let key = self.base;
        let value = self.ring.get_mut(0)?.take()?;
        self.live -= 1;
        self.trim();
        Some((key, value))
    }

    /// Removes and returns all values, in the order of their keys.
    pub fn drain(&mut self) -> Vec<(u64, T)> {
        let mut all = Vec::with_capacity(self.len());
        while let Some(entry) = self.pop_through(u64::MAX) {
            all.push(entry);
        }
        all
    }

    /// Drops empty slots at the front, so that the first one holds a value.
    #[inline(always)]
    fn trim(&mut self) {
        while let Some(None) = self.ring.get(0) {
            self.ring.drop_first();
            self.base += 1;
        }
        if self.ring.is_empty() && self.ring.capacity() > SPARSE_AT * SPARSE_RATIO * 8 {
            self.ring = Ring::default();
        }
    }

    #[cold]
    fn spill(&mut self) {
        let base = self.base;
        let mut ring = std::mem::take(&mut self.ring);
        for offset in 0..ring.len() {
            if let Some(value) = ring.get_mut(offset).and_then(Option::take) {
                self.stragglers.insert(base + offset as u64, value);
            }
        }
        self.live = 0;
    }
}

/// A ring of slots, as a `VecDeque`, whose operations are inlined: a value need not pass through
/// memory on its way into its slot.
#[derive(Debug)]
struct Ring<T> {
    /// A power of two of places, or none.
    slots: Vec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), head: 0, len: 0 }
    }
}

impl<T> Ring<T> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline(always)]
    fn place(&self, at: usize) -> usize {
        self.head.wrapping_add(at) & self.slots.len().wrapping_sub(1)
    }

    #[inline(always)]
    fn get(&self, at: usize) -> Option<&Option<T>> {
        if at < self.len { self.slots.get(self.place(at)) } else { None }
    }

    #[inline(always)]
    fn get_mut(&mut self, at: usize) -> Option<&mut Option<T>> {
        let place = self.place(at);
        if at < self.len { self.slots.get_mut(place) } else { None }
    }

    #[inline(always)]
    fn push_with(&mut self, slot: impl FnOnce() -> Option<T>) {
        if self.len == self.slots.len() {
            self.grow();
        }
        let place = self.place(self.len);
        if let Some(free) = self.slots.get_mut(place) {
            *free = slot();
            self.len += 1;
        }
    }

    /// Drops the first slot.
    #[inline(always)]
    fn drop_first(&mut self) {
        if let Some(first) = self.get_mut(0) {
            *first = None;
            self.head = self.place(1);
            self.len -= 1;
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.slots.rotate_left(self.head);
        self.head = 0;
        let places = (2 * self.slots.len()).max(4);
        self.slots.reserve_exact(places - self.slots.len());
        self.slots.resize_with(places, || None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64),
        Remove(usize),
        PopThrough(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u64..3).prop_map(Op::Insert),
            1 => (0u64..2000).prop_map(Op::Insert),
            4 => (0usize..64).prop_map(Op::Remove),
            1 => (0u64..4000).prop_map(Op::PopThrough),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(ops in proptest::collection::vec(op(), 0..600)) {
            let (mut window, mut model, mut next) = (SequenceMap::default(), BTreeMap::new(), 1u64);
            for op in ops {
                match op {
                    Op::Insert(gap) => {
                        next += gap + 1;
                        window.insert(next, next);
                        model.insert(next, next);
                    }
                    Op::Remove(nth) => {
                        let key = model.keys().nth(nth).copied().unwrap_or(next + 5);
                        prop_assert_eq!(window.get(key).copied(), model.get(&key).copied());
                        prop_assert_eq!(window.remove(key), model.remove(&key));
                        if nth % 7 == 0 && key <= next {
                            // a returned delivery that is delivered again
                            window.insert(key, key);
                            model.insert(key, key);
                        }
                    }
                    Op::PopThrough(limit) => {
                        let expected = model.first_key_value().filter(|(k, _)| **k <= limit).map(|(k, _)| *k);
                        prop_assert_eq!(window.pop_through(limit).map(|(k, _)| k), expected);
                        if let Some(key) = expected { model.remove(&key); }
                    }
                }
                prop_assert_eq!(window.len(), model.len());
            }
            prop_assert_eq!(window.drain(), model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_forgotten_key_pins_no_memory() {
        let mut window = SequenceMap::default();
        window.insert(0, ());
        for key in 1..1_000_000 {
            window.insert(key, ());
            window.remove(key);
        }
        assert_eq!(window.len(), 1);
        assert!(window.ring.capacity() < 10_000, "{}", window.ring.capacity());
    }
}
