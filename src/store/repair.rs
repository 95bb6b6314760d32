//! Mends a damaged directory by giving up what cannot be read: `leveret store repair`. First it says what that is, then it does
//! it. What is given up becomes a gap record, in place; everything else stays as it is. Knows no queue.
//!
//! What a gap held is not known. It may have been messages, and they are lost; it may have been settlements, and messages
//! return; it may have been definitions or their end.

use std::collections::BTreeMap;

use crate::store::checkpoint;
use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::layout::{next, not_understood, unreadable};
use crate::store::random::Random;
use crate::store::record::{Content, Encoded, HEAD_SIZE, MARK_SIZE, Mark, Unknown, gap_head};
use crate::store::segment::{Found, HEADER_SIZE, Header, Segment, name, number_of, spare_name};

/// Where records begin behind the first mark.
const BEHIND_MARK: u64 = HEADER_SIZE + MARK_SIZE;
/// The name that a file made anew has before it is whole.
const NEW_FILE: u64 = 0;

/// What a repair gives up and does.
#[derive(Debug, Default)]
pub struct Plan {
    /// What it gives up, in order; nothing if there is nothing to repair.
    pub damages: Vec<Damage>,
    fixes: Vec<Fix>,
}

/// Octets that cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file's name in the directory.
    pub file: String,
    /// Where, in octets.
    pub offset: u64,
    /// How many octets.
    pub octets: u64,
    /// What is wrong with them.
    pub what: &'static str,
}

#[derive(Debug)]
enum Fix {
    Remove(String),
    Gap { number: u64, from: u64, to: u64 },
    Begin { number: u64, before: u64, oldest: u64, to: u64 },
    Make { number: u64, before: u64, oldest: u64, end: u64 },
}

/// What can be read of a segment.
#[derive(Default)]
struct Whole {
    /// Begin and end of each record.
    records: Vec<(u64, u64)>,
    /// The mark at its beginning.
    begin: Option<Mark>,
    oldest: u64,
}

impl Whole {
    fn read(segment: &Segment) -> Result<Self, StoreError> {
        let number = segment.header.number;
        let mut scan = segment.scan(u64::MAX);
        let mut whole = Self::default();
        let mut at = HEADER_SIZE;
        while at + HEAD_SIZE as u64 <= segment.header.capacity {
            scan.skip_to(at);
            let foreign = scan.foreign().map_err(unreadable(number))?;
            if foreign > 0 {
                at += foreign;
                continue;
            }
            at += 8;
            let Found::Record { offset, record, size } = next(&mut scan, number)? else { continue };
            match record.content() {
                Ok(Content::Mark(mark)) if mark.salt == segment.header.salt => {
                    whole.oldest = whole.oldest.max(mark.oldest);
                    if offset == HEADER_SIZE {
                        whole.begin = Some(mark);
                    }
                }
                Ok(_) => {}
                Err(Unknown::Malformed) => continue,
                Err(Unknown::Newer) => return Err(not_understood(Unknown::Newer, number, offset)),
            }
            at = offset + size;
            whole.records.push((offset, at));
        }
        Ok(whole)
    }

    fn end(&self) -> u64 {
        self.records.last().map_or(BEHIND_MARK, |(_, end)| *end)
    }

    /// Stretches up to `end` that no record covers, from the place on where records are expected.
    fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut gaps, mut at) = (Vec::new(), start);
        let records = self.records.iter().filter(|(from, to)| *from >= start && *to <= end);
        for &(from, to) in records.chain([&(end, end)]) {
            // What is shorter than a head cannot be made a gap: then the record behind it goes too.
            if from > at && from - at < HEAD_SIZE as u64 {
                continue;
            }
            if from > at {
                gaps.push((at, from));
            }
            at = to;
        }
        gaps
    }
}

