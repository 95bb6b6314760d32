//! Waiting for the journal: publisher confirms, held replies, and a reader that is faster than the
//! journal. Appends nothing to the journal.

use crate::broker::publish_batch::BatchOutcome;
use crate::outbox::Outbox;
use crate::session::channel::{Channel, ChannelMode, ChannelState};
use crate::session::channels::Channels;
use crate::session::confirms::{Confirm, ConfirmTag};
use crate::session::turn::Turn;
use leveret_journal::index::Index;
use leveret_journal::journal::OnDurable;
use std::sync::Arc;

/// Confirms and replies of one connection that wait until an index is durable.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// Channels that have published in this read batch, each with whether its confirms wait for the
    /// journal.
    published: Vec<(u16, bool)>,
    /// Channels with confirms that wait.
    waiting: Vec<u16>,
    /// The index at which the journal notifies this connection.
    watched: Option<Index>,
    /// Replies are held in the outbox.
    has_held: bool,
    /// The connection is not read until this index is durable: the journal has too much to write.
    full_until: Option<Index>,
}

impl Confirming {
    /// Notes a publication on a channel in confirm mode; `waits` is whether its confirm waits for
    /// the journal.
    pub(super) fn note_published(&mut self, number: u16, waits: bool) {
        let is_it = |(other, _): &&mut (u16, bool)| *other == number;
        let known = match self.published.last_mut().filter(is_it) {
            None => self.published.iter_mut().find(is_it),
            last => last,
        };
        match known {
            Some((_, so_far)) => *so_far |= waits,
            None => self.published.push((number, waits)),
        }
    }

    /// Returns true if confirms wait for the journal.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the index that has to be durable before the connection is read again, if the journal
    /// had too much to write.
    pub(super) fn full_until(&self) -> Option<Index> {
        self.full_until
    }

    /// Ends a read batch with its outcome. Sends the confirms that need not wait.
    pub(super) fn end_batch(
        &mut self,
        outcome: BatchOutcome<ConfirmTag>,
        channels: &mut Channels,
        turn: &mut Turn<'_>,
    ) {
        let has_held = std::mem::take(&mut turn.has_held);
        self.has_held |= has_held;
        if self.published.is_empty() && !has_held {
            return;
        }
        let BatchOutcome { index, rejected } = outcome;
        for ConfirmTag { channel, number } in rejected {
            if let Some(Channel { mode: ChannelMode::Confirm(confirms), .. }) = channels.get_mut(channel)
                && number != 0
            {
                confirms.reject(number);
            }
        }
        for (number, waits) in self.published.drain(..) {
            let channel = channels.get_mut(number);
            if let Some(Channel { mode: ChannelMode::Confirm(confirms), state: ChannelState::Open, .. }) = channel {
                confirms.end_batch(index.filter(|_| waits));
                if !self.waiting.contains(&number) {
                    self.waiting.push(number);
                }
            }
        }
        self.send_due(channels, turn);
    }

    /// Sends confirms and held replies that the journal's progress has made due.
    pub(super) fn journal_advanced(&mut self, channels: &mut Channels, turn: &mut Turn<'_>) {
        let Some(journal) = turn.journal() else { return };
        let durable = journal.durable();
        self.full_until = self.full_until.filter(|end| *end > durable);
        self.send_due(channels, turn);
    }

    /// Sends due confirms, releases due replies, and registers with the journal for the next index.
    fn send_due(&mut self, channels: &mut Channels, turn: &mut Turn<'_>) {
        while !self.waiting.is_empty() || self.has_held {
            let durable = turn.journal().map_or(Index::ZERO, |journal| journal.durable());
            let confirms = self.send_confirms(durable, channels, turn);
            let held = self.release_held(durable, turn);
            let Some(next) = [confirms, held].into_iter().flatten().min() else { return };
            self.watched = self.watched.filter(|watched| *watched > durable);
            if self.watched.is_some_and(|watched| watched <= next) {
                return;
            }
            if watch(next, turn) {
                self.watched = Some(next);
                return;
            }
        }
    }

    /// Sends due confirms; returns the index that has to be durable for the next ones.
    fn send_confirms(&mut self, durable: Index, channels: &mut Channels, turn: &mut Turn<'_>) -> Option<Index> {
        let outbox = turn.outbox;
        let mut next: Option<Index> = None;
        let mut inner = None;
        self.waiting.retain(|number| {
            let channel = channels.get_mut(*number);
            let Some(Channel { mode: ChannelMode::Confirm(confirms), state: ChannelState::Open, stats, .. }) = channel
            else {
                return false;
            };
            let mut before = confirms.confirmed();
            while let Some(confirm) = confirms.next_due(durable) {
                let inner = inner.get_or_insert_with(|| outbox.lock());
                let before = std::mem::replace(&mut before, confirms.confirmed());
                match confirm {
                    Confirm::Ack { number: tag, multiple } => {
                        stats.confirmed.add(tag - before);
                        inner.confirm(*number, tag, multiple);
                    }
                    Confirm::Nack { number: tag } => {
                        stats.rejected.add(1);
                        inner.confirm_rejected(*number, tag);
                    }
                }
            }
            let waits_for = confirms.waits_for();
            next = waits_for.map_or(next, |index| Some(next.map_or(index, |next| next.min(index))));
            waits_for.is_some()
        });
        if let Some(mut inner) = inner {
            turn.flush.add(outbox, &mut inner);
        }
        next
    }

    /// Releases due replies; returns the index that has to be durable for the next ones.
    fn release_held(&mut self, durable: Index, turn: &mut Turn<'_>) -> Option<Index> {
        if !self.has_held {
            return None;
        }
        let mut inner = turn.outbox.lock();
        if inner.release(durable) {
            turn.flush.add(turn.outbox, &mut inner);
        }
        let next = inner.held_for();
        self.has_held = next.is_some();
        next
    }

    /// Closes the read gate if too much waits to be written to the journal.
    pub(super) fn look_at_journal(&mut self, turn: &mut Turn<'_>) {
        if self.full_until.is_none()
            && let Some(journal) = turn.journal()
            && journal.is_full()
        {
            let end = journal.end();
            journal.write_deferred();
            if watch(end, turn) {
                self.full_until = Some(end);
                turn.pause = true;
            }
        }
    }
}

/// Lets the outbox release all held replies by itself once they are durable: the session has ended
/// and does not watch the journal any more.
pub(super) fn leave_held(turn: &mut Turn<'_>) {
    let last = turn.outbox.lock().held_to_the_end();
    if let Some(last) = last
        && !watch(last, turn)
    {
        let mut inner = turn.outbox.lock();
        inner.release(last);
        turn.flush.add(turn.outbox, &mut inner);
    }
}

/// Registers to be notified when `index` is durable; returns false if it is durable already. If the
/// journal has failed, requests the end of the connection.
fn watch(index: Index, turn: &Turn<'_>) -> bool {
    let Some(journal) = turn.journal() else { return false };
    let outbox = Arc::<Outbox>::clone(turn.outbox) as Arc<dyn OnDurable>;
    journal.watch(index, &outbox).unwrap_or_else(|failure| {
        outbox.failed(&failure);
        true
    })
}
