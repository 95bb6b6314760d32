//! The core and the rotation of consumers against a model, by random commands.

use crate::memory::MemoryAccount;
use crate::message::{Message, Publication};
use crate::queue::admission::Admission;
use crate::queue::command::{Command, Disposition};
use crate::queue::consumers::{ConsumeError, ConsumerKey, ConsumerOptions, Consumers};
use crate::queue::core::{Core, DeliveryMode};
use crate::queue::effects::{Dead, DeadReason, Effects};
use crate::queue::options::Options;
use crate::queue::ready::{ENTRY_OCTETS, Front};
use crate::queue::settled::Storage;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug, Clone)]
enum CoreStep {
    Enqueue { count: u64, resident: usize, spilled_from: usize, commits_later: bool },
    Commit(usize),
    PageIn { count: usize, loses: bool },
    PageOut,
    Deliver { keeps_body: bool },
    Get { no_ack: bool, keeps_body: bool },
    Settle { nth: usize, count: usize, disposition: Disposition },
    Consume { no_ack: bool, exclusive: bool, prefetch: u16, priority: i64 },
    Cancel(usize),
    Stall(usize),
    Resume(usize),
    Purge,
    Limit(Option<usize>),
}

fn step() -> impl Strategy<Value = CoreStep> {
    let disposition = prop_oneof![Just(Disposition::Ack), Just(Disposition::Requeue), Just(Disposition::Reject)];
    let consumer = (any::<bool>(), prop::bool::weighted(0.1), 0u16..4, 0i64..3);
    prop_oneof![
        6 => (1u64..4, 0usize..5, 0usize..5, prop::bool::weighted(0.2)).prop_map(
            |(count, resident, spilled_from, commits_later)| CoreStep::Enqueue { count, resident, spilled_from, commits_later }
        ),
        2 => (0usize..2).prop_map(CoreStep::Commit),
        5 => (1usize..4, prop::bool::weighted(0.1)).prop_map(|(count, loses)| CoreStep::PageIn { count, loses }),
        1 => Just(CoreStep::PageOut),
        12 => any::<bool>().prop_map(|keeps_body| CoreStep::Deliver { keeps_body }),
        1 => any::<(bool, bool)>().prop_map(|(no_ack, keeps_body)| CoreStep::Get { no_ack, keeps_body }),
        6 => (0usize..8, 1usize..4, disposition)
            .prop_map(|(nth, count, disposition)| CoreStep::Settle { nth, count, disposition }),
        2 => consumer.prop_map(|(no_ack, exclusive, prefetch, priority)| {
            CoreStep::Consume { no_ack, exclusive, prefetch, priority }
        }),
        1 => (0usize..4).prop_map(CoreStep::Cancel),
        1 => (0usize..4).prop_map(CoreStep::Stall),
        2 => (0usize..4).prop_map(CoreStep::Resume),
        1 => Just(CoreStep::Purge),
        1 => prop::option::of(0usize..6).prop_map(CoreStep::Limit),
    ]
}

/// The queue at the beginning.
#[derive(Debug, Clone)]
struct Start {
    auto_delete: bool,
    /// The number of messages that are in the journal, after a restart.
    stored: u64,
    /// Those with ids up to this one may have been delivered before.
    delivered_upto: u64,
}

fn start() -> impl Strategy<Value = Start> {
    (any::<bool>(), 0u64..6, 0u64..12).prop_map(|(auto_delete, stored, delivered_upto)| Start {
        auto_delete,
        stored,
        delivered_upto: delivered_upto.min(2 * stored),
    })
}

fn message(id: u64) -> Message {
    Publication { route: b"\0\0", properties: b"\0\0", body: &id.to_be_bytes(), persistent: id.is_multiple_of(2) }
        .keep(MemoryAccount::default())
}

/// A message of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    storage: Storage,
    has_body: bool,
    deliveries: u16,
    /// The message came back.
    is_returned: bool,
}

#[derive(Debug)]
struct ModelConsumer {
    key: ConsumerKey,
    options: ConsumerOptions,
    in_flight: u16,
    is_stalled: bool,
}

