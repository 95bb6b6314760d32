//! The removal of the bindings of deleted queues and exchanges, a bounded number at a time, so that
//! the topology's lock is never held for long.

use crate::broker::bindings::Bound;
use crate::broker::definitions::{self, DefinitionChange};
use crate::broker::exchange::BindingTarget;
use crate::broker::removal::Removal;
use crate::broker::topology::Topology;
use crate::routing::Routes;

/// Routes of exchanges whose removal is complete. There may be many: drop them without a lock.
#[derive(Debug, Default)]
#[must_use]
pub struct Swept(Vec<Routes<BindingTarget>>);

impl Topology {
    /// Removes at most `most` bindings of deleted queues and exchanges; auto-delete exchanges that
    /// lose their last binding are deleted in turn. [`Topology::has_removals`] tells whether any
    /// are left.
    pub fn sweep(&mut self, most: usize) -> Swept {
        let mut swept = Swept::default();
        let mut left = most;
        while left > 0
            && let Some(mut removal) = self.removals.pop_front()
        {
            // Exchanges count as well: there may be long chains of them.
            left -= 1;
            while left > 0 && self.remove_one(&mut removal) {
                left -= 1;
            }
            if removal.incoming.len() > 0 || removal.outgoing.len() > 0 {
                self.removals.push_front(removal);
            } else {
                self.leaving.remove(&removal.name);
                swept.0.extend(removal.routes);
            }
        }
        swept
    }

    /// Removes one binding of `removal`; returns true if there was one.
    fn remove_one(&mut self, removal: &mut Removal) -> bool {
        if let Some((_, bound)) = removal.incoming.next() {
            // If the source is deleted, too, its routes are dropped with it.
            let source = self.exchanges.get_mut(bound.binding().source.as_octets());
            if source.is_some_and(|source| source.bindings.remove_same(&bound)) {
                self.unroute_removed(&bound, removal.target.clone());
            }
            return true;
        }
        let Some((_, bound)) = removal.outgoing.next() else { return false };
        let destination = &bound.binding().destination;
        if let Some(others) = self.bound_to.get_mut(destination) {
            others.remove_same(&bound);
            if others.is_empty() {
                self.bound_to.swap_remove(destination);
            }
        }
        self.record_change(bound.is_durable(), |vhost| DefinitionChange::Undefine {
            key: definitions::binding_key(vhost, bound.binding()),
        });
        true
    }

    /// Acts as [`Topology::unroute`]; the route was unused since its target was deleted.
    fn unroute_removed(&mut self, bound: &Bound, target: BindingTarget) {
        let changed = self.routes_changed;
        let exchanges = self.exchanges.len();
        self.unroute(bound, target);
        self.routes_changed = changed || self.exchanges.len() != exchanges;
    }
}
