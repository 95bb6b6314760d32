//! One queue: its core under one lock, and the way from a decision of the core to the octets in a consumer's outbox.
//!
//! Lock order: queue, then outbox. Work under one hold is bounded by [`limits::PUMP_RUN`]. It knows no exchange, no
//! name but its own, no socket and no clock; what it cannot do itself (vanish, tell others) it returns.

pub mod arguments;
pub mod consumers;
pub mod core;
pub mod lanes;
pub mod shared;

use crate::limits;
use crate::message::Message;
use crate::outbox::{Address, Inner, Outbox, Outcome, Touched};
use crate::queue::arguments::QueueType;
use crate::queue::consumers::{ConsumerKey, Terms};
use crate::queue::core::Core;
use crate::queue::lanes::Entry;
use crate::queue::shared::Shared;
use crate::store::recovery::QueueState;
use crate::wire::name::Name;
use crate::wire::table::OwnedTable;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// What a queue was declared as. It never changes.
#[derive(Debug)]
pub struct Declared {
    /// Its name.
    pub name: Name,
    /// Survives a restart.
    pub durable: bool,
    /// The connection that owns it and that it dies with.
    pub owner: Option<u64>,
    /// Vanishes with its last consumer.
    pub auto_delete: bool,
    /// The resolved `x-queue-type`.
    pub kind: QueueType,
    /// All arguments, octet for octet.
    pub arguments: OwnedTable,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    declared: Declared,
    number: u64,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    core: Core,
    ports: Vec<Option<Port>>,
    deleted: bool,
}

/// Where a consumer of the core gets its octets.
#[derive(Debug)]
struct Port {
    outbox: Arc<Outbox>,
    address: Address,
}

/// Why a consumer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It or another consumer is exclusive.
    ExclusiveUse,
    /// The queue was deleted in the meantime.
    Deleted,
}

/// Messages ready, and consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready messages.
    pub messages: usize,
    /// Consumers.
    pub consumers: usize,
}

impl Queue {
    /// A new, empty queue.
    pub fn new(declared: Declared, shared: Arc<Shared>) -> Self {
        Self { declared, number: shared.next_number(), shared, state: Mutex::default() }
    }

    /// A durable queue as the journal has kept it.
    pub fn recovered(declared: Declared, state: &QueueState, shared: Arc<Shared>) -> Self {
        let number = state.queue;
        Self { declared, number, shared, state: Mutex::default() }
    }

