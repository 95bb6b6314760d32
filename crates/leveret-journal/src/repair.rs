//! `leveret store repair`: repairs a damaged directory by giving up octets that cannot be read.
//! Plans first, then acts. Octets that are given up become a gap record in place; all others stay
//! as they are.
//!
//! The former content of a gap is unknown. If it was messages, they are lost; if settlements,
//! messages return; definitions may be lost or return.

use std::collections::BTreeMap;

use crate::checkpoint::{self, Checkpoint};
use crate::damage::Damage;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::gap::{BEHIND_MARK, begin, gap};
use crate::layout::{Layout, Synced, next, not_understood, unreadable};
use crate::manifest::{self, Stated};
use crate::random::Random;
use crate::record::{HEAD_SIZE, Mark, NotUnderstood, RecordContent};
use crate::recovery::latest;
use crate::segment::{HEADER_SIZE, Header, ScanItem, Segment, name, number_of, spare_name};

/// The number in the temporary name of a new file.
const NEW_FILE: u64 = 0;

/// A plan: what a repair will give up, and how.
#[derive(Debug, Default)]
pub struct Plan {
    /// The damage to give up, in order; empty if there is none.
    pub damages: Vec<Damage>,
    /// Nothing has to be given up: the checkpoint has the live set, so a start reads around the
    /// damage and copies the readable records elsewhere.
    pub is_needless: bool,
    fixes: Vec<Fix>,
}

#[derive(Debug)]
enum Fix {
    Remove(String),
    Header(Header),
    Gap { number: u64, from: u64, to: u64 },
    Begin { number: u64, before: u64, oldest: u64, to: u64 },
    Make { number: u64, before: u64, oldest: u64, end: u64 },
}

/// The readable parts of a segment.
#[derive(Default)]
struct Whole {
    /// Begin and end of each record, as offsets.
    records: Vec<(u64, u64)>,
    /// The first mark.
    begin: Option<Mark>,
    oldest: u64,
}

impl Whole {
    fn read(segment: &Segment) -> Result<Self, StoreError> {
        let number = segment.header.number;
        let mut scan = segment.scan(u64::MAX);
        let mut whole = Self::default();
        loop {
            let (offset, size) = match next(&mut scan, number)? {
                ScanItem::Record { offset, record, size } => match record.content() {
                    Ok(RecordContent::Mark(mark)) if mark.salt == segment.header.salt => {
                        whole.oldest = whole.oldest.max(mark.oldest);
                        if offset == HEADER_SIZE {
                            whole.begin = Some(mark);
                        }
                        (offset, size)
                    }
                    Ok(_) => (offset, size),
                    Err(NotUnderstood::Malformed) => continue,
                    Err(unknown @ (NotUnderstood::Newer | NotUnderstood::Reserved(_))) => {
                        return Err(not_understood(unknown, number, offset));
                    }
                },
                ScanItem::End => break,
                ScanItem::Nothing(offset, _) => {
                    if !scan.hole(offset).map_err(unreadable(number))?.is_followed {
                        break;
                    }
                    continue;
                }
            };
            whole.records.push((offset, offset + size));
        }
        Ok(whole)
    }

    fn end(&self) -> u64 {
        self.records.last().map_or(BEHIND_MARK, |(_, end)| *end)
    }

