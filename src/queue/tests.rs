//! Queues with a journal, on the simulated disk: what they keep, what they leave in the journal only, and what comes back.

use super::*;
use crate::counters::Counters;
use crate::outbox::Errands;
use crate::queue::together::{self, Share};
use crate::store::journal::{Journal, Options, Sync};
use crate::store::recovery::{Recovered, recover};
use crate::store::simulated::{Crash, SimulatedDisk};

struct House {
    disk: SimulatedDisk,
    journal: Arc<Journal>,
    shared: Arc<Shared>,
    recovered: Recovered,
}

fn open(disk: &SimulatedDisk, high: u64) -> House {
    let options = Options { segment_octets: 1 << 20, sync: Sync::Group, full_at: 1 << 20, seed: 7 };
    let (journal, recovered) = recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap();
    let (journal, counters) = (Arc::new(journal), Arc::new(Counters::default()));
    let shared = Shared::with_journal(counters, Arc::clone(&journal), 10).paging_below(high);
    House { disk: disk.clone(), journal, shared: Arc::new(shared), recovered }
}

impl House {
    fn new(high: u64) -> Self {
        open(&SimulatedDisk::new(5, 1 << 40), high)
    }

    /// Everything that was appended is synced; then the power fails.
    fn crash(self) -> Self {
        self.journal.step(false).unwrap();
        self.disk.restart(Crash::PowerLoss);
        open(&self.disk, u64::MAX)
    }

    fn queue(&self, durable: bool) -> Arc<Queue> {
        Arc::new(Queue::new(declared(durable), Arc::clone(&self.shared)))
    }

    fn recover(&self, number: u64) -> Arc<Queue> {
        let state = self.recovered.queues.iter().find(|state| state.queue == number).unwrap();
        Arc::new(Queue::recovered(declared(true), state, Arc::clone(&self.shared)))
    }
}

fn declared(durable: bool) -> Declared {
    let (kind, arguments, name) = (QueueType::Classic, OwnedTable::default(), Name::from_static("q"));
    Declared { name, durable, owner: None, auto_delete: false, kind, arguments }
}

fn message(n: u64, size: usize, persistent: bool) -> Message {
    let mut body = vec![n as u8; size];
    body.splice(..8, n.to_be_bytes());
    Publication { route: b"\x01x\x01k", properties: b"\x10\0\x02", body: &body, persistent }.keep(1)
}

fn publish(queue: &Arc<Queue>, numbers: std::ops::Range<u64>, size: usize, persistent: bool) -> Option<Position> {
    let mut run: Vec<_> = numbers.map(|n| message(n, size, persistent)).collect();
    queue.publish(&mut run, Haste::Now, &mut Touched::default())
}

fn number(message: &Message) -> u64 {
    let (number, rest) = message.body().split_first_chunk::<8>().unwrap();
    let number = u64::from_be_bytes(*number);
    assert!(rest.iter().all(|octet| *octet == number as u8));
    assert_eq!((message.route(), message.properties()), (&b"\x01x\x01k"[..], &b"\x10\0\x02"[..]));
    number
}

fn drain(queue: &Arc<Queue>) -> Vec<(u64, bool)> {
    std::iter::from_fn(|| queue.get(true)).map(|(entry, _)| (number(&entry.message), entry.redelivered)).collect()
}

fn fresh(numbers: impl Iterator<Item = u64>) -> Vec<(u64, bool)> {
    numbers.map(|n| (n, false)).collect()
}

