//! Segments that are damaged while the journal runs, and given up.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::damage::{Damage, OnLost};
use crate::journal::{Journal, JournalOptions, Sync};
use crate::list::{List, Run, Target};
use crate::reclaim::Reclaim;
use crate::record::{Operation, PublishRecord};
use crate::recovery::recover;
use crate::segment::name;
use crate::simulated::{Crash, SimulatedDisk};

const KEY: &[u8] = b"the key of a definition";

/// Messages of queue 1, three to a batch; each is found by its body.
const MESSAGES: u64 = 60;

#[derive(Debug, Default)]
struct Lost(Mutex<Vec<(u64, String)>>);

impl OnLost for Lost {
    fn lost(&self, queue: u64, seq: u64, damage: &Damage) {
        assert_eq!(queue, 1);
        self.0.lock().push((seq, damage.file.clone()));
    }
}

fn open(disk: &SimulatedDisk) -> Journal {
    let options = JournalOptions { segment_octets: 16 * 1024, sync: Sync::Group, full_at: 1 << 20, seed: 3 };
    recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap().0
}

fn body(seq: u64) -> [u8; 400] {
    [seq as u8; 400]
}

fn filled(disk: &SimulatedDisk) -> Journal {
    let journal = open(disk);
    journal.append(&Operation::Define { key: KEY, value: b"value" }).unwrap();
    for seq in 1..=MESSAGES {
        let targets = List::One(Target::new(1, seq));
        let publish = PublishRecord { targets, body: &body(seq), ..PublishRecord::default() };
        journal.append(&Operation::Publish(publish)).unwrap();
        if seq % 3 == 0 {
            journal.step(false).unwrap();
        }
    }
    journal
}

/// Flips an octet in the middle of what is found in the first segment.
fn damage(disk: &SimulatedDisk, found: &[u8]) {
    let mut octets = disk.octets(&name(1)).unwrap();
    let at = octets.windows(found.len()).position(|window| window == found).unwrap();
    octets[at + found.len() / 2] ^= 1;
    disk.put(&name(1), &octets);
}

/// Publishes and settles other messages until the first segment is given up.
fn give_up_first(disk: &SimulatedDisk, journal: &Journal) -> Result<(), String> {
    let mut work = Reclaim::default();
    for seq in 1..10_000 {
        let targets = List::One(Target::new(2, seq));
        let publish = PublishRecord { targets, body: &[0; 400], ..PublishRecord::default() };
        journal.append(&Operation::Publish(publish)).unwrap();
        let runs = [Run { first: seq, last: seq }];
        journal.append(&Operation::Settle { queue: 2, runs: List::Given(&runs) }).unwrap();
        journal.step(false).map_err(|failure| failure.reason)?;
        while journal.reclaim(&mut work).map_err(|failure| failure.reason)? {}
        if disk.octets(&name(1)).is_none() {
            return Ok(());
        }
    }
    Err("the first segment is never given up".to_owned())
}

fn live(journal: &Journal) -> BTreeSet<u64> {
    journal.live_messages().remove(&1).unwrap_or_default()
}

#[test]
fn a_damaged_segment_is_given_up_and_costs_what_was_hit() {
    let disk = SimulatedDisk::new(1, 1 << 24);
    let journal = filled(&disk);
    let lost = Arc::new(Lost::default());
    journal.damages.observe(Arc::<Lost>::clone(&lost));
    for seq in [2, 9, 10] {
        damage(&disk, &body(seq));
    }
    give_up_first(&disk, &journal).unwrap();
    let kept: BTreeSet<u64> = (1..=MESSAGES).filter(|seq| ![2, 9, 10].contains(seq)).collect();
    assert_eq!(live(&journal), kept);
    let said = lost.0.lock().clone();
    assert_eq!(said, [2, 9, 10].map(|seq| (seq, name(1))));
    assert_eq!((journal.damages.found().len(), journal.damages.lost_messages()), (3, 3));
    let found = journal.read_run(1, 0, usize::MAX, u64::MAX).unwrap();
    assert!(found.iter().all(|stored| stored.octets[stored.body_at as usize..] == body(stored.seq)));
    assert_eq!(journal.read_definition(KEY).unwrap().as_deref(), Some(&b"value"[..]));
    // It is settled for good.
    while journal.step(true).unwrap() == crate::journal::Step::Wrote {}
    drop(journal);
    disk.restart(Crash::PowerLoss);
    assert_eq!(live(&open(&disk)), kept);
}

#[test]
fn a_damaged_definition_is_written_again_by_whoever_knows_it() {
    let disk = SimulatedDisk::new(2, 1 << 24);
    let journal = filled(&disk);
    assert_eq!(journal.restore_definition(KEY, b"value"), Ok(false));
    damage(&disk, KEY);
    assert!(journal.read_definition(KEY).is_err());
    assert!(give_up_first(&disk, &journal).unwrap_err().contains("is damaged"));
    let disk = SimulatedDisk::new(3, 1 << 24);
    let journal = filled(&disk);
    damage(&disk, KEY);
    assert_eq!(journal.restore_definition(KEY, b"value"), Ok(true));
    assert_eq!(journal.restore_definition(b"of nobody", b"value"), Ok(false));
    give_up_first(&disk, &journal).unwrap();
    assert_eq!(journal.read_definition(KEY).unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(live(&journal).len() as u64, MESSAGES);
}
