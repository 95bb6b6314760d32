//! Publications on their way into queues, gathered queue by queue so that each queue's lock is
//! taken once a run, and the outcome of each. Decides no route.

use crate::limits;
use crate::message::Message;
use crate::outbox::FlushSet;
use crate::queue::atomic_publish::{QueueShare, atomic_publish};
use crate::queue::journal_batch::Atomicity;
use crate::queue::{PublishOutcome, Queue};
use hashbrown::HashMap;
use leveret_journal::index::Index;
use leveret_journal::journal::CommitMode;
use std::sync::Arc;

/// Publications that were routed and not handed to their queues yet. `T` is how the publisher knows
/// each of them.
#[derive(Debug)]
pub struct PublishBatch<T> {
    open: Vec<QueueShare>,
    /// How the publisher knows each publication.
    origins: Vec<T>,
    spare: Vec<Vec<Message>>,
    /// Index in `open` of the queue that got the last message.
    last: usize,
    messages: usize,
    /// Index in `open` by queue number, for the queues behind the first [`limits::RUN_QUEUES`].
    further: HashMap<u64, usize>,
    /// Messages that more than one queue stores in the journal.
    multi_queue: Vec<Message>,
    outcome: BatchOutcome<T>,
    /// The driver commits inline: the journal's thread need not be woken.
    inline_commit: bool,
}

/// The outcome of a batch. Publications that were not rejected are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutcome<T> {
    /// The journal's index that has to be durable before publishers of durable messages are told,
    /// if there were any.
    pub index: Option<Index>,
    /// Publications that a queue has not taken: once for each such queue.
    pub rejected: Vec<T>,
}

impl<T> Default for BatchOutcome<T> {
    fn default() -> Self {
        Self { index: None, rejected: Vec::new() }
    }
}

impl<T> Default for PublishBatch<T> {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            origins: Vec::new(),
            spare: Vec::new(),
            last: 0,
            messages: 0,
            further: HashMap::new(),
            multi_queue: Vec::new(),
            outcome: BatchOutcome::default(),
            inline_commit: false,
        }
    }
}

impl<T: Copy> PublishBatch<T> {
    /// Adds a message for `queues`, which are distinct. Each queue gets messages in the order of
    /// calls. Returns true if the publisher confirm has to wait for the journal.
    pub fn add(&mut self, queues: &[Arc<Queue>], message: Message, origin: T, flush: &mut FlushSet) -> bool {
        if self.messages >= limits::RUN_MESSAGES {
            self.flush(flush);
        }
        match queues.first() {
            Some(first) if queues.len() > limits::QUEUES_IN_PLACE => {
                let (context, mut waits) = (Arc::clone(first.context()), false);
                context.offload().run(|| waits = self.add_now(queues, message.clone(), origin, flush));
                waits
            }
            _ => self.add_now(queues, message, origin, flush),
        }
    }

    fn add_now(&mut self, queues: &[Arc<Queue>], message: Message, origin: T, flush: &mut FlushSet) -> bool {
        if let [only] = queues {
            let waits = message.is_persistent() && only.is_journaled();
            self.origins.push(origin);
            self.add_one(only, message, origin, false, flush);
            return waits;
        }
        let Some((last, others)) = queues.split_last() else { return false };
        let durable =
            if message.is_persistent() { queues.iter().filter(|queue| queue.is_journaled()).count() } else { 0 };
        let is_written_once = durable > 1 || last.context().is_spilling();
        if is_written_once {
            // Such a message is one record: all its queues get it in one flush.
            if self.open.len() + queues.len() > limits::RUN_QUEUES {
                self.flush(flush);
            }
            self.multi_queue.push(message.clone());
        }
        self.origins.push(origin);
        for queue in others {
            self.add_one(queue, message.clone(), origin, is_written_once, flush);
        }
        self.add_one(last, message, origin, is_written_once, flush);
        durable > 0
    }

