//! Damage of every kind at every kind of place, after every kind of end: what is found of it, and
//! what it costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checkpoint;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::journal::{Journal, JournalOptions, Sync};
use crate::list::{List, Run, Target};
use crate::manifest;
use crate::record::{HEAD_SIZE, Operation, PublishRecord, RecordContent};
use crate::recovery::{Recovered, recover};
use crate::repair::repair;
use crate::segment::{ScanItem, Segment, name, number_of};
use crate::simulated::{Crash, SimulatedDisk};

const SEGMENT: u64 = 16 * 1024;
const PAGE: usize = 4096;
const MESSAGES: u64 = 300;

fn options() -> JournalOptions {
    JournalOptions { segment_octets: SEGMENT, sync: Sync::Group, full_at: 1 << 20, seed: 11 }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    CleanStop,
    Kill,
    PowerCut,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Flip(usize),
    ZeroPage(usize),
    ZeroAll,
    Truncate(usize),
    Lose,
}

/// Consequences that the loss of one record may have.
#[derive(Debug, Default)]
struct RecordAt {
    from: usize,
    to: usize,
    messages: Vec<u64>,
    settled: Vec<u64>,
    definitions: Vec<Vec<u8>>,
    is_mark: bool,
}

/// A directory, and what is in it: everything was confirmed.
struct Written {
    disk: SimulatedDisk,
    files: BTreeMap<String, Vec<u8>>,
    live: BTreeSet<u64>,
    records: BTreeMap<String, Vec<RecordAt>>,
}

fn body(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(20)
}

/// Five segments: messages, each third settled by the one after it, and definitions.
fn written(end: End) -> Written {
    let disk = SimulatedDisk::new(3, 1 << 22);
    let (journal, _) = recover(Arc::new(disk.clone()), options(), &mut |_| {}).unwrap();
    for seq in 1..=MESSAGES {
        let targets = List::One(Target::new(1, seq));
        let message = PublishRecord { at_ms: 5, targets, body: &body(seq), ..PublishRecord::default() };
        journal.append(&Operation::Publish(message)).unwrap();
        if seq % 3 == 0 {
            let runs = [Run { first: seq - 1, last: seq - 1 }];
            journal.append(&Operation::Settle { queue: 1, runs: List::Given(&runs) }).unwrap();
        }
        if seq % 40 == 0 {
            journal.append(&Operation::Define { key: &seq.to_le_bytes(), value: b"value" }).unwrap();
        }
        if seq % 4 == 0 {
            journal.step(false).unwrap();
        }
    }
    journal.step(true).unwrap();
    if end == End::CleanStop {
        journal.write_checkpoint().unwrap();
    }
    disk.restart(if end == End::PowerCut { Crash::PowerLoss } else { Crash::Kill });
    let files = files(&disk);
    let records = files.keys().filter_map(|file| Some((file.clone(), records(&disk, number_of(file)?)))).collect();
    let live = (1..=MESSAGES).filter(|seq| seq % 3 != 2).collect();
    Written { disk, files, live, records }
}

fn files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list().unwrap();
    names.into_iter().map(|name| (name.clone(), disk.octets(&name).unwrap())).collect()
}

/// The records of an undamaged segment.
fn records(disk: &SimulatedDisk, number: u64) -> Vec<RecordAt> {
    let mut scan = Segment::open(disk, number).unwrap().scan(u64::MAX);
    let octets = disk.octets(&name(number)).unwrap();
    let mut records = Vec::new();
    while let ScanItem::Record { offset, record, size } = scan.step().unwrap() {
        let length = octets[offset as usize..].first_chunk().map(|length| u32::from_le_bytes(*length)).unwrap();
        // Nothing is said by the padding.
        let (from, to) = (offset as usize, offset as usize + HEAD_SIZE + length as usize);
        assert!(to <= from + size as usize);
        let mut at = RecordAt { from, to, ..RecordAt::default() };
        match record.content().unwrap() {
            RecordContent::Operation(Operation::Publish(publish)) => {
                at.messages.extend(publish.targets.iter().map(|target| target.seq));
            }
            RecordContent::Operation(Operation::Settle { runs, .. }) => {
                at.settled.extend(runs.iter().flat_map(|run| run.first..=run.last));
            }
            RecordContent::Operation(Operation::Define { key, .. }) => at.definitions.push(key.to_vec()),
            RecordContent::Mark(_) => at.is_mark = true,
            other => panic!("{other:?}"),
        }
        records.push(at);
    }
    records
}