/// The model: all messages and consumers in plain lists, searched from the beginning.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    ready: BTreeMap<u64, Known>,
    unacked: BTreeMap<u64, (Known, Option<usize>)>,
    gone: BTreeMap<u64, Storage>,
    uncommitted: Vec<Admission>,
    /// All consumers ever added; `None` for a removed one.
    consumers: Vec<Option<ModelConsumer>>,
    /// Consumers in the order in which they are served within their priority.
    rotation: VecDeque<usize>,
    delivered_upto: u64,
    max_length: Option<usize>,
    auto_delete: bool,
}

impl Model {
    /// Durable messages have even ids, and those between them are gone.
    fn new(start: &Start) -> Self {
        let Start { auto_delete, stored, delivered_upto } = *start;
        let known = Known { storage: Storage::Durable, has_body: false, deliveries: 0, is_returned: false };
        let ready = (1..=stored).map(|at| (2 * at, known)).collect();
        Self { next: 2 * stored, ready, delivered_upto, auto_delete, ..Self::default() }
    }

    fn has_credit(&self, consumer: usize) -> bool {
        self.consumers[consumer].as_ref().is_some_and(|ModelConsumer { options, in_flight, is_stalled, .. }| {
            !is_stalled && (options.no_ack || options.prefetch == 0 || *in_flight < options.prefetch)
        })
    }

    fn priority(&self, consumer: usize) -> i64 {
        self.consumers[consumer].as_ref().map_or(0, |consumer| consumer.options.priority)
    }

    fn join(&mut self, consumer: usize) {
        if !self.rotation.contains(&consumer) && self.has_credit(consumer) {
            self.rotation.push_back(consumer);
        }
    }

    fn leave(&mut self, consumer: usize) {
        self.rotation.retain(|other| *other != consumer);
    }

    /// Returns the first consumer of the highest priority with credit; those before it lose their
    /// places.
    fn next_consumer(&mut self) -> Option<usize> {
        loop {
            let highest = self.rotation.iter().map(|consumer| self.priority(*consumer)).max()?;
            let first = *self.rotation.iter().find(|consumer| self.priority(**consumer) == highest)?;
            if self.has_credit(first) {
                return Some(first);
            }
            self.leave(first);
        }
    }

    fn front(&self) -> Option<(u64, Known)> {
        let (id, known) = self.ready.first_key_value()?;
        let is_committed = self.uncommitted.iter().all(|admission| *id < admission.first);
        is_committed.then_some((*id, *known))
    }

    fn deliver(&mut self, id: u64, consumer: Option<usize>, no_ack: bool, keeps_body: bool) {
        let known = self.ready.remove(&id).unwrap();
        if no_ack {
            self.gone.insert(id, known.storage);
            return;
        }
        let has_body = keeps_body || known.storage == Storage::Memory;
        if known.storage == Storage::Durable {
            self.delivered_upto = self.delivered_upto.max(id);
        }
        self.unacked.insert(id, (Known { has_body, deliveries: known.deliveries + 1, ..known }, consumer));
    }

    fn settle(&mut self, id: u64, disposition: Disposition) {
        let (known, consumer) = self.unacked.remove(&id).unwrap();
        if disposition == Disposition::Requeue {
            self.ready.insert(id, Known { is_returned: true, ..known });
        } else {
            self.gone.insert(id, known.storage);
        }
        if let Some(at) = consumer
            && let Some(consumer) = &mut self.consumers[at]
        {
            consumer.in_flight = consumer.in_flight.saturating_sub(1);
            self.join(at);
        }
    }

    /// Returns the octets charged for bodies of unacked messages.
    fn unacked_body_charge(&self) -> u64 {
        self.unacked.iter().filter(|(_, (known, _))| known.has_body).map(|(id, _)| message(*id).charge()).sum()
    }

    fn charge(&self) -> u64 {
        let ready = self.ready.values().filter(|known| known.has_body || known.is_returned);
        (ready.count() + self.unacked.len()) as u64 * ENTRY_OCTETS
    }

    fn live(&self) -> Vec<usize> {
        (0..self.consumers.len()).filter(|at| self.consumers[*at].is_some()).collect()
    }
}

/// The core and the rotation that are tested.
#[derive(Debug)]
struct TestedCore {
    core: Core,
    consumers: Consumers,
    effects: Effects,
}

