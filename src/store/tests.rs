//! The store's promises one by one, on the simulated disk, and once with its threads on a real one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::{fs, io};

use super::check::{Check, check};
use super::disk::Disk;
use super::error::{Failure, StoreError};
use super::journal::{Journal, OnDurable, Options, Refused, Step, Sync};
use super::list::{List, Run, Target};
use super::position::Position;
use super::random::Random;
use super::real::RealDisk;
use super::reclaim::Reclaim;
use super::record::{Encoded, HEAD_SIZE, Operation, Publish};
use super::recovery::{Recovered, recover};
use super::repair::plan;
use super::segment::{HEADER_SIZE, name};
use super::simulated::{Crash, SimulatedDisk};
use super::{Store, read};

fn options(segment_octets: u64) -> Options {
    Options { segment_octets, sync: Sync::Group, full_at: 1 << 20, seed: 11 }
}

fn open(disk: &SimulatedDisk, segment_octets: u64) -> (Journal, Recovered) {
    recover(Arc::new(disk.clone()), options(segment_octets), &mut |_| {}).unwrap()
}

fn refused(disk: &SimulatedDisk) -> StoreError {
    match recover(Arc::new(disk.clone()), options(4096), &mut |_| {}) {
        Err(error) => error,
        Ok(_) => panic!("it was not refused"),
    }
}

fn publish(journal: &Journal, queue: u64, seq: u64, body: &[u8]) -> Result<Position, Refused> {
    let targets = [Target::new(queue, seq)];
    let targets = List::Given(&targets);
    let message = Publish { at_ms: 5, flags: 0, targets, route: b"r", properties: b"p", body };
    journal.append(&Operation::Publish(message))
}

fn settle(journal: &Journal, queue: u64, first: u64, last: u64) {
    let runs = [Run { first, last }];
    journal.append(&Operation::Settle { queue, runs: List::Given(&runs) }).unwrap();
}

struct Waiter(Sender<Result<Position, String>>);

impl OnDurable for Waiter {
    fn durable(&self, durable: Position) {
        self.0.send(Ok(durable)).unwrap();
    }
    fn failed(&self, failure: &Failure) {
        self.0.send(Err(failure.reason.clone())).unwrap();
    }
}

fn bodies(found: Vec<read::Stored>) -> Vec<Vec<u8>> {
    found.into_iter().map(|stored| stored.octets[stored.body_at as usize..].to_vec()).collect()
}

/// Most records of the last batch of [`some_segments`].
const LAST_BATCH: u64 = 1 + 5 + 5 + 3;

/// A journal of some segments of 4 KiB, closed without a checkpoint; message n of queue 1 is settled if n is even.
fn some_segments(seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(seed, 1 << 20);
    let (journal, _) = open(&disk, 4096);
    for seq in 1..=100 {
        publish(&journal, 1, seq, &[seq as u8; 100]).unwrap();
        journal.append(&Operation::Define { key: &[seq as u8 % 7], value: b"value" }).unwrap();
        if seq % 2 == 0 {
            settle(&journal, 1, seq, seq);
        }
        if seq % 5 == 0 {
            journal.step(false).unwrap();
        }
    }
    disk.restart(Crash::Kill);
    disk
}

#[test]
fn a_failed_sync_is_the_end_of_all_confirms() {
    let disk = SimulatedDisk::new(1, 1 << 20);
    let (journal, _) = open(&disk, 4096);
    let first = publish(&journal, 1, 1, b"one").unwrap();
    assert_eq!(journal.step(false), Ok(Step::Wrote));
    assert!(journal.durable() >= first);
    let second = publish(&journal, 1, 2, b"two").unwrap();
    let (send, receive) = channel();
    let waiter: Arc<dyn OnDurable> = Arc::new(Waiter(send));
    assert_eq!(journal.watch(first, &waiter), Ok(false));
    assert_eq!(journal.watch(second, &waiter), Ok(true));
    // The write is the next call, the sync the one after it.
    disk.fail_at(disk.calls() + 2, io::ErrorKind::StorageFull);
    let failure = journal.step(false).unwrap_err();
    assert!(failure.reason.contains("sync segment 1"), "{failure}");
    assert_eq!(receive.try_recv().unwrap(), Err(failure.reason.clone()));
    assert_eq!(journal.step(true), Err(failure.clone()));
    assert_eq!(publish(&journal, 1, 3, b"three"), Err(Refused::Failed(failure.clone())));
    assert_eq!(journal.watch(second, &waiter), Err(failure));
    assert!(journal.durable() < second && journal.durable() >= first);
}

