//! Tests of the store's promises on the simulated disk, and of its threads on a real one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::{fs, io};

use rustix::io::Errno;

use super::Store;
use super::check::{Check, check};
use super::disk::{Disk, DiskFile};
use super::encode::write_operation;
use super::error::{Failure, StoreError};
use super::index::Index;
use super::inspect::Stored;
use super::journal::{Journal, JournalOptions, OnDurable, Refused, Step, Sync};
use super::list::{List, Run, Target};
use super::message_map::NEVER_EXPIRES;
use super::random::Random;
use super::real::RealDisk;
use super::reclaim::Reclaim;
use super::record::{HEAD_SIZE, Operation, PublishRecord};
use super::recovery::{Recovered, recover};
use super::repair::plan;
use super::segment::{HEADER_SIZE, name};
use super::simulated::{Crash, SimulatedDisk};

fn options(segment_octets: u64) -> JournalOptions {
    JournalOptions { segment_octets, sync: Sync::Group, full_at: 1 << 20, seed: 11 }
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

fn publish(journal: &Journal, queue: u64, seq: u64, body: &[u8]) -> Result<Index, Refused> {
    let targets = [Target::new(queue, seq)];
    let targets = List::Given(&targets);
    let message = PublishRecord { at_ms: 5, expires_at: None, flags: 0, targets, route: b"r", properties: b"p", body };
    journal.append(&Operation::Publish(message))
}

fn settle(journal: &Journal, queue: u64, first: u64, last: u64) {
    let runs = [Run { first, last }];
    journal.append(&Operation::Settle { queue, runs: List::Given(&runs) }).unwrap();
}

struct Waiter(Sender<Result<Index, String>>);

impl OnDurable for Waiter {
    fn durable(&self, durable: Index) {
        self.0.send(Ok(durable)).unwrap();
    }
    fn failed(&self, failure: &Failure) {
        self.0.send(Err(failure.reason.clone())).unwrap();
    }
}

fn bodies(found: Vec<Stored>) -> Vec<Vec<u8>> {
    found.into_iter().map(|stored| stored.octets[stored.body_at as usize..].to_vec()).collect()
}

/// Octets of the manifest.
const MANIFEST: u64 = 8192;

/// Returns a journal of some segments of 4 KiB, closed without a checkpoint; message n of queue 1
/// is settled if n is even.
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
        let index = publish(&journal, 1, seq, &[7; 200]).unwrap();
        if journal.step(false) == Ok(Step::NoSpace) {
            break index;
        }
        assert!(journal.durable() >= index);
    };
    assert!(journal.is_out_of_space() && journal.durable() < last && journal.free_space().unwrap() < 4096);
    // Acks are accepted all the same, and free space.
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

