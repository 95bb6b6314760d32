//! One queue: its state under one lock, and the way from a command to the octets in a consumer's
//! outbox.
//!
//! Lock order: queue, then outbox or the journal's appender; never two queues. Work under one hold
//! is bounded by [`limits::DELIVERIES_PER_HOLD`] and [`limits::SETTLES_PER_HOLD`]. Knows no
//! exchange, no name but its own, no socket and no clock; what it cannot do itself (be deleted,
//! notify others) it returns.

pub mod admission;
pub mod arguments;
pub mod atomic_publish;
pub mod command;
pub mod consumers;
pub mod context;
pub mod core;
pub mod declared;
pub mod delivery;
pub mod effects;
pub mod journal_batch;
pub mod options;
pub mod page_in;
pub mod paging;
pub mod purge;
pub mod ready;
pub mod settled;
mod state;

use crate::limits;
use crate::memory::{Charge, Purpose};
use crate::message::Message;
use crate::metrics::MessageCounts;
use crate::outbox::{DeliveryTarget, FlushSet, Outbox};
use crate::queue::admission::Admission;
use crate::queue::command::{Command, Disposition};
use crate::queue::consumers::{ConsumeError, ConsumerFacts, ConsumerKey, ConsumerOptions};
use crate::queue::context::QueueContext;
use crate::queue::core::{Core, DeliveryMode};
use crate::queue::declared::Declared;
use crate::queue::delivery::ConsumerSink;
use crate::queue::journal_batch::{Atomicity, JournalBatch};
use crate::queue::options::Options;
use crate::queue::page_in::PageIn;
use crate::queue::ready::{Front, Purged};
use crate::queue::state::{Hold, State};
use leveret_journal::index::Index;
use leveret_journal::journal::CommitMode;
use leveret_journal::record::Operation;
use leveret_journal::recovery::QueueState;
use leveret_wire::name::Name;
use parking_lot::Mutex;
use std::sync::Arc;

/// A queue of any kind: who routes, publishes, consumes or settles does not ask which. All kinds
/// have the rules of a classic queue so far.
#[derive(Debug)]
pub struct Queue {
    declared: Declared,
    number: u64,
    context: Arc<QueueContext>,
    /// For the definition.
    _charge: Charge,
    state: Mutex<State>,
}

/// Numbers of ready messages and of consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready messages.
    pub messages: usize,
    /// Consumers.
    pub consumers: usize,
}

impl Counts {
    fn of(core: &Core) -> Self {
        Self { messages: core.ready(), consumers: core.consumer_count() }
    }
}

/// The numbers of one queue at one time.
#[derive(Clone, Debug)]
pub struct QueueStats {
    /// Ready messages.
    pub ready: usize,
    /// Messages delivered and not settled.
    pub unacked: usize,
    /// Consumers.
    pub consumers: usize,
    /// Ready messages whose bodies are in the journal only.
    pub stored: usize,
    /// Octets charged for messages in memory; those that came back are not counted.
    pub resident_octets: u64,
    /// Messages that went through the queue since the start.
    pub counts: MessageCounts,
    /// The wall time of the last command, in ms since 1970.
    pub last_used_ms: u64,
}

/// Most consumers returned by one call.
pub const CONSUMERS_PAGE: usize = 256;

/// A consumer of a queue.
#[derive(Clone, Debug)]
pub struct ConsumerStats {
    /// The number of its connection.
    pub connection: u64,
    /// Its channel.
    pub channel: u16,
    /// Its tag.
    pub tag: Name,
    /// Options, unacked deliveries, and whether it may get more.
    pub facts: ConsumerFacts,
}

/// The outcome of messages that were published into a queue. Those that were not rejected are
/// accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOutcome {
    /// The journal's index that has to be durable before the publisher is told, if there is one.
    pub index: Option<Index>,
    /// Indexes in the run of the messages that the queue has not taken, rising: it is full.
    pub rejected: Vec<usize>,
}

/// A message fetched by basic.get.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its id in the queue.
    pub id: u64,
    /// The message.
    pub message: Message,
    /// The message was delivered before.
    pub redelivered: bool,
    /// Number of messages that are ready still.
    pub remaining: usize,
}