#[test]
fn a_full_disk_holds_and_goes_on() {
    let disk = SimulatedDisk::new(2, 10_000);
    let (journal, _) = open(&disk, 4096);
    let mut seq = 0;
    let last = loop {
        seq += 1;
        let position = publish(&journal, 1, seq, &[7; 200]).unwrap();
        if journal.step(false) == Ok(Step::NoSpace) {
            break position;
        }
        assert!(journal.durable() >= position);
    };
    assert!(journal.is_out_of_space() && journal.durable() < last && journal.free_space().unwrap() < 4096);
    // Acks are taken all the same, and free what they were waiting for.
    settle(&journal, 1, 1, seq - 1);
    assert_eq!(journal.step(false), Ok(Step::NoSpace));
    disk.set_capacity(1 << 20);
    assert_eq!(journal.step(false), Ok(Step::Wrote));
    assert_eq!(journal.step(false), Ok(Step::Wrote));
    assert!(journal.durable() >= last && !journal.is_out_of_space());
    disk.restart(Crash::PowerLoss);
    let (_, recovered) = open(&disk, 4096);
    assert_eq!(recovered.queues[0].runs, [Run { first: seq, last: seq }]);
}

/// A broker's day: hours with backlogs of different lengths, acks in order and out of it, and now and then a message that nobody
/// ever takes. All files together never take more than twice what is live and two segments.
#[test]
fn space_comes_back_under_a_days_churn() {
    const SEGMENT: u64 = 64 * 1024;
    let disk = SimulatedDisk::new(3, 1 << 26);
    let (journal, _) = open(&disk, SEGMENT);
    let (mut work, mut random) = (Reclaim::default(), Random::new(5));
    let (mut waiting, mut forgotten, mut seq) = (VecDeque::new(), Vec::new(), 0_u64);
    let within = |what: &str, seq| {
        let (used, live) = (disk.used(), journal.live());
        assert!(used <= 2 * live + 2 * SEGMENT, "{what} {seq}: {used} octets for {live} live ones");
    };
    let look = |work: &mut Reclaim, seq| {
        journal.step(false).unwrap();
        within("written", seq);
        while journal.reclaim(work).unwrap() {
            within("reclaimed", seq);
            journal.step(false).unwrap();
            within("copied", seq);
        }
    };
    for hour in 0..24 {
        let backlog = [3, 150, 400, 700, 2000, 10][hour % 6];
        let is_orderly = hour % 4 < 2;
        for _ in 0..2500 {
            seq += 1;
            publish(&journal, 1, seq, &vec![seq as u8; 50 + random.below(300) as usize]).unwrap();
            if random.one_in(500) {
                forgotten.push(seq);
            } else {
                waiting.push_back(seq);
            }
            for _ in 0..2 {
                let at = if is_orderly { 0 } else { random.below(waiting.len() as u64) as usize };
                if waiting.len() > backlog
                    && let Some(seq) = waiting.remove(at)
                {
                    settle(&journal, 1, seq, seq);
                }
            }
            journal.append(&Operation::Define { key: b"k", value: &seq.to_le_bytes() }).unwrap();
            if seq % 4 == 0 {
                look(&mut work, seq);
            }
        }
    }
    let expected = |waiting: &VecDeque<u64>| {
        let mut all: Vec<u64> = waiting.iter().chain(&forgotten).copied().collect();
        all.sort_unstable();
        all
    };
    assert_eq!(journal.seqs(1, 0, usize::MAX), expected(&waiting));
    look(&mut work, seq);
    disk.restart(Crash::PowerLoss);
    let (journal, recovered) = open(&disk, SEGMENT);
    assert_eq!(journal.seqs(1, 0, usize::MAX), expected(&waiting));
    assert_eq!(&*recovered.definitions[0].value, &seq.to_le_bytes());
}

