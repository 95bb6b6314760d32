//! Settling deliveries: basic.ack, nack, reject and recover (AMQP 0-9-1, 1.8.3). Settlements are
//! gathered over a read batch, so that each lock is taken once a run, and performed in steps.
//! Decides nothing about queues.

use crate::limits;
use crate::memory;
use crate::outbox::deliveries::{UnackedDelivery, UnknownTag};
use crate::queue::command::Disposition;
use crate::session::channel::{Channel, ChannelMode};
use crate::session::channels::Channels;
use crate::session::settlement::{Settlement, Tags};
use crate::session::turn::Turn;
use leveret_wire::method_id::Id;
use leveret_wire::reply::Reply;
use std::sync::Arc;

/// An unknown delivery tag that was settled: 406.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) channel: u16,
    pub(super) method: Id,
    pub(super) tag: u64,
}

/// The settlements of one connection that were gathered in this read batch, in order.
#[derive(Debug, Default)]
pub(super) struct Settling {
    settlements: Vec<Settlement>,
    /// Index of the first settlement in `settlements` whose tags are not all resolved.
    next: usize,
    /// Deliveries (channel, tag) that were removed from the outbox and not yet settled in their
    /// queues.
    settled: Vec<(u16, u64, UnackedDelivery)>,
    /// The disposition of all deliveries in `settled`.
    disposition: Option<Disposition>,
    /// Unknown tags: further settlements on their channels are void.
    unknown: Vec<Unknown>,
    /// Channels with consumers that their limit had stopped, and that may go on.
    limited: Vec<u16>,
    /// Number of deliveries, of those that were resolved last, that wait for tx.commit.
    in_transactions: usize,
    /// Scratch space.
    taken: Vec<(u64, UnackedDelivery)>,
    seqs: Vec<u64>,
}

impl Settling {
    /// Adds a settlement to the read batch.
    pub(super) fn gather(&mut self, settlement: Settlement) {
        self.settlements.push(settlement);
    }

    /// Returns true if there are settlements whose tags were not resolved.
    pub(super) fn has_unresolved(&self) -> bool {
        !self.settlements.is_empty()
    }

    /// Returns true if gathered settlements are still to be performed, or their faults.
    pub(super) fn is_pending(&self) -> bool {
        !(self.settlements.is_empty() && self.unknown.is_empty())
    }

    /// Returns true if an unknown tag was settled on `channel`.
    pub(super) fn has_unknown(&self, channel: u16) -> bool {
        self.unknown.iter().any(|unknown| unknown.channel == channel)
    }

    /// Takes the unknown tags that were settled.
    pub(super) fn take_unknown(&mut self) -> Vec<Unknown> {
        std::mem::take(&mut self.unknown)
    }

    /// Resolves gathered tags under one hold of the outbox's lock, as long as their disposition is
    /// the same and they are not too many. Returns true if all are resolved.
    pub(super) fn resolve(&mut self, channels: &mut Channels, turn: &mut Turn<'_>) -> bool {
        if self.settlements.is_empty() {
            return true;
        }
        let mut inner = turn.outbox.lock();
        while let Some(settlement) = self.settlements.get_mut(self.next) {
            let Settlement { channel, method, disposition, tags, in_transaction } = *settlement;
            let room = limits::SETTLE_RUN.saturating_sub(self.settled.len() + self.in_transactions);
            if room == 0 || self.disposition != Some(disposition) && !self.settled.is_empty() {
                return false;
            }
            self.disposition = Some(disposition);
            let is_void = self.unknown.iter().any(|unknown| unknown.channel == channel);
            let Some(unacked) = inner.unacked(channel).filter(|_| !is_void) else {
                self.next += 1;
                continue;
            };
            let found = match tags {
                Tags::One(tag) => unacked.take(tag).map(|delivery| {
                    if in_transaction {
                        self.taken.push((tag, delivery));
                    } else {
                        self.settled.push((channel, tag, delivery));
                    }
                    true
                }),
                Tags::Through(0) => {
                    settlement.tags = Tags::Rest(unacked.last_tag());
                    continue;
                }
                Tags::Through(tag) if unacked.is_outstanding(tag) => {
                    settlement.tags = Tags::Rest(tag);
                    continue;
                }
                Tags::Through(tag) => Err(UnknownTag(tag)),
                Tags::Outstanding { answer } => {
                    settlement.tags = Tags::Rest(unacked.last_tag());
                    if answer {
                        // As in RabbitMQ, requeued messages are delivered again behind recover-ok.
                        inner.reply(channel, &Reply::RecoverOk);
                        turn.flush.add(turn.outbox, &mut inner);
                    }
                    continue;
                }
                Tags::Rest(last) => Ok(unacked.settle_through(last, room, &mut self.taken)),
            };
            if in_transaction {
                unacked.hold_for_commit(&self.taken);
            }
            match found {
                Ok(is_all) => {
                    self.next += usize::from(is_all);
                    if unacked.has_limited() && self.limited.last() != Some(&channel) {
                        self.limited.push(channel);
                    }
                }
                Err(UnknownTag(tag)) => {
                    self.next += 1;
                    self.unknown.push(Unknown { channel, method, tag });
                }
            }
            let channel_state = if in_transaction { channels.get_mut(channel) } else { None };
            self.sort_taken(channel, channel_state, disposition);
        }
        memory::recycle(&mut self.settlements, limits::KEEP_SETTLEMENTS);
        memory::recycle(&mut self.taken, limits::KEEP_SETTLEMENTS);
        self.next = 0;
        true
    }

