//! The exchanges, queues and bindings of one virtual host, and the routing over them. Data and its consistency: no lock,
//! no permission, no rule about who may declare what.

use crate::queue::Queue;
use crate::routing::headers::{Criteria, Headers};
use crate::routing::{Kind, Routes};
use crate::wire::name::Name;
use crate::wire::table::OwnedTable;
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;

/// What an exchange was declared as.
#[derive(Clone, Debug)]
pub struct DeclaredExchange {
    /// Its type.
    pub kind: Kind,
    /// Survives a restart.
    pub durable: bool,
    /// Vanishes with the last binding of which it is the source.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// All arguments, octet for octet.
    pub arguments: OwnedTable,
    /// `alternate-exchange`.
    pub alternate: Option<Name>,
}

/// An exchange and what is bound to it.
#[derive(Debug)]
pub struct Exchange {
    declared: DeclaredExchange,
    routes: Routes<Target>,
    bindings: HashSet<Arc<Binding>>,
}

impl Exchange {
    /// What it was declared as.
    pub fn declared(&self) -> &DeclaredExchange {
        &self.declared
    }

    /// Whether it is the source of any binding.
    pub fn is_used(&self) -> bool {
        !self.bindings.is_empty()
    }
}

/// What a binding leads to, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A queue.
    Queue(Name),
    /// Another exchange.
    Exchange(Name),
}

/// One binding. Two bindings are the same when all four parts are; arguments compare without regard to their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The exchange it starts from.
    pub source: Name,
    /// What it leads to.
    pub destination: Destination,
    /// The binding key.
    pub key: Name,
    /// Its arguments.
    pub arguments: OwnedTable,
}

/// What an exchange's routes lead to.
#[derive(Clone, Debug)]
enum Target {
    Queue(Arc<Queue>),
    Exchange(Name),
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Queue(one), Self::Queue(other)) => Arc::ptr_eq(one, other),
            (Self::Exchange(one), Self::Exchange(other)) => one == other,
            _ => false,
        }
    }
}

/// The names of a virtual host.
#[derive(Debug, Default)]
pub struct Topology {
    exchanges: HashMap<Name, Exchange>,
    queues: HashMap<Name, Arc<Queue>>,
    bound_to: HashMap<Destination, HashSet<Arc<Binding>>>,
}

/// Where a message goes.
#[derive(Debug, Default)]
pub struct Routed {
    /// The queues, each once.
    pub queues: Vec<Arc<Queue>>,
    /// Other headers with the same key could have led elsewhere.
    pub by_headers: bool,
    /// Where `queues` lie, once there are [`MANY`].
    seen: HashSet<usize>,
}

/// From so many queues on, those that are there already are found by hash.
const MANY: usize = 16;

impl Topology {
    /// The exchange of that name; the default exchange (the empty name) is not among them.
    pub fn exchange(&self, name: &[u8]) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    /// The queue of that name.
    pub fn queue(&self, name: &[u8]) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// Adds an exchange. The name must be free.
    pub fn add_exchange(&mut self, name: Name, declared: DeclaredExchange) {
        let routes = Routes::new(declared.kind);
        self.exchanges.insert(name, Exchange { declared, routes, bindings: HashSet::new() });
    }

    /// Adds a queue. The name must be free.
    pub fn add_queue(&mut self, queue: Arc<Queue>) {
        self.queues.insert(queue.name().clone(), queue);
    }

    /// Takes a queue out, with its bindings and the auto-delete exchanges that thereby lose their last one.
    pub fn remove_queue(&mut self, name: &Name) -> Option<Arc<Queue>> {
        let queue = self.queues.get(name).cloned()?;
        let deserted = self.unbind_all(&Destination::Queue(name.clone()));
        self.queues.remove(name);
        self.remove_exchanges(deserted);
        Some(queue)
    }

    /// Takes an exchange out, with all bindings from and to it. False: there is none.
    pub fn remove_exchange(&mut self, name: &Name) -> bool {
        let exists = self.exchanges.contains_key(name);
        self.remove_exchanges(vec![name.clone()]);
        exists
    }

    /// Takes exchanges out, and the auto-delete ones that thereby lose their last binding. A loop: clients decide how
    /// long a chain of them is, the stack must not.
    fn remove_exchanges(&mut self, mut doomed: Vec<Name>) {
        while let Some(name) = doomed.pop() {
            let Some(exchange) = self.exchanges.remove(&name) else { continue };
            for binding in exchange.bindings {
                self.forget_destination(&binding);
            }
            doomed.extend(self.unbind_all(&Destination::Exchange(name)));
        }
    }

    /// Adds a binding between things that exist. Adding it again changes nothing.
    pub fn bind(&mut self, binding: Binding, criteria: Option<&Criteria>) {
        let Some(target) = self.target(&binding.destination) else { return };
        let binding = Arc::new(binding);
        let Some(source) = self.exchanges.get_mut(binding.source.as_octets()) else { return };
        if source.bindings.insert(Arc::clone(&binding)) {
            source.routes.bind(binding.key.as_octets(), criteria, target);
            self.bound_to.entry(binding.destination.clone()).or_default().insert(binding);
        }
    }