    /// The number by which the journal knows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it was declared as.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.declared.name
    }

    /// Takes a run of messages in, in order, and hands out what can be handed out. `run` is empty afterwards.
    pub fn publish(&self, run: &mut Vec<Message>, touched: &mut Touched) {
        let mut hold = self.hold();
        if hold.state.deleted {
            run.clear();
            return;
        }
        for message in run.drain(..) {
            hold.state.core.enqueue(message);
        }
        self.pump(hold, touched);
    }

    /// Adds a consumer. The client's consume-ok must already be in the outbox: deliveries may follow at once.
    ///
    /// # Errors
    /// See [`Refused`]; nothing has changed then.
    pub fn consume(&self, terms: Terms, outbox: &Arc<Outbox>, address: Address) -> Result<ConsumerKey, Refused> {
        let mut hold = self.hold();
        if hold.state.deleted {
            return Err(Refused::Deleted);
        }
        let key = hold.state.core.consume(terms).ok_or(Refused::ExclusiveUse)?;
        hold.state.core.stall(key);
        let port = Port { outbox: Arc::clone(outbox), address };
        if hold.state.ports.len() <= key.index() {
            hold.state.ports.resize_with(key.index() + 1, || None);
        }
        if let Some(slot) = hold.state.ports.get_mut(key.index()) {
            *slot = Some(port);
        }
        Ok(key)
    }

    /// Takes a consumer away. What it has not settled stays handed out. True: an auto-delete queue is now deserted.
    pub fn cancel(&self, key: ConsumerKey) -> bool {
        let mut hold = self.hold();
        if hold.state.core.cancel(key)
            && let Some(port) = hold.state.ports.get_mut(key.index())
        {
            *port = None;
        }
        self.declared.auto_delete && hold.state.core.is_deserted()
    }

    /// The consumer's connection takes deliveries (again).
    pub fn resume(&self, key: ConsumerKey, touched: &mut Touched) {
        let mut hold = self.hold();
        hold.state.core.resume(key);
        self.pump(hold, touched);
    }

    /// Messages at these positions are done with.
    pub fn settle(&self, seqs: &[u64], touched: &mut Touched) {
        let mut hold = self.hold();
        for seq in seqs {
            hold.state.core.settle(*seq);
        }
        self.pump(hold, touched);
    }

    /// Messages at these positions come back to their old places.
    pub fn requeue(&self, seqs: &[u64], touched: &mut Touched) {
        let mut hold = self.hold();
        for seq in seqs {
            hold.state.core.requeue(*seq);
        }
        self.pump(hold, touched);
    }

    /// Takes the next message for basic.get, and says how many are left.
    pub fn get(&self, no_ack: bool) -> Option<(Entry, usize)> {
        let mut hold = self.hold();
        let entry = hold.state.core.get(no_ack)?;
        Some((entry, hold.state.core.ready()))
    }

    /// Drops what is ready; says how many that were.
    pub fn purge(&self) -> usize {
        self.hold().state.core.purge()
    }

    /// Ready messages and consumers.
    pub fn counts(&self) -> Counts {
        let hold = self.hold();
        Counts { messages: hold.state.core.ready(), consumers: hold.state.core.consumer_count() }
    }

    /// Whether it was ended.
    pub fn is_ended(&self) -> bool {
        self.hold().state.deleted
    }

    /// Ends the queue: nothing comes in any more. What remains is to be buried by the caller, who has taken the queue out of
    /// the topology, without that lock: there may be many messages to drop.
    pub fn end(&self) -> Remains {
        let mut hold = self.hold();
        hold.state.end()
    }

    /// Ends the queue unless `objection` has something against it, in one look: nothing changes between look and end.
    ///
    /// # Errors
    /// The objection.
    pub fn end_unless<T>(&self, objection: impl FnOnce(&Core) -> Option<T>) -> Result<Remains, T> {
        let mut hold = self.hold();
        match objection(&hold.state.core) {
            Some(objection) => Err(objection),
            None => Ok(hold.state.end()),
        }
    }

    fn hold(&self) -> Hold<'_> {
        let state = self.state.lock();
        Hold { charged: state.core.charge(), shared: &self.shared, state }
    }

    /// Hands out what can be handed out, with the lock let go between runs so that others get their turn.
    fn pump<'a>(&'a self, mut hold: Hold<'a>, touched: &mut Touched) {
        while hold.state.deliver_run(touched) {
            drop(hold);
            hold = self.hold();
        }
    }
}

/// The queue's lock; when it is let go, memory in use is booked.
struct Hold<'a> {
    charged: u64,
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.shared.counters().book_memory(self.charged, self.state.core.charge());
    }
}

/// What is left of a queue that was ended.
#[derive(Debug)]
#[must_use]
pub struct Remains {
    core: Core,
    ports: Vec<Option<Port>>,
}

impl Remains {
    /// Drops the messages and tells the consumers' connections; how many messages were ready.
    pub fn bury(self) -> usize {
        for port in self.ports.into_iter().flatten() {
            port.outbox.lost(port.address.channel, port.address.slot);
        }
        self.core.ready()
    }
}

impl State {
    fn end(&mut self) -> Remains {
        self.deleted = true;
        Remains { core: std::mem::take(&mut self.core), ports: std::mem::take(&mut self.ports) }
    }

    /// Makes at most [`limits::PUMP_RUN`] deliveries. True: there may be more to make.
    fn deliver_run(&mut self, touched: &mut Touched) -> bool {
        let Self { core, ports, .. } = self;
        let mut open: Option<(&Arc<Outbox>, MutexGuard<'_, Inner>)> = None;
        for _ in 0..limits::PUMP_RUN {
            let Some((key, entry)) = core.next_delivery() else { return false };
            let Some(Some(port)) = ports.get(key.index()) else {
                core.stall(key);
                continue;
            };
            if !open.as_ref().is_some_and(|(outbox, _)| Arc::ptr_eq(outbox, &port.outbox)) {
                // One outbox at a time: the lock is a leaf.
                drop(open.take());
                open = Some((&port.outbox, port.outbox.lock()));
            }
            let Some((outbox, inner)) = open.as_mut() else { return false };
            match inner.deliver(&port.address, entry.seq, entry.redelivered, &entry.message) {
                Outcome::Delivered => {
                    touched.add(outbox, inner);
                    core.delivered(key);
                }
                Outcome::Stalled => core.stall(key),
            }
        }
        true
    }
}