/// A day of a broker: hours with backlogs of different lengths, acks in order and out of order, and
/// some messages that are never acked. All files together never take more than twice the live
/// octets and two segments.
#[test]
fn space_comes_back_under_a_days_churn() {
    const SEGMENT: u64 = 64 * 1024;
    let disk = SimulatedDisk::new(3, 1 << 26);
    let (journal, _) = open(&disk, SEGMENT);
    let (mut work, mut random) = (Reclaim::default(), Random::new(5));
    let (mut waiting, mut forgotten, mut seq) = (VecDeque::new(), Vec::new(), 0_u64);
    let within = |what: &str, seq| {
        let (used, live) = (disk.used(), journal.live());
        assert!(used <= 2 * live + 2 * SEGMENT + MANIFEST, "{what} {seq}: {used} octets for {live} live ones");
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

/// Nothing is copied where nothing is dead, whatever is live.
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
fn what_is_missing_or_newer_is_refused() {
    let disk = some_segments(5);
    disk.remove(&name(2)).unwrap();
    assert_eq!(refused(&disk).to_string(), "0000000002.journal is missing");

    let disk = some_segments(5);
    let mut octets = disk.octets(&name(2)).unwrap();
    octets[8] = 3;
    let crc = crc32c::crc32c(&octets[..40]);
    octets[40..44].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name(2), &octets);
    assert_eq!(
        refused(&disk).to_string(),
        "0000000002.journal was written by a later version of Leveret (octet 8): start that version"
    );

    let disk = some_segments(5);
    let mut octets = disk.octets(&name(2)).unwrap();
    octets.truncate(3000);
    disk.put(&name(2), &octets);
    assert!(refused(&disk).to_string().contains("0000000002.journal is damaged at octet"));
}

#[test]
fn a_repair_says_what_it_drops_and_the_rest_is_there() {
    for (file, at) in [(2, 1000), (3, 70), (3, 130), (1, 70), (1, 200)] {
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
    // A check changes nothing.
    assert_eq!(check(&disk, &mut |_| {}).unwrap(), found);
}

#[test]
fn a_publisher_cannot_write_records_into_a_body() {
    let disk = SimulatedDisk::new(8, 1 << 20);
    let (journal, _) = open(&disk, 4096);
    let mut forged = vec![0; 4];
    for _ in 0..20 {
        write_operation(&Operation::QueueGone { queue: 1 }, 0, &mut forged).unwrap();
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
    assert!(disk.used() <= 2 * 4096 + MANIFEST, "{}", disk.used());
}

#[test]
fn a_later_or_reserved_kind_of_record_is_refused() {
    let later = "0000000001.journal was written by a later version of Leveret (octet 112): start that version";
    let reserved = "0000000001.journal holds a truncation of a replicated group's log at octet 112: \
                    this version of Leveret has no replicated queues";
    for (at_in_head, value, said) in [(5, 3, later), (4, 14, later), (4, 12, reserved)] {
        let disk = some_segments(10);
        let file = name(1);
        let mut octets = disk.octets(&file).unwrap();
        let salt = u64::from_le_bytes(octets[24..32].try_into().unwrap());
        let at = HEADER_SIZE as usize + 48;
        octets[at + at_in_head] = value;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &octets[at..at + 12]);
        octets[at + 12..at + HEAD_SIZE].copy_from_slice(&crc.to_le_bytes());
        disk.put(&file, &octets);
        assert_eq!(refused(&disk).to_string(), said);
        assert!(plan(&disk).is_err(), "a repair keeps its hands off");
    }
}

/// However large a record is, and however many changes it has.
#[test]
fn no_hold_of_the_appenders_lock_grows_with_what_is_appended() {
    let mut most = Vec::new();
    for size in [1, 4] {
        let disk = SimulatedDisk::new(12, 1 << 26);
        let (journal, _) = open(&disk, 1 << 20);
        publish(&journal, 1, 1, &vec![1; size << 20]).unwrap();
        let count = 2_000 * size as u64;
        let targets: Vec<_> = (1..=count).map(|seq| [Target::new(2, seq)]).collect();
        let message = |targets| {
            let targets = List::Given(targets);
            Operation::Publish(PublishRecord { at_ms: 5, targets, body: &[2; 100], ..PublishRecord::default() })
        };
        let changes: Vec<_> = targets.iter().map(|targets| message(targets)).collect();
        journal.append_batch(&changes).unwrap();
        publish(&journal, 1, 2, b"small").unwrap();
        most.push(journal.hold_work().most);
        let check = |journal: &Journal| {
            let found = bodies(journal.read_run(1, 0, 9, u64::MAX).unwrap());
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [size << 20, 5]);
            let found = bodies(journal.read_run(2, 0, usize::MAX, u64::MAX).unwrap());
            assert!(found.len() as u64 == count && found.iter().all(|body| *body == [2; 100]));
        };
        check(&journal);
        journal.step(false).unwrap();
        check(&journal);
        disk.restart(Crash::PowerLoss);
        check(&open(&disk, 1 << 20).0);
    }
    assert_eq!(most[0], most[1]);
}

/// The settlements of one record are made live in steps, and none of what they settle is copied
/// behind it meanwhile.
#[test]
fn nothing_returns_that_a_large_record_settles_while_it_is_copied() {
    let disk = SimulatedDisk::new(12, 1 << 24);
    let (journal, _) = open(&disk, 4096);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let mut next = 1;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut work = Reclaim::default();
            while !is_over.load(Ordering::Acquire) {
                journal.step(false).unwrap();
                journal.reclaim(&mut work).unwrap();
            }
        });
        for _ in 0..60 {
            for seq in next..next + 40 {
                publish(&journal, 1, seq, &[9; 100]).unwrap();
            }
            let runs: Vec<_> = (next..next + 40).rev().map(|seq| [Run { first: seq, last: seq }]).collect();
            let settle = |runs| Operation::Settle { queue: 1, runs: List::Given(runs) };
            let changes: Vec<_> = runs.iter().map(|runs| settle(runs)).collect();
            journal.append_batch(&changes).unwrap();
            next += 40;
        }
        is_over.store(true, Ordering::Release);
    });
    journal.step(false).unwrap();
    disk.restart(Crash::PowerLoss);
    assert_eq!(open(&disk, 4096).1.queues[0].messages, 0);
}

