//! One queue: its core under one lock, and the way from a decision of the core to the octets in a consumer's outbox.
//!
//! Lock order: queue, then outbox. Work under one hold is bounded by [`limits::PUMP_RUN`]. It knows no exchange, no
//! name but its own, no socket and no clock; what it cannot do itself (vanish, tell others) it returns.

pub mod arguments;
pub mod consumers;
pub mod core;
pub mod intake;
pub mod lanes;
pub mod leaving;
pub mod pager;
pub mod shared;
pub mod together;

use crate::limits;
use crate::message::{Message, Publication};
use crate::outbox::{Address, Inner, Outbox, Outcome, Touched};
use crate::queue::arguments::QueueType;
use crate::queue::consumers::{ConsumerKey, Terms};
use crate::queue::core::Core;
use crate::queue::intake::{Append, Intake, Plan};
use crate::queue::lanes::{Deep, Entry};
use crate::queue::leaving::{Kept, Leaving};
use crate::queue::pager::Raise;
use crate::queue::shared::Shared;
use crate::store::journal::Haste;
use crate::store::list::List;
use crate::store::position::Position;
use crate::store::record::{Operation, Publish};
use crate::store::recovery::QueueState;
use crate::wire::name::Name;
use crate::wire::table::OwnedTable;
use arrayvec::ArrayVec;
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
    /// What the journal does not know yet to be gone.
    leaving: Leaving,
    /// Up to where the journal knows that messages were handed out.
    told_handed_out: u64,
    /// Messages were asked back.
    asked: bool,
    /// Messages have gone to the journal only.
    paged: bool,
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
        let from = state.runs.first().map_or(state.next_seq, |run| run.first);
        let count = usize::try_from(state.messages).unwrap_or(usize::MAX);
        let core = Core::recovered(from, count, state.next_seq, state.handed_out);
        let state_then = State { core, told_handed_out: state.handed_out, ..State::default() };
        Self { declared, number: state.queue, shared, state: Mutex::new(state_then) }
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

    /// Whether the journal keeps persistent messages of it for good.
    pub fn keeps(&self) -> bool {
        self.declared.durable && self.shared.journal().is_some()
    }

    /// Takes a run of messages in, in order, and hands out what can be handed out. `run` is empty afterwards. Returns the position
    /// that has to be durable before anybody is told, if there is one; `haste` is for that.
    pub fn publish(self: &Arc<Self>, run: &mut Vec<Message>, haste: Haste, touched: &mut Touched) -> Option<Position> {
        let mut hold = self.hold();
        if hold.state.deleted {
            run.clear();
            return None;
        }
        let plan = Plan::new(self.number, self.declared.durable, &hold.state.core, run, &self.shared);
        let mut position = None;
        hold.state.paged |= plan.stay < run.len();
        if let Some(journal) = self.shared.journal()
            && plan.concerns_journal(run)
        {
            let mut intake = Intake::default();
            intake.add(&plan, run);
            position = intake.append(journal, self.shared.wall_ms(), &[], Append::Each(haste));
        }
        plan.enter(&mut hold.state.core, run);
        self.pump(hold, touched);
        position
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
    pub fn resume(self: &Arc<Self>, key: ConsumerKey, touched: &mut Touched) {
        let mut hold = self.hold();
        hold.state.core.resume(key);
        self.pump(hold, touched);
    }

    /// Messages at these positions are done with.
    pub fn settle(self: &Arc<Self>, seqs: &[u64], touched: &mut Touched) {
        let mut hold = self.hold();
        hold.state.settle(seqs);
        self.pump(hold, touched);
    }

    /// Messages at these positions come back to their old places.
    pub fn requeue(self: &Arc<Self>, seqs: &[u64], touched: &mut Touched) {
        let mut hold = self.hold();
        for seq in seqs {
            hold.state.core.requeue(*seq);
        }
        self.pump(hold, touched);
    }

    /// Takes the next message for basic.get, and says how many are left. It may have to be read back from the disk.
    pub fn get(self: &Arc<Self>, no_ack: bool) -> Option<(Entry, usize)> {
        loop {
            let mut hold = self.hold();
            let State { core, leaving, .. } = &mut *hold.state;
            if let Some(entry) = core.get(no_ack, leaving) {
                let ready = core.ready();
                self.tell_journal(&mut hold.state);
                self.ask_for_deep(&mut hold.state);
                return Some((entry, ready));
            }
            if core.deep().count == 0 {
                return None;
            }
            drop(hold);
            if !self.read_deep(&mut Touched::default()) {
                return None;
            }
        }
    }

    /// Drops what is ready; says how many that were.
    pub fn purge(&self) -> usize {
        let mut hold = self.hold();
        let State { core, leaving, .. } = &mut *hold.state;
        let count = core.purge(leaving);
        self.tell_journal(&mut hold.state);
        count
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
        self.end_held(&mut self.hold())
    }

    /// Ends the queue unless `objection` has something against it, in one look: nothing changes between look and end.
    ///
    /// # Errors
    /// The objection.
    pub fn end_unless<T>(&self, objection: impl FnOnce(&Core) -> Option<T>) -> Result<Remains, T> {
        let mut hold = self.hold();
        match objection(&hold.state.core) {
            Some(objection) => Err(objection),
            None => Ok(self.end_held(&mut hold)),
        }
    }

    /// What the journal has of a queue that is not durable goes here; of a durable one, with its definition.
    fn end_held(&self, hold: &mut Hold<'_>) -> Remains {
        if hold.state.paged
            && !self.declared.durable
            && let Some(journal) = self.shared.journal()
            && let Err(refused) = journal.append(&Operation::QueueGone { queue: self.number })
        {
            intake::refuse(journal, &refused);
        }
        hold.state.end()
    }

    fn hold(&self) -> Hold<'_> {
        let state = self.state.lock();
        Hold { charged: state.core.charge(), shared: &self.shared, state }
    }

    /// Hands out what can be handed out, with the lock let go between runs so that others get their turn.
    fn pump<'a>(self: &'a Arc<Self>, mut hold: Hold<'a>, touched: &mut Touched) {
        loop {
            let more = hold.state.deliver_run(touched);
            self.tell_journal(&mut hold.state);
            if !more {
                break;
            }
            drop(hold);
            hold = self.hold();
        }
        self.ask_for_deep(&mut hold.state);
    }

    /// Has the journal take what has left the queue, and how far messages were handed out. Nobody waits for that.
    fn tell_journal(&self, state: &mut State) {
        let State { core, leaving, told_handed_out, .. } = state;
        let handed_out = core.handed_out();
        if leaving.is_empty() && handed_out == *told_handed_out {
            return;
        }
        let Some(journal) = self.shared.journal() else { return leaving.clear() };
        let queue = self.number;
        let mut operations = ArrayVec::<Operation<'_>, 2>::new();
        if handed_out != *told_handed_out {
            operations.push(Operation::HandedOut { queue, upto: handed_out });
            *told_handed_out = handed_out;
        }
        if !leaving.for_good.is_empty() {
            operations.push(Operation::Settle { queue, runs: List::Given(&leaving.for_good) });
        }
        if !operations.is_empty()
            && let Err(refused) = journal.append_all(&operations, Haste::Leisure)
        {
            intake::refuse(journal, &refused);
        }
        drop(operations);
        for run in &leaving.for_now {
            journal.forget(queue, *run);
        }
        leaving.clear();
    }

    /// Asks for messages to be read back, if consumers may soon want more than is here.
    fn ask_for_deep(self: &Arc<Self>, state: &mut State) {
        let core = &state.core;
        if core.deep().count > 0
            && !state.asked
            && core.consumer_count() > 0
            && core.fresh_charge() < 2 * self.raise_octets()
        {
            state.asked = true;
            self.shared.pager().ask(Arc::<Self>::clone(self));
        }
    }

    /// How much to read back at a time.
    fn raise_octets(&self) -> u64 {
        let is_short = self.shared.counters().memory() > limits::RESIDENT_ALL;
        if is_short { limits::RESIDENT_MIN } else { limits::RAISE_OCTETS }
    }

    /// Reads the first of what is in the journal only. False: it cannot be read.
    fn read_deep(self: &Arc<Self>, touched: &mut Touched) -> bool {
        let Some(journal) = self.shared.journal() else { return false };
        let Deep { from, count } = self.hold().state.core.deep();
        let mut messages = Vec::new();
        let read = journal.visit_run(
            self.number,
            from,
            limits::RAISE_MESSAGES.min(count),
            self.raise_octets(),
            &mut |seq, publish| {
                let Publish { route, properties, body, flags, .. } = publish;
                let persistent = flags & intake::PERSISTENT != 0;
                let message = Publication { route, properties, body, persistent }.keep(1);
                let kept = if persistent && self.declared.durable { Kept::ForGood } else { Kept::ForNow };
                messages.push((seq, message, kept));
            },
        );
        let mut hold = self.hold();
        hold.state.asked = false;
        let failure = match read {
            Err(error) => Some(error.to_string()),
            // Somebody else may have read it, or purged it.
            Ok(()) if !messages.is_empty() || hold.state.core.deep() != (Deep { from, count }) || count == 0 => None,
            Ok(()) => Some("messages are missing".to_owned()),
        };
        if let Some(why) = failure {
            journal.fail(&format!("cannot read messages of queue '{}' back: {why}", self.name()));
            return false;
        }
        hold.state.core.raise(from, messages);
        self.pump(hold, touched);
        true
    }
}

impl Raise for Queue {
    fn raise(self: Arc<Self>) {
        let mut touched = Touched::default();
        self.read_deep(&mut touched);
        touched.wake();
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
    fn settle(&mut self, seqs: &[u64]) {
        let Self { core, leaving, .. } = self;
        for seq in seqs {
            core.settle(*seq, leaving);
        }
    }

    fn end(&mut self) -> Remains {
        self.deleted = true;
        Remains { core: std::mem::take(&mut self.core), ports: std::mem::take(&mut self.ports) }
    }

    /// Makes at most [`limits::PUMP_RUN`] deliveries. True: there may be more to make.
    fn deliver_run(&mut self, touched: &mut Touched) -> bool {
        let Self { core, ports, leaving, .. } = self;
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
                    core.delivered(key, leaving);
                }
                Outcome::Stalled => core.stall(key),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
