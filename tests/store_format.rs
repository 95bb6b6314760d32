//! Directories as earlier programs have left them, one a version of the format: each is opened for
//! as long as there is this project.
//!
//! `LEVERET_TEST_WRITE_FIXTURES=1 cargo test --test store_format` writes those of the current
//! version anew: only before that version was ever released.

mod mutated;

use leveret::broker::definitions::{self, Declaration, DefinitionChange};
use leveret::queue::arguments::QueueType;
use leveret::queue::declared::Declared;
use leveret_journal::Store;
use leveret_journal::journal::{Journal, JournalOptions, Sync};
use leveret_journal::list::{List, Run, Target};
use leveret_journal::real::RealDisk;
use leveret_journal::record::{Operation, PublishRecord};
use leveret_journal::recovery::{Recovered, recover};
use leveret_journal::segment::HEADER_SIZE;
use leveret_wire::name::Name;
use leveret_wire::table::OwnedTable;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn options() -> JournalOptions {
    JournalOptions { segment_octets: 16 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 1 }
}

fn body(n: u64) -> Vec<u8> {
    (0..100 + n * 37).map(|at| (at ^ n) as u8).collect()
}

fn publish(journal: &Journal, n: u64, targets: &[Target]) {
    let (body, targets) = (body(n), List::Given(targets));
    let message = PublishRecord {
        at_ms: 1_700_000_000_000 + n,
        expires_at: None,
        flags: 1,
        targets,
        route: b"\0\x01q",
        properties: b"\x10\0\x02",
        body: &body,
    };
    journal.append(&Operation::Publish(message)).unwrap();
}

fn queue(name: &'static str, number: u64) -> DefinitionChange {
    let (kind, arguments) = (QueueType::Classic, OwnedTable::default());
    let declared =
        Declared { name: Name::from_static(name), durable: true, owner: None, auto_delete: false, kind, arguments };
    definitions::queue(&Name::from_static("/"), &declared, number)
}

/// Every kind of record, more than one segment, a message that lasts and was copied forward.
fn write(journal: &Journal) {
    for (name, number) in [("one", 1), ("two", 2), ("gone", 3)] {
        let DefinitionChange::Define { key, value } = queue(name, number) else { panic!() };
        journal.append(&Operation::Define { key: &key, value: &value }).unwrap();
    }
    publish(journal, 1, &[Target::new(1, 1), Target::new(2, 1)]);
    for n in 2..=60 {
        publish(journal, n, &[Target::new(1, n)]);
        journal.step(false).unwrap();
    }
    publish(journal, 61, &[Target { transient: true, ..Target::new(1, 61) }]);
    publish(journal, 62, &[Target::new(2, 2), Target::new(3, 1)]);
    journal.append(&Operation::Delivered { queue: 1, upto: 5 }).unwrap();
    let runs = [Run { first: 2, last: 3 }, Run { first: 6, last: 50 }];
    journal.append(&Operation::Settle { queue: 1, runs: List::Given(&runs) }).unwrap();
    journal.append(&Operation::Purge { queue: 2, below: 2 }).unwrap();
    let DefinitionChange::Define { key, .. } = queue("gone", 3) else { panic!() };
    journal.append_batch(&[Operation::Undefine { key: &key }, Operation::QueueGone { queue: 3 }]).unwrap();
    journal.step(false).unwrap();
}

