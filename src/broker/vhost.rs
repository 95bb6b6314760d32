//! One virtual host: names under one lock, their version, and what follows from deleting something. The rules of
//! declaring stand in `exchanges` and `queues`; it knows no session and no socket.
//!
//! Lock order: topology, then queue, then outbox.

use crate::broker::definitions::{self, Item};
use crate::broker::replies::Replies;
use crate::broker::resource::Resource;
use crate::broker::topology::{self, Routed, Topology};
use crate::limits;
use crate::queue::Queue;
use crate::queue::core::Core;
use crate::queue::intake;
use crate::queue::shared::Shared;
use crate::routing::headers::Headers;
use crate::store::position::Position;
use crate::store::record::Operation;
use crate::wire::fault::{Code, Fault};
use crate::wire::name::Name;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    name: Name,
    topology: RwLock<Topology>,
    version: AtomicU64,
    replies: Replies,
    shared: Arc<Shared>,
    /// The position of the last durable definition, or end of one.
    defined: AtomicU64,
}

/// What publishing to an exchange with some key comes to.
#[derive(Debug)]
pub enum Route {
    /// 404.
    NoExchange,
    /// 403: clients may not publish there.
    Internal,
    /// Whatever the headers: these queues.
    Queues(Arc<[Arc<Queue>]>),
    /// It depends on the headers; these queues for the ones given.
    ByHeaders(Vec<Arc<Queue>>),
}

impl Vhost {
    /// A virtual host with the exchanges that are always there.
    pub fn new(name: Name, shared: Arc<Shared>) -> Self {
        let topology = RwLock::new(topology::predeclared());
        Self {
            name,
            topology,
            version: AtomicU64::new(0),
            replies: Replies::default(),
            shared,
            defined: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Consumers of `amq.rabbitmq.reply-to`.
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// What its queues share with those of other virtual hosts.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes whenever a route may have changed.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Reads the names.
    pub fn names(&self) -> RwLockReadGuard<'_, Topology> {
        self.topology.read()
    }

    /// Changes the names; every cached route is void afterwards, if something was changed. What changes of what is durable goes to
    /// the journal.
    pub fn change(&self) -> Change<'_> {
        Change { topology: self.topology.write(), vhost: self, changed: false }
    }

    /// From now on what changes of what is durable goes to the journal, if there is one.
    pub fn keep_changes(&self) {
        if self.shared.journal().is_some() {
            self.topology.write().keep_changes(&self.name);
        }
    }

    /// Everything durable that was defined so far is when this position is.
    pub fn defined(&self) -> Position {
        Position::from_number(self.defined.load(Ordering::Acquire))
    }

    /// Has the journal take what has changed: in one piece, unless that would be too large. In order as it is, each piece leaves
    /// what makes sense.
    fn journal_changes(&self, items: &[Item]) {
        let Some(journal) = self.shared.journal() else { return };
        for items in definitions::pieces(items, limits::DEFINITIONS_AT_ONCE, limits::DEFINITIONS_OCTETS) {
            let operations: Vec<_> = items.iter().map(operation).collect();
            let appended = match &*operations {
                [only] => journal.append(only),
                _ => journal.append_batch(&operations),
            };
            match appended {
                Ok(position) => self.defined.store(position.number(), Ordering::Release),
                Err(refused) => {
                    intake::refuse(journal, &refused);
                    self.defined.store(intake::never().number(), Ordering::Release);
                }
            }
        }
    }

    /// `queue 'q' in vhost 'v'`.
    pub fn queue_words<'a>(&'a self, name: &'a [u8]) -> Resource<'a> {
        Resource { kind: "queue", name, vhost: self.name.as_octets() }
    }

    /// `exchange 'x' in vhost 'v'`.
    pub fn exchange_words<'a>(&'a self, name: &'a [u8]) -> Resource<'a> {
        Resource { kind: "exchange", name, vhost: self.name.as_octets() }
    }

    /// The 404 of a queue.
    pub fn no_queue(&self, name: &[u8]) -> Fault {
        Fault::new(Code::NotFound, format_args!("no {}", self.queue_words(name)))
    }

