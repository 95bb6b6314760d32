//! The exchanges, queues and bindings of one virtual host, and the routing over them. Data and its consistency: no lock,
//! no permission, no rule about who may declare what.

use crate::broker::declared::{Binding, DeclaredExchange, Destination};
use crate::broker::definitions::{self, Item};
use crate::queue::Queue;
use crate::routing::headers::{Criteria, Headers};
use crate::routing::{Kind, Routes};
use crate::wire::name::Name;
use crate::wire::table::OwnedTable;
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;

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
    /// What has changed of what is durable, for the virtual host of that name; none: nobody keeps it.
    changes: Option<(Name, Vec<Item>)>,
}

/// Where a message goes.
#[derive(Debug, Default)]
pub struct Routed {
    /// The queues, each once.
    pub queues: Vec<Arc<Queue>>,
    /// The same by address, as soon as there are many.
    seen: HashSet<*const Queue>,
    /// Other headers with the same key could have led elsewhere.
    pub by_headers: bool,
}

impl Topology {
    /// The exchange of that name; the default exchange (the empty name) is not among them.
    pub fn exchange(&self, name: &[u8]) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    /// The queue of that name.
    pub fn queue(&self, name: &[u8]) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// Writes down what changes of what is durable from now on, as definitions of that virtual host.
    pub fn keep_changes(&mut self, vhost: &Name) {
        self.changes = Some((vhost.clone(), Vec::new()));
    }

    /// What has changed of what is durable, in order.
    pub fn take_changes(&mut self) -> Vec<Item> {
        self.changes.as_mut().map(|(_, items)| std::mem::take(items)).unwrap_or_default()
    }