/// Settlements race with copies of their messages; every message is in two queues.
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
            let message = PublishRecord {
                at_ms: 5,
                expires_at: None,
                flags: 0,
                targets,
                route: b"r",
                properties: b"p",
                body: &[9; 100],
            };
            let index = journal.append(&Operation::Publish(message)).unwrap();
            settle(&journal, 1, seq.saturating_sub(40), seq.saturating_sub(40));
            while seq % 10 == 0 && journal.durable() < index {
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
        let index = publish(journal, 1, seq, &[7; 200]).unwrap();
        wait(&|| journal.durable() >= index || journal.is_out_of_space());
    }
    let last = publish(journal, 1, seq + 1, b"later").unwrap();
    let (send, receive) = channel();
    let waiter: Arc<dyn OnDurable> = Arc::new(Waiter(send));
    assert!(journal.watch(last, &waiter).unwrap());
    disk.set_capacity(1 << 20);
    let durable = receive.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
    assert!(durable >= last);
    // The same when it ends before it notices the space.
    disk.set_capacity(disk.used());
    while !journal.is_out_of_space() {
        seq += 1;
        let index = publish(journal, 2, seq, &[7; 200]).unwrap();
        wait(&|| journal.durable() >= index || journal.is_out_of_space());
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
        let options = JournalOptions { sync, ..options(16 * 1024) };
        let (store, recovered) = Store::open(disk, options, &mut |_| {}).unwrap();
        assert_eq!(recovered.report.from_checkpoint, from > 1);
        assert_eq!(recovered.queues.iter().map(|queue| queue.messages).sum::<u64>(), (from - 1) / 10);
        let mut last = Index::ZERO;
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

#[test]
fn what_cannot_be_read_back_is_reported_and_the_rest_is_read() {
    let disk = SimulatedDisk::new(13, 1 << 20);
    let (journal, _) = open(&disk, 64 * 1024);
    for seq in 1..=20 {
        publish(&journal, 1, seq, &[seq as u8; 300]).unwrap();
    }
    journal.step(false).unwrap();
    let mut octets = disk.octets(&name(1)).unwrap();
    let place = |octets: &[u8], seq: u8| octets.windows(300).position(|window| window == [seq; 300]).unwrap();
    let lost = [1, 7, 8, 20];
    let places = lost.map(|seq| place(&octets, seq) as u64);
    for at in places {
        octets[at as usize + 100] ^= 1;
    }
    disk.put(&name(1), &octets);
    let mut shown = Vec::new();
    let unreadable = journal.visit_run(1, 0, usize::MAX, u64::MAX, &mut |seq, _| shown.push(seq));
    assert_eq!(shown, (1..=20).filter(|seq| !lost.contains(&(*seq as u8))).collect::<Vec<_>>());
    assert_eq!(unreadable.iter().map(|lost| lost.seq as u8).collect::<Vec<_>>(), lost);
    for (lost, place) in unreadable.iter().zip(places) {
        assert!(lost.file == name(1) && lost.offset < place && place - lost.offset < 120, "{lost:?}");
        assert!(lost.error.to_string().contains("is damaged at octet"), "{lost:?}");
    }
    assert_eq!(journal.damages.found().len(), lost.len());
    assert!(journal.failure().is_none());
}

#[test]
fn a_read_that_fails_once_loses_nothing() {
    let disk = SimulatedDisk::new(14, 1 << 20);
    let (journal, _) = open(&disk, 64 * 1024);
    publish(&journal, 1, 1, b"one").unwrap();
    journal.step(false).unwrap();
    disk.fail_at(disk.calls() + 1, io::ErrorKind::Other);
    assert_eq!(bodies(journal.read_run(1, 0, 9, u64::MAX).unwrap()), [b"one"]);
}

/// A disk that can refuse to open files: the process has too many.
struct Refusing {
    disk: SimulatedDisk,
    errno: AtomicI32,
}

impl Refusing {
    fn refuse(&self) -> io::Result<()> {
        match self.errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Disk for Refusing {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.refuse()?;
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.refuse()?;
        self.disk.open(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
    fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space()
    }
}

#[test]
fn a_shortage_of_descriptors_or_memory_is_waited_out() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        let disk = SimulatedDisk::new(1, 1 << 30);
        let refusing = Arc::new(Refusing { disk: disk.clone(), errno: AtomicI32::new(0) });
        let shared: Arc<dyn Disk> = Arc::<Refusing>::clone(&refusing);
        let (journal, _) = recover(shared, options(4096), &mut |_| {}).unwrap();
        let mut work = Reclaim::default();
        publish(&journal, 1, 1, &[1; 100]).unwrap();
        assert_eq!(journal.step(false), Ok(Step::Wrote));
        refusing.errno.store(errno.raw_os_error(), Ordering::SeqCst);
        let mut seq = 1;
        while journal.shortage().is_none() {
            seq += 1;
            publish(&journal, 1, seq, &[1; 100]).unwrap();
            assert!(journal.step(false).is_ok() && seq < 1_000);
            journal.reclaim(&mut work).unwrap();
        }
        let reason = journal.shortage().unwrap();
        assert!(reason.starts_with("cannot begin segment 2: "), "{reason}");
        for _ in 0..3 {
            assert_eq!(journal.step(false), Ok(Step::NoSpace));
            assert!(journal.reclaim(&mut work).is_ok());
        }
        assert!(journal.failure().is_none() && journal.is_out_of_space());
        refusing.errno.store(0, Ordering::SeqCst);
        while journal.step(false).unwrap() != Step::Idle {}
        assert!(journal.shortage().is_none() && journal.durable() == journal.end());
        drop(journal);
        disk.restart(Crash::PowerLoss);
        assert_eq!(open(&disk, 4096).1.queues[0].messages, seq);
    }
}

/// The reclaiming thread is woken by changes, and by nothing else.
#[test]
fn space_comes_back_by_itself_and_then_nothing_wakes_any_more() {
    let disk = SimulatedDisk::new(1, 1 << 30);
    let (store, _) = Store::open(Arc::new(disk.clone()), options(4096), &mut |_| {}).unwrap();
    let journal = store.journal();
    for round in 0..3 {
        let (first, last) = (round * 500 + 1, round * 500 + 500);
        for seq in first..=last {
            publish(journal, 1, seq, &[7; 200]).unwrap();
        }
        settle(journal, 1, first, last);
        // Reads by the test: the thread has no clock but for the pause between two looks.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while journal.used() > 3 * 4096 || !journal.reclaimer.rests() || journal.signal.has_batch() {
            assert!(std::time::Instant::now() < until, "{} octets are used", journal.used());
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_is_known_of_a_run_outlives_the_process() {
    let disk = SimulatedDisk::new(1, 1 << 30);
    let (journal, _) = open(&disk, 1 << 20);
    for seq in 1..=300 {
        let targets = List::One(Target::new(1, seq));
        let expires_at = (seq == 200).then_some(1_234);
        let message = PublishRecord { at_ms: 5, expires_at, targets, body: &[7; 1000], ..PublishRecord::default() };
        journal.append(&Operation::Publish(message)).unwrap();
    }
    while journal.step(true).unwrap() == Step::Wrote {}
    journal.write_checkpoint().unwrap();
    let known =
        |journal: &Journal| [(1, 127), (1, 300), (256, 300)].map(|(first, last)| journal.totals(1, first, last));
    let before = known(&journal);
    let expiries = before.map(|totals| totals.earliest_expiry);
    assert_eq!(expiries, [NEVER_EXPIRES, 1_234, NEVER_EXPIRES]);
    assert_eq!(before.map(|totals| totals.messages), [127, 300, 45]);
    assert!((300 * 900..300 * 1100).contains(&before[1].octets), "{before:?}");
    drop(journal);
    for from_checkpoint in [true, false] {
        disk.restart(Crash::PowerLoss);
        let (journal, recovered) = open(&disk, 1 << 20);
        assert_eq!(recovered.report.from_checkpoint, from_checkpoint);
        assert_eq!(known(&journal), before);
        // A checkpoint does not count if the journal has gone on since.
        journal.append(&Operation::Undefine { key: b"k" }).unwrap();
        journal.step(false).unwrap();
    }
}
