//! Messages on their way from one read batch into queues, gathered queue by queue so that each queue's lock is taken once
//! a run. It decides no route.

use crate::limits;
use crate::message::Message;
use crate::outbox::Touched;
use crate::queue::Queue;
use std::sync::Arc;

/// Runs that were not handed over yet.
#[derive(Debug, Default)]
pub struct Runs {
    open: Vec<(Arc<Queue>, Vec<Message>)>,
    spare: Vec<Vec<Message>>,
    messages: usize,
}

impl Runs {
    /// Adds a message for one queue. Order within a queue is the order of calls.
    pub fn add(&mut self, queue: &Arc<Queue>, message: Message, touched: &mut Touched) {
        if self.messages >= limits::RUN_MESSAGES {
            self.hand_over(touched);
        }
        self.messages += 1;
        // Backwards: mostly it is the queue of the message before.
        if let Some((_, run)) = self.open.iter_mut().rev().find(|(other, _)| Arc::ptr_eq(other, queue)) {
            run.push(message);
            return;
        }
        if self.open.len() >= limits::RUN_QUEUES {
            self.hand_over(touched);
            self.messages = 1;
        }
        let mut run = self.spare.pop().unwrap_or_default();
        run.push(message);
        self.open.push((Arc::clone(queue), run));
    }

    /// Hands every run to its queue.
    pub fn hand_over(&mut self, touched: &mut Touched) {
        for (queue, mut run) in self.open.drain(..) {
            queue.publish(&mut run, touched);
            if self.spare.len() < limits::RUN_QUEUES {
                self.spare.push(run);
            }
        }
        self.messages = 0;
    }
}
