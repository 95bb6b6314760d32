//! Direct routing: the routing key equals the binding key, octet by octet.

use crate::routing::multiset::Multiset;
use crate::routing::octet_map::OctetMap;
use std::hash::Hash;

/// The bindings of a direct exchange: one hash lookup a message.
#[derive(Clone, Debug)]
pub struct Direct<T> {
    by_key: OctetMap<Multiset<T>>,
    len: usize,
}

impl<T: Eq + Hash> Direct<T> {
    /// Creates a set without bindings.
    pub fn new() -> Self {
        Direct { by_key: OctetMap::default(), len: 0 }
    }

    /// Adds a binding.
    pub fn bind(&mut self, key: &[u8], target: T) {
        self.by_key.get_or_insert_default(key).add(target);
        self.len += 1;
    }

    /// Removes a binding, if it exists.
    pub fn unbind(&mut self, key: &[u8], target: T) {
        let Some(targets) = self.by_key.get_mut(key) else {
            return;
        };
        if !targets.remove(target) {
            return;
        }
        self.len -= 1;
        if targets.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// Calls `each` for each target bound with `key`.
    pub fn route(&self, key: &[u8], each: &mut dyn FnMut(&T)) {
        if let Some(targets) = self.by_key.get(key) {
            targets.each(each);
        }
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

impl<T: Eq + Hash> Default for Direct<T> {
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
}
