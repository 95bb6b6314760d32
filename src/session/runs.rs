//! Messages on their way from one read batch into queues, gathered queue by queue so that each queue's lock is taken once
//! a run. It decides no route.

use crate::limits;
use crate::message::Message;
use crate::outbox::Touched;
use crate::queue::Queue;
use crate::queue::intake::Append;
use crate::queue::together::{self, Share};
use crate::store::journal::Haste;
use crate::store::position::Position;
use std::sync::Arc;

/// Runs that were not handed over yet.
#[derive(Debug, Default)]
pub struct Runs {
    open: Vec<Share>,
    spare: Vec<Vec<Message>>,
    /// The run that the last message was added to.
    last: usize,
    messages: usize,
    /// Messages that the journal keeps for more than one queue.
    several: Vec<Message>,
    position: Option<Position>,
    /// The journal need not ring its thread.
    attended: bool,
}

impl Runs {
    /// Adds a message for its queues, each another one. Order within a queue is the order of calls. True: somebody has to wait
    /// until the journal has it.
    pub fn add(&mut self, queues: &[Arc<Queue>], message: Message, touched: &mut Touched) -> bool {
        if self.messages >= limits::RUN_MESSAGES {
            self.hand_over(touched);
        }
        if let [only] = queues {
            let waits = message.is_persistent() && only.keeps();
            self.add_one(only, message, false, touched);
            return waits;
        }
        let durable = if message.is_persistent() { queues.iter().filter(|queue| queue.keeps()).count() } else { 0 };
        if durable > 1 {
            // It is written once, so all its queues get it in one go.
            if self.open.len() + queues.len() > limits::RUN_QUEUES {
                self.hand_over(touched);
            }
            self.several.push(message.clone());
        }
        let Some((last, others)) = queues.split_last() else { return false };
        for queue in others {
            self.add_one(queue, message.clone(), durable > 1, touched);
        }
        self.add_one(last, message, durable > 1, touched);
        durable > 0
    }

    fn add_one(&mut self, queue: &Arc<Queue>, message: Message, is_one_of_several: bool, touched: &mut Touched) {
        self.messages += 1;
        // Mostly it is the queue of the message before, or a fanout's queues come in the same order again.
        let is_it = |run: Option<&Share>| run.is_some_and(|run| Arc::ptr_eq(&run.queue, queue));
        let next = if self.last + 1 < self.open.len() { self.last + 1 } else { 0 };
        let found = [self.last, next].into_iter().find(|at| is_it(self.open.get(*at)));
        let found = found.or_else(|| (0..self.open.len()).find(|at| is_it(self.open.get(*at))));
        if let Some(run) = found.and_then(|at| self.open.get_mut(at)) {
            run.arrivals.push(message);
            self.last = found.unwrap_or_default();
            return;
        }
        if self.open.len() >= limits::RUN_QUEUES && !is_one_of_several {
            self.hand_over(touched);
            self.messages = 1;
        }
        let mut run = Share::new(queue);
        run.arrivals = self.spare.pop().unwrap_or_default();
        run.arrivals.push(message);
        self.last = self.open.len();
        self.open.push(run);
    }

    /// Says whether the driver of this session attends to the journal when what was read is taken.
    pub fn attended(&mut self, attended: bool) {
        self.attended = attended;
    }

    /// Hands every run to its queue.
    pub fn hand_over(&mut self, touched: &mut Touched) {
        // Whoever publishes several at once gains more from a thread that syncs while the next ones are read.
        let haste = if self.attended && self.messages == 1 { Haste::Attended } else { Haste::Now };
        if self.several.is_empty() {
            for run in &mut self.open {
                let position = run.queue.publish(&mut run.arrivals, haste, touched);
                self.position = self.position.max(position);
            }
        } else {
            let position = together::hand_over(&mut self.open, &self.several, Append::Each(haste), touched);
            self.position = self.position.max(position);
            self.several.clear();
        }
        for run in self.open.drain(..) {
            if self.spare.len() < limits::RUN_QUEUES {
                self.spare.push(run.arrivals);
            }
        }
        self.messages = 0;
        // Not only at the end of the read batch: whoever was announced here is written to by nobody else until then.
        touched.wake();
    }

    /// The position that has to be durable before those who wait for what was handed over are told.
    pub fn take_position(&mut self) -> Option<Position> {
        self.position.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;
    use crate::queue::Declared;
    use crate::queue::arguments::QueueType;
    use crate::queue::shared::Shared;
    use crate::wire::name::Name;
    use crate::wire::table::OwnedTable;

    fn queue(name: &'static str) -> Arc<Queue> {
        let name = Name::from_static(name);
        let (kind, arguments) = (QueueType::Classic, OwnedTable::default());
        let declared = Declared { name, durable: false, owner: None, auto_delete: false, kind, arguments };
        Arc::new(Queue::new(declared, Arc::new(Shared::default())))
    }

    fn message(n: usize) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &n.to_be_bytes(), persistent: false }.keep(1)
    }

    fn bodies(queue: &Arc<Queue>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| queue.get(true)).map(|(entry, _)| entry.message.body().to_vec()).collect()
    }

    #[test]
    fn messages_wait_for_the_end_of_the_batch_and_keep_their_order() {
        let (one, two, mut runs, mut touched) = (queue("1"), queue("2"), Runs::default(), Touched::default());
        for n in 0..6 {
            let queue = if n % 3 == 0 { &one } else { &two };
            runs.add(std::slice::from_ref(queue), message(n), &mut touched);
        }
        assert_eq!(one.counts().messages + two.counts().messages, 0);
        runs.hand_over(&mut touched);
        let expected = |numbers: &[usize]| numbers.iter().map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!((bodies(&one), bodies(&two)), (expected(&[0, 3]), expected(&[1, 2, 4, 5])));
        runs.hand_over(&mut touched);
        assert!(bodies(&one).is_empty());
    }

    #[test]
    fn neither_messages_nor_queues_gather_without_bound() {
        let (one, mut runs, mut touched) = (queue("1"), Runs::default(), Touched::default());
        for n in 0..=limits::RUN_MESSAGES {
            runs.add(std::slice::from_ref(&one), message(n), &mut touched);
        }
        assert_eq!(one.counts().messages, limits::RUN_MESSAGES);
        let queues: Vec<_> = (0..=limits::RUN_QUEUES).map(|_| queue("q")).collect();
        for queue in &queues {
            runs.add(std::slice::from_ref(queue), message(0), &mut touched);
        }
        assert!(runs.open.len() <= limits::RUN_QUEUES && runs.spare.len() <= limits::RUN_QUEUES);
        runs.hand_over(&mut touched);
        assert!(queues.iter().all(|queue| queue.counts().messages == 1));
    }
}
