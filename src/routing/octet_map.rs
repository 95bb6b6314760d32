//! A hash map with octet strings as keys that stores each key's hash: growing it reads no key, so
//! that one insertion among 100,000 stays short.

use crate::routing::multiset::is_wasteful;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

#[derive(Clone, Debug)]
pub(super) struct OctetMap<V> {
    table: HashTable<MapEntry<V>>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct MapEntry<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
}

impl<V> Default for OctetMap<V> {
    fn default() -> Self {
        OctetMap { table: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<V> OctetMap<V> {
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |slot| slot.hash == hash && *slot.key == *key).map(|slot| &slot.value)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        let hash = self.hasher.hash_one(key);
        self.table.find_mut(hash, |slot| slot.hash == hash && *slot.key == *key).map(|slot| &mut slot.value)
    }

    pub(super) fn get_or_insert_default(&mut self, key: &[u8]) -> &mut V
    where
        V: Default,
    {
        let hash = self.hasher.hash_one(key);
        let entry = self.table.entry(hash, |slot| slot.hash == hash && *slot.key == *key, |slot| slot.hash);
        &mut entry.or_insert_with(|| MapEntry { hash, key: key.into(), value: V::default() }).into_mut().value
    }

    /// Removes a key, and frees memory when few are left.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.table.find_entry(hash, |slot| slot.hash == hash && *slot.key == *key) {
            entry.remove();
            if is_wasteful(self.table.len(), self.table.capacity()) {
                self.table.shrink_to(self.table.len() * 2, |slot| slot.hash);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn memory_is_given_back() {
        let mut map = OctetMap::<u32>::default();
        let key = |n: u32| n.to_be_bytes();
        (0..1000).for_each(|n| *map.get_or_insert_default(&key(n)) = n);
        (0..1000).for_each(|n| map.remove(&key(n)));
        assert!(map.is_empty() && map.table.capacity() < 64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_tree(steps in prop::collection::vec((0u8..3, "[ab]{0,3}", any::<u8>()), 0..100)) {
            let (mut map, mut tree) = (OctetMap::<u8>::default(), BTreeMap::new());
            for (step, key, value) in steps {
                let octets = key.as_bytes();
                match step {
                    0 => {
                        *map.get_or_insert_default(octets) = value;
                        tree.insert(key.clone(), value);
                    }
                    1 => {
                        map.remove(octets);
                        tree.remove(&key);
                    }
                    _ => prop_assert_eq!(map.get_mut(octets), tree.get_mut(&key)),
                }
                prop_assert_eq!(map.get(octets), tree.get(&key));
                prop_assert_eq!(map.is_empty(), tree.is_empty());
            }
        }
    }
}