    /// Returns the stretches without a record from `start`, where records are expected, to `end`.
    fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut gaps, mut at) = (Vec::new(), start);
        let records = self.records.iter().filter(|(from, to)| *from >= start && *to <= end);
        for &(from, to) in records.chain([&(end, end)]) {
            // A stretch shorter than a head cannot be made a gap: it takes the record behind it
            // with it.
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

/// Repairs a directory; returns the damage that was given up. `seed` is for salts, as in
/// [`JournalOptions`](crate::journal::JournalOptions).
///
/// As [`plan`]; some damage may have been given up then.
pub fn repair(disk: &dyn Disk, seed: u64) -> Result<Vec<Damage>, StoreError> {
    let plan = plan(disk)?;
    plan.apply(disk, seed)?;
    Ok(plan.damages)
}

/// Returns what has to be given up; changes nothing.
///
/// # Errors
/// A file of a later version, or an I/O error.
pub fn plan(disk: &dyn Disk) -> Result<Plan, StoreError> {
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    let (stated, checkpoint) = (Stated::read(disk)?, Checkpoint::read(disk)?);
    let synced = latest(&stated, checkpoint.as_ref());
    let mut plan = Plan::default();
    let mut wholes: BTreeMap<u64, (Segment, Whole)> = BTreeMap::new();
    let mut lost: Vec<u64> = Vec::new();
    for number in names.iter().filter_map(|name| number_of(name)) {
        let segment = match Segment::open(disk, number) {
            Err(StoreError::Corrupt { .. }) => match known_header(disk, number, synced, checkpoint.as_ref())? {
                Some(header) => Segment::open_as(disk, header),
                None => {
                    lost.push(number);
                    continue;
                }
            },
            segment => segment,
        }?;
        let whole = Whole::read(&segment)?;
        wholes.insert(number, (segment, whole));
    }
    let last = wholes.iter().filter(|(_, (_, whole))| !whole.records.is_empty()).map(|(number, _)| *number).max();
    let last = last.unwrap_or(0);
    let oldest = wholes.values().map(|(_, whole)| whole.oldest).max().unwrap_or(1).clamp(1, last.max(1));
    lost.retain(|number| *number >= oldest);
    for &number in lost.iter().filter(|number| **number > last) {
        plan.damage(number, 0, 0, "its header is damaged, and nothing comes behind it");
        plan.fixes.push(Fix::Remove(name(number)));
    }
    plan.segments(&wholes, &lost, (oldest, last), synced);
    plan.end(&names, &wholes, &lost, last, synced);
    if !plan.fixes.is_empty() {
        if names.iter().any(|name| name == checkpoint::NAME) {
            // It refers to octets that are given up.
            plan.fixes.insert(0, Fix::Remove(checkpoint::NAME.to_owned()));
        }
        if names.iter().any(|name| name == manifest::NAME) {
            // Last: until then it tells a new plan what is left to do.
            plan.fixes.push(Fix::Remove(manifest::NAME.to_owned()));
        }
    }
    if let Some(checkpoint) = checkpoint
        && !checkpoint.headers.is_empty()
        && let Ok(Some(_)) = Layout::stopped(disk, &checkpoint.headers, checkpoint.synced.end, stated.synced)
    {
        plan.is_needless = true;
        plan.fixes.clear();
    }
    Ok(plan)
}

/// Returns the header of a segment that has lost its own, from the checkpoint or the manifest.
fn known_header(
    disk: &dyn Disk,
    number: u64,
    synced: Synced,
    checkpoint: Option<&Checkpoint>,
) -> Result<Option<Header>, StoreError> {
    let headers = checkpoint.map(|checkpoint| checkpoint.headers.as_slice()).unwrap_or_default();
    if let Some(header) = headers.iter().find(|header| header.number == number) {
        return Ok(Some(*header));
    }
    if synced.segment != number {
        return Ok(None);
    }
    let failed = || StoreError::io(format!("cannot read {}", name(number)));
    let capacity = disk.open(&name(number)).and_then(|file| file.size()).map_err(failed())?;
    // The file may have been cut short.
    let least = Header::capacity_for(synced.end.max(BEHIND_MARK));
    Ok(Some(Header::new(number, synced.salt, capacity.max(least))))
}

impl Plan {
    fn damage(&mut self, number: u64, offset: u64, octets: u64, what: &'static str) {
        self.damages.push(Damage { file: name(number), offset, octets, what });
    }

    /// Plans the segments from the oldest that is needed to the last with a whole record.
    fn segments(
        &mut self,
        wholes: &BTreeMap<u64, (Segment, Whole)>,
        lost: &[u64],
        (oldest, last): (u64, u64),
        synced: Synced,
    ) {
        let mut before = HEADER_SIZE;
        for number in oldest..=last {
            let said = wholes.get(&(number + 1)).filter(|_| number < last).and_then(|(_, whole)| whole.begin);
            let said = said.filter(|mark| mark.segment == number && mark.offset >= BEHIND_MARK).map(|mark| mark.offset);
            match wholes.get(&number) {
                Some((segment, whole)) => {
                    if segment.fault.is_some() {
                        self.damage(number, 0, HEADER_SIZE, "its header is damaged; it is known from elsewhere");
                        self.fixes.push(Fix::Header(segment.header));
                    }
                    let is_known = number == synced.segment && segment.header.salt == synced.salt;
                    let end = said.unwrap_or_else(|| whole.end().max(if is_known { synced.end } else { 0 }));
                    before = self.repair(number, whole, end, before, oldest);
                }
                None => {
                    let end = said.filter(|end| end - BEHIND_MARK >= HEAD_SIZE as u64).unwrap_or(BEHIND_MARK);
                    let is_there = lost.contains(&number);
                    let what = if is_there { "its header is damaged" } else { "it is missing" };
                    self.damage(number, 0, end, what);
                    self.fixes.extend(is_there.then(|| Fix::Remove(name(number))));
                    self.fixes.push(Fix::Make { number, before, oldest, end });
                    before = end;
                }
            }
        }
    }

    /// Plans the segments behind the last one with a whole record that the manifest or the
    /// checkpoint name.
    fn end(
        &mut self,
        names: &[String],
        wholes: &BTreeMap<u64, (Segment, Whole)>,
        lost: &[u64],
        last: u64,
        synced: Synced,
    ) {
        let is_faulty = |number: u64| wholes.get(&number).is_some_and(|(segment, _)| segment.fault.is_some());
        for number in last + 1..=synced.segment {
            let is_there = lost.contains(&number) || wholes.contains_key(&number);
            // A segment that was begun may be without a record.
            if !is_there {
                self.damage(number, 0, 0, "it is missing");
            } else if number == synced.segment && !lost.contains(&number) && (synced.end > 0 || is_faulty(number)) {
                self.damage(number, HEADER_SIZE, synced.end.saturating_sub(HEADER_SIZE), "no whole record");
            } else {
                continue;
            }
            self.fixes.extend(is_there.then(|| Fix::Remove(name(number))));
            let stale = names.iter().find(|name| *name == manifest::NAME || *name == checkpoint::NAME);
            self.fixes.extend(stale.map(|name| Fix::Remove(name.clone())));
        }
        if let Some((segment, _)) = wholes.get(&synced.segment).filter(|_| synced.segment == last)
            && segment.header.salt != synced.salt
        {
            self.damage(last, 24, 8, "it is not the segment that the manifest names");
            self.fixes.extend(names.iter().find(|name| *name == manifest::NAME).map(|name| Fix::Remove(name.clone())));
        }
    }

    /// Plans an existing segment; returns the end of its records.
    fn repair(&mut self, number: u64, whole: &Whole, end: u64, before: u64, oldest: u64) -> u64 {
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

    /// Carries out the plan. After an interruption, a new plan finds what is left to do.
    ///
    /// # Errors
    /// An I/O error.
    pub fn apply(&self, disk: &dyn Disk, seed: u64) -> Result<(), StoreError> {
        let mut random = Random::new(seed);
        for fix in &self.fixes {
            match *fix {
                // Two fixes may remove the same file.
                Fix::Remove(ref name) if !exists(disk, name)? => {}
                Fix::Remove(ref name) => {
                    disk.remove(name).map_err(StoreError::io(format!("cannot remove {name}")))?;
                    disk.sync_directory().map_err(StoreError::io("cannot sync the directory"))?;
                }
                Fix::Header(header) => {
                    let segment = Segment::open_as(disk, header)?;
                    segment.repair().map_err(StoreError::io(format!("cannot repair {}", name(header.number))))?;
                }
                Fix::Gap { number, from, to } => {
                    let segment = Segment::open(disk, number)?;
                    gap(&segment, from, to).map_err(StoreError::io(format!("cannot repair {}", name(number))))?;
                }
                Fix::Begin { number, before, oldest, to } => {
                    let segment = Segment::open(disk, number)?;
                    begin(&segment, first_mark(segment.header, before, oldest), to)
                        .map_err(StoreError::io(format!("cannot repair {}", name(number))))?;
                }
                Fix::Make { number, before, oldest, end } => {
                    let header = Header::new(number, random.draw(), Header::capacity_for(end));
                    let make = || {
                        let spare = spare_name(NEW_FILE);
                        let segment = Segment::prepare(disk, &spare, header)?;
                        begin(&segment, first_mark(header, before, oldest), end)?;
                        segment.activate(disk, &spare)
                    };
                    make().map_err(StoreError::io(format!("cannot make {}", name(number))))?;
                }
            }
        }
        Ok(())
    }
}

fn exists(disk: &dyn Disk, name: &str) -> Result<bool, StoreError> {
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    Ok(names.iter().any(|known| known == name))
}

/// Returns the first mark of a segment: the end of the one before, and the oldest that is needed.
fn first_mark(header: Header, before: u64, oldest: u64) -> Mark {
    Mark { salt: header.salt, segment: header.number - 1, offset: before, oldest }
}