/// Finds out what has to be given up. Changes nothing.
///
/// # Errors
/// If something was written by a later version, or the disk refuses.
pub fn plan(disk: &dyn Disk) -> Result<Plan, StoreError> {
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    let mut plan = Plan::default();
    let mut wholes: BTreeMap<u64, (Segment, Whole)> = BTreeMap::new();
    let mut lost: Vec<u64> = Vec::new();
    for number in names.iter().filter_map(|name| number_of(name)) {
        match Segment::open(disk, number) {
            Ok(segment) => {
                let whole = Whole::read(&segment)?;
                wholes.insert(number, (segment, whole));
            }
            Err(StoreError::Corrupt { .. }) => lost.push(number),
            Err(error) => return Err(error),
        }
    }
    let last = wholes.iter().filter(|(_, (_, whole))| !whole.records.is_empty()).map(|(number, _)| *number).max();
    let last = last.unwrap_or(0);
    let oldest = wholes.values().map(|(_, whole)| whole.oldest).max().unwrap_or(1).clamp(1, last.max(1));
    lost.retain(|number| *number >= oldest);
    for &number in lost.iter().filter(|number| **number > last) {
        plan.damage(number, 0, 0, "its header is damaged, and nothing comes behind it");
        plan.fixes.push(Fix::Remove(name(number)));
    }
    let mut before = HEADER_SIZE;
    for number in oldest..=last {
        let said = wholes.get(&(number + 1)).filter(|_| number < last).and_then(|(_, whole)| whole.begin);
        let said = said.filter(|mark| mark.segment == number && mark.offset >= BEHIND_MARK).map(|mark| mark.offset);
        match wholes.get(&number) {
            Some((_, whole)) => before = plan.mend(number, whole, said, before, oldest),
            None => {
                let end = said.filter(|end| end - BEHIND_MARK >= HEAD_SIZE as u64).unwrap_or(BEHIND_MARK);
                let is_there = lost.contains(&number);
                let what = if is_there { "its header is damaged" } else { "it is missing" };
                plan.damage(number, 0, end, what);
                plan.fixes.extend(is_there.then(|| Fix::Remove(name(number))));
                plan.fixes.push(Fix::Make { number, before, oldest, end });
                before = end;
            }
        }
    }
    if !plan.fixes.is_empty() && names.iter().any(|name| name == checkpoint::NAME) {
        // It remembers what is given up.
        plan.fixes.insert(0, Fix::Remove(checkpoint::NAME.to_owned()));
    }
    Ok(plan)
}

impl Plan {
    fn damage(&mut self, number: u64, offset: u64, octets: u64, what: &'static str) {
        self.damages.push(Damage { file: name(number), offset, octets, what });
    }

    /// Plans for a segment that is there; where it ends.
    fn mend(&mut self, number: u64, whole: &Whole, said: Option<u64>, before: u64, oldest: u64) -> u64 {
        let end = said.unwrap_or_else(|| whole.end());
        let mut at = HEADER_SIZE;
        let fits = |mark: &Mark| number == oldest || (mark.segment == number - 1 && mark.offset == before);
        if !whole.begin.as_ref().is_some_and(fits) {
            let next = whole.gaps(BEHIND_MARK, end).first().copied();
            let to = next.filter(|(from, _)| *from == BEHIND_MARK).map_or(BEHIND_MARK, |(_, to)| to);
            self.damage(number, HEADER_SIZE, to - HEADER_SIZE, "it does not begin with a mark");
            self.fixes.push(Fix::Begin { number, before, oldest, to });
            at = to;
        }
        for (from, to) in whole.gaps(at, end) {
            self.damage(number, from, to - from, "no whole record");
            self.fixes.push(Fix::Gap { number, from, to });
        }
        end
    }

    /// Does it. If it is interrupted, a new plan finds what is left to do.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn apply(&self, disk: &dyn Disk, seed: u64) -> Result<(), StoreError> {
        let mut random = Random::new(seed);
        for fix in &self.fixes {
            match *fix {
                Fix::Remove(ref name) => {
                    disk.remove(name).map_err(StoreError::io(format!("cannot remove {name}")))?;
                    disk.sync_directory().map_err(StoreError::io("cannot sync the directory"))?;
                }
                Fix::Gap { number, from, to } => {
                    let segment = Segment::open(disk, number)?;
                    gap(&segment, from, to).map_err(StoreError::io(format!("cannot mend {}", name(number))))?;
                }
                Fix::Begin { number, before, oldest, to } => {
                    let segment = Segment::open(disk, number)?;
                    begin(&segment, before, oldest, to)
                        .map_err(StoreError::io(format!("cannot mend {}", name(number))))?;
                }
                Fix::Make { number, before, oldest, end } => {
                    let header = Header { number, salt: random.draw(), capacity: end };
                    let make = || {
                        let spare = spare_name(NEW_FILE);
                        let segment = Segment::prepare(disk, &spare, header)?;
                        begin(&segment, before, oldest, end)?;
                        segment.found(disk, &spare)
                    };
                    make().map_err(StoreError::io(format!("cannot make {}", name(number))))?;
                }
            }
        }
        Ok(())
    }
}

fn gap(segment: &Segment, from: u64, to: u64) -> std::io::Result<()> {
    if to > from {
        let mut behind = vec![0; (to - from) as usize - HEAD_SIZE];
        segment.file.read_at(from + HEAD_SIZE as u64, &mut behind)?;
        segment.file.write_at(from, &gap_head(&behind, segment.header.salt))?;
    }
    segment.file.sync_data()
}

fn begin(segment: &Segment, before: u64, oldest: u64, to: u64) -> std::io::Result<()> {
    let header = segment.header;
    let mark = Mark { salt: header.salt, segment: header.number - 1, offset: before, oldest };
    let mut octets = Vec::new();
    Encoded::mark(mark).write(header.salt, &mut octets);
    segment.file.write_at(HEADER_SIZE, &octets)?;
    gap(segment, BEHIND_MARK, to)
}