impl Harm {
    fn do_to(self, disk: &SimulatedDisk, file: &str, octets: &[u8]) {
        let mut octets = octets.to_vec();
        match self {
            Self::Flip(at) => octets[at] ^= 0x20,
            Self::ZeroPage(at) => {
                let end = octets.len().min(at + PAGE);
                octets[at..end].fill(0);
            }
            Self::ZeroAll => octets.fill(0),
            Self::Truncate(at) => octets.truncate(at),
            Self::Lose => return disk.remove(file).unwrap(),
        }
        disk.put(file, &octets);
    }

    /// The octets that are not what they were.
    fn range(self, octets: &[u8]) -> std::ops::Range<usize> {
        match self {
            Self::Flip(at) => at..at + 1,
            Self::ZeroPage(at) => at..octets.len().min(at + PAGE),
            Self::Truncate(at) => at..octets.len(),
            Self::ZeroAll | Self::Lose => 0..octets.len(),
        }
    }
}

/// Reports of damage: files, and the first octet concerned.
#[derive(Debug, Default)]
struct Said(Vec<(String, u64)>);

impl Said {
    fn error(&mut self, error: &StoreError) {
        match error {
            StoreError::Corrupt { file, offset, .. } => self.0.push((file.clone(), *offset)),
            StoreError::Missing { file } => self.0.push((file.clone(), 0)),
            other => panic!("{other}"),
        }
    }

    fn report(&mut self, recovered: &Recovered) {
        let report = &recovered.report;
        self.0.extend(report.torn.iter().chain(&report.repaired).map(|damage| (damage.file.clone(), damage.offset)));
    }

    fn names(&self, file: &str) -> bool {
        self.0.iter().any(|(of, _)| of == file)
    }
}

/// Opens the directory, with a repair if that is asked for, and reads every message back.
fn open(disk: &SimulatedDisk, said: &mut Said) -> Result<(BTreeSet<u64>, Recovered), String> {
    let start = || recover(Arc::new(disk.clone()), options(), &mut |_| {});
    let (journal, recovered) = match start() {
        Ok(opened) => opened,
        Err(error) => {
            said.error(&error);
            let given_up = repair(disk, 12).map_err(|error| format!("no repair: {error}"))?;
            said.0.extend(given_up.into_iter().map(|damage| (damage.file, damage.offset)));
            let (journal, mut recovered) = start().map_err(|error| format!("not repaired: {error}"))?;
            // A repair leaves the manifest to the next start.
            recovered.report.repaired.retain(|damage| damage.file != manifest::NAME);
            (journal, recovered)
        }
    };
    said.report(&recovered);
    Ok((read(&journal, said), recovered))
}

fn read(journal: &Journal, said: &mut Said) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let unreadable = journal.visit_run(1, 0, usize::MAX, u64::MAX, &mut |seq, publish| {
        assert_eq!(publish.body, body(seq), "another message is shown for {seq}");
        found.insert(seq);
    });
    said.0.extend(unreadable.into_iter().map(|lost| (lost.file, lost.offset)));
    found
}