impl Queue {
    /// Returns a new, empty queue.
    pub fn new(declared: Declared, context: Arc<QueueContext>) -> Self {
        let state = State::new(Core::new(Options::derive(&declared)), &context);
        Self::with_state(declared, context.next_number(), context, state)
    }

    /// Returns a durable queue as the journal has kept it.
    pub fn recovered(declared: Declared, state: &QueueState, context: Arc<QueueContext>) -> Self {
        let first = state.runs.first().map_or(state.next_seq, |run| run.first);
        let count = usize::try_from(state.messages).unwrap_or(usize::MAX);
        let core = Core::recovered(Options::derive(&declared), first, count, state.next_seq, state.delivered_upto);
        let recovered = State::recovered(core, &context);
        context.count_backlog(false, count > 0);
        Self::with_state(declared, state.queue, context, recovered)
    }

    fn with_state(declared: Declared, number: u64, context: Arc<QueueContext>, state: State) -> Self {
        let mut charge = Charge::new(context.memory(), Purpose::Definitions);
        charge.set(declared.octets());
        Self { declared, number, context, _charge: charge, state: Mutex::new(state) }
    }

    /// Returns the number by which the journal knows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns what it was declared as.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// Returns its name.
    pub fn name(&self) -> &Name {
        &self.declared.name
    }

    /// Returns the surroundings of all queues.
    pub fn context(&self) -> &Arc<QueueContext> {
        &self.context
    }

    /// Returns whether the journal keeps persistent messages of it for good.
    pub fn is_journaled(&self) -> bool {
        self.declared.durable && self.context.journal().is_some()
    }

    /// Adds messages in order, and delivers what can be delivered. `run` is empty afterwards.
    /// `mode` is for the index in the outcome.
    pub fn publish(self: &Arc<Self>, run: &mut Vec<Message>, mode: CommitMode, flush: &mut FlushSet) -> PublishOutcome {
        let (count, mut outcome) = (run.len(), PublishOutcome::default());
        loop {
            let mut hold = self.hold();
            if hold.state.deleted {
                run.clear();
                return outcome;
            }
            let admission = self.admit(&mut hold.state.core, run, false);
            if admission.taken == 0 {
                // Nobody takes what would make room.
                outcome.rejected.extend(count - run.len()..count);
                run.clear();
                return outcome;
            }
            if let Some(journal) = self.context.journal()
                && admission.concerns_journal(run)
            {
                let mut batch = JournalBatch::default();
                hold.state.in_journal |= batch.add(self.number, &admission, run);
                let index = batch.append(journal, self.context.wall_ms(), &[], Atomicity::Each(mode));
                outcome.index = outcome.index.max(index);
            }
            hold.state.counts.published += admission.taken as u64;
            hold.state.apply(Command::Enqueue { messages: run, admission });
            self.dispatch(hold, flush);
            if run.is_empty() {
                return outcome;
            }
        }
    }

    /// Decides where messages are kept; `is_written_once`: one record has each of them for all of
    /// its queues.
    fn admit(&self, core: &mut Core, run: &[Message], is_written_once: bool) -> Admission {
        paging::admit(&self.context, core, run, is_written_once)
    }

    /// Adds messages that nobody gets before [`Queue::commit`], and what the journal takes of them
    /// to `batch`.
    fn enqueue_uncommitted(
        &self,
        hold: &mut Hold<'_>,
        messages: &mut Vec<Message>,
        batch: &mut JournalBatch,
    ) -> Option<Admission> {
        if hold.state.deleted || messages.is_empty() {
            messages.clear();
            return None;
        }
        let admission = Admission { commits_later: true, ..self.admit(&mut hold.state.core, messages, true) };
        if admission.taken == 0 {
            return None;
        }
        hold.state.in_journal |= batch.add(self.number, &admission, messages);
        hold.state.counts.published += admission.taken as u64;
        hold.state.apply(Command::Enqueue { messages, admission });
        Some(admission)
    }