/// A copy to be opened, as opening changes it.
fn copy(directory: &Path, name: &str) -> PathBuf {
    let copy = std::env::temp_dir().join(format!("leveret-format-{}-{name}", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn check(directory: &Path, expected_checkpoint: bool) {
    let copy = copy(directory, if expected_checkpoint { "stopped" } else { "crashed" });
    let (journal, recovered) = recover(Arc::new(RealDisk::open(&copy).unwrap()), options(), &mut |_| {}).unwrap();
    let Recovered { definitions, queues, report } = recovered;
    assert_eq!(report.from_checkpoint, expected_checkpoint);
    let names: Vec<_> = definitions
        .iter()
        .map(|definition| match definitions::read(&definition.key, &definition.value).unwrap() {
            (_, Declaration::Queue(declared, number)) => (declared.name.to_string(), number),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [("one".to_owned(), 1), ("two".to_owned(), 2)]);
    let found: Vec<_> = queues.iter().map(|queue| (queue.queue, queue.runs.clone(), queue.delivered_upto)).collect();
    let run = |first, last| Run { first, last };
    assert_eq!(found, [(1, vec![run(1, 1), run(4, 5), run(51, 60)], 5), (2, vec![run(2, 2)], 0)]);
    let one = journal.read_run(1, 0, 100, u64::MAX).unwrap();
    assert_eq!(
        one.iter().map(|message| message.seq).collect::<Vec<_>>(),
        [1, 4, 5, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60]
    );
    for message in one {
        assert_eq!(message.octets.get(message.body_at as usize..), Some(&*body(message.seq)));
        assert_eq!((message.at_ms, message.flags), (1_700_000_000_000 + message.seq, 1));
    }
    fs::remove_dir_all(copy).unwrap();
}

#[test]
fn every_version_of_the_format_is_read() {
    if std::env::var_os("LEVERET_TEST_WRITE_FIXTURES").is_some() {
        for (name, stops) in [("store-v1-crashed", false), ("store-v1-stopped", true)] {
            let directory = fixtures().join(name);
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).unwrap();
            let disk = Arc::new(RealDisk::open(&directory).unwrap());
            let (journal, _) = recover(Arc::<RealDisk>::clone(&disk) as _, options(), &mut |_| {}).unwrap();
            write(&journal);
            drop(journal);
            if stops {
                Store::open(disk, options(), &mut |_| {}).unwrap().0.stop().unwrap();
            }
        }
    }
    check(&fixtures().join("store-v1-crashed"), false);
    check(&fixtures().join("store-v1-stopped"), true);
}

/// Recovers the directory of a killed process with one octet changed.
fn changed(name: &str, file: &str, at: u64) -> Result<Recovered, String> {
    let copy = copy(&fixtures().join("store-v1-crashed"), name);
    let mut octets = fs::read(copy.join(file)).unwrap();
    octets[at as usize] ^= 3;
    if at == 8 {
        octets[8] = 9;
        let crc = crc32c::crc32c(&octets[..40]);
        octets[40..44].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(copy.join(file), octets).unwrap();
    let opened = recover(Arc::new(RealDisk::open(&copy).unwrap()), options(), &mut |_| {});
    fs::remove_dir_all(copy).unwrap();
    opened.map(|(_, recovered)| recovered).map_err(|error| error.to_string())
}

#[test]
fn what_is_newer_or_damaged_is_refused_and_a_torn_end_is_cut() {
    let newer = changed("newer", "0000000003.journal", 8).unwrap_err();
    assert_eq!(newer, "0000000003.journal was written by a later version of Leveret (octet 8): start that version");
    let damaged = changed("damaged", "0000000003.journal", 300).unwrap_err();
    assert_eq!(damaged, "0000000003.journal is damaged at octet 112: a record that was synced has a wrong crc");

    let copy = copy(&fixtures().join("store-v1-crashed"), "checked");
    let checked = leveret_journal::check::check(&RealDisk::open(&copy).unwrap(), &mut |_| {}).unwrap();
    fs::remove_dir_all(copy).unwrap();
    let last = checked.segments.last().unwrap();
    // The queue's number in the record that says it is gone, in a batch with the end of its
    // definition.
    let torn = changed("torn", &last.file, HEADER_SIZE + last.written - 8).unwrap();
    // What stands in the batch goes with it.
    assert_eq!((torn.report.torn[0].file.as_str(), torn.report.torn_records), (last.file.as_str(), 1));
    assert_eq!(torn.definitions.len(), 3);
    assert_eq!(torn.queues.iter().map(|queue| queue.messages).collect::<Vec<_>>(), [13, 1, 1]);
}

#[test]
fn a_message_in_the_place_of_another_is_not_shown_for_it() {
    mutated::run(b"\x23\x23\x2b\x27\x23\x23\x23\x23\x23\xe9\xf2\x17\x11\x0e\xf5");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_changed_directory_is_refused_or_read_without_loss(input in proptest::collection::vec(any::<u8>(), 0..=21)) {
        mutated::run(&input);
    }
}
