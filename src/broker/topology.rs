//! The exchanges, queues and bindings of one virtual host, kept consistent. Takes no lock, checks
//! no permission and no rule of declaring.
//!
//! A deleted queue or exchange is gone at once, however many bindings it has: they are removed
//! afterwards, in steps (see `sweep`). Until then its name cannot be declared again.

use crate::broker::bindings::{BindingSet, Bound};
use crate::broker::declared::{Binding, DeclaredExchange, Destination, exchange_octets};
use crate::broker::definitions::{self, DefinitionChange};
use crate::broker::exchange::{BindingTarget, Exchange};
use crate::broker::headers::criteria;
use crate::broker::removal::Removal;
use crate::memory::{Charge, MemoryAccount, Purpose};
use crate::metrics::ExchangeCounts;
use crate::queue::Queue;
use crate::routing::Kind;
use crate::routing::headers::InvalidMatch;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use indexmap::IndexMap;
use leveret_journal::index::Index;
use leveret_wire::name::Name;
use leveret_wire::table::OwnedTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

/// A map that stores the hashes of its keys: growing it reads no key.
type Map<K, V> = IndexMap<K, V, RandomState>;

#[derive(Debug)]
struct ListedQueue {
    queue: Arc<Queue>,
    defined: Index,
}

/// The topology of a virtual host.
#[derive(Debug, Default)]
pub struct Topology {
    pub(super) exchanges: Map<Name, Exchange>,
    queues: Map<Name, ListedQueue>,
    pub(super) bound_to: Map<Destination, BindingSet>,
    hasher: RandomState,
    /// Deleted queues and exchanges with bindings that are still to be removed.
    pub(super) leaving: HashSet<Destination>,
    pub(super) removals: VecDeque<Removal>,
    /// Changes to be journaled, and the virtual host's name; `None`: nothing is journaled.
    changes: Option<(Name, Changes)>,
    pub(super) routes_changed: bool,
    /// The account that definitions are charged to.
    memory: MemoryAccount,
    /// Messages that went through the default exchange.
    default_counts: Arc<ExchangeCounts>,
}

/// Changes of durable definitions since the last update, in order.
#[derive(Debug, Default)]
pub struct Changes {
    /// The changes.
    pub list: Vec<DefinitionChange>,
    added: Vec<Added>,
}

#[derive(Debug)]
enum Added {
    Exchange(Name),
    Queue(Name),
    Binding(Arc<Bound>),
}

impl Topology {
    /// Returns the exchange `name`; the default exchange (the empty name) is not stored.
    pub fn exchange(&self, name: &[u8]) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    /// Returns the messages that went through an exchange; the empty name is the default exchange.
    pub fn exchange_counts(&self, name: &[u8]) -> Option<&Arc<ExchangeCounts>> {
        if name.is_empty() { Some(&self.default_counts) } else { self.exchange(name).map(Exchange::counts) }
    }

    /// Returns at most `most` queues, from the one at an index on; a change of the names changes
    /// indexes.
    pub fn queues_from(&self, at: usize, most: usize) -> impl Iterator<Item = &Arc<Queue>> {
        (at..).take(most).map_while(|at| self.queues.get_index(at)).map(|(_, listed)| &listed.queue)
    }

    /// Returns at most `most` exchanges but the default one, from the one at an index on.
    pub fn exchanges_from(&self, at: usize, most: usize) -> impl Iterator<Item = (&Name, &Exchange)> {
        (at..).take(most).map_while(|at| self.exchanges.get_index(at))
    }

    /// Returns the numbers of queues and of exchanges but the default one.
    pub fn sizes(&self) -> (usize, usize) {
        (self.queues.len(), self.exchanges.len())
    }

    /// Returns the kept name of the exchange `name`.
    pub(super) fn exchange_name(&self, name: &[u8]) -> Option<Name> {
        self.exchanges.get_key_value(name).map(|(name, _)| name.clone())
    }

    /// Returns the queue `name`.
    pub fn queue(&self, name: &[u8]) -> Option<&Arc<Queue>> {
        self.queues.get(name).map(|listed| &listed.queue)
    }

    /// Returns the index that has to be durable before declare-ok is sent for the queue; `None` for
    /// a transient queue.
    pub fn queue_defined(&self, name: &[u8]) -> Option<Index> {
        self.queues.get(name).filter(|listed| listed.queue.declared().durable).map(|listed| listed.defined)
    }

