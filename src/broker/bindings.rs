//! The set of a virtual host's bindings. Growing it reads no binding, so that one more among
//! 100,000 costs as much as the first.

use crate::broker::declared::Binding;
use crate::memory::Charge;
use hashbrown::HashTable;
use hashbrown::hash_table::IntoIter;
use leveret_journal::index::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A binding in the topology.
#[derive(Debug)]
pub struct Bound {
    binding: Binding,
    hash: u64,
    durable: bool,
    defined: AtomicU64,
    _charge: Charge,
}

impl Bound {
    /// Creates a binding; `charge` is for its definition.
    pub(super) fn new(binding: Binding, hash: u64, durable: bool, charge: Charge) -> Self {
        Self { binding, hash, durable, defined: AtomicU64::new(0), _charge: charge }
    }

    /// Returns the binding.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    /// Returns the index that has to be durable before bind-ok is sent; `None` for a transient
    /// binding.
    pub(super) fn defined(&self) -> Option<Index> {
        self.durable.then(|| Index::from_number(self.defined.load(Ordering::Acquire)))
    }

    pub(super) fn set_defined(&self, index: Index) {
        self.defined.store(index.number(), Ordering::Release);
    }
}

/// Bindings by source, destination, key and arguments, each with its hash.
#[derive(Debug, Default)]
pub(super) struct BindingSet {
    table: HashTable<(u64, Arc<Bound>)>,
}

impl BindingSet {
    pub(super) fn find(&self, hash: u64, binding: &Binding) -> Option<&Arc<Bound>> {
        self.table.find(hash, |(other, bound)| *other == hash && bound.binding == *binding).map(|(_, bound)| bound)
    }

    /// Adds a binding that is not in the set.
    pub(super) fn insert(&mut self, bound: Arc<Bound>) {
        self.table.insert_unique(bound.hash, (bound.hash, bound), |(hash, _)| *hash);
    }

    /// Removes a binding, and frees memory when few are left.
    pub(super) fn remove(&mut self, hash: u64, binding: &Binding) -> Option<Arc<Bound>> {
        let is_same = |(other, bound): &(u64, Arc<Bound>)| *other == hash && bound.binding == *binding;
        let (_, bound) = self.table.find_entry(hash, is_same).ok()?.remove().0;
        self.shrink();
        Some(bound)
    }

    /// Removes this very binding; an equal one that was added later stays.
    pub(super) fn remove_same(&mut self, bound: &Arc<Bound>) -> bool {
        let found = self.table.find_entry(bound.hash, |(_, other)| Arc::ptr_eq(other, bound));
        let was_there = found.map(|entry| entry.remove()).is_ok();
        self.shrink();
        was_there
    }

    fn shrink(&mut self) {
        if self.table.capacity() > 64 && self.table.len() < self.table.capacity() / 4 {
            self.table.shrink_to(self.table.len() * 2, |(hash, _)| *hash);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Bound>> {
        self.table.iter().map(|(_, bound)| bound)
    }

    pub(super) fn into_iter(self) -> IntoIter<(u64, Arc<Bound>)> {
        self.table.into_iter()
    }
}
