//! Fanout routing: every binding matches. Knows no keys and no headers.

use crate::routing::bag::Bag;

/// Bindings of a fanout exchange.
#[derive(Clone, Debug)]
pub struct Fanout<T> {
    targets: Bag<T>,
}

impl<T: PartialEq> Fanout<T> {
    /// No bindings yet.
    pub fn new() -> Self {
        Fanout { targets: Bag::default() }
    }

    /// Adds one binding.
    pub fn bind(&mut self, target: T) {
        self.targets.add(target);
    }

    /// Takes back one binding, if there is one.
    pub fn unbind(&mut self, target: &T) {
        self.targets.remove(target);
    }

    /// Calls `each` for each target.
    pub fn route(&self, each: &mut dyn FnMut(&T)) {
        self.targets.each(each);
    }

    /// How many bindings there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }
}

impl<T: PartialEq> Default for Fanout<T> {
    fn default() -> Self {
        Fanout::new()
    }
}