    /// Returns the index in `open` of a queue: mostly that of the message before, or the next one
    /// of the same fanout.
    #[inline]
    fn find(&self, queue: &Arc<Queue>) -> Option<usize> {
        let is_it = |at: usize| self.open.get(at).is_some_and(|run| Arc::ptr_eq(&run.queue, queue));
        let next = if self.last + 1 < self.open.len() { self.last + 1 } else { 0 };
        if is_it(self.last) {
            Some(self.last)
        } else if is_it(next) {
            Some(next)
        } else {
            self.search(queue)
        }
    }

    #[inline(never)]
    fn search(&self, queue: &Arc<Queue>) -> Option<usize> {
        let found = self.open.iter().take(limits::RUN_QUEUES).position(|run| Arc::ptr_eq(&run.queue, queue));
        found.or_else(|| self.further.get(&queue.number()).copied())
    }

    /// Adds a message of the last publication, whose origin is `origin`, for one queue.
    fn add_one(
        &mut self,
        queue: &Arc<Queue>,
        message: Message,
        origin: T,
        is_written_once: bool,
        flush: &mut FlushSet,
    ) {
        self.messages += 1;
        if let Some(at) = self.find(queue)
            && let Some(run) = self.open.get_mut(at)
        {
            run.publications.add(run.messages.len(), self.origins.len().saturating_sub(1));
            run.messages.push(message);
            self.last = at;
        } else {
            self.begin_run(queue, message, origin, is_written_once, flush);
        }
    }

    /// Adds a message of the last publication for a queue that has none yet.
    #[inline(never)]
    fn begin_run(
        &mut self,
        queue: &Arc<Queue>,
        message: Message,
        origin: T,
        is_written_once: bool,
        flush: &mut FlushSet,
    ) {
        if self.open.len() >= limits::RUN_QUEUES && !is_written_once {
            self.flush(flush);
            self.messages = 1;
            self.origins.push(origin);
        }
        let mut run = QueueShare::new(queue);
        run.messages = self.spare.pop().unwrap_or_default();
        run.publications.add(0, self.origins.len().saturating_sub(1));
        run.messages.push(message);
        self.last = self.open.len();
        if self.last >= limits::RUN_QUEUES {
            self.further.insert(queue.number(), self.last);
        }
        self.open.push(run);
    }

    /// Sets whether the driver commits inline at the end of the read batch.
    pub fn set_inline_commit(&mut self, inline_commit: bool) {
        self.inline_commit = inline_commit;
    }

    /// Hands every queue its messages: takes queue locks, appends to the journal, and flushes the
    /// outboxes of consumers that got deliveries.
    pub fn flush(&mut self, flush: &mut FlushSet) {
        match self.open.first() {
            Some(first) if self.messages > limits::QUEUES_IN_PLACE => {
                let context = Arc::clone(first.queue.context());
                context.offload().run(|| self.flush_now(flush));
            }
            _ => self.flush_now(flush),
        }
    }

    fn flush_now(&mut self, flush: &mut FlushSet) {
        // Several publications gain more from the journal's thread, which syncs while the next ones
        // are read.
        let mode = if self.inline_commit && self.messages == 1 { CommitMode::Inline } else { CommitMode::Now };
        if self.multi_queue.is_empty() {
            for run in &mut self.open {
                let PublishOutcome { index, rejected } = run.queue.publish(&mut run.messages, mode, flush);
                self.outcome.index = self.outcome.index.max(index);
                run.rejected = rejected;
            }
        } else {
            let index = atomic_publish(&mut self.open, &self.multi_queue, Atomicity::Each(mode), flush);
            self.outcome.index = self.outcome.index.max(index);
            self.multi_queue.clear();
            self.further.clear();
        }
        for run in self.open.drain(..) {
            let origins = run.rejected.iter().filter_map(|at| self.origins.get(run.publications.number(*at)));
            self.outcome.rejected.extend(origins);
            // One long list is enough for a connection that publishes to one queue.
            let is_short = run.messages.capacity() <= limits::RUN_MESSAGES / 4;
            if self.spare.len() < limits::RUN_QUEUES && (is_short || self.spare.is_empty()) {
                self.spare.push(run.messages);
            }
        }
        self.origins.clear();
        self.messages = 0;
        // Now, not at the end of the read batch: an outbox in this flush set is flushed by nobody
        // else.
        flush.flush();
    }