impl TestedCore {
    fn new(start: &Start) -> Self {
        let Start { auto_delete, stored, delivered_upto } = *start;
        let options = Arc::new(Options { durable: true, auto_delete, ..Options::default() });
        let core = match usize::try_from(stored).unwrap() {
            0 if delivered_upto == 0 => Core::new(options),
            count => Core::recovered(options, 2, count, 2 * stored + 1, delivered_upto),
        };
        Self { core, consumers: Consumers::default(), effects: Effects::default() }
    }

    fn apply(&mut self, command: Command<'_>) {
        self.core.apply(command, &mut self.effects);
        for (key, count) in self.effects.credits.drain(..) {
            self.consumers.settled(key, count);
        }
    }
}

/// Performs one step on both, and compares the results.
fn perform(subject: &mut TestedCore, model: &mut Model, step: &CoreStep) {
    let octets = |keeps_body: bool| if keeps_body { u64::MAX } else { 0 };
    match *step {
        CoreStep::Enqueue { count, resident, spilled_from, commits_later } => {
            enqueue(subject, model, count, (resident, spilled_from, commits_later));
        }
        CoreStep::Commit(nth) => {
            if nth < model.uncommitted.len() {
                subject.apply(Command::Commit(model.uncommitted.remove(nth)));
            }
        }
        CoreStep::PageIn { count, loses } => page_in(subject, model, count, loses),
        CoreStep::PageOut => {
            subject.core.page_out(0);
            let tail = model.ready.values_mut().rev().filter(|known| !known.is_returned && known.has_body);
            tail.take_while(|known| known.storage != Storage::Memory).for_each(|known| known.has_body = false);
        }
        CoreStep::Deliver { keeps_body } => deliver(subject, model, keeps_body),
        CoreStep::Get { no_ack, keeps_body } => {
            let mode = DeliveryMode { no_ack, unacked_octets: octets(keeps_body) };
            let got = subject.core.get(mode, &mut subject.effects);
            let expected = model.front().filter(|(_, known)| known.has_body);
            assert_eq!(
                got.map(|entry| (entry.id, entry.deliveries)),
                expected.map(|(id, known)| (id, known.deliveries))
            );
            if let Some((id, _)) = expected {
                model.deliver(id, None, no_ack, keeps_body);
            }
        }
        CoreStep::Settle { nth, count, disposition } => {
            let settled: Vec<_> =
                model.unacked.iter().skip(nth).take(count).map(|(id, (known, _))| (*id, *known)).collect();
            let ids: Vec<_> = settled.iter().map(|(id, _)| *id).collect();
            ids.iter().for_each(|id| model.settle(*id, disposition));
            // The second time the ids are unknown.
            for _ in 0..2 {
                subject.apply(Command::Settle { ids: &ids, disposition });
            }
            let rejected = if disposition == Disposition::Reject { settled } else { Vec::new() };
            let dead = subject.effects.dead.drain(..).map(|Dead { entry, reason: DeadReason::Rejected }| {
                let has_body = entry.body.is_some_and(|body| body.body() == entry.id.to_be_bytes());
                assert_eq!(entry.octets, message(entry.id).octets());
                (entry.id, entry.storage, has_body, entry.deliveries)
            });
            let rejected =
                rejected.into_iter().map(|(id, known)| (id, known.storage, known.has_body, known.deliveries));
            assert_eq!(dead.collect::<Vec<_>>(), rejected.collect::<Vec<_>>());
        }
        CoreStep::Consume { no_ack, exclusive, prefetch, priority } => {
            let options = ConsumerOptions { no_ack, exclusive, priority, prefetch };
            consume(subject, model, options);
        }
        CoreStep::Cancel(nth) | CoreStep::Stall(nth) | CoreStep::Resume(nth) => {
            change_consumer(subject, model, step, nth)
        }
        CoreStep::Limit(max_length) => {
            model.max_length = max_length;
            let options = Options { max_length, ..Options::clone(subject.core.options()) };
            subject.apply(Command::Configure(Arc::new(options)));
        }
        CoreStep::Purge => {
            let below = model.uncommitted.iter().map(|admission| admission.first).min().unwrap_or(model.next + 1);
            let kept = model.ready.split_off(&below);
            subject.apply(Command::Purge);
            let purged = std::mem::take(&mut subject.effects.purged);
            assert_eq!(purged.count, model.ready.len());
            purged.unsettled.values().for_each(|entry| subject.effects.settled.add(entry.id, entry.storage));
            model
                .gone
                .extend(std::mem::replace(&mut model.ready, kept).into_iter().map(|(id, known)| (id, known.storage)));
        }
    }
}

