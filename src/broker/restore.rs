//! From what a journal has kept to exchanges, queues and bindings. It knows no file.

use crate::broker::declared::{Binding, DeclaredExchange};
use crate::broker::definitions::{self, Defined};
use crate::broker::headers;
use crate::broker::vhost::Vhost;
use crate::queue::shared::Shared;
use crate::queue::{Declared, Queue};
use crate::routing::Kind;
use crate::store::record::Operation;
use crate::store::recovery::{QueueState, Recovered};
use crate::wire::name::Name;
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;

/// All durable definitions.
#[derive(Debug, Default)]
pub struct Definitions {
    exchanges: Vec<(Name, Name, DeclaredExchange)>,
    queues: Vec<(Name, Declared, u64)>,
    bindings: Vec<(Name, Binding)>,
    /// The largest number of any queue that the journal has ever named.
    pub last_number: u64,
}

impl Definitions {
    /// Reads them.
    ///
    /// # Errors
    /// If one is not understood; the text says which.
    pub fn read(recovered: &Recovered) -> Result<Self, String> {
        let mut read = Self::default();
        for definition in &recovered.definitions {
            let (vhost, defined) = definitions::read(&definition.key, &definition.value)?;
            match defined {
                Defined::Exchange(name, declared) => read.exchanges.push((vhost, name, declared)),
                Defined::Queue(declared, number) => {
                    read.last_number = read.last_number.max(number);
                    read.queues.push((vhost, declared, number));
                }
                Defined::Binding(binding) => read.bindings.push((vhost, binding)),
            }
        }
        let numbers = recovered.queues.iter().map(|state| state.queue);
        read.last_number = numbers.fold(read.last_number, u64::max);
        Ok(read)
    }

    /// The virtual hosts that have any.
    pub fn vhosts(&self) -> HashSet<&Name> {
        let exchanges = self.exchanges.iter().map(|(vhost, ..)| vhost);
        let queues = self.queues.iter().map(|(vhost, ..)| vhost);
        exchanges.chain(queues).chain(self.bindings.iter().map(|(vhost, _)| vhost)).collect()
    }

    /// Puts everything back in its place. What the journal has of queues that nobody can reach any more goes.
    pub fn restore(self, vhosts: &HashMap<Name, Arc<Vhost>>, shared: &Arc<Shared>, recovered: &Recovered) {
        for (vhost, name, declared) in self.exchanges {
            if let Some(vhost) = vhosts.get(&vhost) {
                vhost.change().add_exchange(name, declared);
            }
        }
        let mut states: HashMap<u64, &QueueState> = recovered.queues.iter().map(|state| (state.queue, state)).collect();
        for (vhost, declared, number) in self.queues {
            let none = QueueState { queue: number, runs: Vec::new(), messages: 0, next_seq: 0, handed_out: 0 };
            let queue = Queue::recovered(declared, states.remove(&number).unwrap_or(&none), Arc::clone(shared));
            if let Some(vhost) = vhosts.get(&vhost) {
                vhost.change().add_queue(Arc::new(queue));
            }
        }
        for (vhost, binding) in self.bindings {
            if let Some(vhost) = vhosts.get(&vhost) {
                bind(vhost, binding, shared);
            }
        }
        if !states.is_empty() {
            tracing::debug!(queues = states.len(), "queues without a definition go from the journal");
        }
        for queue in states.into_keys() {
            append(shared, &Operation::QueueGone { queue });
        }
    }
}

fn bind(vhost: &Vhost, binding: Binding, shared: &Shared) {
    let mut names = vhost.change();
    let kind = names.exchange(binding.source.as_octets()).map(|exchange| exchange.declared().kind);
    if kind.is_none() || !names.leads_somewhere(&binding.destination) {
        let (source, destination) = (&binding.source, &binding.destination);
        tracing::warn!(vhost = %vhost.name(), %source, ?destination, "a binding without an end is dropped");
        append(shared, &Operation::Undefine { key: &definitions::binding_key(vhost.name(), &binding) });
        return;
    }
    let criteria = match kind {
        Some(Kind::Headers) => headers::criteria(binding.arguments.as_table()).ok(),
        _ => None,
    };
    names.bind(binding, criteria.as_ref());
}

fn append(shared: &Shared, operation: &Operation<'_>) {
    if let Some(journal) = shared.journal()
        && let Err(refused) = journal.append(operation)
    {
        tracing::error!(?refused, "the journal takes nothing");
    }
}