/// Every kind of harm that is tried on a file.
fn harms(file: &str, octets: &[u8], records: Option<&Vec<RecordAt>>) -> Vec<Harm> {
    let size = octets.len();
    let mut places: BTreeSet<usize> = [0, 9, 17, 25, 33, 41, 50, size / 2, size - 64, size - 40, size - 1].into();
    if file == manifest::NAME {
        places.extend([4096 + 9, 4096 + 30, 4096 + 50, 70]);
    }
    for record in records.into_iter().flatten().step_by(3) {
        // Length, kind, crcs, payload, padding.
        let n = record.from / 8;
        places.insert(record.from + [0, 4, 9, 13][n % 4]);
        places.insert([(record.from + record.to) / 2, record.to - 1][n % 2]);
    }
    if let Some(last) = records.and_then(|records| records.last()) {
        places.extend([last.to, last.to + 9, last.to + 40].into_iter().filter(|at| *at < size));
    }
    let mut harms: Vec<_> = places.iter().map(|at| Harm::Flip(*at)).collect();
    harms.extend((0..size).step_by(PAGE).map(Harm::ZeroPage));
    harms.extend(places.iter().step_by(5).map(|at| Harm::Truncate(*at)));
    harms.extend([Harm::ZeroAll, Harm::Lose]);
    harms
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn check(end: End, file: &str, harm: Harm, written: &Written) -> Result<(), String> {
    let disk = SimulatedDisk::new(3, 1 << 22);
    written.files.iter().for_each(|(name, octets)| disk.put(name, octets));
    let octets = &written.files[file];
    harm.do_to(&disk, file, octets);
    let range = harm.range(octets);
    let (none, mut said) = (Vec::new(), Said::default());
    let opened = open(&disk, &mut said);
    let case = format!("{harm:?} in {file} after {end:?}: said {said:?}");
    let (found, recovered) = opened.map_err(|error| format!("{case}: {error}"))?;
    let all = written.records.get(file).unwrap_or(&none);
    let hit: Vec<_> = all.iter().filter(|at| at.from < range.end && range.start < at.to).collect();
    let hit_messages: BTreeSet<u64> = hit.iter().flat_map(|at| at.messages.iter().copied()).collect();
    let hit_settled: BTreeSet<u64> = hit.iter().flat_map(|at| at.settled.iter().copied()).collect();
    let lost: BTreeSet<u64> = written.live.difference(&found).copied().collect();
    let back: BTreeSet<u64> = found.difference(&written.live).copied().collect();
    ensure(lost.is_subset(&hit_messages), || format!("{case}: also lost {:?}", lost.difference(&hit_messages)))?;
    ensure(back.is_subset(&hit_settled), || format!("{case}: also back {:?}", back.difference(&hit_settled)))?;
    if end == End::CleanStop && harm != Harm::Lose {
        ensure(back.is_empty(), || format!("{case}: the checkpoint knew that {back:?} are settled"))?;
    }
    let keys: BTreeSet<_> = recovered.definitions.iter().map(|definition| definition.key.to_vec()).collect();
    let hit_keys = || hit.iter().flat_map(|at| at.definitions.iter());
    for key in (1..=MESSAGES / 40).map(|n| (40 * n).to_le_bytes().to_vec()) {
        ensure(keys.contains(&key) || hit_keys().any(|hit| *hit == key), || {
            format!("{case}: definition {key:?} is lost")
        })?;
    }
    ensure(lost.is_empty() && back.is_empty() || said.names(file), || {
        format!("{case}: nobody said that {lost:?} are lost")
    })?;
    // What was said is where it is.
    for (of, offset) in &said.0 {
        ensure(of == file && *offset < range.end.max(1) as u64 + 4096, || case.clone())?;
    }
    if end != End::CleanStop && !hit.is_empty() {
        ensure(said.names(file), || format!("{case}: {hit:?}"))?;
    }
    // Without a checkpoint the journal is read, and nothing is amiss.
    let is_mere = file == checkpoint::NAME && harm == Harm::Lose;
    if [manifest::NAME, checkpoint::NAME].contains(&file) && harm.is_seen(octets) && !is_mere {
        ensure(said.names(file), || case.clone())?;
    }
    // The next start finds nothing any more that costs anything, and nothing is lost by it.
    disk.restart(Crash::PowerLoss);
    let (again, _) = open(&disk, &mut said).map_err(|error| format!("{case}: {error}"))?;
    ensure(again == found, || format!("{case}: the next start finds something else"))
}

impl Harm {
    /// Returns true if octets that say something are not what they were.
    fn is_seen(self, octets: &[u8]) -> bool {
        let range = self.range(octets);
        octets[range].iter().any(|octet| *octet != 0)
    }
}

#[test]
fn damage_is_found_and_costs_what_it_hit() {
    let (mut cases, mut faults) = (0, Vec::new());
    for end in [End::CleanStop, End::Kill, End::PowerCut] {
        let written = written(end);
        assert!(written.records.len() >= 5 && written.files.contains_key(manifest::NAME));
        assert_eq!(written.files.contains_key(checkpoint::NAME), end == End::CleanStop);
        let last = written.records.len() as u64;
        for (file, octets) in &written.files {
            // The first, one in the middle, the last: the others are as that in the middle.
            if number_of(file).is_some_and(|number| ![1, 3, last].contains(&number)) {
                continue;
            }
            for harm in harms(file, octets, written.records.get(file)) {
                cases += 1;
                faults.extend(check(end, file, harm, &written).err());
            }
        }
        assert!(written.disk.octets(&name(last)).is_some());
    }
    assert!(faults.is_empty(), "{} of {cases} cases:\n{}", faults.len(), faults.join("\n"));
}
