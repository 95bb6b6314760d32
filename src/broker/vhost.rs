//! A virtual host: the topology under one lock, its version, and what follows from a deletion. The
//! rules of declaring are in `exchanges` and `queues`. Names no session and no socket.
//!
//! Lock order: topology, then queue, then outbox.

use crate::broker::declared::Destination;
use crate::broker::definitions::{self, DefinitionChange};
use crate::broker::replies::Replies;
use crate::broker::resolve::{RouteWalk, Routed};
use crate::broker::resource::Resource;
use crate::broker::topology::{self, Topology};
use crate::limits;
use crate::queue::context::QueueContext;
use crate::queue::journal_batch;
use crate::queue::{Counts, Queue};
use crate::routing::headers::Headers;
use leveret_journal::index::Index;
use leveret_journal::record::Operation;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    name: Name,
    topology: RwLock<Topology>,
    version: AtomicU64,
    replies: Replies,
    context: Arc<QueueContext>,
    /// The index of the last change of a durable definition.
    defined: AtomicU64,
}

/// The result of routing a message.
#[derive(Debug)]
pub enum Route {
    /// The exchange does not exist: 404.
    NoExchange,
    /// The exchange is internal: 403.
    Internal,
    /// The message goes to these queues, whatever its headers.
    Queues(Arc<[Arc<Queue>]>),
    /// The exchange looks at headers; with those given, the message goes to these queues.
    ByHeaders(Vec<Arc<Queue>>),
}

/// The reason why nothing can be published to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The exchange does not exist: 404.
    NoExchange,
    /// The exchange is internal: 403.
    Internal,
}