/// Copying is no end in itself: nothing is copied where nothing is dead, whatever is live.
#[test]
fn a_store_at_rest_is_left_alone() {
    for messages in (1..600).step_by(7) {
        let disk = SimulatedDisk::new(messages, 1 << 24);
        let (journal, _) = open(&disk, 16 * 1024);
        for seq in 1..=messages {
            publish(&journal, 1, seq, &[1; 200]).unwrap();
            journal.step(false).unwrap();
        }
        let mut work = Reclaim::default();
        for _ in 0..200 {
            journal.reclaim(&mut work).unwrap();
            journal.step(false).unwrap();
        }
        let before = journal.durable();
        for _ in 0..20 {
            assert!(!journal.reclaim(&mut work).unwrap(), "{messages} messages");
            assert_eq!(journal.step(false), Ok(Step::Idle));
        }
        assert_eq!(journal.durable(), before);
    }
}

#[test]
fn no_flipped_bit_goes_unseen() {
    let whole = some_segments(4);
    let (_, recovered) = open(&whole, 4096);
    let files: Vec<String> = whole.list().unwrap().into_iter().filter(|name| name.ends_with(".journal")).collect();
    assert!(files.len() > 4);
    let mut refusals = 0;
    for (at, file) in files.iter().enumerate() {
        let octets = whole.octets(file).unwrap();
        for flip in (0..octets.len()).step_by(7) {
            let mut damaged = octets.clone();
            damaged[flip] ^= 1 << (flip % 8);
            let disk = some_segments(4);
            disk.put(file, &damaged);
            match recover(Arc::new(disk), options(4096), &mut |_| {}) {
                Err(StoreError::Corrupt { file: named, .. }) => {
                    assert!(named == *file || at + 1 == files.len(), "{named} for {file} at {flip}");
                    refusals += 1;
                }
                Err(error) => panic!("{file} at {flip}: {error}"),
                // Behind the end, or padding.
                Ok((_, found)) if found.report == recovered.report => {
                    assert_eq!(
                        (found.queues, found.definitions),
                        (recovered.queues.clone(), recovered.definitions.clone())
                    );
                }
                // The last batch, of which nobody can tell whether it was synced.
                Ok((_, found)) => {
                    assert!(
                        at + 1 == files.len() && found.report.records < recovered.report.records,
                        "{file} at {flip}"
                    );
                    assert!(found.report.records + LAST_BATCH >= recovered.report.records, "{file} at {flip}");
                }
            }
        }
    }
    assert!(refusals > 1000, "{refusals}");
}

#[test]
fn what_is_missing_or_newer_is_refused() {
    let disk = some_segments(5);
    disk.remove(&name(2)).unwrap();
    assert_eq!(refused(&disk).to_string(), "0000000002.journal is missing");

    let disk = some_segments(5);
    let mut octets = disk.octets(&name(2)).unwrap();
    octets[8] = 2;
    disk.put(&name(2), &octets);
    assert_eq!(refused(&disk).to_string(), "0000000002.journal was written by a later version of Leveret (octet 8)");

    let disk = some_segments(5);
    let mut octets = disk.octets(&name(2)).unwrap();
    octets.truncate(3000);
    disk.put(&name(2), &octets);
    assert!(refused(&disk).to_string().contains("shorter"));
}

#[test]
fn a_repair_says_what_it_drops_and_the_rest_is_there() {
    for (file, at) in [(2, 1000), (2, 3), (3, 70), (3, 130), (1, 70), (1, 200)] {
        let disk = some_segments(6);
        assert!(plan(&disk).unwrap().damages.is_empty());
        let mut octets = disk.octets(&name(file)).unwrap();
        octets[at] ^= 1;
        disk.put(&name(file), &octets);
        assert!(check(&disk, &mut |_| {}).is_err());
        let todo = plan(&disk).unwrap();
        assert_eq!(todo.damages.len(), 1, "{:?}", todo.damages);
        assert_eq!(todo.damages[0].file, name(file));
        todo.apply(&disk, 99).unwrap();
        assert!(plan(&disk).unwrap().damages.is_empty());
        let found: Check = check(&disk, &mut |_| {}).unwrap();
        assert!(found.queues[0].messages >= 30, "{found:?}");
        let (journal, recovered) = open(&disk, 4096);
        assert_eq!(recovered.queues[0].messages, found.queues[0].messages);
        publish(&journal, 1, 101, b"new").unwrap();
        journal.step(false).unwrap();
    }
    let disk = some_segments(6);
    disk.remove(&name(2)).unwrap();
    let todo = plan(&disk).unwrap();
    assert_eq!(todo.damages[0].what, "it is missing");
    todo.apply(&disk, 99).unwrap();
    assert!(check(&disk, &mut |_| {}).unwrap().queues[0].messages > 30);
}