fn enqueue(
    subject: &mut TestedCore,
    model: &mut Model,
    count: u64,
    (resident, spilled_from, later): (usize, usize, bool),
) {
    let is_stored = model.ready.values().any(|known| !known.has_body && !known.is_returned);
    let resident = if is_stored { 0 } else { resident };
    let spilled_from = spilled_from.min(resident);
    let first = model.next + 1;
    let room = model.max_length.map_or(usize::MAX, |max| max.saturating_sub(model.ready.len()));
    let mut messages: Vec<_> = (first..first + count).map(message).collect();
    let taken = subject.core.room(messages.len());
    assert_eq!(taken, messages.len().min(room));
    let rejected = count as usize - taken;
    let count = taken as u64;
    let admission = Admission { durable: true, first, taken, resident, spilled_from, commits_later: later };
    for (at, id) in (first..first + count).enumerate() {
        let storage = match () {
            () if id.is_multiple_of(2) => Storage::Durable,
            () if at >= spilled_from => Storage::Spilled,
            () => Storage::Memory,
        };
        assert_eq!(admission.storage(at, &messages[at]), storage);
        model.ready.insert(id, Known { storage, has_body: at < resident, deliveries: 0, is_returned: false });
    }
    model.next += count;
    model.uncommitted.extend((later && taken > 0).then_some(admission));
    subject.apply(Command::Enqueue { messages: &mut messages, admission });
    assert_eq!(messages.len(), rejected);
}

fn page_in(subject: &mut TestedCore, model: &mut Model, count: usize, loses: bool) {
    let below = model.uncommitted.iter().map(|admission| admission.first).min().unwrap_or(u64::MAX);
    let bodiless = |(id, known): (&u64, &Known)| (!known.has_body).then_some((*id, *known));
    let first = model.ready.iter().find_map(bodiless).filter(|(id, _)| *id < below);
    let wanted = subject.core.wanted();
    let Some(wanted) = wanted else { return assert_eq!(first, None) };
    // Ids of the run may be gone.
    let ids: Vec<_> = model.ready.range(wanted.first..=wanted.last).filter_map(bodiless).take(count).collect();
    assert_eq!(first, ids.first().copied());
    if ids.is_empty() {
        assert_eq!(subject.core.drop_missing(wanted, &mut subject.effects), 0);
        assert_eq!(subject.core.wanted(), None);
    }
    let bodies = ids.iter().map(|(id, known)| (*id, (!loses).then(|| (message(*id), known.storage))));
    subject.core.page_in(bodies, &mut subject.effects);
    for (id, _) in ids {
        let known = model.ready.get_mut(&id).unwrap();
        known.has_body = true;
        if loses {
            let storage = model.ready.remove(&id).unwrap().storage;
            model.gone.insert(id, storage);
        } else if !known.is_returned {
            // A message that may have been delivered before a restart counts as redelivered.
            known.deliveries = u16::from(id <= model.delivered_upto);
        }
    }
}

fn deliver(subject: &mut TestedCore, model: &mut Model, keeps_body: bool) {
    let TestedCore { core, consumers, effects } = subject;
    let front = model.front();
    match core.front() {
        Front::Empty => assert_eq!(front, None),
        Front::Stored => match front {
            Some((_, known)) => assert!(!known.has_body),
            // Gone ids precede the first uncommitted one: a page-in finds nothing, and skips them.
            None => assert!(core.wanted().is_some_and(|run| model.ready.range(run.first..=run.last).next().is_none())),
        },
        Front::Resident(entry) => {
            let (id, known) = front.unwrap();
            assert!(known.has_body && entry.body.is_some());
            assert_eq!((entry.id, entry.deliveries, entry.storage), (id, known.deliveries, known.storage));
            assert_eq!(entry.body.as_ref().unwrap().body(), id.to_be_bytes());
            let next = consumers.next_consumer();
            let expected = model.next_consumer();
            let options =
                |at: usize| model.consumers[at].as_ref().map(|consumer| (consumer.key, consumer.options.no_ack));
            assert_eq!(next, expected.and_then(options));
            if let (Some((key, no_ack)), Some(at)) = (next, expected) {
                let unacked_octets = if keeps_body { u64::MAX } else { 0 };
                core.delivered(key, DeliveryMode { no_ack, unacked_octets }, effects);
                consumers.delivered(key);
                model.deliver(id, Some(at), no_ack, keeps_body);
                model.leave(at);
                if let Some(consumer) = &mut model.consumers[at] {
                    consumer.in_flight += u16::from(!no_ack);
                }
                // It stays in the rotation, last, until it is found without credit.
                model.rotation.push_back(at);
            }
        }
    }
}

