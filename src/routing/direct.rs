//! Direct routing: the routing key equals the binding key, octet by octet. Knows no headers.

use crate::routing::bag::{self, Bag};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// Bindings of a direct exchange: one hash lookup a message.
#[derive(Clone, Debug)]
pub struct Direct<T> {
    by_key: HashMap<Box<[u8]>, Bag<T>, RandomState>,
    len: usize,
}

impl<T: PartialEq> Direct<T> {
    /// No bindings yet.
    pub fn new() -> Self {
        Direct { by_key: HashMap::default(), len: 0 }
    }

    /// Adds one binding.
    pub fn bind(&mut self, key: &[u8], target: T) {
        self.by_key.entry_ref(key).or_default().add(target);
        self.len += 1;
    }

    /// Takes back one binding, if there is one.
    pub fn unbind(&mut self, key: &[u8], target: &T) {
        let Some(bag) = self.by_key.get_mut(key) else {
            return;
        };
        if !bag.remove(target) {
            return;
        }
        self.len -= 1;
        if bag.is_empty() {
            self.by_key.remove(key);
            if bag::wasteful(self.by_key.len(), self.by_key.capacity()) {
                self.by_key.shrink_to(self.by_key.len() * 2);
            }
        }
    }

    /// Calls `each` for each target bound with `key`.
    pub fn route(&self, key: &[u8], each: &mut dyn FnMut(&T)) {
        if let Some(bag) = self.by_key.get(key) {
            bag.each(each);
        }
    }

    /// How many bindings there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bindings.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: PartialEq> Default for Direct<T> {
    fn default() -> Self {
        Direct::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_by_octets_alone() {
        let mut direct = Direct::new();
        direct.bind(b"", 1);
        direct.bind(b"a.*", 2);
        direct.bind(b"\xff\x00", 3);
        for (key, expected) in [(&b""[..], vec![1]), (b"a.*", vec![2]), (b"a.b", vec![]), (b"\xff\x00", vec![3])] {
            let mut found = Vec::new();
            direct.route(key, &mut |target| found.push(*target));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_map_gives_its_memory_back() {
        let mut direct = Direct::new();
        let key = |n: u32| n.to_be_bytes();
        (0..1000).for_each(|n| direct.bind(&key(n), n));
        (0..1000).for_each(|n| direct.unbind(&key(n), &n));
        assert!(direct.is_empty() && direct.by_key.is_empty());
        assert!(direct.by_key.capacity() < 64);
    }
}