    /// Starts to record changes of durable definitions, for the virtual host `vhost`.
    pub fn record_changes(&mut self, vhost: &Name) {
        self.changes = Some((vhost.clone(), Changes::default()));
    }

    /// Takes the recorded changes since the last call.
    pub fn take_changes(&mut self) -> Changes {
        self.changes.as_mut().map(|(_, changes)| std::mem::take(changes)).unwrap_or_default()
    }

    /// Returns true if a route may have changed since the last call.
    pub fn take_routes_changed(&mut self) -> bool {
        std::mem::take(&mut self.routes_changed)
    }

    /// Sets the journal index of the definitions that `changes` added.
    pub fn set_defined(&mut self, changes: Changes, index: Index) {
        for added in changes.added {
            match added {
                Added::Exchange(name) => {
                    self.exchanges.get_mut(&name).into_iter().for_each(|exchange| exchange.defined = index);
                }
                Added::Queue(name) => {
                    self.queues.get_mut(&name).into_iter().for_each(|listed| listed.defined = index);
                }
                Added::Binding(bound) => bound.set_defined(index),
            }
        }
    }

    /// Returns true if the queue or exchange exists.
    pub fn has(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.contains_key(name),
            Destination::Exchange(name) => self.exchanges.contains_key(name),
        }
    }

    /// Returns true if the queue or exchange was deleted and its bindings are still being removed.
    pub fn is_leaving(&self, destination: &Destination) -> bool {
        !self.leaving.is_empty() && self.leaving.contains(destination)
    }

    /// Returns true if bindings of deleted queues and exchanges are still to be removed.
    pub fn has_removals(&self) -> bool {
        !self.removals.is_empty()
    }

    pub(super) fn record_change(&mut self, durable: bool, change: impl FnOnce(&Name) -> DefinitionChange) {
        if durable && let Some((vhost, changes)) = &mut self.changes {
            changes.list.push(change(vhost));
        }
    }

    fn record_addition(&mut self, added: impl FnOnce() -> Added, define: impl FnOnce(&Name) -> DefinitionChange) {
        if let Some((vhost, changes)) = &mut self.changes {
            changes.list.push(define(vhost));
            changes.added.push(added());
        }
    }

    fn is_durable(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.get(name).is_some_and(|listed| listed.queue.declared().durable),
            Destination::Exchange(name) => self.exchanges.get(name).is_some_and(|exchange| exchange.declared.durable),
        }
    }

    /// Returns a charge for a definition.
    fn charge(&self, octets: u64) -> Charge {
        let mut charge = Charge::new(self.memory, Purpose::Definitions);
        charge.set(octets);
        charge
    }

    /// Adds an exchange, whose name has to be free.
    pub fn add_exchange(&mut self, name: Name, declared: DeclaredExchange) {
        if declared.durable {
            self.record_addition(
                || Added::Exchange(name.clone()),
                |vhost| definitions::exchange(vhost, &name, &declared),
            );
        }
        let charge = self.charge(exchange_octets(&name, declared.arguments.as_table()));
        self.exchanges.insert(name, Exchange::new(declared, charge));
        self.routes_changed = true;
    }

    /// Adds a queue, whose name has to be free.
    pub fn add_queue(&mut self, queue: Arc<Queue>) {
        let declared = queue.declared();
        if declared.durable {
            self.record_addition(
                || Added::Queue(declared.name.clone()),
                |vhost| definitions::queue(vhost, declared, queue.number()),
            );
        }
        let (name, defined) = (declared.name.clone(), Index::from_number(0));
        self.queues.insert(name, ListedQueue { queue, defined });
        self.routes_changed = true;
    }

    /// Removes a queue and returns it. Its bindings, and auto-delete exchanges that thereby lose
    /// their last one, are left to [`Topology::sweep`].
    pub fn remove_queue(&mut self, name: &Name) -> Option<Arc<Queue>> {
        let ListedQueue { queue, .. } = self.queues.swap_remove(name)?;
        let durable = queue.declared().durable;
        self.record_change(durable, |vhost| DefinitionChange::Undefine { key: definitions::queue_key(vhost, name) });
        self.record_change(durable, |_| DefinitionChange::QueueGone(queue.number()));
        let destination = Destination::Queue(name.clone());
        if let Some(incoming) = self.bound_to.swap_remove(&destination) {
            self.start_removal(Removal::queue(destination, Arc::clone(&queue), incoming));
        }
        self.routes_changed = true;
        Some(queue)
    }

    /// Removes an exchange; returns true if it existed. Bindings from and to it, and auto-delete
    /// exchanges that thereby lose their last one, are left to [`Topology::sweep`].
    pub fn remove_exchange(&mut self, name: &Name) -> bool {
        let Some(exchange) = self.exchanges.swap_remove(name) else { return false };
        let durable = exchange.declared.durable;
        self.record_change(durable, |vhost| DefinitionChange::Undefine { key: definitions::exchange_key(vhost, name) });
        let incoming = self.bound_to.swap_remove(&Destination::Exchange(name.clone())).unwrap_or_default();
        if !(incoming.is_empty() && exchange.bindings.is_empty()) {
            self.start_removal(Removal::exchange(name.clone(), exchange, incoming));
        }
        self.routes_changed = true;
        true
    }

    fn start_removal(&mut self, removal: Removal) {
        self.leaving.insert(removal.name.clone());
        self.removals.push_back(removal);
    }

    /// Returns the stored binding that equals `binding`.
    pub fn binding(&self, binding: &Binding) -> Option<&Arc<Bound>> {
        let source = self.exchanges.get(binding.source.as_octets())?;
        source.bindings.find(self.hasher.hash_one(binding), binding)
    }

    /// Adds a binding, unless an equal one exists, and returns the stored one; `None` if one of its
    /// ends does not exist.
    ///
    /// # Errors
    /// The arguments are no criteria for a headers exchange.
    pub fn bind(&mut self, binding: Binding) -> Result<Option<Arc<Bound>>, InvalidMatch> {
        let hash = self.hasher.hash_one(&binding);
        let (to_durable, charge) = (self.is_durable(&binding.destination), self.charge(binding.octets()));
        let Some(target) = self.target(&binding.destination) else { return Ok(None) };
        let Some(source) = self.exchanges.get_mut(binding.source.as_octets()) else { return Ok(None) };
        if let Some(bound) = source.bindings.find(hash, &binding) {
            return Ok(Some(Arc::clone(bound)));
        }
        let criteria = criteria(source.declared.kind, binding.arguments.as_table())?;
        source.routes.bind(binding.key.as_octets(), criteria.as_ref(), target);
        let durable = source.declared.durable && to_durable;
        let bound = Arc::new(Bound::new(binding, hash, durable, charge));
        source.bindings.insert(Arc::clone(&bound));
        let binding = bound.binding();
        self.bound_to.entry(binding.destination.clone()).or_default().insert(Arc::clone(&bound));
        if durable {
            let added = || Added::Binding(Arc::clone(&bound));
            self.record_addition(added, |vhost| definitions::binding(vhost, binding));
        }
        self.routes_changed = true;
        Ok(Some(bound))
    }

    /// Removes a binding; returns true if it existed. An auto-delete exchange that loses its last
    /// binding is deleted, too.
    pub fn unbind(&mut self, binding: &Binding) -> bool {
        let hash = self.hasher.hash_one(binding);
        let Some(target) = self.target(&binding.destination) else { return false };
        let Some(source) = self.exchanges.get_mut(binding.source.as_octets()) else { return false };
        let Some(bound) = source.bindings.remove(hash, binding) else { return false };
        if let Some(others) = self.bound_to.get_mut(&binding.destination) {
            others.remove_same(&bound);
            if others.is_empty() {
                self.bound_to.swap_remove(&binding.destination);
            }
        }
        self.unroute(&bound, target);
        true
    }

    /// Removes the route of a binding that was taken out of the set, from an exchange that exists.
    pub(super) fn unroute(&mut self, bound: &Bound, target: BindingTarget) {
        let binding = bound.binding();
        let Some(source) = self.exchanges.get_mut(binding.source.as_octets()) else { return };
        // Invalid arguments are refused by `bind`.
        let criteria = criteria(source.declared.kind, binding.arguments.as_table()).unwrap_or_default();
        source.routes.unbind(binding.key.as_octets(), criteria.as_ref(), target);
        let is_unused = source.declared.auto_delete && source.bindings.is_empty();
        let key = |vhost: &Name| definitions::binding_key(vhost, binding);
        self.record_change(bound.is_durable(), |vhost| DefinitionChange::Undefine { key: key(vhost) });
        if is_unused {
            self.remove_exchange(&binding.source);
        }
        self.routes_changed = true;
    }

    fn target(&self, destination: &Destination) -> Option<BindingTarget> {
        match destination {
            Destination::Queue(name) => self.queue(name.as_octets()).cloned().map(BindingTarget::Queue),
            Destination::Exchange(name) => {
                self.exchanges.contains_key(name).then(|| BindingTarget::Exchange(name.clone()))
            }
        }
    }

    /// Returns true if the target was not deleted.
    pub(super) fn is_live(&self, target: &BindingTarget) -> bool {
        self.leaving.is_empty()
            || match target {
                BindingTarget::Queue(queue) => {
                    self.queue(queue.name().as_octets()).is_some_and(|live| Arc::ptr_eq(live, queue))
                }
                BindingTarget::Exchange(name) => self.exchanges.contains_key(name),
            }
    }
}