    /// Takes a binding away; an auto-delete exchange that loses its last one goes too. One that does not exist is ignored.
    pub fn unbind(&mut self, binding: &Binding) {
        let deserted = self.unbind_one(binding);
        self.remove_exchanges(deserted.into_iter().collect());
    }

    /// Takes a binding away; returns its source if that is an auto-delete exchange that has lost its last one.
    fn unbind_one(&mut self, binding: &Binding) -> Option<Name> {
        let target = self.target(&binding.destination)?;
        let source = self.exchanges.get_mut(binding.source.as_octets())?;
        let binding = source.bindings.take(binding)?;
        let criteria = criteria_of(source.declared.kind, &binding.arguments);
        source.routes.unbind(binding.key.as_octets(), criteria.as_ref(), &target);
        let deserted = source.declared.auto_delete && source.bindings.is_empty();
        self.forget_destination(&binding);
        deserted.then(|| binding.source.clone())
    }

    /// The queues that a message with these keys and headers goes to. An exchange that does not exist leads nowhere.
    pub fn route(&self, exchange: &[u8], keys: &[&[u8]], headers: &dyn Headers, routed: &mut Routed) {
        if exchange.is_empty() {
            for queue in keys.iter().filter_map(|key| self.queues.get(*key)) {
                add(routed, queue);
            }
            return;
        }
        let Some(first) = self.exchanges.get(exchange) else { return };
        if let Some(onwards) = self.route_one(first, keys, headers, routed) {
            self.route_on(exchange, onwards, keys, headers, routed);
        }
    }

    /// Follows exchange-to-exchange bindings and alternates; each exchange is visited once, so cycles end.
    fn route_on(
        &self,
        from: &[u8],
        mut waiting: Vec<Name>,
        keys: &[&[u8]],
        headers: &dyn Headers,
        routed: &mut Routed,
    ) {
        let mut visited: HashSet<Name> = Name::new(from).into_iter().collect();
        while let Some(name) = waiting.pop() {
            // The default exchange, too, is an alternate that leads nowhere: in RabbitMQ it has no bindings.
            if let Some(exchange) = self.exchanges.get(name.as_octets())
                && visited.insert(name)
            {
                waiting.extend(self.route_one(exchange, keys, headers, routed).unwrap_or_default());
            }
        }
    }

    /// Adds the queues that one exchange leads to; returns the exchanges, if any, where the message goes on.
    fn route_one(
        &self,
        exchange: &Exchange,
        keys: &[&[u8]],
        headers: &dyn Headers,
        routed: &mut Routed,
    ) -> Option<Vec<Name>> {
        routed.by_headers |= exchange.routes.depends_on_headers();
        let mut found = false;
        let mut onwards: Option<Vec<Name>> = None;
        for key in keys {
            exchange.routes.route(key, headers, &mut |target| {
                found = true;
                match target {
                    Target::Queue(queue) => add(routed, queue),
                    Target::Exchange(name) => onwards.get_or_insert_default().push(name.clone()),
                }
            });
        }
        if !found && let Some(alternate) = &exchange.declared.alternate {
            return Some(vec![alternate.clone()]);
        }
        onwards
    }

    fn target(&self, destination: &Destination) -> Option<Target> {
        match destination {
            Destination::Queue(name) => self.queues.get(name).cloned().map(Target::Queue),
            Destination::Exchange(name) => Some(Target::Exchange(name.clone())),
        }
    }

    /// Takes all bindings to a destination away; returns the auto-delete exchanges that have lost their last one.
    fn unbind_all(&mut self, destination: &Destination) -> Vec<Name> {
        let bindings = self.bound_to.remove(destination).unwrap_or_default();
        bindings.iter().filter_map(|binding| self.unbind_one(binding)).collect()
    }

    fn forget_destination(&mut self, binding: &Binding) {
        if let Some(others) = self.bound_to.get_mut(&binding.destination) {
            others.remove(binding);
            if others.is_empty() {
                self.bound_to.remove(&binding.destination);
            }
        }
    }
}

fn add(routed: &mut Routed, queue: &Arc<Queue>) {
    let place = |queue: &Arc<Queue>| Arc::as_ptr(queue).addr();
    let is_new = if routed.queues.len() < MANY {
        !routed.queues.iter().any(|other| Arc::ptr_eq(other, queue))
    } else {
        if routed.seen.is_empty() {
            routed.seen.extend(routed.queues.iter().map(place));
        }
        routed.seen.insert(place(queue))
    };
    if is_new {
        routed.queues.push(Arc::clone(queue));
    }
}

/// What a binding of an exchange of this type asks of a message's headers; `None` where headers do not count.
pub fn criteria_of(kind: Kind, arguments: &OwnedTable) -> Option<Criteria> {
    match kind {
        Kind::Headers => crate::broker::headers::criteria(arguments.as_table()).ok(),
        _ => None,
    }
}
