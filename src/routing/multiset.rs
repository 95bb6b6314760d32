//! A multiset of targets: counts of equal ones, added and removed in constant time.

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;
use std::hash::Hash;

/// Most distinct targets that are searched one by one instead of in a hash table.
const FEW: usize = 16;

/// The targets bound under one key, each with its count.
#[derive(Clone, Debug)]
pub(super) enum Multiset<T> {
    Few(Vec<(T, u32)>),
    Many(Box<IndexMap<T, u32, RandomState>>),
}

impl<T> Default for Multiset<T> {
    fn default() -> Self {
        Multiset::Few(Vec::new())
    }
}

impl<T: Eq + Hash> Multiset<T> {
    pub(super) fn add(&mut self, target: T) {
        match self {
            Multiset::Few(entries) => {
                if let Some((_, count)) = entries.iter_mut().find(|(held, _)| *held == target) {
                    *count += 1;
                } else if entries.len() < FEW {
                    entries.push((target, 1));
                } else {
                    let mut map: IndexMap<_, _, RandomState> = entries.drain(..).collect();
                    map.insert(target, 1);
                    *self = Multiset::Many(Box::new(map));
                }
            }
            Multiset::Many(map) => *map.entry(target).or_default() += 1,
        }
    }

    /// Removes one occurrence; returns true if there was one.
    pub(super) fn remove(&mut self, target: T) -> bool {
        match self {
            Multiset::Few(entries) => {
                let Some(at) = entries.iter().position(|(held, _)| *held == target) else { return false };
                let is_last = entries.get_mut(at).is_some_and(|(_, count)| take_one(count));
                if is_last {
                    entries.swap_remove(at);
                    if is_wasteful(entries.len(), entries.capacity()) {
                        entries.shrink_to(entries.len() * 2);
                    }
                }
            }
            Multiset::Many(map) => {
                let Entry::Occupied(mut entry) = map.entry(target) else { return false };
                if take_one(entry.get_mut()) {
                    entry.swap_remove();
                    if map.len() <= FEW / 2 {
                        *self = Multiset::Few(map.drain(..).collect());
                    } else {
                        shrink(map);
                    }
                }
            }
        }
        true
    }

    /// Calls `each` once for each distinct target.
    pub(super) fn each(&self, each: &mut dyn FnMut(&T)) {
        match self {
            Multiset::Few(entries) => entries.iter().for_each(|(target, _)| each(target)),
            Multiset::Many(map) => map.keys().for_each(each),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Multiset::Few(entries) => entries.is_empty(),
            Multiset::Many(map) => map.is_empty(),
        }
    }
}

/// Decrements a count; returns true if it is 0 now.
fn take_one(count: &mut u32) -> bool {
    *count -= 1;
    *count == 0
}

/// Frees unused capacity of a map, seldom enough that removing stays constant on average.
pub(super) fn shrink<K, V, S>(map: &mut IndexMap<K, V, S>) {
    if is_wasteful(map.len(), map.capacity()) {
        map.shrink_to(map.len() * 2);
    }
}

/// Returns true if less than a quarter of the capacity is used.
pub(super) fn is_wasteful(len: usize, capacity: usize) -> bool {
    capacity > 8 && len < capacity / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capacity(set: &Multiset<u32>) -> usize {
        match set {
            Multiset::Few(entries) => entries.capacity(),
            Multiset::Many(map) => map.capacity(),
        }
    }

    #[test]
    fn memory_is_given_back() {
        let mut set = Multiset::default();
        (0..1000).for_each(|target| set.add(target));
        assert!((1..1000).all(|target| set.remove(target)));
        assert!(!set.remove(1) && !set.is_empty());
        assert!(capacity(&set) <= FEW);
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((any::<bool>(), 0u32..40), 0..300)) {
            let (mut set, mut list) = (Multiset::default(), Vec::new());
            for (adds, target) in steps {
                if adds {
                    set.add(target);
                    list.push(target);
                } else {
                    let at = list.iter().position(|held| *held == target);
                    prop_assert_eq!(set.remove(target), at.is_some());
                    at.map(|at| list.swap_remove(at));
                }
                let mut found = Vec::new();
                set.each(&mut |target| found.push(*target));
                found.sort_unstable();
                let mut expected = list.clone();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(set.is_empty(), list.is_empty());
            }
        }
    }
}