fn consume(subject: &mut TestedCore, model: &mut Model, options: ConsumerOptions) {
    let live = model.live();
    let is_alone = |at: &usize| model.consumers[*at].as_ref().is_some_and(|consumer| consumer.options.exclusive);
    let is_refused = live.iter().any(is_alone) || options.exclusive && !live.is_empty();
    let checked = subject.core.check_consume(options.exclusive);
    assert_eq!(checked, if is_refused { Err(ConsumeError::ExclusiveUse) } else { Ok(()) });
    if is_refused {
        return;
    }
    let key = subject.consumers.add_stalled(options);
    subject.apply(Command::Consume { key, exclusive: options.exclusive });
    subject.consumers.resume(key);
    model.consumers.push(Some(ModelConsumer { key, options, in_flight: 0, is_stalled: false }));
    model.join(model.consumers.len() - 1);
}

fn change_consumer(subject: &mut TestedCore, model: &mut Model, step: &CoreStep, nth: usize) {
    let Some(at) = model.live().get(nth).copied() else { return };
    let Some(consumer) = &mut model.consumers[at] else { return };
    let key = consumer.key;
    match step {
        CoreStep::Stall(_) => {
            consumer.is_stalled = true;
            model.leave(at);
            subject.consumers.stall(key);
        }
        CoreStep::Resume(_) => {
            consumer.is_stalled = false;
            model.join(at);
            subject.consumers.resume(key);
        }
        _ => {
            model.leave(at);
            model.consumers[at] = None;
            assert!(subject.consumers.remove(key) && !subject.consumers.remove(key));
            subject.apply(Command::Cancel(key));
            assert_eq!(std::mem::take(&mut subject.effects.unused), model.auto_delete && model.live().is_empty());
        }
    }
}

fn compare(subject: &TestedCore, model: &Model) {
    let TestedCore { core, effects, consumers } = subject;
    assert_eq!(core.ready(), model.ready.len());
    assert_eq!(core.unacked(), model.unacked.len());
    assert_eq!((core.consumer_count(), consumers.len()), (model.live().len(), model.live().len()));
    assert_eq!(core.delivered_upto(), model.delivered_upto);
    assert_eq!((core.charge(), core.unacked_body_charge()), (model.charge(), model.unacked_body_charge()));
    assert_eq!(core.next_id(), model.next + 1);
    assert!(!effects.unused);
    let runs = effects.settled.durable.iter().chain(&effects.settled.spilled);
    let left: BTreeSet<u64> = runs.flat_map(|run| run.first..=run.last).collect();
    let is_left = |id: &u64| left.contains(id) || effects.purged_below.is_some_and(|below| id < &below);
    for (id, storage) in &model.gone {
        assert!(*storage == Storage::Memory || is_left(id), "the journal keeps {id}");
    }
    assert!(model.ready.keys().chain(model.unacked.keys()).all(|id| !is_left(id)), "the journal loses a message");
    assert!(left.last().is_none_or(|last| *last <= model.next), "the journal loses a message to come");
}

proptest! {
    #[test]
    fn the_core_and_the_rotation_agree_with_the_model(
        start in start(),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let (mut subject, mut model) = (TestedCore::new(&start), Model::new(&start));
        for step in &steps {
            perform(&mut subject, &mut model, step);
            compare(&subject, &model);
        }
    }

    #[test]
    fn equal_commands_lead_to_equal_states_and_effects(
        start in start(),
        steps in proptest::collection::vec(step(), 0..100),
    ) {
        let mut runs = [0; 2].map(|_| (TestedCore::new(&start), Model::new(&start)));
        for step in &steps {
            let states = runs.each_mut().map(|(subject, model)| {
                perform(subject, model, step);
                format!("{subject:?}")
            });
            prop_assert_eq!(&states[0], &states[1]);
        }
    }
}