#[test]
fn what_a_check_counts() {
    let disk = some_segments(7);
    let found = check(&disk, &mut |_| {}).unwrap();
    assert_eq!((found.queues.len(), found.queues[0].messages, found.definitions.len()), (1, 50, 7));
    assert_eq!(found.queues[0].next_seq, 101);
    assert!(found.live > 50 * 150 && found.dead > found.live, "{found:?}");
    assert_eq!(found.segments.iter().map(|segment| segment.live).sum::<u64>(), found.live);
    // Looking changes nothing.
    assert_eq!(check(&disk, &mut |_| {}).unwrap(), found);
}

#[test]
fn a_publisher_cannot_write_records_into_a_body() {
    let disk = SimulatedDisk::new(8, 1 << 20);
    let (journal, _) = open(&disk, 4096);
    let mut forged = vec![0; 4];
    for _ in 0..20 {
        Encoded::operation(&Operation::QueueGone { queue: 1 }).write(0, &mut forged);
    }
    publish(&journal, 1, 1, &forged).unwrap();
    journal.step(false).unwrap();
    disk.restart(Crash::PowerLoss);
    let (journal, recovered) = open(&disk, 4096);
    assert_eq!(recovered.queues[0].messages, 1);
    assert_eq!(bodies(journal.read_run(1, 0, 9, 9).unwrap()), [forged]);
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let disk = SimulatedDisk::new(9, 1 << 24);
    let (journal, _) = open(&disk, 4096);
    let large = vec![3; 100_000];
    publish(&journal, 1, 1, b"small").unwrap();
    publish(&journal, 1, 2, &large).unwrap();
    publish(&journal, 1, 3, b"small").unwrap();
    let expected = [b"small".to_vec(), large, b"small".to_vec()];
    assert_eq!(bodies(journal.read_run(1, 0, 9, u64::MAX).unwrap()), expected, "before it is written");
    journal.step(false).unwrap();
    assert_eq!(bodies(journal.read_run(1, 0, 9, u64::MAX).unwrap()), expected);
    assert_eq!(journal.read_run(1, 0, 9, 10).unwrap().len(), 1, "enough octets");
    disk.restart(Crash::PowerLoss);
    let (journal, _) = open(&disk, 4096);
    assert_eq!(bodies(journal.read_run(1, 0, 9, u64::MAX).unwrap()), expected);
    settle(&journal, 1, 1, 3);
    let mut work = Reclaim::default();
    for _ in 0..20 {
        journal.step(false).unwrap();
        journal.reclaim(&mut work).unwrap();
    }
    assert!(disk.used() <= 2 * 4096, "{}", disk.used());
}

#[test]
fn a_later_kind_of_record_is_refused() {
    let disk = some_segments(10);
    let file = name(1);
    let mut octets = disk.octets(&file).unwrap();
    let salt = u64::from_le_bytes(octets[24..32].try_into().unwrap());
    let at = HEADER_SIZE as usize + 48;
    octets[at + 5] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &octets[at..at + 12]);
    octets[at + 12..at + HEAD_SIZE].copy_from_slice(&crc.to_le_bytes());
    disk.put(&file, &octets);
    assert_eq!(refused(&disk).to_string(), "0000000001.journal was written by a later version of Leveret (octet 112)");
    assert!(plan(&disk).is_err(), "a repair keeps its hands off");
}