impl Vhost {
    /// Creates a virtual host with the predeclared exchanges.
    pub fn new(name: Name, context: Arc<QueueContext>) -> Self {
        let topology = RwLock::new(topology::predeclared(context.memory()));
        Self {
            name,
            topology,
            version: AtomicU64::new(0),
            replies: Replies::default(),
            context,
            defined: AtomicU64::new(0),
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the consumers of `amq.rabbitmq.reply-to`.
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Checks that the memory for definitions suffices for one more of `octets`.
    ///
    /// # Errors
    /// 506 if it does not.
    pub(super) fn check_room(&self, octets: u64) -> Result<(), Fault> {
        if self.context.has_room_for_definition(octets) {
            return Ok(());
        }
        let taken = self.context.memory().used_by_definitions();
        let text = format_args!("queues, exchanges and bindings take {taken} octets, no memory is left for another");
        Err(Fault::new(Code::ResourceError, text))
    }

    /// Checks that a durable definition can be written soon.
    ///
    /// # Errors
    /// 506 if the journal waits for space: an answer would wait as long.
    pub(super) fn check_disk(&self, durable: bool) -> Result<(), Fault> {
        match self.context.journal().filter(|_| durable).and_then(|journal| journal.shortage()) {
            None => Ok(()),
            Some(reason) => Err(Fault::new(Code::ResourceError, format_args!("low on disk: {reason}"))),
        }
    }

    /// Returns the context that all queues of the broker share.
    pub fn context(&self) -> &Arc<QueueContext> {
        &self.context
    }

    /// Returns a number that changes whenever a route may have changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Locks the topology for reading.
    pub fn names(&self) -> RwLockReadGuard<'_, Topology> {
        self.topology.read()
    }

    /// Changes the topology under its write lock, and appends changes of durable definitions to the
    /// journal. Returns the result of `change`, and the index, if anything durable has changed,
    /// that has to be durable before the client is answered.
    ///
    /// Cached routes are void afterwards if a route may have changed.
    pub fn update<T>(&self, change: impl FnOnce(&mut Topology) -> T) -> (T, Option<Index>) {
        let mut names = self.topology.write();
        let outcome = change(&mut names);
        let changes = names.take_changes();
        let index = self.append_changes(&changes.list);
        if let Some(index) = index {
            names.set_defined(changes, index);
        }
        if names.take_routes_changed() {
            // Before the lock is released: a reader of the new version finds the new topology.
            self.version.fetch_add(1, Ordering::Release);
        }
        (outcome, index)
    }

    /// Starts to journal changes of durable definitions, if there is a journal.
    pub fn record_changes(&self) {
        if self.context.journal().is_some() {
            self.topology.write().record_changes(&self.name);
        }
    }

    /// Returns the index of the last change of a durable definition.
    pub fn defined(&self) -> Index {
        Index::from_number(self.defined.load(Ordering::Acquire))
    }

    /// Appends changes to the journal: as one record, unless it would be too large. Every prefix is
    /// consistent: recovery drops a binding whose queue or exchange is missing.
    fn append_changes(&self, changes: &[DefinitionChange]) -> Option<Index> {
        let journal = self.context.journal()?;
        let mut last = None;
        for chunk in definitions::chunks(changes, limits::DEFINITIONS_AT_ONCE, limits::DEFINITIONS_OCTETS) {
            let operations: Vec<_> = chunk.iter().map(operation).collect();
            let appended = match &*operations {
                [only] => journal.append(only),
                _ => journal.append_batch(&operations),
            };
            let index = appended.unwrap_or_else(|refused| {
                journal_batch::refuse(journal, &refused);
                Index::NEVER
            });
            self.defined.store(index.number(), Ordering::Release);
            last = Some(index);
        }
        last
    }

    /// Removes the remaining bindings of deleted queues and exchanges: a bounded number under each
    /// hold of the lock, and outside the runtime's worker threads if there are many. Returns the
    /// last journal index of these removals.
    pub(super) fn finish_removals(&self) -> Option<Index> {
        if !self.names().has_removals() {
            return None;
        }
        self.context.offload().run(|| while self.sweep_once() {});
        // Other connections may have removed some of them: their index counts, too.
        Some(self.defined())
    }

    fn sweep_once(&self) -> bool {
        let ((swept, more), _) = self.update(|names| (names.sweep(limits::UNBINDS_PER_HOLD), names.has_removals()));
        drop(swept);
        more
    }

    /// Acts as [`Vhost::update`], once `name` is free: the name of a deleted queue or exchange is
    /// free only when all its bindings are removed.
    pub(super) fn update_free<T>(
        &self,
        name: &Destination,
        change: impl FnOnce(&mut Topology) -> T,
    ) -> (T, Option<Index>) {
        let mut change = Some(change);
        loop {
            let (outcome, index) = self.update(|names| {
                let is_free = !names.is_leaving(name);
                change.take_if(|_| is_free).map(|change| change(names))
            });
            match outcome {
                Some(outcome) => return (outcome, index),
                None => self.finish_removals(),
            };
        }
    }

    /// Returns the display name `queue 'q' in vhost 'v'` for reply texts.
    pub fn describe_queue<'a>(&'a self, name: &'a [u8]) -> Resource<'a> {
        Resource { kind: "queue", name, vhost: self.name.as_octets() }
    }

    /// Returns the display name `exchange 'x' in vhost 'v'` for reply texts.
    pub fn describe_exchange<'a>(&'a self, name: &'a [u8]) -> Resource<'a> {
        Resource { kind: "exchange", name, vhost: self.name.as_octets() }
    }

    /// Returns the 404 for a queue.
    pub fn no_queue(&self, name: &[u8]) -> Fault {
        Fault::new(Code::NotFound, format_args!("no {}", self.describe_queue(name)))
    }

    /// Returns the 404 for an exchange.
    pub fn no_exchange(&self, name: &[u8]) -> Fault {
        Fault::new(Code::NotFound, format_args!("no {}", self.describe_exchange(name)))
    }

    /// Returns the queue `name`, if `connection` may use it.
    ///
    /// # Errors
    /// 404 for no such queue; 405 for another connection's exclusive queue.
    pub fn usable_queue(&self, name: &[u8], connection: u64) -> Result<Arc<Queue>, Fault> {
        let queue = self.names().queue(name).cloned().ok_or_else(|| self.no_queue(name))?;
        self.check_owner(&queue, connection)?;
        Ok(queue)
    }

    /// Checks that `connection` may use `queue`.
    ///
    /// # Errors
    /// 405: `queue` is the exclusive queue of another connection.
    pub fn check_owner(&self, queue: &Queue, connection: u64) -> Result<(), Fault> {
        match queue.declared().owner {
            Some(owner) if owner != connection => Err(self.locked(queue.name().as_octets())),
            _ => Ok(()),
        }
    }

    /// Returns the 405 for another connection's exclusive queue.
    pub fn locked(&self, name: &[u8]) -> Fault {
        Fault::new(
            Code::ResourceLocked,
            format_args!(
                "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or the \
                 exclusive property value does not match that of the original declaration.",
                self.describe_queue(name)
            ),
        )
    }

    /// Routes a message by exchange and keys (its routing key, CC and BCC).
    pub fn route(&self, exchange: &[u8], keys: &[&[u8]], headers: &dyn Headers) -> Route {
        let mut routed = Routed::default();
        match self.route_into(exchange, keys, headers, &mut routed) {
            Err(NoRoute::NoExchange) => Route::NoExchange,
            Err(NoRoute::Internal) => Route::Internal,
            Ok(()) if routed.by_headers => Route::ByHeaders(routed.queues),
            Ok(()) => Route::Queues(routed.queues.into()),
        }
    }

    /// Adds to `routed` the queues of a message with this exchange and these keys.
    ///
    /// # Errors
    /// The exchange does not exist, or is internal.
    pub fn route_into(
        &self,
        exchange: &[u8],
        keys: &[&[u8]],
        headers: &dyn Headers,
        routed: &mut Routed,
    ) -> Result<(), NoRoute> {
        let mut walk = RouteWalk::new(exchange, keys, headers);
        {
            let names = self.names();
            if !exchange.is_empty() {
                match names.exchange(exchange) {
                    None => return Err(NoRoute::NoExchange),
                    Some(found) if found.declared().internal => return Err(NoRoute::Internal),
                    Some(_) => {}
                }
            }
            if names.walk(&mut walk, limits::KEYS_PER_HOLD, routed) {
                return Ok(());
            }
        }
        // Each of very many keys may cost a walk through many patterns.
        self.context.offload().run(|| while !self.names().walk(&mut walk, limits::KEYS_PER_HOLD, routed) {});
        Ok(())
    }

    /// Deletes an auto-delete queue that lost its last consumer, unless it has got another one.
    pub fn delete_if_unused(&self, queue: &Arc<Queue>) {
        let used = |counts: Counts| (counts.consumers > 0).then_some(());
        let (deleted, _) = self.update(|names| {
            let is_listed = names.queue(queue.name().as_octets()).is_some_and(|other| Arc::ptr_eq(other, queue));
            let deleted = if is_listed { queue.delete_unless(used).ok() } else { None }?;
            names.remove_queue(queue.name());
            Some((deleted, names.sweep(limits::UNBINDS_PER_HOLD)))
        });
        if let Some((deleted, _)) = deleted {
            deleted.finish();
            self.finish_removals();
        }
    }

    /// Deletes the exclusive queues of a connection that has ended, a bounded number under each
    /// hold of the lock.
    pub fn delete_owned(&self, connection: u64, queues: impl IntoIterator<Item = Name>) {
        let queues: Vec<Name> = queues.into_iter().collect();
        for run in queues.chunks(limits::DELETES_PER_HOLD) {
            let is_owned = |queue: &Arc<Queue>| queue.declared().owner == Some(connection);
            let ((deleted, _), _) = self.update(|names| {
                let mut deleted = Vec::with_capacity(run.len());
                for name in run {
                    if names.queue(name.as_octets()).is_some_and(is_owned) {
                        deleted.extend(names.remove_queue(name));
                    }
                }
                (deleted, names.sweep(limits::UNBINDS_PER_HOLD))
            });
            for queue in deleted {
                queue.delete().finish();
            }
            self.finish_removals();
        }
    }
}

fn operation(change: &DefinitionChange) -> Operation<'_> {
    match change {
        DefinitionChange::Define { key, value } => Operation::Define { key, value },
        DefinitionChange::Undefine { key } => Operation::Undefine { key },
        DefinitionChange::QueueGone(queue) => Operation::QueueGone { queue: *queue },
    }
}