    /// Moves the deliveries that were taken to the transaction of their channel, if they belong to
    /// one, or to those that are settled next.
    fn sort_taken(&mut self, number: u16, in_transaction: Option<&mut Channel>, disposition: Disposition) {
        if let Some(Channel { mode: ChannelMode::Transaction(transaction), .. }) = in_transaction {
            self.in_transactions += self.taken.len();
            transaction.settle(disposition, std::mem::take(&mut self.taken));
        } else {
            self.settled.extend(self.taken.drain(..).map(|(tag, delivery)| (number, tag, delivery)));
        }
    }

    /// Performs the gathered settlements in order, as far as this step of the connection has room
    /// for them. Returns true if all are done.
    pub(super) fn settle_some(&mut self, channels: &mut Channels, turn: &mut Turn<'_>) -> bool {
        loop {
            let is_all = self.resolve(channels, turn);
            self.settle_resolved(channels, turn);
            if is_all || turn.is_spent() {
                return is_all;
            }
        }
    }

    /// Performs all gathered settlements in order.
    pub(super) fn settle_all(&mut self, channels: &mut Channels, turn: &mut Turn<'_>) {
        while !self.settle_some(channels, turn) {}
    }

    /// Settles the resolved deliveries in their queues.
    fn settle_resolved(&mut self, channels: &Channels, turn: &mut Turn<'_>) {
        turn.spend(std::mem::take(&mut self.in_transactions));
        if let Some(disposition) = self.disposition
            && !self.settled.is_empty()
        {
            turn.spend(self.settled.len());
            let mut settled = std::mem::take(&mut self.settled);
            self.settle_runs(disposition, &mut settled, channels, turn);
            memory::recycle(&mut settled, limits::KEEP_SETTLEMENTS);
            self.settled = settled;
        }
        self.limited.drain(..).for_each(|number| channels.resume_limited(number, turn));
    }

    /// Settles deliveries of one channel in their queues, and resumes consumers that the channel's
    /// prefetch limit had stopped.
    pub(super) fn apply(
        &mut self,
        number: u16,
        disposition: Disposition,
        settled: &[(u64, UnackedDelivery)],
        channels: &Channels,
        turn: &mut Turn<'_>,
    ) {
        let mut settled: Vec<_> = settled.iter().map(|(tag, delivery)| (number, *tag, *delivery)).collect();
        self.settle_runs(disposition, &mut settled, channels, turn);
        channels.resume_limited(number, turn);
    }

    /// Settles deliveries in their queues, one run of the same slot at a time; requeues, one run of
    /// the same queue at a time, or a later message could be delivered before an earlier one is
    /// back.
    pub(super) fn settle_runs(
        &mut self,
        disposition: Disposition,
        settled: &mut [(u16, u64, UnackedDelivery)],
        channels: &Channels,
        turn: &mut Turn<'_>,
    ) {
        let slot = |number: u16, slot: u32| channels.get(number)?.consuming.slots().get(slot);
        let place = |(number, _, delivery): &(u16, u64, UnackedDelivery)| match disposition {
            Disposition::Requeue => {
                let queue = slot(*number, delivery.slot).map(|slot| Arc::as_ptr(&slot.queue));
                (*number, queue.map_or(0, |queue| queue.addr()))
            }
            Disposition::Ack | Disposition::Reject => (*number, delivery.slot as usize),
        };
        // No two keys are equal; a stable sort would allocate.
        settled.sort_unstable_by_key(|delivery| (place(delivery), delivery.1));
        let seqs = &mut self.seqs;
        for run in settled.chunk_by(|one, other| place(one) == place(other)) {
            let Some((number, _, first)) = run.first() else { continue };
            let Some(slot) = slot(*number, first.slot) else { continue };
            seqs.clear();
            seqs.extend(run.iter().map(|(_, _, delivery)| delivery.seq));
            slot.queue.settle(seqs, disposition, turn.flush);
            if let Some(Channel { stats, .. }) = channels.get(*number) {
                let counter = match disposition {
                    Disposition::Ack => &stats.acked,
                    Disposition::Requeue => &stats.requeued,
                    Disposition::Reject => &stats.refused,
                };
                counter.add(run.len() as u64);
            }
        }
        memory::recycle(seqs, limits::KEEP_SETTLEMENTS);
    }
}
