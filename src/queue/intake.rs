//! Messages that come into queues and that the journal takes: what is to be written, in one go for all of them. It takes no
//! queue's lock and decides nothing about deliveries.

use crate::limits;
use crate::message::Message;
use crate::queue::core::Core;
use crate::queue::leaving::Kept;
use crate::queue::shared::Shared;
use crate::store::journal::{Haste, Journal, Refused};
use crate::store::list::{List, Target};
use crate::store::position::Position;
use crate::store::record::{Operation, Publish};
use hashbrown::HashMap;

/// A flag of records: the message is persistent.
pub const PERSISTENT: u32 = 1;

/// What a crash may leave of several changes, and how soon whoever waits for them is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// All of them or nothing. Somebody waits.
    Whole,
    /// Each by itself. Somebody waits if one of them has to be durable.
    Each(Haste),
}

/// Never durable: where a journal that has failed puts what it does not take.
pub fn never() -> Position {
    Position::from_number(u64::MAX)
}

/// Where the messages of a run go in one queue.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The journal's number of the queue.
    pub queue: u64,
    /// The queue keeps persistent messages for good.
    pub durable: bool,
    /// The position of the first message.
    pub first: u64,
    /// So many stay in memory; the rest is in the journal only.
    pub stay: usize,
}

impl Plan {
    /// Looks how much of `run` may stay in memory.
    pub fn new(queue: u64, durable: bool, core: &Core, run: &[Message], shared: &Shared) -> Self {
        let stay = if core.deep().count > 0 { 0 } else { stay(durable, core.fresh_charge(), run, shared) };
        Self { queue, durable, first: core.next_seq(), stay }
    }

    /// Whether any message of the run is for the journal.
    pub fn concerns_journal(&self, run: &[Message]) -> bool {
        self.stay < run.len() || self.durable && run.iter().any(Message::is_persistent)
    }

    fn kept(&self, at: usize, message: &Message) -> Kept {
        match () {
            () if self.durable && message.is_persistent() => Kept::ForGood,
            () if at >= self.stay => Kept::ForNow,
            () => Kept::Nowhere,
        }
    }

    /// Puts the messages where they go. `run` is empty afterwards.
    pub fn enter(&self, core: &mut Core, run: &mut Vec<Message>) {
        for (at, message) in run.drain(..).enumerate() {
            if at < self.stay {
                let kept = self.kept(at, &message);
                core.enqueue(message, kept);
            } else {
                core.enqueue_deep();
            }
        }
    }
}

fn stay(durable: bool, mut charge: u64, run: &[Message], shared: &Shared) -> usize {
    let Some(_) = shared.journal() else { return run.len() };
    let memory = shared.counters().memory();
    let for_good = if memory > limits::RESIDENT_ALL { limits::RESIDENT_MIN } else { limits::RESIDENT_MAX };
    let for_now = if memory > shared.page_at() { limits::RESIDENT_MIN } else { u64::MAX };
    if !durable && for_now == u64::MAX {
        return run.len();
    }
    let is_too_much = |message: &Message| {
        let before = charge;
        charge += message.charge();
        before > if durable && message.is_persistent() { for_good } else { for_now }
    };
    run.iter().position(is_too_much).unwrap_or(run.len())
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Intake {
    messages: Vec<Message>,
    /// Places, each with the index of its message.
    places: Vec<(usize, Target)>,
    /// Messages that go to several queues, by address.
    several: HashMap<usize, usize>,
    waits: bool,
}

impl Intake {
    /// Nothing yet; each of `several` will be written once, however many queues it goes to.
    pub fn new(several: &[Message]) -> Self {
        let by_address = several.iter().enumerate().map(|(at, message)| (message.address(), at)).collect();
        Self { messages: several.to_vec(), several: by_address, ..Self::default() }
    }

    /// Adds what `plan` has the journal take of a run.
    pub fn add(&mut self, plan: &Plan, run: &[Message]) {
        for (seq, (at, message)) in (plan.first..).zip(run.iter().enumerate()) {
            let kept = plan.kept(at, message);
            if kept == Kept::Nowhere {
                continue;
            }
            let transient = kept == Kept::ForNow;
            self.waits |= !transient;
            let known = if self.several.is_empty() { None } else { self.several.get(&message.address()).copied() };
            let index = known.unwrap_or(self.messages.len());
            if known.is_none() {
                self.messages.push(message.clone());
            }
            self.places.push((index, Target { queue: plan.queue, seq, transient, handed_out: false }));
        }
    }

    /// Appends it all, with `more` behind it. Returns the position that has to be durable before anybody is told, if there is one.
    pub fn append(mut self, journal: &Journal, at_ms: u64, more: &[Operation<'_>], how: Append) -> Option<Position> {
        if !self.several.is_empty() {
            self.places.sort_by_key(|(index, _)| *index);
        }
        let targets: Vec<Target> = self.places.iter().map(|(_, target)| *target).collect();
        let mut operations = Vec::with_capacity(targets.len() + more.len());
        let mut start = 0;
        for places in self.places.chunk_by(|(one, _), (other, _)| one == other) {
            let end = start + places.len();
            if let Some(message) = places.first().and_then(|(index, _)| self.messages.get(*index)) {
                let targets = List::Given(targets.get(start..end).unwrap_or_default());
                operations.push(Operation::Publish(publish(message, at_ms, targets)));
            }
            start = end;
        }
        operations.extend_from_slice(more);
        if operations.is_empty() {
            return None;
        }
        let waits = self.waits || how == Append::Whole;
        let appended = match how {
            Append::Whole if operations.len() > 1 => journal.append_batch(&operations),
            Append::Whole => journal.append_all(&operations, Haste::Now),
            Append::Each(haste) => journal.append_all(&operations, if waits { haste } else { Haste::Leisure }),
        };
        match appended {
            Ok(position) => waits.then_some(position),
            Err(refused) => {
                refuse(journal, &refused);
                Some(never())
            }
        }
    }
}

/// What the journal does not take is not taken by anybody: memory and disk would go apart.
pub fn refuse(journal: &Journal, refused: &Refused) {
    if let Refused::TooLarge = refused {
        journal.fail("a change is larger than the journal can hold");
    }
}

fn publish<'a>(message: &'a Message, at_ms: u64, targets: List<'a, Target>) -> Publish<'a> {
    Publish {
        at_ms,
        flags: if message.is_persistent() { PERSISTENT } else { 0 },
        targets,
        route: message.route(),
        properties: message.properties(),
        body: message.body(),
    }
}
