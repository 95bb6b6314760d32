//! From the definitions in a journal to exchanges, queues and bindings, at start.

use crate::broker::declared::{Binding, DeclaredExchange};
use crate::broker::definitions::{self, Declaration, DefinitionChange, DefinitionError};
use crate::broker::vhost::Vhost;
use crate::queue::Queue;
use crate::queue::context::QueueContext;
use crate::queue::declared::Declared;
use hashbrown::{HashMap, HashSet};
use leveret_journal::record::Operation;
use leveret_journal::recovery::{QueueState, Recovered};
use leveret_wire::name::Name;
use std::sync::Arc;

/// The durable definitions of all virtual hosts.
#[derive(Debug, Default)]
pub struct Definitions {
    exchanges: Vec<(Name, Name, DeclaredExchange)>,
    queues: Vec<(Name, Declared, u64)>,
    bindings: Vec<(Name, Binding)>,
    /// Keys of bindings whose arguments an earlier version stored in another form, with their
    /// replacements.
    rewritten: Vec<(Vec<u8>, DefinitionChange)>,
    /// The largest queue number in the journal, also of deleted queues.
    pub last_number: u64,
}

impl Definitions {
    /// Parses the recovered definitions.
    ///
    /// # Errors
    /// A definition is of a later version or kind, or malformed.
    pub fn read(recovered: &Recovered) -> Result<Self, DefinitionError> {
        let mut read = Self::default();
        for definition in &recovered.definitions {
            let (vhost, defined) = definitions::read(&definition.key, &definition.value)?;
            match defined {
                Declaration::Exchange(name, declared) => read.exchanges.push((vhost, name, declared)),
                Declaration::Queue(declared, number) => {
                    read.last_number = read.last_number.max(number);
                    read.queues.push((vhost, declared, number));
                }
                Declaration::Binding(binding) => {
                    if definitions::binding_key(&vhost, &binding) != *definition.key {
                        let now = definitions::binding(&vhost, &binding);
                        read.rewritten.push((definition.key.to_vec(), now));
                    }
                    read.bindings.push((vhost, binding));
                }
            }
        }
        let numbers = recovered.queues.iter().map(|state| state.queue);
        read.last_number = numbers.fold(read.last_number, u64::max);
        Ok(read)
    }

    /// Returns the virtual hosts that have definitions.
    pub fn vhosts(&self) -> HashSet<&Name> {
        let exchanges = self.exchanges.iter().map(|(vhost, ..)| vhost);
        let queues = self.queues.iter().map(|(vhost, ..)| vhost);
        exchanges.chain(queues).chain(self.bindings.iter().map(|(vhost, _)| vhost)).collect()
    }

    /// Adds exchanges, queues and bindings to their virtual hosts. Messages of queues without a
    /// definition are removed from the journal.
    pub fn restore(self, vhosts: &HashMap<Name, Arc<Vhost>>, context: &Arc<QueueContext>, recovered: &Recovered) {
        for (vhost, name, declared) in self.exchanges {
            if let Some(vhost) = vhosts.get(&vhost) {
                vhost.update(|names| names.add_exchange(name, declared));
            }
        }
        for (key, now) in self.rewritten {
            append(context, &Operation::Undefine { key: &key });
            if let DefinitionChange::Define { key, value } = now {
                append(context, &Operation::Define { key: &key, value: &value });
            }
        }
        let mut states: HashMap<u64, &QueueState> = recovered.queues.iter().map(|state| (state.queue, state)).collect();
        for (vhost, declared, number) in self.queues {
            let none = QueueState { queue: number, runs: Vec::new(), messages: 0, next_seq: 0, delivered_upto: 0 };
            let queue = Queue::recovered(declared, states.remove(&number).unwrap_or(&none), Arc::clone(context));
            if let Some(vhost) = vhosts.get(&vhost) {
                vhost.update(|names| names.add_queue(Arc::new(queue)));
            }
        }
        let mut dropped = 0;
        for (vhost, binding) in self.bindings {
            if let Some(vhost) = vhosts.get(&vhost)
                && !bind(vhost, binding, context)
            {
                dropped += 1;
            }
        }
        if dropped > 0 {
            // The broker ended during their removal.
            tracing::info!(bindings = dropped, "dropped bindings of deleted queues and exchanges");
        }
        if !states.is_empty() {
            tracing::debug!(queues = states.len(), "removing messages of deleted queues from the journal");
        }
        for queue in states.into_keys() {
            append(context, &Operation::QueueGone { queue });
        }
    }
}

/// Adds a binding; returns false if one of its ends is missing, and removes its definition from the
/// journal.
fn bind(vhost: &Vhost, binding: Binding, context: &QueueContext) -> bool {
    let key = definitions::binding_key(vhost.name(), &binding);
    let (bound, _) = vhost.update(|names| names.bind(binding));
    let is_bound = matches!(bound, Ok(Some(_)));
    if !is_bound {
        append(context, &Operation::Undefine { key: &key });
    }
    is_bound
}

fn append(context: &QueueContext, operation: &Operation<'_>) {
    if let Some(journal) = context.journal()
        && let Err(refused) = journal.append(operation)
    {
        tracing::error!(reason = %refused, "cannot append to the journal");
    }
}
