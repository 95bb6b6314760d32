//! Changes of several queues in one record of the journal: messages that go to more than one queue,
//! and transactions.
//!
//! No two queues' locks are held together. Each queue enqueues its messages uncommitted, so that
//! they are not delivered; then the record is appended; then each queue commits. Messages published
//! to one of the queues meanwhile are enqueued behind.

use crate::limits;
use crate::message::Message;
use crate::outbox::FlushSet;
use crate::queue::command::Disposition;
use crate::queue::journal_batch::{Atomicity, JournalBatch};
use crate::queue::{PublishOutcome, Queue};
use leveret_journal::index::Index;
use leveret_journal::list::{List, Run};
use leveret_journal::record::Operation;
use std::sync::Arc;

/// One queue's part of a record: messages to publish, deliveries to settle.
#[derive(Debug)]
pub struct QueueShare {
    /// The queue.
    pub queue: Arc<Queue>,
    /// Messages to publish, in order.
    pub messages: Vec<Message>,
    /// The number of each message's publication.
    pub publications: PublicationNumbers,
    /// Ids of delivered messages to acknowledge.
    pub acked: Vec<u64>,
    /// Ids of delivered messages to reject without requeue.
    pub refused: Vec<u64>,
    /// Indexes of those messages that the queue has rejected, ascending.
    pub rejected: Vec<usize>,
}

/// The numbers of a run's publications, ascending. Most often they follow each other, as do the
/// messages of the run: only where one does not is it remembered.
#[derive(Debug, Default)]
pub struct PublicationNumbers {
    /// The difference between the last message's number and its index in the run.
    ahead: usize,
    /// The indexes from which on the difference is another one, with it.
    changes: Vec<(usize, usize)>,
}

impl PublicationNumbers {
    /// Adds the number of the publication whose message comes at `at` in the run.
    pub fn add(&mut self, at: usize, number: usize) {
        if at + self.ahead != number {
            self.ahead = number - at;
            self.changes.push((at, self.ahead));
        }
    }

    /// Returns the number of the publication whose message is at `at` in the run.
    pub fn number(&self, at: usize) -> usize {
        let behind = self.changes.partition_point(|(from, _)| *from <= at);
        at + behind.checked_sub(1).and_then(|change| self.changes.get(change)).map_or(0, |(_, ahead)| *ahead)
    }
}

impl QueueShare {
    /// Returns an empty share of `queue`.
    pub fn new(queue: &Arc<Queue>) -> Self {
        Self {
            queue: Arc::clone(queue),
            messages: Vec::new(),
            publications: PublicationNumbers::default(),
            acked: Vec::new(),
            refused: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Publishes messages by themselves for which there was no room before others were delivered;
    /// `taken` were before them. Publications of transactions are rejected.
    fn publish_rest(&mut self, taken: usize, atomicity: Atomicity, flush: &mut FlushSet) -> Option<Index> {
        let Atomicity::Each(mode) = atomicity else {
            self.rejected = (taken..taken + self.messages.len()).collect();
            self.messages.clear();
            return None;
        };
        let PublishOutcome { index, rejected } = self.queue.publish(&mut self.messages, mode, flush);
        self.rejected = rejected.iter().map(|at| taken + at).collect();
        index
    }
}

/// Publishes and settles what is in `shares`, each of another queue, and empties them;
/// `multi_queue` are the messages that stand in more than one share. Returns the index that has to
/// be durable before the publisher is told, if there is one.
pub fn atomic_publish(
    shares: &mut [QueueShare],
    multi_queue: &[Message],
    atomicity: Atomicity,
    flush: &mut FlushSet,
) -> Option<Index> {
    let context = Arc::clone(&shares.first()?.queue.context);
    let mut batch = JournalBatch::new(multi_queue);
    let mut settled: Vec<(u64, Vec<Run>)> = Vec::new();
    let mut entered = Vec::with_capacity(shares.len());
    for (at, share) in shares.iter_mut().enumerate() {
        let QueueShare { queue, messages, acked, refused, .. } = share;
        let mut runs = Vec::new();
        for (ids, disposition) in [(&mut *acked, Disposition::Ack), (&mut *refused, Disposition::Reject)] {
            for ids in ids.chunks(limits::SETTLES_PER_HOLD) {
                settle_uncommitted(queue, ids, disposition, &mut runs);
            }
            ids.clear();
        }
        if !runs.is_empty() {
            settled.push((queue.number, runs));
        }
        if messages.len() <= limits::ENQUEUES_PER_HOLD {
            entered.push((at, queue.enqueue_uncommitted(&mut queue.hold(), messages, &mut batch)));
            continue;
        }
        let mut rest = std::mem::take(messages).into_iter();
        while rest.len() > 0 && messages.is_empty() {
            messages.extend(rest.by_ref().take(limits::ENQUEUES_PER_HOLD));
            entered.push((at, queue.enqueue_uncommitted(&mut queue.hold(), messages, &mut batch)));
        }
        // Behind one for which there is no room there is none.
        messages.extend(rest);
    }
    let mut index = context.journal().and_then(|journal| {
        let settles: Vec<_> = settled.iter().map(|(queue, runs)| settle_operation(*queue, runs)).collect();
        batch.append(journal, context.wall_ms(), &settles, atomicity)
    });
    let mut taken = vec![0; shares.len()];
    for (at, admission) in entered {
        if let (Some(share), Some(taken)) = (shares.get(at), taken.get_mut(at)) {
            *taken += admission.map_or(0, |admission| admission.taken);
            share.queue.commit(admission, flush);
        }
    }
    for (share, taken) in shares.iter_mut().zip(taken).filter(|(share, _)| !share.messages.is_empty()) {
        index = index.max(share.publish_rest(taken, atomicity, flush));
    }
    index
}

/// Settles messages under one hold of their queue's lock, and adds what the journal is to know to
/// `runs`.
fn settle_uncommitted(queue: &Queue, ids: &[u64], disposition: Disposition, runs: &mut Vec<Run>) {
    let mut hold = queue.hold();
    hold.state.settle(ids, disposition);
    let dead = std::mem::take(&mut hold.state.effects.dead);
    for run in hold.state.effects.settled.durable.drain(..) {
        match runs.last_mut() {
            Some(last) if last.last + 1 == run.first => last.last = run.last,
            _ => runs.push(run),
        }
    }
    drop(hold);
    drop(dead);
}

fn settle_operation(queue: u64, runs: &[Run]) -> Operation<'_> {
    Operation::Settle { queue, runs: List::Given(runs) }
}
