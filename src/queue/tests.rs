//! Queues with a journal on the simulated disk: the messages that are stored, that are in the
//! journal only, and that come back after a crash.

use super::*;
use crate::counters::Counters;
use crate::memory::MemoryAccount;
use crate::message::Publication;
use crate::outbox::PendingActions;
use crate::queue::arguments::QueueType;
use crate::queue::atomic_publish::{QueueShare, atomic_publish};
use crate::queue::command::Disposition;
use leveret_journal::journal::{Journal, JournalOptions, Sync};
use leveret_journal::recovery::{Recovered, recover};
use leveret_journal::simulated::{Crash, SimulatedDisk};
use leveret_wire::table::OwnedTable;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

struct QueueFixture {
    disk: SimulatedDisk,
    journal: Arc<Journal>,
    context: Arc<QueueContext>,
    recovered: Recovered,
}

fn open(disk: &SimulatedDisk, high: u64) -> QueueFixture {
    let options = JournalOptions { segment_octets: 1 << 20, sync: Sync::Group, full_at: 1 << 20, seed: 7 };
    let (journal, recovered) = recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap();
    let (journal, counters) = (Arc::new(journal), Arc::new(Counters::default()));
    let context = QueueContext::with_journal(counters, Arc::clone(&journal), 10).paging_below(high);
    QueueFixture { disk: disk.clone(), journal, context: Arc::new(context), recovered }
}

impl QueueFixture {
    fn new(high: u64) -> Self {
        open(&SimulatedDisk::new(5, 1 << 40), high)
    }

    /// Syncs everything that was appended, then loses power.
    fn crash(self) -> Self {
        self.journal.step(false).unwrap();
        self.disk.restart(Crash::PowerLoss);
        open(&self.disk, u64::MAX)
    }

    fn queue(&self, durable: bool) -> Arc<Queue> {
        Arc::new(Queue::new(declared(durable), Arc::clone(&self.context)))
    }

    fn recover(&self, number: u64) -> Arc<Queue> {
        let state = self.recovered.queues.iter().find(|state| state.queue == number).unwrap();
        Arc::new(Queue::recovered(declared(true), state, Arc::clone(&self.context)))
    }
}

fn declared(durable: bool) -> Declared {
    let (kind, arguments, name) = (QueueType::Classic, OwnedTable::default(), Name::from_static("q"));
    Declared { name, durable, owner: None, auto_delete: false, kind, arguments }
}

fn message(n: u64, size: usize, persistent: bool, account: MemoryAccount) -> Message {
    let mut body = vec![n as u8; size];
    body.splice(..8, n.to_be_bytes());
    Publication { route: b"\x01x\x01k", properties: b"\x10\0\x02", body: &body, persistent }.keep(account)
}

fn publish(queue: &Arc<Queue>, numbers: std::ops::Range<u64>, size: usize, persistent: bool) -> Option<Index> {
    let mut run: Vec<_> = numbers.map(|n| message(n, size, persistent, queue.context.memory())).collect();
    queue.publish(&mut run, CommitMode::Now, &mut FlushSet::default()).index
}

fn number(message: &Message) -> u64 {
    let (number, rest) = message.body().split_first_chunk::<8>().unwrap();
    let number = u64::from_be_bytes(*number);
    assert!(rest.iter().all(|octet| *octet == number as u8));
    assert_eq!((message.route(), message.properties()), (&b"\x01x\x01k"[..], &b"\x10\0\x02"[..]));
    number
}

fn drain(queue: &Arc<Queue>) -> Vec<(u64, bool)> {
    std::iter::from_fn(|| queue.get(true)).map(|fetched| (number(&fetched.message), fetched.redelivered)).collect()
}

fn fresh(numbers: impl Iterator<Item = u64>) -> Vec<(u64, bool)> {
    numbers.map(|n| (n, false)).collect()
}