    /// Makes the messages of an admission deliverable, which the journal has taken now; delivers
    /// what can be delivered.
    fn commit(self: &Arc<Self>, admission: Option<Admission>, flush: &mut FlushSet) {
        let mut hold = self.hold();
        if hold.state.deleted {
            // The journal has heard of its end before it took these.
            if admission.is_some() && hold.state.in_journal {
                self.journal_deletion();
            }
            return;
        }
        if let Some(admission) = admission {
            hold.state.apply(Command::Commit(admission));
        }
        self.dispatch(hold, flush);
    }

    /// Adds a consumer, which gets nothing before [`Queue::resume`].
    ///
    /// # Errors
    /// See [`ConsumeError`]; nothing has changed then.
    pub fn consume(
        &self,
        options: ConsumerOptions,
        outbox: &Arc<Outbox>,
        target: DeliveryTarget,
    ) -> Result<ConsumerKey, ConsumeError> {
        let mut hold = self.hold();
        if hold.state.deleted {
            return Err(ConsumeError::Deleted);
        }
        hold.state.core.check_consume(options.exclusive)?;
        let key = hold.state.delivery.add(options, ConsumerSink { outbox: Arc::clone(outbox), target });
        hold.state.apply(Command::Consume { key, exclusive: options.exclusive });
        Ok(key)
    }

    /// Removes a consumer. What it has not settled stays delivered. Returns whether the queue is to
    /// be deleted with it.
    pub fn cancel(&self, key: ConsumerKey) -> bool {
        let mut hold = self.hold();
        hold.state.last_used_ms = self.context.wall_ms();
        if hold.state.delivery.remove(key) {
            hold.state.apply(Command::Cancel(key));
        }
        std::mem::take(&mut hold.state.effects.unused)
    }

    /// Delivers to a consumer (again): its connection takes deliveries.
    pub fn resume(self: &Arc<Self>, key: ConsumerKey, flush: &mut FlushSet) {
        let mut hold = self.hold();
        hold.state.delivery.resume(key);
        self.dispatch(hold, flush);
    }

    /// Stops deliveries until [`Queue::end_suspension`]: messages are put back in several steps,
    /// and nobody gets a later one before all are back.
    pub fn suspend(&self) {
        self.hold().state.delivery.suspended += 1;
    }

    /// Ends what [`Queue::suspend`] has begun, and delivers what can be delivered.
    pub fn end_suspension(self: &Arc<Self>, flush: &mut FlushSet) {
        let mut hold = self.hold();
        hold.state.delivery.suspended = hold.state.delivery.suspended.saturating_sub(1);
        self.dispatch(hold, flush);
    }

    /// Settles delivered messages; those that go back go to their old places, and nobody gets one
    /// before all are back.
    pub fn settle(self: &Arc<Self>, ids: &[u64], disposition: Disposition, flush: &mut FlushSet) {
        let mut chunks = ids.chunks(limits::SETTLES_PER_HOLD).peekable();
        let mut is_first = true;
        while let Some(ids) = chunks.next() {
            let mut hold = self.hold();
            let is_last = chunks.peek().is_none();
            // It counts as long as more is to come.
            match (is_first, is_last) {
                (true, false) => hold.state.delivery.suspended += 1,
                (false, true) => hold.state.delivery.suspended = hold.state.delivery.suspended.saturating_sub(1),
                _ => {}
            }
            is_first = false;
            hold.state.settle(ids, disposition);
            // No dead-letter exchange is known yet: a message that is refused for good is dropped.
            let dead = std::mem::take(&mut hold.state.effects.dead);
            if is_last {
                self.dispatch(hold, flush);
            } else {
                hold.state.journal_effects(&self.context, self.number);
                drop(hold);
            }
            drop(dead);
        }
    }

    /// Takes the next message for basic.get. Its body may have to be read from the disk, which
    /// takes its time.
    pub fn get(self: &Arc<Self>, no_ack: bool) -> Option<Fetched> {
        loop {
            let mut hold = self.hold();
            let unacked_octets = self.context.unacked_octets();
            hold.state.last_used_ms = self.context.wall_ms();
            let State { core, effects, .. } = &mut *hold.state;
            match core.front() {
                Front::Empty => return None,
                Front::Resident(_) => {
                    let entry = core.get(DeliveryMode { no_ack, unacked_octets }, effects)?;
                    let (id, redelivered, remaining) = (entry.id, entry.is_redelivered(), core.ready());
                    hold.state.count_fetched(no_ack, redelivered);
                    hold.state.journal_effects(&self.context, self.number);
                    self.request_page_in(&mut hold.state);
                    return entry.body.map(|message| Fetched { id, message, redelivered, remaining });
                }
                Front::Stored => {}
            }
            drop(hold);
            // Messages that cannot be read are dropped, so the front comes closer each time.
            self.context.offload().run(|| self.page_in_next(&mut FlushSet::default()));
        }
    }

