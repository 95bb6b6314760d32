//! Fanout routing: every binding matches.

use crate::routing::multiset::Multiset;
use std::hash::Hash;

/// The bindings of a fanout exchange.
#[derive(Clone, Debug)]
pub struct Fanout<T> {
    targets: Multiset<T>,
    len: usize,
}

impl<T: Eq + Hash> Fanout<T> {
    /// Creates a set without bindings.
    pub fn new() -> Self {
        Fanout { targets: Multiset::default(), len: 0 }
    }

    /// Adds a binding.
    pub fn bind(&mut self, target: T) {
        self.targets.add(target);
        self.len += 1;
    }

    /// Removes a binding, if it exists.
    pub fn unbind(&mut self, target: T) {
        if self.targets.remove(target) {
            self.len -= 1;
        }
    }

    /// Calls `each` for each target.
    pub fn route(&self, each: &mut dyn FnMut(&T)) {
        self.targets.each(each);
    }

    /// Returns the number of bindings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Eq + Hash> Default for Fanout<T> {
    fn default() -> Self {
        Fanout::new()
    }
}
