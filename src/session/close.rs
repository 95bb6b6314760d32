//! The end of channels, one alone or all of a connection: they give back what they have, in steps
//! that leave the thread to others. Sends nothing.

use crate::limits;
use crate::outbox::FlushSet;
use crate::outbox::deliveries::{UnackedDeliveries, UnackedDelivery};
use crate::queue::Queue;
use crate::queue::command::Disposition;
use crate::session::channel::ChannelState;
use crate::session::channels::Channels;
use crate::session::owned_queues::OwnedQueues;
use crate::session::settling::Settling;
use crate::session::transaction::RollBack;
use crate::session::turn::Turn;
use hashbrown::HashMap;
use hashbrown::hash_map::IntoIter;
use leveret_wire::name::Name;
use std::sync::Arc;

/// The parts of a connection that the end of a channel concerns.
pub(super) struct Parts<'a> {
    pub(super) channels: &'a mut Channels,
    pub(super) settling: &'a mut Settling,
    pub(super) owned: &'a mut OwnedQueues,
}

/// The end of some channels of a connection, under way.
#[derive(Debug)]
pub(super) struct ChannelsEnd {
    channels: Vec<u16>,
    /// State that the channels are left in.
    state: ChannelState,
    phase: Phase,
    /// Index of the channel that the phase has come to.
    at: usize,
    /// Consumers of that channel that are still to be cancelled.
    consumers: Option<IntoIter<Name, u32>>,
    /// Deliveries of that channel that are still to go back.
    returning: Option<Returning>,
    /// Auto-delete queues that have lost their last consumer.
    unused: Vec<Arc<Queue>>,
    suspended: SuspendedQueues,
    /// Scratch space.
    settled: Vec<(u16, u64, UnackedDelivery)>,
}

/// Parts of the end of channels, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Consumers of all channels go first: nothing is delivered to the dying.
    Cancel,
    /// Outstanding deliveries go back to their places.
    Return,
    /// Queues that are unused now are deleted.
    Delete,
}

impl ChannelsEnd {
    /// Begins the end of these channels, which leaves them in `state`.
    pub(super) fn new(channels: Vec<u16>, state: ChannelState) -> Self {
        Self {
            channels,
            state,
            phase: Phase::Cancel,
            at: 0,
            consumers: None,
            returning: None,
            unused: Vec::new(),
            suspended: SuspendedQueues::default(),
            settled: Vec::new(),
        }
    }

    /// Goes on until all is done, which is returned, or the step is spent.
    pub(super) fn step(&mut self, parts: &mut Parts<'_>, turn: &mut Turn<'_>) -> bool {
        while !turn.is_spent() {
            let number = self.channels.get(self.at).copied();
            match (self.phase, number) {
                (Phase::Cancel, Some(number)) => self.cancel(number, parts, turn),
                (Phase::Return, Some(number)) => self.give_back(number, parts, turn),
                (Phase::Cancel, None) => (self.phase, self.at) = (Phase::Return, 0),
                (Phase::Return, None) => {
                    self.suspended.resume(turn.flush);
                    self.phase = Phase::Delete;
                }
                (Phase::Delete, _) => {
                    let Some(queue) = self.unused.pop() else { return true };
                    turn.spend(limits::DEFINITION_WORK);
                    parts.owned.delete_unused(&queue, turn);
                }
            }
        }
        false
    }

    /// Cancels a consumer of a channel; behind its last one comes the next channel.
    fn cancel(&mut self, number: u16, parts: &mut Parts<'_>, turn: &mut Turn<'_>) {
        turn.spend(limits::METHOD_WORK);
        if let Some(channel) = parts.channels.get_mut(number) {
            let consumers = self.consumers.get_or_insert_with(|| channel.consuming.take_consumers(turn));
            if let Some((_, slot)) = consumers.next() {
                self.unused.extend(channel.consuming.cancel_slot(slot));
                return;
            }
        }
        self.consumers = None;
        self.at += 1;
    }

    /// Returns some deliveries of a channel to their queues; behind its last ones comes the next
    /// channel.
    fn give_back(&mut self, number: u16, parts: &mut Parts<'_>, turn: &mut Turn<'_>) {
        let Some(channel) = parts.channels.get_mut(number) else {
            self.at += 1;
            return;
        };
        let returning = self.returning.get_or_insert_with(|| Returning {
            transaction: channel.take_transaction().unwrap_or_default().roll_back(),
            unacked: {
                turn.info.channels.remove(number);
                turn.outbox.lock().close_channel(number)
            },
        });
        let mut settled = std::mem::take(&mut self.settled);
        let is_all = returning.take(&mut settled, number);
        turn.spend(settled.len() + limits::METHOD_WORK);
        let is_in_parts = !is_all || !self.suspended.is_empty();
        if is_in_parts {
            let slots = channel.consuming.slots();
            let queues = settled.iter().filter_map(|(_, _, delivery)| slots.get(delivery.slot));
            queues.for_each(|slot| self.suspended.add(&slot.queue));
        }
        parts.settling.settle_runs(Disposition::Requeue, &mut settled, parts.channels, turn);
        settled.clear();
        self.settled = settled;
        if is_all {
            self.returning = None;
            self.at += 1;
            parts.channels.get_mut(number).into_iter().for_each(|channel| channel.reset(self.state));
        }
    }
}

/// Deliveries that a channel had not settled, or not committed.
#[derive(Debug)]
struct Returning {
    transaction: RollBack,
    unacked: Option<Box<UnackedDeliveries>>,
}

impl Returning {
    /// Moves deliveries into `settled`, a bounded number. Returns whether that was all.
    fn take(&mut self, settled: &mut Vec<(u16, u64, UnackedDelivery)>, number: u16) -> bool {
        let mut taken = Vec::new();
        let is_all = self.transaction.take(limits::SETTLE_RUN, &mut taken)
            && self.unacked.as_mut().is_none_or(|unacked| {
                let room = limits::SETTLE_RUN.saturating_sub(taken.len());
                unacked.settle_through(u64::MAX, room, &mut taken)
            });
        settled.extend(taken.into_iter().map(|(tag, delivery)| (number, tag, delivery)));
        is_all
    }
}

/// Queues that deliver nothing until all that goes back to them is back: else somebody could get a
/// later message before an earlier one.
#[derive(Debug, Default)]
struct SuspendedQueues(HashMap<u64, Arc<Queue>>);

impl SuspendedQueues {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, queue: &Arc<Queue>) {
        self.0.entry(queue.number()).or_insert_with(|| {
            queue.suspend();
            Arc::clone(queue)
        });
    }

    fn resume(&mut self, flush: &mut FlushSet) {
        self.0.drain().for_each(|(_, queue)| queue.end_suspension(flush));
    }
}

impl Drop for SuspendedQueues {
    /// Resumes what a panic has left suspended.
    fn drop(&mut self) {
        self.resume(&mut FlushSet::default());
    }
}