#[test]
fn a_durable_queue_keeps_what_is_persistent_in_its_place() {
    let house = House::new(u64::MAX);
    let queue = house.queue(true);
    assert!(publish(&queue, 0..5, 100, true) > Some(house.journal.durable()));
    assert_eq!(publish(&queue, 5..8, 100, false), None);
    publish(&queue, 8..10, 100, true);
    // One is settled, one is handed out, one comes back.
    let taken: Vec<_> = (0..3).map(|_| queue.get(false).unwrap().0.seq).collect();
    queue.settle(&taken[..1], &mut Touched::default());
    queue.requeue(&taken[2..], &mut Touched::default());
    let number = queue.number();
    let house = house.crash();
    let queue = house.recover(number);
    assert_eq!(queue.counts().messages, 6);
    let expected: Vec<_> = [1, 2, 3, 4, 8, 9].into_iter().map(|n| (n, n <= 2)).collect();
    assert_eq!(drain(&queue), expected);
    assert!(house.crash().recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn nothing_of_a_queue_that_is_not_durable_comes_back() {
    let house = House::new(0);
    let queue = house.queue(false);
    for _ in 0..2 {
        assert_eq!(publish(&queue, 0..1000, 1000, true), None);
    }
    assert!(queue.hold().state.core.deep().count > 0);
    let house = house.crash();
    assert!(house.recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn what_is_far_behind_is_in_the_journal_only_and_comes_back_in_order() {
    for (durable, persistent, high) in [(true, true, u64::MAX), (true, false, 1 << 20), (false, false, 1 << 20)] {
        let house = House::new(high);
        let queue = house.queue(durable);
        for start in (0..20_000).step_by(500) {
            publish(&queue, start..start + 500, 1024, persistent);
        }
        let bound = if persistent { limits::RESIDENT_MAX } else { high / 2 } + limits::RAISE_OCTETS;
        assert!(house.shared.counters().memory() <= bound, "{}", house.shared.counters().memory());
        assert_eq!(queue.counts().messages, 20_000);
        assert_eq!(drain(&queue), fresh(0..20_000));
        assert_eq!(house.shared.counters().memory(), 0);
        // With nothing deep left, a message takes the short way again.
        publish(&queue, 0..1, 8, persistent);
        assert_eq!(queue.hold().state.core.deep().count, 0);
        house.journal.step(false).unwrap();
        assert_eq!(drain(&queue).len(), 1);
        assert!(house.journal.seqs(queue.number(), 0, 1).is_empty(), "the journal holds what is gone");
    }
}

#[test]
fn a_purge_takes_what_is_deep_and_leaves_what_is_handed_out() {
    let house = House::new(u64::MAX);
    let queue = house.queue(true);
    for start in (0..10_000).step_by(500) {
        publish(&queue, start..start + 500, 1024, true);
    }
    let held = queue.get(false).unwrap().0;
    assert!(queue.hold().state.core.deep().count > 0);
    assert_eq!(queue.purge(), 9_999);
    publish(&queue, 10_000..10_002, 1024, true);
    let number_of = queue.number();
    let house = house.crash();
    let queue = house.recover(number_of);
    assert_eq!(drain(&queue), [(number(&held.message), true), (10_000, false), (10_001, false)]);
}

#[test]
fn a_message_for_several_queues_is_written_once() {
    let house = House::new(u64::MAX);
    let queues: Vec<_> = (0..10).map(|_| house.queue(true)).collect();
    let several = [message(1, 100_000, true)];
    let mut shares: Vec<_> = queues.iter().map(Share::new).collect();
    shares.iter_mut().for_each(|share| share.arrivals.push(several[0].clone()));
    shares[3].arrivals.insert(0, message(0, 100, true));
    assert!(together::hand_over(&mut shares, &several, Append::Each(Haste::Now), &mut Touched::default()).is_some());
    house.journal.step(false).unwrap();
    assert!(house.journal.live() < 110_000, "{}", house.journal.live());
    let house = house.crash();
    for queue in &queues {
        let found = drain(&house.recover(queue.number()));
        let more = if queue.number() == queues[3].number() { 0..2 } else { 1..2 };
        assert_eq!(found, fresh(more));
    }
}

#[test]
fn consumers_get_what_is_deep_as_it_is_read_back() {
    let house = House::new(u64::MAX);
    let queue = house.queue(true);
    for start in (0..10_000).step_by(500) {
        publish(&queue, start..start + 500, 1024, true);
    }
    let outbox = Arc::new(Outbox::default());
    outbox.lock().open_channel(1);
    let address = Address { channel: 1, slot: 0, tag: Name::from_static("t"), no_ack: true };
    let key = queue.consume(Terms { no_ack: true, ..Terms::default() }, &outbox, address).unwrap();
    let mut touched = Touched::default();
    queue.resume(key, &mut touched);
    let mut octets = Vec::new();
    for _ in 0..1_000 {
        house.shared.pager().work();
        let mut taken = Vec::new();
        outbox.take(&mut taken);
        octets.append(&mut taken);
        let Errands { stalled, .. } = outbox.lock().take_errands();
        if !stalled.is_empty() {
            queue.resume(key, &mut touched);
        }
        if queue.counts().messages == 0 {
            break;
        }
    }
    assert_eq!(queue.counts().messages, 0);
    assert!(octets.len() > 10_000 * 1024);
    assert!(house.crash().recovered.queues.iter().all(|state| state.messages == 0));
}

#[test]
fn a_transaction_is_written_at_once_even_if_it_settles_one_message_only() {
    let house = open(&SimulatedDisk::new(1, 1 << 40), u64::MAX);
    let queue = house.queue(true);
    publish(&queue, 0..1, 100, true);
    let settled = queue.get(false).unwrap().0.seq;
    house.journal.step(false).unwrap();
    house.journal.rang();
    let mut share = Share::new(&queue);
    share.settled.push(settled);
    let position = together::hand_over(&mut [share], &[], Append::Whole, &mut Touched::default());
    assert!(house.journal.rang() && position > Some(house.journal.durable()));
}

#[test]
fn a_crash_leaves_all_of_a_transaction_or_nothing() {
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..200 {
        let house = open(&SimulatedDisk::new(seed, 1 << 40), u64::MAX);
        let queues = [house.queue(true), house.queue(true)];
        publish(&queues[0], 0..1, 100, true);
        let settled = queues[0].get(false).unwrap().0.seq;
        house.journal.step(false).unwrap();
        let mut shares: Vec<_> = queues.iter().map(Share::new).collect();
        shares[0].settled.push(settled);
        shares[0].arrivals.push(message(1, 600, true));
        shares[1].arrivals.push(message(2, 600, true));
        together::hand_over(&mut shares, &[], Append::Whole, &mut Touched::default());
        // It stops in the write, or before the sync: what was written is kept, torn or lost.
        house.disk.stop_at(house.disk.calls() + 1 + seed % 2);
        assert!(house.journal.step(false).is_err());
        house.disk.restart(Crash::PowerLoss);
        let house = open(&house.disk, u64::MAX);
        let left = |number: u64| {
            let there = house.recovered.queues.iter().any(|state| state.queue == number);
            if there {
                drain(&house.recover(number)).into_iter().map(|(number, _)| number).collect()
            } else {
                Vec::new()
            }
        };
        *outcomes.entry(queues.each_ref().map(|queue| left(queue.number()))).or_insert(0) += 1;
    }
    let outcomes: Vec<_> = outcomes.into_keys().collect();
    assert_eq!(outcomes, [[vec![0], vec![]], [vec![1], vec![2]]]);
}
