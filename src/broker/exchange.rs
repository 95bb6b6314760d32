//! An exchange with its bindings and routes. Names no other exchange.

use crate::broker::bindings::BindingSet;
use crate::broker::declared::DeclaredExchange;
use crate::memory::Charge;
use crate::metrics::ExchangeCounts;
use crate::queue::Queue;
use crate::routing::Routes;
use leveret_journal::index::Index;
use leveret_wire::name::Name;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// An exchange and the bindings that start from it.
#[derive(Debug)]
pub struct Exchange {
    pub(super) declared: DeclaredExchange,
    pub(super) routes: Routes<BindingTarget>,
    pub(super) bindings: BindingSet,
    pub(super) defined: Index,
    counts: Arc<ExchangeCounts>,
    _charge: Charge,
}

impl Exchange {
    /// Creates an exchange; `charge` is for its definition.
    pub(super) fn new(declared: DeclaredExchange, charge: Charge) -> Self {
        let (routes, defined) = (Routes::new(declared.kind), Index::from_number(0));
        Self { declared, routes, bindings: BindingSet::default(), defined, counts: Arc::default(), _charge: charge }
    }

    /// Returns the properties as declared.
    pub fn declared(&self) -> &DeclaredExchange {
        &self.declared
    }

    /// Returns the messages that went through it.
    pub fn counts(&self) -> &Arc<ExchangeCounts> {
        &self.counts
    }

    /// Returns the number of bindings of which it is the source.
    pub fn binding_count(&self) -> usize {
        self.bindings.len()
    }

    /// Returns true if it is the source of a binding.
    pub fn is_used(&self) -> bool {
        !self.bindings.is_empty()
    }

    /// Returns the index that has to be durable before declare-ok is sent; `None` for a transient
    /// exchange.
    pub fn defined(&self) -> Option<Index> {
        self.declared.durable.then_some(self.defined)
    }
}

/// The queue or exchange at the end of a binding.
#[derive(Clone, Debug)]
pub(super) enum BindingTarget {
    Queue(Arc<Queue>),
    Exchange(Name),
}

impl PartialEq for BindingTarget {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Queue(one), Self::Queue(other)) => Arc::ptr_eq(one, other),
            (Self::Exchange(one), Self::Exchange(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for BindingTarget {}

impl Hash for BindingTarget {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Queue(queue) => queue.number().hash(state),
            Self::Exchange(name) => name.hash(state),
        }
    }
}