/// The exchanges that every virtual host has beside the default one: name, type, and whether
/// internal.
const PREDECLARED: [(&str, Kind, bool); 6] = [
    ("amq.direct", Kind::Direct, false),
    ("amq.fanout", Kind::Fanout, false),
    ("amq.topic", Kind::Topic, false),
    ("amq.headers", Kind::Headers, false),
    ("amq.match", Kind::Headers, false),
    ("amq.rabbitmq.trace", Kind::Topic, true),
];

/// Returns the topology of a new virtual host, whose definitions are charged to `memory`.
pub fn predeclared(memory: MemoryAccount) -> Topology {
    let mut names = Topology { memory, ..Topology::default() };
    for (name, kind, internal) in PREDECLARED {
        let arguments = OwnedTable::default();
        let declared =
            DeclaredExchange { kind, durable: true, auto_delete: false, internal, arguments, alternate: None };
        names.add_exchange(Name::from_static(name), declared);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::resolve::{RouteWalk, Routed};
    use crate::queue::arguments::QueueType;
    use crate::queue::context::QueueContext;
    use crate::queue::declared::Declared;
    use crate::routing::headers::NoHeaders;
    use leveret_wire::canonical::CanonicalTable;
    use leveret_wire::table_builder::TableBuilder;
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
        names.add_queue(Arc::new(Queue::new(declared, Arc::new(QueueContext::default()))));
    }

    fn binding(source: &str, destination: Destination, key: &str) -> Binding {
        Binding { source: name(source), destination, key: name(key), arguments: CanonicalTable::default() }
    }

    fn bind(names: &mut Topology, binding: Binding) {
        names.bind(binding).unwrap();
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
    fn many_keys_lead_where_they_lead_under_one_hold_whatever_their_number() {
        let mut names = Topology::default();
        exchange(&mut names, "last", Kind::Fanout, false, None);
        exchange(&mut names, "next", Kind::Direct, false, Some("last"));
        exchange(&mut names, "first", Kind::Direct, false, Some("last"));
        ["one", "two", "rest"].iter().for_each(|queue| self::queue(&mut names, queue));
        bind(&mut names, binding("first", to_queue("one"), "k7"));
        bind(&mut names, binding("first", to_exchange("next"), "k8"));
        bind(&mut names, binding("next", to_queue("two"), "k9"));
        bind(&mut names, binding("last", to_queue("rest"), ""));
        let all: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
        let keys: Vec<&[u8]> = all.iter().map(String::as_bytes).collect();
        // An alternate counts only where none of all keys matches, however they are cut.
        for (keys, expected) in
            [(&keys[..], &["one", "two"][..]), (&keys[..9], &["one", "rest"]), (&keys[..7], &["rest"])]
        {
            for most in 1..12 {
                let (mut walk, mut routed) = (RouteWalk::new(b"first", keys, &NoHeaders), Routed::default());
                while !names.walk(&mut walk, most, &mut routed) {}
                let mut found: Vec<_> = routed.queues.iter().map(|queue| queue.name().to_string()).collect();
                found.sort();
                assert_eq!(found, expected, "{most} keys a hold");
            }
        }
    }

    #[test]
    fn an_auto_delete_exchange_goes_with_its_last_binding() {
        let mut names = Topology::default();
        exchange(&mut names, "auto", Kind::Direct, true, None);
        exchange(&mut names, "stays", Kind::Direct, false, None);
        queue(&mut names, "q");
        for source in ["auto", "stays"] {
            bind(&mut names, binding(source, to_queue("q"), "a"));
            bind(&mut names, binding(source, to_queue("q"), "b"));
        }
        names.unbind(&binding("auto", to_queue("q"), "a"));
        assert!(names.exchange(b"auto").is_some_and(Exchange::is_used));
        names.remove_queue(&name("q"));
        let _ = names.sweep(usize::MAX);
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
            bind(&mut names, binding(&(link - 1).to_string(), to_exchange(&link.to_string()), ""));
        }
        assert!(names.remove_exchange(&name(&(LINKS - 1).to_string())));
        let _ = names.sweep(usize::MAX);
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
        bind(&mut names, binding("one", to_exchange("two"), ""));
        bind(&mut names, binding("two", to_exchange("one"), ""));
        bind(&mut names, binding("two", to_queue("q"), ""));
        bind(&mut names, binding("second", to_queue("q"), "k"));
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
                bind(&mut names, binding("x", to_queue(&format!("{n:02}")), key));
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
            CanonicalTable::from(table.as_table())
        };
        let mut names = Topology::default();
        exchange(&mut names, "x", Kind::Fanout, false, None);
        queue(&mut names, "q");
        let with = |arguments| Binding { arguments, ..binding("x", to_queue("q"), "") };
        bind(&mut names, with(table(&[b"a", b"b"])));
        bind(&mut names, with(table(&[b"b", b"a"])));
        assert_eq!(names.exchanges.get(&b"x"[..]).unwrap().bindings.iter().count(), 1);
        bind(&mut names, with(table(&[b"a"])));
        names.unbind(&with(table(&[b"b", b"a"])));
        assert_eq!(routed(&names, "x", &[b""]), ["q"]);
        names.unbind(&with(table(&[b"a"])));
        assert!(routed(&names, "x", &[b""]).is_empty());
    }

    #[test]
    fn what_is_deleted_is_gone_at_once_however_many_bindings_it_has() {
        for kind in [Kind::Direct, Kind::Fanout, Kind::Topic, Kind::Headers] {
            let mut names = Topology::default();
            exchange(&mut names, "x", kind, false, Some("rest"));
            exchange(&mut names, "rest", Kind::Fanout, false, None);
            exchange(&mut names, "auto", kind, true, None);
            queue(&mut names, "q");
            queue(&mut names, "r");
            bind(&mut names, binding("rest", to_queue("r"), ""));
            for n in 0..100 {
                bind(&mut names, binding("x", to_queue("q"), &n.to_string()));
                bind(&mut names, binding("auto", to_queue("q"), &n.to_string()));
            }
            assert_eq!(routed(&names, "x", &[b"7"]), ["q"]);
            names.remove_queue(&name("q"));
            assert!(names.take_routes_changed());
            // Nothing is removed yet.
            assert_eq!(routed(&names, "x", &[b"7"]), ["r"], "{kind:?}");
            assert!(names.is_leaving(&to_queue("q")) && names.queue(b"q").is_none());
            let steps = (1..).take_while(|_| {
                let _ = names.sweep(7);
                names.has_removals()
            });
            assert!(steps.count() >= 200 / 7);
            assert!(names.exchange(b"auto").is_none() && !names.is_leaving(&to_queue("q")));
            assert!(names.exchange(b"x").is_some_and(|exchange| !exchange.is_used()));
            assert!(names.bound_to.keys().eq([&to_queue("r")]));
        }
    }

    #[test]
    fn an_exchange_goes_with_what_leads_to_and_from_it() {
        let mut names = Topology::default();
        for (text, auto_delete) in [("from", true), ("x", false), ("other", false)] {
            exchange(&mut names, text, Kind::Fanout, auto_delete, None);
        }
        queue(&mut names, "q");
        for key in 0..20 {
            let key = key.to_string();
            bind(&mut names, binding("from", to_exchange("x"), &key));
            bind(&mut names, binding("x", to_queue("q"), &key));
            bind(&mut names, binding("x", to_exchange("x"), &key));
            bind(&mut names, binding("other", to_queue("q"), &key));
        }
        assert_eq!(routed(&names, "from", &[b""]), ["q"]);
        assert!(names.remove_exchange(&name("x")));
        assert!(routed(&names, "from", &[b""]).is_empty() && !names.unbind(&binding("from", to_exchange("x"), "1")));
        while names.has_removals() {
            let _ = names.sweep(3);
        }
        assert!(names.exchange(b"from").is_none());
        assert_eq!(names.bound_to.get(&to_queue("q")).map(|set| set.iter().count()), Some(20));
        assert!(names.bound_to.get(&to_exchange("x")).is_none());
    }

    /// Returns the definitions that a journal should have of this topology.
    fn definitions_of(names: &Topology, vhost: &Name) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut items = Vec::new();
        for (name, exchange) in names.exchanges.iter().filter(|(_, exchange)| exchange.declared.durable) {
            items.push(definitions::exchange(vhost, name, &exchange.declared));
            let kept =
                exchange.bindings.iter().map(|bound| bound.binding()).filter(|binding| match &binding.destination {
                    Destination::Queue(name) => {
                        names.queue(name.as_octets()).is_some_and(|queue| queue.declared().durable)
                    }
                    Destination::Exchange(name) => {
                        names.exchange(name.as_octets()).is_some_and(|exchange| exchange.declared.durable)
                    }
                });
            items.extend(kept.map(|binding| definitions::binding(vhost, binding)));
        }
        let kept = names.queues.values().map(|listed| &listed.queue).filter(|queue| queue.declared().durable);
        items.extend(kept.map(|queue| definitions::queue(vhost, queue.declared(), queue.number())));
        let pairs = items.into_iter().map(|item| match item {
            DefinitionChange::Define { key, value } => (key, value),
            other => panic!("{other:?}"),
        });
        pairs.collect()
    }

    /// Applies changes to a model of the journal's definitions; each has to change something.
    fn apply(changes: Vec<DefinitionChange>, journal: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        for item in changes {
            match item {
                DefinitionChange::Define { key, value } => assert_eq!(journal.insert(key, value), None),
                DefinitionChange::Undefine { key } => assert!(journal.remove(&key).is_some(), "{}", key.escape_ascii()),
                DefinitionChange::QueueGone(_) => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_changes_of_what_is_durable_is_noted_and_nothing_else(
            steps in proptest::collection::vec((0u8..8, 0usize..3, 0usize..3, any::<[bool; 2]>(), 0usize..4), 1..60),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "c"];
            let (vhost, context) = (Name::from_static("/"), Arc::new(QueueContext::default()));
            let (mut names, mut journal) = (Topology::default(), BTreeMap::new());
            names.record_changes(&vhost);
            for (step, one, two, [durable, flag], swept) in steps {
                let (one, two) = (NAMES[one], NAMES[two]);
                let destination = if flag { to_queue(two) } else { to_exchange(two) };
                let is_free = |there: bool, end: Destination| !there && !names.is_leaving(&end);
                match step {
                    0 | 1 if is_free(names.exchange(one.as_bytes()).is_some(), to_exchange(one)) => {
                        let (kind, arguments, alternate) = (Kind::Direct, OwnedTable::default(), None);
                        let (auto_delete, internal) = (flag, false);
                        let declared = DeclaredExchange { kind, durable, auto_delete, internal, arguments, alternate };
                        names.add_exchange(name(one), declared);
                    }
                    2 | 3 if is_free(names.queue(one.as_bytes()).is_some(), to_queue(one)) => {
                        let (owner, kind, arguments) = (None, QueueType::Classic, OwnedTable::default());
                        let declared = Declared { name: name(one), durable, owner, auto_delete: false, kind, arguments };
                        names.add_queue(Arc::new(Queue::new(declared, Arc::clone(&context))));
                    }
                    4 if names.has(&destination) => bind(&mut names, binding(one, destination, "")),
                    5 => {
                        names.unbind(&binding(one, destination, ""));
                    }
                    6 => {
                        names.remove_exchange(&name(one));
                    }
                    7 => {
                        names.remove_queue(&name(one));
                    }
                    _ => {}
                }
                let _ = names.sweep(swept);
                apply(names.take_changes().list, &mut journal);
                // During a removal the journal has some bindings more, whose ends are missing.
                let (now, mut known) = (definitions_of(&names, &vhost), journal.clone());
                known.retain(|key, _| now.contains_key(key) || key.first() != Some(&b'b'));
                prop_assert_eq!(&known, &now);
                prop_assert!(names.has_removals() || journal == now);
            }
            let _ = names.sweep(usize::MAX);
            apply(names.take_changes().list, &mut journal);
            prop_assert_eq!(journal, definitions_of(&names, &vhost));
            prop_assert!(names.leaving.is_empty());
        }
    }
}
