//! Several queues changed at once: messages that go to more than one of them, and transactions. All their locks are held while the
//! journal takes the change, in the order of their numbers; it decides no delivery.

use crate::message::Message;
use crate::outbox::Touched;
use crate::queue::intake::{Append, Intake, Plan};
use crate::queue::{Hold, Queue};
use crate::store::list::List;
use crate::store::position::Position;
use crate::store::record::Operation;
use std::sync::Arc;

/// What comes to one queue, and what it is done with.
#[derive(Debug)]
pub struct Share {
    /// The queue.
    pub queue: Arc<Queue>,
    /// Messages, in order.
    pub arrivals: Vec<Message>,
    /// Positions of messages that were handed out.
    pub settled: Vec<u64>,
}

impl Share {
    /// Nothing yet.
    pub fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: Arc::clone(queue), arrivals: Vec::new(), settled: Vec::new() }
    }
}

/// Does what is in `shares`, each of another queue, and empties them. `several` are the messages that stand in more than one. Returns the position that has to be durable before anybody is told, if there is one.
pub fn hand_over(shares: &mut [Share], several: &[Message], how: Append, touched: &mut Touched) -> Option<Position> {
    shares.sort_unstable_by_key(|share| share.queue.number);
    let queues: Vec<Arc<Queue>> = shares.iter().map(|share| Arc::clone(&share.queue)).collect();
    let mut holds: Vec<Hold<'_>> = queues.iter().map(|queue| queue.hold()).collect();
    let mut intake = Intake::new(several);
    let mut plans = Vec::with_capacity(holds.len());
    for (share, hold) in shares.iter_mut().zip(&mut holds) {
        let Share { queue, arrivals, settled } = share;
        if hold.state.deleted {
            arrivals.clear();
        }
        let plan = Plan::new(queue.number, queue.declared.durable, &hold.state.core, arrivals, &queue.shared);
        intake.add(&plan, arrivals);
        hold.state.paged |= plan.stay < arrivals.len();
        plans.push(plan);
        hold.state.settle(settled);
        settled.clear();
    }
    let position = append(intake, &mut holds, &queues, how);
    for ((share, plan), hold) in shares.iter_mut().zip(&plans).zip(&mut holds) {
        plan.enter(&mut hold.state.core, &mut share.arrivals);
    }
    drop(holds);
    for queue in &queues {
        queue.pump(queue.hold(), touched);
    }
    position
}

fn append(intake: Intake, holds: &mut [Hold<'_>], queues: &[Arc<Queue>], how: Append) -> Option<Position> {
    let shared = &queues.first()?.shared;
    let journal = shared.journal()?;
    let settled = |(queue, hold): (&Arc<Queue>, &Hold<'_>)| {
        let runs = hold.state.leaving.for_good.clone();
        (!runs.is_empty()).then_some((queue.number, runs))
    };
    let settled: Vec<_> = queues.iter().zip(&*holds).filter_map(settled).collect();
    let settles = settled.iter().map(|(queue, runs)| Operation::Settle { queue: *queue, runs: List::Given(runs) });
    let more: Vec<_> = settles.collect();
    for hold in holds {
        hold.state.leaving.for_good.clear();
    }
    intake.append(journal, shared.wall_ms(), &more, how)
}