    /// Takes the outcome of the publications that were handed to their queues since the last call.
    pub fn take_outcome(&mut self) -> BatchOutcome<T> {
        if self.open.capacity() > limits::QUEUES_IN_PLACE {
            self.open = Vec::new();
            self.further = HashMap::new();
            self.multi_queue = Vec::new();
        }
        std::mem::take(&mut self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAccount;
    use crate::message::Publication;
    use crate::queue::arguments::QueueType;
    use crate::queue::context::QueueContext;
    use crate::queue::declared::Declared;
    use leveret_wire::name::Name;
    use leveret_wire::table::OwnedTable;

    fn queue(name: &'static str) -> Arc<Queue> {
        let name = Name::from_static(name);
        let (kind, arguments) = (QueueType::Classic, OwnedTable::default());
        let declared = Declared { name, durable: false, owner: None, auto_delete: false, kind, arguments };
        Arc::new(Queue::new(declared, Arc::new(QueueContext::default())))
    }

    fn message(n: usize) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &n.to_be_bytes(), persistent: false }
            .keep(MemoryAccount::default())
    }

    fn bodies(queue: &Arc<Queue>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| queue.get(true)).map(|fetched| fetched.message.body().to_vec()).collect()
    }

    #[test]
    fn messages_wait_for_the_end_of_the_batch_and_keep_their_order() {
        let (one, two, mut pending, mut flush) = (queue("1"), queue("2"), PublishBatch::default(), FlushSet::default());
        for n in 0..6 {
            let queue = if n % 3 == 0 { &one } else { &two };
            pending.add(std::slice::from_ref(queue), message(n), (), &mut flush);
        }
        assert_eq!(one.counts().messages + two.counts().messages, 0);
        pending.flush(&mut flush);
        let expected = |numbers: &[usize]| numbers.iter().map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!((bodies(&one), bodies(&two)), (expected(&[0, 3]), expected(&[1, 2, 4, 5])));
        pending.flush(&mut flush);
        assert!(bodies(&one).is_empty());
    }

    #[test]
    fn a_message_for_very_many_queues_is_offloaded_and_comes_to_each() {
        let queues: Vec<_> = (0..=limits::QUEUES_IN_PLACE).map(|_| queue("q")).collect();
        let (mut pending, mut flush) = (PublishBatch::default(), FlushSet::default());
        assert!(!pending.add(&queues, message(1), (), &mut flush));
        pending.flush(&mut flush);
        assert_eq!(pending.take_outcome(), BatchOutcome::default());
        assert!(queues.iter().all(|queue| queue.counts().messages == 1));
    }

    #[test]
    fn neither_messages_nor_queues_gather_without_bound() {
        let (one, mut pending, mut flush) = (queue("1"), PublishBatch::default(), FlushSet::default());
        for n in 0..=limits::RUN_MESSAGES {
            pending.add(std::slice::from_ref(&one), message(n), (), &mut flush);
        }
        assert_eq!(one.counts().messages, limits::RUN_MESSAGES);
        let queues: Vec<_> = (0..=limits::RUN_QUEUES).map(|_| queue("q")).collect();
        for queue in &queues {
            pending.add(std::slice::from_ref(queue), message(0), (), &mut flush);
        }
        assert!(pending.open.len() <= limits::RUN_QUEUES && pending.spare.len() <= limits::RUN_QUEUES);
        pending.flush(&mut flush);
        assert!(queues.iter().all(|queue| queue.counts().messages == 1));
    }
}