/// Settlements race with the copies of what they settle; every message is in two queues.
#[test]
fn nothing_returns_that_is_settled_while_it_is_copied() {
    const MESSAGES: u64 = 3000;
    let disk = SimulatedDisk::new(12, 1 << 24);
    let (journal, _) = open(&disk, 2048);
    let (step, end) = (|| journal.step(false).map(|_| ()), std::sync::atomic::AtomicBool::new(false));
    let is_over = || end.load(std::sync::atomic::Ordering::Acquire);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut work = Reclaim::default();
            while !is_over() {
                journal.reclaim(&mut work).unwrap();
            }
        });
        scope.spawn(|| {
            while !is_over() {
                step().unwrap();
            }
        });
        for seq in 1..=MESSAGES {
            let targets = [Target::new(1, seq), Target::new(2, seq)];
            let targets = List::Given(&targets);
            let message = Publish { at_ms: 5, flags: 0, targets, route: b"r", properties: b"p", body: &[9; 100] };
            let position = journal.append(&Operation::Publish(message)).unwrap();
            settle(&journal, 1, seq.saturating_sub(40), seq.saturating_sub(40));
            while seq % 10 == 0 && journal.durable() < position {
                std::thread::yield_now();
            }
        }
        end.store(true, std::sync::atomic::Ordering::Release);
    });
    step().unwrap();
    disk.restart(Crash::PowerLoss);
    let (_, recovered) = open(&disk, 2048);
    assert_eq!(recovered.queues[0].runs, [Run { first: MESSAGES - 39, last: MESSAGES }]);
    assert_eq!(recovered.queues[1].runs, [Run { first: 1, last: MESSAGES }]);
}

#[test]
fn what_is_appended_while_the_disk_is_full_is_written_when_it_is_not() {
    let disk = SimulatedDisk::new(5, 10_000);
    let (store, _) = Store::open(Arc::new(disk.clone()), options(4096), &mut |_| {}).unwrap();
    let journal = store.journal();
    let wait = |until: &dyn Fn() -> bool| {
        while !until() {
            std::thread::yield_now();
        }
    };
    let mut seq = 0;
    while !journal.is_out_of_space() {
        seq += 1;
        let position = publish(journal, 1, seq, &[7; 200]).unwrap();
        wait(&|| journal.durable() >= position || journal.is_out_of_space());
    }
    let last = publish(journal, 1, seq + 1, b"later").unwrap();
    let (send, receive) = channel();
    let waiter: Arc<dyn OnDurable> = Arc::new(Waiter(send));
    assert!(journal.watch(last, &waiter).unwrap());
    disk.set_capacity(1 << 20);
    let durable = receive.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
    assert!(durable >= last);
    // The same when it ends before it knows of the space.
    disk.set_capacity(disk.used());
    while !journal.is_out_of_space() {
        seq += 1;
        let position = publish(journal, 2, seq, &[7; 200]).unwrap();
        wait(&|| journal.durable() >= position || journal.is_out_of_space());
    }
    let last = seq + 1;
    publish(journal, 2, last, b"last").unwrap();
    disk.set_capacity(1 << 20);
    store.stop().unwrap();
    let (journal, recovered) = open(&disk, 4096);
    assert!(recovered.report.from_checkpoint);
    assert_eq!(bodies(journal.read_run(2, last, 1, u64::MAX).unwrap()), [b"last"]);
}

#[test]
fn threads_on_a_real_disk() {
    let path = std::env::temp_dir().join(format!("leveret-store-{}", std::process::id()));
    for (sync, from) in [(Sync::Group, 1), (Sync::Interval { ms: 5 }, 501), (Sync::Os, 1001)] {
        let disk = Arc::new(RealDisk::open(&path).unwrap());
        let options = Options { sync, ..options(16 * 1024) };
        let (store, recovered) = Store::open(disk, options, &mut |_| {}).unwrap();
        assert_eq!(recovered.report.from_checkpoint, from > 1);
        assert_eq!(recovered.queues.iter().map(|queue| queue.messages).sum::<u64>(), (from - 1) / 10);
        let mut last = Position::ZERO;
        for seq in from..from + 500 {
            last = publish(store.journal(), 1, seq, &seq.to_le_bytes()).unwrap();
            if seq % 10 != 0 {
                settle(store.journal(), 1, seq, seq);
            }
        }
        let (send, receive) = channel();
        let waiter: Arc<dyn OnDurable> = Arc::new(Waiter(send));
        if store.journal().watch(last, &waiter).unwrap() {
            assert!(receive.recv().unwrap().unwrap() >= last);
        }
        assert!(store.journal().durable() >= last);
        let found = bodies(store.journal().read_run(1, from, 9, u64::MAX).unwrap());
        assert_eq!(found[0], (from + 9).to_le_bytes());
        store.stop().unwrap();
    }
    fs::remove_dir_all(path).unwrap();
}