    /// Drops the ready messages. Returns how many there were, and the index that has to be durable
    /// before the client is told, if there is one.
    pub fn purge(&self) -> (usize, Option<Index>) {
        let mut hold = self.hold();
        hold.state.last_used_ms = self.context.wall_ms();
        hold.state.apply(Command::Purge);
        let purged = std::mem::take(&mut hold.state.effects.purged);
        let mut index = hold.state.journal_effects(&self.context, self.number);
        let journal = self.context.journal().filter(|_| hold.state.in_journal && !hold.state.deleted);
        drop(hold);
        if let Some(journal) = journal {
            index = purge::settle(journal, self.number, &purged.unsettled).or(index);
            if index.is_some() {
                journal.write_deferred();
            }
        }
        let Purged { count, .. } = purged;
        purge::free(&self.context, purged.entries(), purged);
        (count, index)
    }

    /// Returns consumers from an index on, and the index of the next ones; `None`: these are the
    /// last. At most `most` and at most [`CONSUMERS_PAGE`] indexes are looked at, of which some may
    /// have no consumer.
    pub fn consumers_from(&self, at: usize, most: usize) -> (Vec<ConsumerStats>, Option<usize>) {
        let most = most.min(CONSUMERS_PAGE);
        let hold = self.hold();
        let consumer = |(facts, sink): (ConsumerFacts, &ConsumerSink)| ConsumerStats {
            connection: sink.outbox.connection(),
            channel: sink.target.channel,
            tag: sink.target.tag.clone(),
            facts,
        };
        let page = hold.state.delivery.consumers(at, most).map(consumer).collect();
        (page, (at + most < hold.state.delivery.places()).then_some(at + most))
    }

    /// Returns the queue's numbers.
    pub fn stats(&self) -> QueueStats {
        let hold = self.hold();
        let State { core, delivery, counts, last_used_ms, .. } = &*hold.state;
        let mut counts = *counts;
        delivery.add_counts(&mut counts);
        QueueStats {
            ready: core.ready(),
            unacked: core.unacked(),
            consumers: core.consumer_count(),
            stored: core.ready_messages().stored().count,
            resident_octets: core.ready_messages().resident_charge() + core.unacked_body_charge(),
            counts,
            last_used_ms: *last_used_ms,
        }
    }

    /// Sets the most ready messages that the queue takes.
    #[cfg(test)]
    pub fn limit_length(&self, max: usize) {
        let mut hold = self.hold();
        let options = Options { max_length: Some(max), ..Options::clone(hold.state.core.options()) };
        hold.state.apply(Command::Configure(Arc::new(options)));
    }

