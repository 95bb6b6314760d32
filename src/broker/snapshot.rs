//! An immutable value that is read often and replaced as a whole: readers keep the value they
//! loaded.

use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An immutable value behind a pointer that can be exchanged.
#[derive(Debug, Default)]
pub struct Snapshot<T> {
    current: RwLock<Arc<T>>,
    generation: AtomicU64,
}

impl<T> Snapshot<T> {
    /// Creates a snapshot of `value`, generation 0.
    pub fn new(value: T) -> Self {
        Self { current: RwLock::new(Arc::new(value)), generation: AtomicU64::new(0) }
    }

    /// Returns the current value.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Returns the number of replacements so far. Data derived from the value is valid while the
    /// number stays the same: read the generation first, then the value.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the value by the result of `change`; concurrent calls are applied one after the
    /// other.
    pub fn update(&self, change: impl FnOnce(&T) -> T) {
        let mut current = self.current.write();
        let changed = Arc::new(change(&current));
        let replaced = std::mem::replace(&mut *current, changed);
        // Before the lock is released: a reader of the new generation finds the new value.
        self.generation.fetch_add(1, Ordering::Release);
        drop(current);
        drop(replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_the_next_load_and_not_by_the_last() {
        let snapshot = Snapshot::new(vec![1]);
        let (before, generation) = (snapshot.load(), snapshot.generation());
        snapshot.update(|value| [value.as_slice(), &[2]].concat());
        assert_eq!((&*before, &*snapshot.load()), (&vec![1], &vec![1, 2]));
        assert_ne!(snapshot.generation(), generation);
    }

    #[test]
    fn changes_at_the_same_time_are_all_made() {
        let snapshot = Snapshot::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| snapshot.update(|value| value + 1)));
            }
        });
        assert_eq!((*snapshot.load(), snapshot.generation()), (2000, 2000));
    }
}
