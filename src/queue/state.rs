//! The state of one queue under its lock: its core, its delivery layer, and the effects that the
//! journal has to hear of. Decides nothing.

use crate::memory::{Charge, Purpose};
use crate::metrics::MessageCounts;
use crate::queue::command::{Command, Disposition};
use crate::queue::context::QueueContext;
use crate::queue::core::Core;
use crate::queue::delivery::Delivery;
use crate::queue::effects::Effects;
use crate::queue::journal_batch;
use arrayvec::ArrayVec;
use leveret_journal::index::Index;
use leveret_journal::journal::CommitMode;
use leveret_journal::list::List;
use leveret_journal::record::Operation;
use parking_lot::{Mutex, MutexGuard};

/// The state under a queue's lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core,
    /// For the core's entries.
    charge: Charge,
    pub(super) delivery: Delivery,
    pub(super) effects: Effects,
    pub(super) deleted: bool,
    /// Up to where the journal knows that messages were delivered.
    journaled_delivered_upto: u64,
    /// The journal has taken messages.
    pub(super) in_journal: bool,
    /// Messages that went through the queue; deliveries are counted by the delivery layer.
    pub(super) counts: MessageCounts,
    /// The wall time of the last command, in ms since 1970.
    pub(super) last_used_ms: u64,
}

impl State {
    /// Creates the state of a queue of which the journal knows nothing.
    pub(super) fn new(core: Core, context: &QueueContext) -> Self {
        Self {
            core,
            charge: Charge::new(context.memory(), Purpose::Entries),
            delivery: Delivery::default(),
            effects: Effects::default(),
            deleted: false,
            journaled_delivered_upto: 0,
            in_journal: false,
            counts: MessageCounts::default(),
            last_used_ms: context.wall_ms(),
        }
    }

    /// Creates the state of a queue as the journal has kept it.
    pub(super) fn recovered(core: Core, context: &QueueContext) -> Self {
        let (journaled_delivered_upto, in_journal) = (core.delivered_upto(), core.ready() > 0);
        Self { journaled_delivered_upto, in_journal, ..Self::new(core, context) }
    }

    /// Applies a command; credit that it sets free goes back to the consumers.
    pub(super) fn apply(&mut self, command: Command<'_>) {
        self.core.apply(command, &mut self.effects);
        self.delivery.give_credits(&mut self.effects);
    }

    /// Settles delivered messages, and counts those that were.
    pub(super) fn settle(&mut self, ids: &[u64], disposition: Disposition) {
        let before = self.core.unacked();
        self.apply(Command::Settle { ids, disposition });
        let settled = before.saturating_sub(self.core.unacked()) as u64;
        match disposition {
            Disposition::Ack => self.counts.acked += settled,
            Disposition::Requeue => self.counts.requeued += settled,
            Disposition::Reject => self.counts.refused += settled,
        }
    }

    /// Counts a message that was fetched by basic.get.
    pub(super) fn count_fetched(&mut self, no_ack: bool, redelivered: bool) {
        if no_ack {
            self.counts.got_no_ack += 1;
        } else {
            self.counts.got += 1;
        }
        self.counts.redelivered += u64::from(redelivered);
    }

    /// Appends to the journal what has left the queue, and how far messages were delivered. Nobody
    /// waits for that, but whoever asked for a purge. Returns the index of the last, if there was
    /// anything.
    pub(super) fn journal_effects(&mut self, context: &QueueContext, queue: u64) -> Option<Index> {
        let Self { core, effects, journaled_delivered_upto, deleted, in_journal, .. } = self;
        let (delivered_upto, settled) = (core.delivered_upto(), &effects.settled);
        let purged_below = effects.purged_below.take().filter(|_| *in_journal);
        if settled.is_empty() && purged_below.is_none() && delivered_upto == *journaled_delivered_upto {
            return None;
        }
        // Whatever is settled late, a deletion was the last that the journal hears of a queue.
        let Some(journal) = context.journal().filter(|_| *in_journal && !*deleted) else {
            effects.settled.clear();
            return None;
        };
        let mut operations = ArrayVec::<Operation<'_>, 3>::new();
        if delivered_upto != *journaled_delivered_upto {
            operations.push(Operation::Delivered { queue, upto: delivered_upto });
            *journaled_delivered_upto = delivered_upto;
        }
        if !settled.durable.is_empty() {
            operations.push(Operation::Settle { queue, runs: List::Given(&settled.durable) });
        }
        operations.extend(purged_below.map(|below| Operation::Purge { queue, below }));
        let appended = (!operations.is_empty()).then(|| journal.append_all(&operations, CommitMode::Deferred));
        drop(operations);
        for run in &settled.spilled {
            journal.forget(queue, *run);
        }
        effects.settled.clear();
        appended.map(|appended| journal_batch::taken(journal, appended))
    }
}

/// A queue's lock that is held; when it is let go, the entries are charged.
pub(super) struct Hold<'a> {
    had_backlog: bool,
    context: &'a QueueContext,
    pub(super) state: MutexGuard<'a, State>,
}

impl<'a> Hold<'a> {
    /// Takes the lock.
    pub(super) fn new(state: &'a Mutex<State>, context: &'a QueueContext) -> Self {
        let state = state.lock();
        Self { had_backlog: state.core.has_backlog(), context, state }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let octets = self.state.core.charge();
        self.state.charge.set(octets);
        self.context.count_backlog(self.had_backlog, self.state.core.has_backlog());
    }
}
