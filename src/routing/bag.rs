//! Bag: a small multiset of targets that gives memory back. Knows nothing of keys.

/// Targets bound under one key; one may be there several times.
#[derive(Clone, Debug)]
pub(super) struct Bag<T>(Vec<T>);

impl<T> Default for Bag<T> {
    fn default() -> Self {
        Bag(Vec::new())
    }
}

impl<T: PartialEq> Bag<T> {
    pub(super) fn add(&mut self, target: T) {
        self.0.push(target);
    }

    /// Takes out one occurrence; whether there was one.
    pub(super) fn remove(&mut self, target: &T) -> bool {
        let Some(at) = self.0.iter().position(|held| held == target) else {
            return false;
        };
        self.0.remove(at);
        shrink(&mut self.0);
        true
    }

    pub(super) fn each(&self, each: &mut dyn FnMut(&T)) {
        self.0.iter().for_each(each);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Gives back what a vector holds in vain, seldom enough that a removal stays cheap on average.
pub(super) fn shrink<T>(held: &mut Vec<T>) {
    if wasteful(held.len(), held.capacity()) {
        held.shrink_to(held.len() * 2);
    }
}

/// Whether less than a quarter of the room is used.
pub(super) fn wasteful(len: usize, capacity: usize) -> bool {
    capacity > 8 && len < capacity / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bag_gives_its_memory_back() {
        let mut bag = Bag::default();
        (0..1000).for_each(|target| bag.add(target));
        assert!((1..1000).all(|target| bag.remove(&target)));
        assert!(!bag.remove(&1));
        assert_eq!(bag.len(), 1);
        assert!(bag.0.capacity() <= 8);
    }
}