    /// Returns the numbers of ready messages and consumers.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.hold().state.core)
    }

    /// Returns whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.hold().state.deleted
    }

    /// Deletes the queue: nothing comes in any more. The caller has taken it out of the topology
    /// and finishes the deletion without that lock: there may be many messages to drop.
    pub fn delete(&self) -> DeletedQueue {
        self.delete_held(&mut self.hold())
    }

    /// Deletes the queue unless it does not meet a precondition; nothing changes between the check
    /// and the deletion.
    ///
    /// # Errors
    /// What `precondition` has found.
    pub fn delete_unless<T>(&self, precondition: impl FnOnce(Counts) -> Option<T>) -> Result<DeletedQueue, T> {
        let mut hold = self.hold();
        match precondition(Counts::of(&hold.state.core)) {
            Some(failed) => Err(failed),
            None => Ok(self.delete_held(&mut hold)),
        }
    }

    /// The record of a durable queue's deletion is its definition's.
    fn delete_held(&self, hold: &mut Hold<'_>) -> DeletedQueue {
        if hold.state.in_journal && !self.declared.durable {
            self.journal_deletion();
        }
        let state = &mut *hold.state;
        state.deleted = true;
        let sinks = state.delivery.take_sinks();
        DeletedQueue { core: std::mem::take(&mut state.core), sinks, context: Arc::clone(&self.context) }
    }

    fn journal_deletion(&self) {
        if let Some(journal) = self.context.journal()
            && let Err(refused) = journal.append(&Operation::QueueGone { queue: self.number })
        {
            journal_batch::refuse(journal, &refused);
        }
    }

    fn hold(&self) -> Hold<'_> {
        Hold::new(&self.state, &self.context)
    }

    /// Delivers what can be delivered, with the lock let go between runs so that others can take
    /// it.
    fn dispatch<'a>(self: &'a Arc<Self>, mut hold: Hold<'a>, flush: &mut FlushSet) {
        let unacked_octets = self.context.unacked_octets();
        hold.state.last_used_ms = self.context.wall_ms();
        loop {
            let State { core, delivery, effects, .. } = &mut *hold.state;
            let more = delivery.run(core, unacked_octets, effects, flush);
            hold.state.journal_effects(&self.context, self.number);
            if !more {
                break;
            }
            drop(hold);
            hold = self.hold();
        }
        self.request_page_in(&mut hold.state);
    }

    /// Asks for bodies if consumers may soon want more than are in memory.
    fn request_page_in(self: &Arc<Self>, state: &mut State) {
        let State { core, delivery, deleted, .. } = state;
        if !delivery.page_in_requested
            && core.consumer_count() > 0
            && !*deleted
            && paging::is_short(&self.context, core)
        {
            delivery.page_in_requested = true;
            self.context.page_ins().request(Arc::<Self>::clone(self));
        }
    }

    /// Reads the bodies that are wanted first, and delivers what can be delivered. Messages that
    /// cannot be read are dropped.
    fn page_in_next(self: &Arc<Self>, flush: &mut FlushSet) {
        let mut request = OpenRequest { queue: self, is_open: true };
        let (wanted, is_durable) = {
            let hold = self.hold();
            (hold.state.core.wanted(), hold.state.core.options().durable)
        };
        let (Some(wanted), Some(journal)) = (wanted, self.context.journal()) else { return };
        let (bodies, unreadable) = paging::read_bodies(&self.context, self.number, wanted, is_durable);
        let mut hold = self.hold();
        request.is_open = false;
        let State { core, effects, delivery, .. } = &mut *hold.state;
        delivery.page_in_requested = false;
        // Others may have read or purged them meanwhile.
        let missing =
            if bodies.is_empty() && core.wanted() == Some(wanted) { core.drop_missing(wanted, effects) } else { 0 };
        core.page_in(bodies, effects);
        self.dispatch(hold, flush);
        paging::report_lost(self.name(), journal, &unreadable, missing);
    }
}

impl PageIn for Queue {
    fn page_in(self: Arc<Self>) {
        let mut flush = FlushSet::default();
        self.page_in_next(&mut flush);
        flush.flush();
    }
}

/// Lets bodies be asked for again if reading them panics.
struct OpenRequest<'a> {
    queue: &'a Queue,
    is_open: bool,
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.queue.hold().state.delivery.page_in_requested = false;
        }
    }
}

/// A deleted queue's messages and consumers.
#[derive(Debug)]
#[must_use]
pub struct DeletedQueue {
    core: Core,
    sinks: Vec<ConsumerSink>,
    context: Arc<QueueContext>,
}

impl DeletedQueue {
    /// Requests that the consumers' connections cancel them, and has the messages freed later;
    /// returns how many messages were ready.
    pub fn finish(self) -> usize {
        let Self { core, context, sinks } = self;
        let cancel =
            || sinks.iter().for_each(|sink| sink.outbox.cancel_consumer(sink.target.channel, sink.target.slot));
        if sinks.len() > limits::CONSUMERS_PER_STEP {
            context.offload().run(cancel);
        } else {
            cancel();
        }
        let ready = core.ready();
        purge::free(&context, core.entries(), core);
        ready
    }
}

#[cfg(test)]
mod tests;