    /// The 404 of an exchange.
    pub fn no_exchange(&self, name: &[u8]) -> Fault {
        Fault::new(Code::NotFound, format_args!("no {}", self.exchange_words(name)))
    }

    /// The queue of that name, if this connection may use it.
    ///
    /// # Errors
    /// 404; 405 for the exclusive queue of another connection.
    pub fn usable_queue(&self, name: &[u8], connection: u64) -> Result<Arc<Queue>, Fault> {
        let queue = self.names().queue(name).cloned().ok_or_else(|| self.no_queue(name))?;
        self.check_owner(&queue, connection)?;
        Ok(queue)
    }

    /// # Errors
    /// 405: `queue` is the exclusive queue of another connection.
    pub fn check_owner(&self, queue: &Queue, connection: u64) -> Result<(), Fault> {
        match queue.declared().owner {
            Some(owner) if owner != connection => Err(self.locked(queue.name().as_octets())),
            _ => Ok(()),
        }
    }

    /// The 405 of an exclusive queue.
    pub fn locked(&self, name: &[u8]) -> Fault {
        Fault::new(
            Code::ResourceLocked,
            format_args!(
                "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or the \
                 exclusive property value does not match that of the original declaration.",
                self.queue_words(name)
            ),
        )
    }

    /// Where a message with this exchange and these keys (its routing key, CC and BCC) goes.
    pub fn route(&self, exchange: &[u8], keys: &[&[u8]], headers: &dyn Headers) -> Route {
        let names = self.names();
        if !exchange.is_empty() {
            match names.exchange(exchange) {
                None => return Route::NoExchange,
                Some(found) if found.declared().internal => return Route::Internal,
                Some(_) => {}
            }
        }
        let mut routed = Routed::default();
        names.route(exchange, keys, headers, &mut routed);
        if routed.by_headers { Route::ByHeaders(routed.queues) } else { Route::Queues(routed.queues.into()) }
    }

    /// Ends an auto-delete queue whose last consumer has gone, unless another one has come meanwhile.
    pub fn end_if_deserted(&self, queue: &Arc<Queue>) {
        let mut names = self.change();
        let is_ours = names.queue(queue.name().as_octets()).is_some_and(|other| Arc::ptr_eq(other, queue));
        let stays = |core: &Core| (!core.is_deserted()).then_some(());
        if is_ours && let Ok(remains) = queue.end_unless(stays) {
            names.remove_queue(queue.name());
            drop(names);
            remains.bury();
        }
    }

    /// Ends the exclusive queues of a connection that is gone. The names are let go between runs, so that others get their
    /// turn.
    pub fn end_owned(&self, connection: u64, queues: impl IntoIterator<Item = Name>) {
        let queues: Vec<Name> = queues.into_iter().collect();
        for run in queues.chunks(limits::END_RUN) {
            let mut names = self.change();
            let is_owned = |queue: &Arc<Queue>| queue.declared().owner == Some(connection);
            let ended: Vec<_> = run
                .iter()
                .filter_map(|name| {
                    let owned = names.queue(name.as_octets()).is_some_and(is_owned);
                    owned.then(|| names.remove_queue(name)).flatten()
                })
                .collect();
            drop(names);
            for queue in ended {
                queue.end().bury();
            }
        }
    }
}

fn operation(item: &Item) -> Operation<'_> {
    match item {
        Item::Define { key, value } => Operation::Define { key, value },
        Item::Undefine { key } => Operation::Undefine { key },
        Item::QueueGone(queue) => Operation::QueueGone { queue: *queue },
    }
}

/// The names, open for change.
pub struct Change<'a> {
    topology: RwLockWriteGuard<'a, Topology>,
    vhost: &'a Vhost,
    changed: bool,
}

impl Deref for Change<'_> {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.topology
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Topology {
        self.changed = true;
        &mut self.topology
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.changed {
            let items = self.topology.take_changes();
            if !items.is_empty() {
                self.vhost.journal_changes(&items);
            }
            // Before the lock is let go: whoever reads the new version finds the new names.
            self.vhost.version.fetch_add(1, Ordering::Release);
        }
    }
}