#[test]
fn a_durable_queue_keeps_what_is_persistent_in_its_place() {
    let fixture = QueueFixture::new(u64::MAX);
    let queue = fixture.queue(true);
    assert!(publish(&queue, 0..5, 100, true) > Some(fixture.journal.durable()));
    assert_eq!(publish(&queue, 5..8, 100, false), None);
    publish(&queue, 8..10, 100, true);
    // One is settled, one stays unacked, one is requeued.
    let taken: Vec<_> = (0..3).map(|_| queue.get(false).unwrap().id).collect();
    queue.settle(&taken[..1], Disposition::Ack, &mut FlushSet::default());
    queue.settle(&taken[2..], Disposition::Requeue, &mut FlushSet::default());
    let number = queue.number();
    let fixture = fixture.crash();
    let queue = fixture.recover(number);
    assert_eq!(queue.counts().messages, 6);
    let expected: Vec<_> = [1, 2, 3, 4, 8, 9].into_iter().map(|n| (n, n <= 2)).collect();
    assert_eq!(drain(&queue), expected);
    assert!(fixture.crash().recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn nothing_of_a_queue_that_is_not_durable_comes_back() {
    let fixture = QueueFixture::new(0);
    let queue = fixture.queue(false);
    for _ in 0..2 {
        assert_eq!(publish(&queue, 0..1000, 1000, true), None);
    }
    assert!(queue.hold().state.core.ready_messages().stored().count > 0);
    let fixture = fixture.crash();
    assert!(fixture.recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn what_is_far_behind_is_in_the_journal_only_and_comes_back_in_order() {
    for (durable, persistent, high) in [(true, true, u64::MAX), (true, false, 1 << 20), (false, false, 1 << 20)] {
        let fixture = QueueFixture::new(high);
        let queue = fixture.queue(durable);
        for start in (0..20_000).step_by(500) {
            publish(&queue, start..start + 500, 1024, persistent);
        }
        let bound = if persistent { limits::RESIDENT_MAX } else { high / 2 } + limits::PAGE_IN_OCTETS;
        assert!(
            fixture.context.memory().used_by_messages() <= bound,
            "{}",
            fixture.context.memory().used_by_messages()
        );
        assert_eq!(queue.counts().messages, 20_000);
        assert_eq!(drain(&queue), fresh(0..20_000));
        assert_eq!(fixture.context.memory().used_by_messages(), 0);
        // Without a stored run, messages stay in memory again.
        publish(&queue, 0..1, 8, persistent);
        assert_eq!(queue.hold().state.core.ready_messages().stored().count, 0);
        fixture.journal.step(false).unwrap();
        assert_eq!(drain(&queue).len(), 1);
        assert!(fixture.journal.seqs(queue.number(), 0, 1).is_empty(), "the journal holds what is gone");
    }
}

#[test]
fn a_purge_takes_what_is_paged_out_and_leaves_what_is_delivered() {
    let fixture = QueueFixture::new(u64::MAX);
    let queue = fixture.queue(true);
    for start in (0..10_000).step_by(500) {
        publish(&queue, start..start + 500, 1024, true);
    }
    let held = queue.get(false).unwrap();
    assert!(queue.hold().state.core.ready_messages().stored().count > 0);
    assert_eq!(queue.purge().0, 9_999);
    publish(&queue, 10_000..10_002, 1024, true);
    let number_of = queue.number();
    let fixture = fixture.crash();
    let queue = fixture.recover(number_of);
    assert_eq!(drain(&queue), [(number(&held.message), true), (10_000, false), (10_001, false)]);
}

type Work = Box<dyn FnOnce() + Send>;
static LATER: parking_lot::Mutex<Vec<Work>> = parking_lot::Mutex::new(Vec::new());

/// Neither under a lock nor before the answer: however long the backlog is.
#[test]
fn what_a_purge_or_a_deletion_takes_is_freed_later() {
    let purge = |queue: &Arc<Queue>| queue.purge().0;
    let delete = |queue: &Arc<Queue>| queue.delete().finish();
    for remove in [purge as fn(&Arc<Queue>) -> usize, delete] {
        let fixture = QueueFixture::new(u64::MAX);
        fixture.context.offload().set(|work| work(), |work| LATER.lock().push(work));
        let queue = fixture.queue(false);
        publish(&queue, 0..5_000, 100, false);
        let taken = queue.get(false).unwrap();
        queue.settle(&[taken.id], Disposition::Requeue, &mut FlushSet::default());
        drop(taken);
        let used = fixture.context.memory().used_by_messages();
        assert_eq!((remove(&queue), queue.counts().messages), (5_000, 0));
        let entries = 5_000 * ready::ENTRY_OCTETS;
        assert_eq!(fixture.context.memory().used_by_messages(), used - entries);
        let later = std::mem::take(&mut *LATER.lock());
        later.into_iter().for_each(|work| work());
        assert_eq!(fixture.context.memory().used_by_messages(), 0);
    }
}

#[test]
fn a_purge_is_one_record_and_waits_for_that_alone() {
    let fixture = QueueFixture::new(u64::MAX);
    let queue = fixture.queue(true);
    publish(&queue, 0..5_000, 100, true);
    let before = fixture.journal.end();
    let (count, index) = queue.purge();
    assert_eq!((count, index), (5_000, Some(before.next())));
    assert!(fixture.journal.end() == before.next() && fixture.journal.was_woken());
    // With some that are unacked, and a thousand that came back between them.
    publish(&queue, 0..5_000, 100, true);
    let taken: Vec<_> = (0..2_000).map(|_| queue.get(false).unwrap().id).collect();
    let (kept, back): (Vec<_>, Vec<_>) = taken.iter().partition(|id| *id % 2 == 0);
    queue.settle(&back, Disposition::Requeue, &mut FlushSet::default());
    let before = fixture.journal.end();
    let (count, index) = queue.purge();
    assert_eq!((count, index), (4_000, Some(fixture.journal.end())));
    assert_eq!(fixture.journal.end().number() - before.number(), 2);
    assert_eq!(fixture.journal.live_messages()[&queue.number()], kept.into_iter().collect());
}

#[test]
fn a_message_for_several_queues_is_written_once() {
    let fixture = QueueFixture::new(u64::MAX);
    let queues: Vec<_> = (0..10).map(|_| fixture.queue(true)).collect();
    let several = [message(1, 100_000, true, fixture.context.memory())];
    let mut shares: Vec<_> = queues.iter().map(QueueShare::new).collect();
    shares.iter_mut().for_each(|share| share.messages.push(several[0].clone()));
    shares[3].messages.insert(0, message(0, 100, true, fixture.context.memory()));
    assert!(
        atomic_publish(&mut shares, &several, Atomicity::Each(CommitMode::Now), &mut FlushSet::default()).is_some()
    );
    fixture.journal.step(false).unwrap();
    assert!(fixture.journal.live() < 110_000, "{}", fixture.journal.live());
    let fixture = fixture.crash();
    for queue in &queues {
        let found = drain(&fixture.recover(queue.number()));
        let more = if queue.number() == queues[3].number() { 0..2 } else { 1..2 };
        assert_eq!(found, fresh(more));
    }
}

fn consumer(queue: &Arc<Queue>, prefetch: u16) -> Arc<Outbox> {
    let outbox = Arc::new(Outbox::default());
    outbox.lock().open_channel(1);
    let target = DeliveryTarget { channel: 1, slot: 0, tag: Name::from_static("t"), no_ack: false };
    let options = ConsumerOptions { prefetch, ..ConsumerOptions::default() };
    let key = queue.consume(options, &outbox, target).unwrap();
    queue.resume(key, &mut FlushSet::default());
    outbox
}

#[test]
fn a_full_queue_rejects_what_no_consumer_takes_first_and_journals_none_of_it() {
    for durable in [true, false] {
        let fixture = QueueFixture::new(u64::MAX);
        let queue = fixture.queue(durable);
        queue.limit_length(2);
        let _outbox = consumer(&queue, 3);
        let account = fixture.context.memory();
        let mut run: Vec<_> = (0..10).map(|n| message(n, 100, true, account)).collect();
        let outcome = queue.publish(&mut run, CommitMode::Now, &mut FlushSet::default());
        assert!(run.is_empty());
        assert_eq!((outcome.index.is_some(), outcome.rejected), (durable, vec![5, 6, 7, 8, 9]));
        assert_eq!(queue.counts().messages, 2);
        let outcome =
            queue.publish(&mut vec![message(10, 100, true, account)], CommitMode::Now, &mut FlushSet::default());
        assert_eq!(outcome, PublishOutcome { index: None, rejected: vec![0] });
        let number = queue.number();
        let fixture = fixture.crash();
        if durable {
            let numbers: Vec<_> = drain(&fixture.recover(number)).into_iter().map(|(n, _)| n).collect();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
        }
    }
}

#[test]
fn of_messages_for_several_queues_each_queue_rejects_its_own() {
    let fixture = QueueFixture::new(u64::MAX);
    let (full, served, large) = (fixture.queue(true), fixture.queue(true), fixture.queue(true));
    full.limit_length(1);
    served.limit_length(1);
    // It makes room for three while the others are committed.
    let _outbox = consumer(&served, 3);
    let several: Vec<_> = (0..6).map(|n| message(n, 100, true, fixture.context.memory())).collect();
    for atomicity in [Atomicity::Each(CommitMode::Now), Atomicity::Whole] {
        let mut shares = [&full, &served, &large].map(QueueShare::new);
        shares.iter_mut().for_each(|share| share.messages.extend(several.iter().cloned()));
        assert!(atomic_publish(&mut shares, &several, atomicity, &mut FlushSet::default()).is_some());
        assert!(shares.iter().all(|share| share.messages.is_empty()));
        let rejected = shares.map(|share| share.rejected);
        let expected: [Vec<usize>; 3] = match atomicity {
            Atomicity::Each(_) => [(1..6).collect(), vec![4, 5], vec![]],
            Atomicity::Whole => [(0..6).collect(), (0..6).collect(), vec![]],
        };
        assert_eq!(rejected, expected, "{atomicity:?}");
    }
    let counts = [&full, &served, &large].map(|queue| queue.counts().messages);
    assert_eq!(counts, [1, 1, 12]);
    let fixture = fixture.crash();
    for (queue, expected) in [(full, vec![0]), (served, vec![0, 1, 2, 3])] {
        let numbers: Vec<_> = drain(&fixture.recover(queue.number())).into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn messages_come_back_in_the_order_of_ids_whatever_the_order_of_their_records() {
    let fixture = QueueFixture::new(u64::MAX);
    let queue = fixture.queue(true);
    let mut slow = JournalBatch::default();
    let mut first = vec![message(0, 100, true, fixture.context.memory())];
    let admission = queue.enqueue_uncommitted(&mut queue.hold(), &mut first, &mut slow);
    // Another publisher comes between the id and the record of the first.
    publish(&queue, 1..3, 100, true);
    assert!(queue.get(true).is_none());
    slow.append(&fixture.journal, 0, &[], Atomicity::Each(CommitMode::Now));
    queue.commit(admission, &mut FlushSet::default());
    let number = queue.number();
    let fixture = fixture.crash();
    assert_eq!(drain(&fixture.recover(number)), fresh(0..3));
}

#[test]
fn racing_publishers_find_their_messages_in_the_same_order_after_a_restart() {
    let fixture = QueueFixture::new(u64::MAX);
    let queues = [fixture.queue(true), fixture.queue(true)];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (queues, account) = (&queues, fixture.context.memory());
            scope.spawn(move || {
                for at in 0..100 {
                    let number = thread * 1000 + at;
                    if at % 3 == 0 {
                        publish(&queues[(at % 2) as usize], number..number + 1, 50, true);
                        continue;
                    }
                    let several = [message(number, 50, true, account)];
                    let mut shares = queues.each_ref().map(QueueShare::new);
                    if thread % 2 == 0 {
                        shares.reverse();
                    }
                    shares.iter_mut().for_each(|share| share.messages.push(several[0].clone()));
                    atomic_publish(&mut shares, &several, Atomicity::Each(CommitMode::Now), &mut FlushSet::default());
                }
            });
        }
    });
    let before = queues.each_ref().map(|queue| {
        let taken: Vec<_> = std::iter::from_fn(|| queue.get(false)).map(|fetched| number(&fetched.message)).collect();
        (queue.number(), taken)
    });
    let fixture = fixture.crash();
    for (queue, before) in before {
        let after: Vec<_> = drain(&fixture.recover(queue)).into_iter().map(|(number, _)| number).collect();
        assert!(before.len() > 250 && after == before);
    }
}

#[test]
fn consumers_get_what_is_deep_as_it_is_read_back() {
    let fixture = QueueFixture::new(u64::MAX);
    let queue = fixture.queue(true);
    for start in (0..10_000).step_by(500) {
        publish(&queue, start..start + 500, 1024, true);
    }
    let outbox = Arc::new(Outbox::default());
    outbox.lock().open_channel(1);
    let address = DeliveryTarget { channel: 1, slot: 0, tag: Name::from_static("t"), no_ack: true };
    let key = queue.consume(ConsumerOptions { no_ack: true, ..ConsumerOptions::default() }, &outbox, address).unwrap();
    let mut flush = FlushSet::default();
    queue.resume(key, &mut flush);
    let mut octets = Vec::new();
    for _ in 0..1_000 {
        fixture.context.page_ins().run();
        let mut taken = Vec::new();
        outbox.take_octets(&mut taken);
        octets.append(&mut taken);
        let PendingActions { stalled, .. } = outbox.lock().take_pending_actions();
        if !stalled.is_empty() {
            queue.resume(key, &mut flush);
        }
        if queue.counts().messages == 0 {
            break;
        }
    }
    assert_eq!(queue.counts().messages, 0);
    assert!(octets.len() > 10_000 * 1024);
    assert!(fixture.crash().recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn a_transaction_is_written_at_once_even_if_it_settles_one_message_only() {
    let fixture = open(&SimulatedDisk::new(1, 1 << 40), u64::MAX);
    let queue = fixture.queue(true);
    publish(&queue, 0..1, 100, true);
    let settled = queue.get(false).unwrap().id;
    fixture.journal.step(false).unwrap();
    fixture.journal.was_woken();
    let mut share = QueueShare::new(&queue);
    share.acked.push(settled);
    let index = atomic_publish(&mut [share], &[], Atomicity::Whole, &mut FlushSet::default());
    assert!(fixture.journal.was_woken() && index > Some(fixture.journal.durable()));
}

#[test]
fn a_crash_leaves_all_of_a_transaction_or_nothing() {
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..200 {
        let fixture = open(&SimulatedDisk::new(seed, 1 << 40), u64::MAX);
        let queues = [fixture.queue(true), fixture.queue(true)];
        publish(&queues[0], 0..1, 100, true);
        let settled = queues[0].get(false).unwrap().id;
        fixture.journal.step(false).unwrap();
        let mut shares: Vec<_> = queues.iter().map(QueueShare::new).collect();
        shares[0].acked.push(settled);
        shares[0].messages.push(message(1, 600, true, fixture.context.memory()));
        shares[1].messages.push(message(2, 600, true, fixture.context.memory()));
        atomic_publish(&mut shares, &[], Atomicity::Whole, &mut FlushSet::default());
        // The disk stops in the write, or before the sync: the record is kept, torn or lost.
        fixture.disk.stop_at(fixture.disk.calls() + 1 + seed % 2);
        assert!(fixture.journal.step(false).is_err());
        fixture.disk.restart(Crash::PowerLoss);
        let fixture = open(&fixture.disk, u64::MAX);
        let left = |number: u64| {
            let there = fixture.recovered.queues.iter().any(|state| state.queue == number);
            if there {
                drain(&fixture.recover(number)).into_iter().map(|(number, _)| number).collect()
            } else {
                Vec::new()
            }
        };
        *outcomes.entry(queues.each_ref().map(|queue| left(queue.number()))).or_insert(0) += 1;
    }
    let outcomes: Vec<_> = outcomes.into_keys().collect();
    assert_eq!(outcomes, [[vec![0], vec![]], [vec![1], vec![2]]]);
}

/// A queue and its model: the ids that it holds, and those that are unacked.
struct Modelled {
    queue: Arc<Queue>,
    /// Ids of durable messages, ready or unacked, and of transient ones.
    durable: BTreeSet<u64>,
    transient: BTreeSet<u64>,
    next: u64,
}

#[derive(Clone, Debug)]
enum QueueStep {
    Declare { durable: bool },
    Publish { queue: usize, count: u64, persistent: bool },
    Get { queue: usize, no_ack: bool },
    Ack(usize),
    Requeue(usize),
    Purge(usize),
    Delete(usize),
    Write,
}

fn step() -> impl Strategy<Value = QueueStep> {
    prop_oneof![
        2 => any::<bool>().prop_map(|durable| QueueStep::Declare { durable }),
        6 => (0usize..4, 1u64..40, any::<bool>())
            .prop_map(|(queue, count, persistent)| QueueStep::Publish { queue, count, persistent }),
        8 => (0usize..4, any::<bool>()).prop_map(|(queue, no_ack)| QueueStep::Get { queue, no_ack }),
        4 => (0usize..50).prop_map(QueueStep::Ack),
        3 => (0usize..50).prop_map(QueueStep::Requeue),
        1 => (0usize..4).prop_map(QueueStep::Purge),
        1 => (0usize..4).prop_map(QueueStep::Delete),
        1 => Just(QueueStep::Write),
    ]
}

impl Modelled {
    fn delete(self, fixture: &QueueFixture) {
        self.queue.delete().finish();
        if self.queue.declared().durable {
            // As the deletion of the definition does.
            fixture.journal.append(&Operation::QueueGone { queue: self.queue.number() }).unwrap();
        }
    }
}

/// Performs a step on the queues and on the model; `held` are unacked messages, also of deleted
/// queues.
fn take_step(fixture: &QueueFixture, queues: &mut Vec<Modelled>, held: &mut Vec<(Arc<Queue>, u64)>, step: &QueueStep) {
    let mut flush = FlushSet::default();
    match *step {
        QueueStep::Declare { durable } => {
            let queue = fixture.queue(durable);
            queues.push(Modelled { queue, durable: BTreeSet::new(), transient: BTreeSet::new(), next: 1 });
        }
        QueueStep::Publish { queue, count, persistent } => {
            let Some(model) = queues.get_mut(queue) else { return };
            publish(&model.queue, 0..count, 3_000, persistent);
            let lasts = persistent && model.queue.declared().durable;
            let numbers = if lasts { &mut model.durable } else { &mut model.transient };
            numbers.extend(model.next..model.next + count);
            model.next += count;
        }
        QueueStep::Get { queue, no_ack } => {
            let Some(model) = queues.get_mut(queue) else { return };
            match model.queue.get(no_ack) {
                Some(entry) if no_ack => {
                    assert!(model.durable.remove(&entry.id) | model.transient.remove(&entry.id));
                }
                Some(entry) => held.push((Arc::clone(&model.queue), entry.id)),
                None => {}
            }
        }
        QueueStep::Ack(at) | QueueStep::Requeue(at) if at < held.len() => {
            let (queue, seq) = held.swap_remove(at);
            if matches!(step, QueueStep::Requeue(_)) {
                return queue.settle(&[seq], Disposition::Requeue, &mut flush);
            }
            queue.settle(&[seq], Disposition::Ack, &mut flush);
            let there = queues.iter_mut().find(|model| Arc::ptr_eq(&model.queue, &queue));
            if let Some(model) = there {
                assert!(model.durable.remove(&seq) | model.transient.remove(&seq));
            }
        }
        QueueStep::Purge(queue) => {
            let Some(model) = queues.get_mut(queue) else { return };
            model.queue.purge();
            let queue = &model.queue;
            let is_held = |seq: &u64| held.iter().any(|(other, held)| Arc::ptr_eq(other, queue) && held == seq);
            model.durable.retain(is_held);
            model.transient.retain(is_held);
        }
        QueueStep::Delete(queue) if queue < queues.len() => queues.swap_remove(queue).delete(fixture),
        QueueStep::Write => assert!(fixture.journal.step(false).is_ok()),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After any sequence of changes, however late, the journal's live set is what the queues hold,
    /// at once and after a crash.
    #[test]
    fn the_journal_holds_what_the_queues_hold(steps in proptest::collection::vec(step(), 1..120), spills: bool) {
        let fixture = QueueFixture::new(if spills { 0 } else { u64::MAX });
        let (mut queues, mut held) = (Vec::new(), Vec::new());
        for step in &steps {
            take_step(&fixture, &mut queues, &mut held, step);
            let live = fixture.journal.live_messages();
            for model in &queues {
                let (number, empty) = (model.queue.number(), BTreeSet::new());
                let found = live.get(&number).unwrap_or(&empty);
                let transient: BTreeSet<_> = found.difference(&model.durable).copied().collect();
                prop_assert!(found.is_superset(&model.durable), "{found:?} of {:?}", model.durable);
                prop_assert!(transient.is_subset(&model.transient), "{transient:?} of {:?}", model.transient);
            }
            let there = |number: &u64| queues.iter().any(|model| model.queue.number() == *number);
            prop_assert!(live.keys().all(there), "{live:?} after {step:?}");
        }
        let expected: BTreeMap<_, _> =
            queues.iter().map(|model| (model.queue.number(), model.durable.clone())).filter(|(_, m)| !m.is_empty()).collect();
        drop((queues, held));
        let mut found = fixture.crash().journal.live_messages();
        found.retain(|_, messages| !messages.is_empty());
        prop_assert_eq!(found, expected);
    }
}
