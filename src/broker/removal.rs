//! A deleted queue or exchange with bindings that are still to be removed.

use crate::broker::bindings::{BindingSet, Bound};
use crate::broker::declared::Destination;
use crate::broker::exchange::{BindingTarget, Exchange};
use crate::queue::Queue;
use crate::routing::Routes;
use hashbrown::hash_table::IntoIter;
use leveret_wire::name::Name;
use std::sync::Arc;

/// A deleted queue or exchange whose bindings are being removed.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) name: Destination,
    pub(super) target: BindingTarget,
    pub(super) incoming: IntoIter<(u64, Arc<Bound>)>,
    pub(super) outgoing: IntoIter<(u64, Arc<Bound>)>,
    pub(super) routes: Option<Routes<BindingTarget>>,
}

impl Removal {
    pub(super) fn queue(name: Destination, queue: Arc<Queue>, incoming: BindingSet) -> Self {
        let outgoing = BindingSet::default().into_iter();
        Self { name, target: BindingTarget::Queue(queue), incoming: incoming.into_iter(), outgoing, routes: None }
    }

    pub(super) fn exchange(name: Name, exchange: Exchange, incoming: BindingSet) -> Self {
        let Exchange { routes, bindings, .. } = exchange;
        Self {
            target: BindingTarget::Exchange(name.clone()),
            name: Destination::Exchange(name),
            incoming: incoming.into_iter(),
            outgoing: bindings.into_iter(),
            routes: Some(routes),
        }
    }
}