    /// Whether what a binding leads to is there.
    pub fn leads_somewhere(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.contains_key(name),
            Destination::Exchange(name) => self.exchanges.contains_key(name),
        }
    }

    /// Whether a binding, there or to come, is durable.
    pub fn keeps(&self, binding: &Binding) -> bool {
        let source = self.exchanges.get(binding.source.as_octets());
        self.is_kept(source.is_some_and(|source| source.declared.durable), &binding.destination)
    }

    fn note(&mut self, durable: bool, item: impl FnOnce(&Name) -> Item) {
        if durable && let Some((vhost, items)) = &mut self.changes {
            items.push(item(vhost));
        }
    }

    /// Whether a binding is durable: both its ends are.
    fn is_kept(&self, from_durable: bool, destination: &Destination) -> bool {
        from_durable
            && match destination {
                Destination::Queue(name) => self.queues.get(name).is_some_and(|queue| queue.declared().durable),
                Destination::Exchange(name) => {
                    self.exchanges.get(name).is_some_and(|exchange| exchange.declared.durable)
                }
            }
    }

    /// Adds an exchange. The name must be free.
    pub fn add_exchange(&mut self, name: Name, declared: DeclaredExchange) {
        self.note(declared.durable, |vhost| definitions::exchange(vhost, &name, &declared));
        let routes = Routes::new(declared.kind);
        self.exchanges.insert(name, Exchange { declared, routes, bindings: HashSet::new() });
    }

    /// Adds a queue. The name must be free.
    pub fn add_queue(&mut self, queue: Arc<Queue>) {
        let declared = queue.declared();
        self.note(declared.durable, |vhost| definitions::queue(vhost, declared, queue.number()));
        self.queues.insert(queue.name().clone(), queue);
    }

    /// Takes a queue out, with its bindings and the auto-delete exchanges that thereby lose their last one.
    pub fn remove_queue(&mut self, name: &Name) -> Option<Arc<Queue>> {
        let queue = self.queues.get(name).cloned()?;
        let deserted = self.unbind_all(&Destination::Queue(name.clone()));
        self.queues.remove(name);
        self.remove_exchanges(deserted);
        let durable = queue.declared().durable;
        self.note(durable, |vhost| Item::Undefine { key: definitions::queue_key(vhost, name) });
        self.note(durable, |_| Item::QueueGone(queue.number()));
        Some(queue)
    }

    /// Takes an exchange out, with all bindings from and to it and the auto-delete exchanges that thereby lose their last
    /// one. False: there is none.
    pub fn remove_exchange(&mut self, name: &Name) -> bool {
        let exists = self.exchanges.contains_key(name);
        self.remove_exchanges(vec![name.clone()]);
        exists
    }

    /// A list instead of recursion: clients can make chains of auto-delete exchanges that are longer than any stack.
    fn remove_exchanges(&mut self, mut names: Vec<Name>) {
        while let Some(name) = names.pop() {
            if !self.exchanges.contains_key(&name) {
                continue;
            }
            // What leads to it goes while it is there: whether a binding is kept is asked of both ends.
            names.extend(self.unbind_all(&Destination::Exchange(name.clone())));
            let Some(exchange) = self.exchanges.remove(&name) else { continue };
            let durable = exchange.declared.durable;
            for binding in exchange.bindings {
                let kept = self.is_kept(durable, &binding.destination);
                self.note(kept, |vhost| Item::Undefine { key: definitions::binding_key(vhost, &binding) });
                self.forget_destination(&binding);
            }
            self.note(durable, |vhost| Item::Undefine { key: definitions::exchange_key(vhost, &name) });
        }
    }

    /// Adds a binding between things that exist. Adding it again changes nothing.
    pub fn bind(&mut self, binding: Binding, criteria: Option<&Criteria>) {
        let Some(target) = self.target(&binding.destination) else { return };
        let binding = Arc::new(binding);
        let Some(source) = self.exchanges.get_mut(binding.source.as_octets()) else { return };
        if source.bindings.insert(Arc::clone(&binding)) {
            source.routes.bind(binding.key.as_octets(), criteria, target);
            let durable = source.declared.durable;
            let kept = self.is_kept(durable, &binding.destination);
            self.note(kept, |vhost| definitions::binding(vhost, &binding));
            self.bound_to.entry(binding.destination.clone()).or_default().insert(binding);
        }
    }

    /// Takes a binding away; an auto-delete exchange that loses its last one goes too. One that does not exist is ignored.
    pub fn unbind(&mut self, binding: &Binding) {
        let deserted = self.take_binding(binding);
        self.remove_exchanges(deserted.into_iter().collect());
    }

    /// Takes a binding away; returns its source if that is an auto-delete exchange without any binding now.
    fn take_binding(&mut self, binding: &Binding) -> Option<Name> {
        let target = self.target(&binding.destination)?;
        let source = self.exchanges.get_mut(binding.source.as_octets())?;
        let binding = source.bindings.take(binding)?;
        let criteria = criteria_of(source.declared.kind, &binding.arguments);
        source.routes.unbind(binding.key.as_octets(), criteria.as_ref(), &target);
        let is_deserted = source.declared.auto_delete && source.bindings.is_empty();
        let durable = source.declared.durable;
        let kept = self.is_kept(durable, &binding.destination);
        self.note(kept, |vhost| Item::Undefine { key: definitions::binding_key(vhost, &binding) });
        self.forget_destination(&binding);
        is_deserted.then(|| binding.source.clone())
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

    /// Takes away what leads to `destination`; returns the auto-delete exchanges that have no binding any more.
    fn unbind_all(&mut self, destination: &Destination) -> Vec<Name> {
        let bindings = self.bound_to.remove(destination).unwrap_or_default();
        bindings.iter().filter_map(|binding| self.take_binding(binding)).collect()
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
    // To look at each of a few is cheaper than to hash.
    const FEW: usize = 16;
    let Routed { queues, seen, .. } = routed;
    let is_new = if queues.len() < FEW {
        !queues.iter().any(|other| Arc::ptr_eq(other, queue))
    } else {
        if seen.is_empty() {
            seen.extend(queues.iter().map(Arc::as_ptr));
        }
        seen.insert(Arc::as_ptr(queue))
    };
    if is_new {
        queues.push(Arc::clone(queue));
    }
}

/// The exchanges that every virtual host has, beside the default one.
const PREDECLARED: [(&str, Kind, bool); 6] = [
    ("amq.direct", Kind::Direct, false),
    ("amq.fanout", Kind::Fanout, false),
    ("amq.topic", Kind::Topic, false),
    ("amq.headers", Kind::Headers, false),
    ("amq.match", Kind::Headers, false),
    ("amq.rabbitmq.trace", Kind::Topic, true),
];

/// The names of a new virtual host.
pub fn predeclared() -> Topology {
    let mut names = Topology::default();
    for (name, kind, internal) in PREDECLARED {
        let arguments = OwnedTable::default();
        let declared =
            DeclaredExchange { kind, durable: true, auto_delete: false, internal, arguments, alternate: None };
        names.add_exchange(Name::from_static(name), declared);
    }
    names
}

/// What a binding of an exchange of this type asks of a message's headers; `None` where headers do not count.
fn criteria_of(kind: Kind, arguments: &OwnedTable) -> Option<Criteria> {
    match kind {
        Kind::Headers => crate::broker::headers::criteria(arguments.as_table()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Declared;
    use crate::queue::arguments::QueueType;
    use crate::queue::shared::Shared;
    use crate::routing::headers::NoHeaders;
    use crate::wire::table_builder::TableBuilder;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn exchange(names: &mut Topology, text: &str, kind: Kind, auto_delete: bool, alternate: Option<&str>) {
        let alternate = alternate.map(name);
        let arguments = OwnedTable::default();
        let declared = DeclaredExchange { kind, durable: false, auto_delete, internal: false, arguments, alternate };
        names.add_exchange(name(text), declared);
    }

    fn queue(names: &mut Topology, text: &str) {
        let declared = Declared {
            name: name(text),
            durable: false,
            owner: None,
            auto_delete: false,
            kind: QueueType::Classic,
            arguments: OwnedTable::default(),
        };
        names.add_queue(Arc::new(Queue::new(declared, Arc::new(Shared::default()))));
    }

    fn binding(source: &str, destination: Destination, key: &str) -> Binding {
        Binding { source: name(source), destination, key: name(key), arguments: OwnedTable::default() }
    }

    fn to_queue(text: &str) -> Destination {
        Destination::Queue(name(text))
    }

    fn to_exchange(text: &str) -> Destination {
        Destination::Exchange(name(text))
    }

    fn routed(names: &Topology, exchange: &str, keys: &[&[u8]]) -> Vec<String> {
        let mut routed = Routed::default();
        names.route(exchange.as_bytes(), keys, &NoHeaders, &mut routed);
        let mut found: Vec<_> = routed.queues.iter().map(|queue| queue.name().to_string()).collect();
        found.sort();
        found
    }

    #[test]
    fn an_auto_delete_exchange_goes_with_its_last_binding() {
        let mut names = Topology::default();
        exchange(&mut names, "auto", Kind::Direct, true, None);
        exchange(&mut names, "stays", Kind::Direct, false, None);
        queue(&mut names, "q");
        for source in ["auto", "stays"] {
            names.bind(binding(source, to_queue("q"), "a"), None);
            names.bind(binding(source, to_queue("q"), "b"), None);
        }
        names.unbind(&binding("auto", to_queue("q"), "a"));
        assert!(names.exchange(b"auto").is_some_and(Exchange::is_used));
        names.remove_queue(&name("q"));
        assert!(names.exchange(b"auto").is_none());
        assert!(names.exchange(b"stays").is_some_and(|exchange| !exchange.is_used()));
        assert!(names.bound_to.is_empty());
    }

    #[test]
    fn a_chain_of_auto_delete_exchanges_longer_than_the_stack_goes_at_once() {
        const LINKS: usize = 20_000;
        let mut names = Topology::default();
        for link in 0..LINKS {
            exchange(&mut names, &link.to_string(), Kind::Fanout, true, None);
        }
        for link in 1..LINKS {
            names.bind(binding(&(link - 1).to_string(), to_exchange(&link.to_string()), ""), None);
        }
        assert!(names.remove_exchange(&name(&(LINKS - 1).to_string())));
        assert!(names.exchanges.is_empty() && names.bound_to.is_empty());
        assert!(!names.remove_exchange(&name("0")));
    }

    #[test]
    fn cycles_and_alternates_are_followed_once() {
        let mut names = Topology::default();
        exchange(&mut names, "one", Kind::Fanout, false, None);
        exchange(&mut names, "two", Kind::Fanout, false, None);
        exchange(&mut names, "first", Kind::Direct, false, Some("second"));
        exchange(&mut names, "second", Kind::Direct, false, Some("first"));
        queue(&mut names, "q");
        names.bind(binding("one", to_exchange("two"), ""), None);
        names.bind(binding("two", to_exchange("one"), ""), None);
        names.bind(binding("two", to_queue("q"), ""), None);
        names.bind(binding("second", to_queue("q"), "k"), None);
        assert_eq!(routed(&names, "one", &[b""]), ["q"]);
        assert_eq!(routed(&names, "first", &[b"k"]), ["q"]);
        assert!(routed(&names, "first", &[b"other"]).is_empty());
    }

    #[test]
    fn each_queue_is_found_once_however_many_there_are() {
        let mut names = Topology::default();
        exchange(&mut names, "x", Kind::Fanout, false, None);
        for n in 0..40 {
            queue(&mut names, &format!("{n:02}"));
            for key in ["a", "b"] {
                names.bind(binding("x", to_queue(&format!("{n:02}")), key), None);
            }
        }
        let expected: Vec<_> = (0..40).map(|n| format!("{n:02}")).collect();
        assert_eq!(routed(&names, "x", &[b"", b"again"]), expected);
    }

    #[test]
    fn bindings_differ_by_arguments_but_not_by_their_order() {
        let table = |keys: &[&[u8]]| {
            let mut table = TableBuilder::new();
            for key in keys {
                table.put_i64(key, 1);
            }
            OwnedTable::from(table.as_table())
        };
        let mut names = Topology::default();
        exchange(&mut names, "x", Kind::Fanout, false, None);
        queue(&mut names, "q");
        let with = |arguments| Binding { arguments, ..binding("x", to_queue("q"), "") };
        names.bind(with(table(&[b"a", b"b"])), None);
        names.bind(with(table(&[b"b", b"a"])), None);
        assert_eq!(names.exchanges.get(&b"x"[..]).unwrap().bindings.len(), 1);
        names.bind(with(table(&[b"a"])), None);
        names.unbind(&with(table(&[b"b", b"a"])));
        assert_eq!(routed(&names, "x", &[b""]), ["q"]);
        names.unbind(&with(table(&[b"a"])));
        assert!(routed(&names, "x", &[b""]).is_empty());
    }

    /// What a journal is to have of these names.
    fn definitions_of(names: &Topology, vhost: &Name) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut items = Vec::new();
        for (name, exchange) in names.exchanges.iter().filter(|(_, exchange)| exchange.declared.durable) {
            items.push(definitions::exchange(vhost, name, &exchange.declared));
            let kept = exchange.bindings.iter().filter(|binding| match &binding.destination {
                Destination::Queue(name) => names.queues[name].declared().durable,
                Destination::Exchange(name) => names.exchanges[name].declared.durable,
            });
            items.extend(kept.map(|binding| definitions::binding(vhost, binding)));
        }
        let kept = names.queues.values().filter(|queue| queue.declared().durable);
        items.extend(kept.map(|queue| definitions::queue(vhost, queue.declared(), queue.number())));
        let pairs = items.into_iter().map(|item| match item {
            Item::Define { key, value } => (key, value),
            other => panic!("{other:?}"),
        });
        pairs.collect()
    }

    /// Applies changes to what a journal has; each says something new.
    fn apply(changes: Vec<Item>, journal: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        for item in changes {
            match item {
                Item::Define { key, value } => assert_eq!(journal.insert(key, value), None),
                Item::Undefine { key } => assert!(journal.remove(&key).is_some(), "{}", key.escape_ascii()),
                Item::QueueGone(_) => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_changes_of_what_is_durable_is_noted_and_nothing_else(
            steps in proptest::collection::vec((0u8..8, 0usize..3, 0usize..3, any::<[bool; 2]>()), 1..60),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "c"];
            let (vhost, shared) = (Name::from_static("/"), Arc::new(Shared::default()));
            let (mut names, mut journal) = (Topology::default(), BTreeMap::new());
            names.keep_changes(&vhost);
            for (step, one, two, [durable, flag]) in steps {
                let (one, two) = (NAMES[one], NAMES[two]);
                let destination = if flag { to_queue(two) } else { to_exchange(two) };
                match step {
                    0 | 1 if names.exchange(one.as_bytes()).is_none() => {
                        let (kind, arguments, alternate) = (Kind::Direct, OwnedTable::default(), None);
                        let (auto_delete, internal) = (flag, false);
                        let declared = DeclaredExchange { kind, durable, auto_delete, internal, arguments, alternate };
                        names.add_exchange(name(one), declared);
                    }
                    2 | 3 if names.queue(one.as_bytes()).is_none() => {
                        let (owner, kind, arguments) = (None, QueueType::Classic, OwnedTable::default());
                        let declared = Declared { name: name(one), durable, owner, auto_delete: false, kind, arguments };
                        names.add_queue(Arc::new(Queue::new(declared, Arc::clone(&shared))));
                    }
                    4 if names.leads_somewhere(&destination) => names.bind(binding(one, destination, ""), None),
                    5 => names.unbind(&binding(one, destination, "")),
                    6 => {
                        names.remove_exchange(&name(one));
                    }
                    7 => {
                        names.remove_queue(&name(one));
                    }
                    _ => {}
                }
                apply(names.take_changes(), &mut journal);
                prop_assert_eq!(&journal, &definitions_of(&names, &vhost));
            }
        }
    }
}
