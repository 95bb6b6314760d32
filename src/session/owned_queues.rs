//! The exclusive queues of one connection, which are deleted when it ends. Names no channel.

use crate::limits;
use crate::queue::Queue;
use crate::session::turn::Turn;
use hashbrown::HashSet;
use hashbrown::hash_set::IntoIter;
use leveret_wire::name::Name;
use std::sync::Arc;

/// Names of the exclusive queues that a connection has declared and nobody has deleted.
#[derive(Debug, Default)]
pub(super) struct OwnedQueues {
    names: HashSet<Name>,
    /// At the end of the connection: those that are still to be deleted.
    leaving: Option<IntoIter<Name>>,
}

impl OwnedQueues {
    /// Adds a queue that was declared.
    pub(super) fn insert(&mut self, name: Name) {
        self.names.insert(name);
    }

    /// Removes a queue that was deleted.
    pub(super) fn remove(&mut self, name: &Name) {
        self.names.remove(name);
    }

    /// Returns true if there are no queues.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.leaving.as_ref().is_none_or(|leaving| leaving.len() == 0)
    }

    /// Deletes an auto-delete queue that has lost its last consumer.
    pub(super) fn delete_unused(&mut self, queue: &Arc<Queue>, turn: &Turn<'_>) {
        turn.vhost.delete_if_unused(queue);
        if queue.is_deleted() {
            self.names.remove(queue.name());
        }
    }

    /// Deletes queues at the end of the connection, until the step is spent. Returns whether none
    /// is left.
    pub(super) fn delete_some(&mut self, turn: &mut Turn<'_>) -> bool {
        let leaving = self.leaving.get_or_insert_with(|| std::mem::take(&mut self.names).into_iter());
        while leaving.len() > 0 && !turn.is_spent() {
            let run: Vec<Name> = leaving.take(limits::DELETES_PER_HOLD).collect();
            turn.spend(run.len() * limits::DEFINITION_WORK);
            turn.vhost.delete_owned(turn.connection, run);
        }
        leaving.len() == 0
    }
}
