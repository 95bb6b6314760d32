//! The layout of a journal's directory: its segments, which of them are needed, and where each
//! ends. Changes nothing.

use std::collections::BTreeMap;
use std::io;

use crate::damage::Damage;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::record::{HEAD_SIZE, Mark, NotUnderstood, Record, RecordContent};
use crate::segment::{HEADER_SIZE, Header, Hole, Scan, ScanItem, Segment, name, number_of, spare_of};

/// The files of a journal.
pub struct Layout {
    /// The needed segments by number, from the first to the last with a record, without a gap.
    pub segments: BTreeMap<u64, Needed>,
    /// The number of the last of them; 0 if there is none.
    pub last: u64,
    /// The number of the first needed segment, whether it exists or not.
    pub oldest: u64,
    /// The offset in the last segment from which octets may not have been synced.
    pub unsynced: u64,
    /// Octets that are no record, and the number of the segment: behind the last whole record, or
    /// all of a segment that was begun.
    pub torn: Option<(u64, Hole)>,
    /// The first mark for the last segment, if it is missing: it has to be written anew.
    pub lost_mark: Option<Mark>,
    /// Numbers of segments that are not needed: given up, or not begun.
    pub leftovers: Vec<u64>,
    /// Numbers of the spare files.
    pub spare_files: Vec<u64>,
}

/// A needed segment.
#[derive(Clone)]
pub struct Needed {
    /// The segment.
    pub segment: Segment,
    /// The end of its records, in octets.
    pub end: u64,
    /// Octets before the end that are no record, and that were not known to be synced. In the last
    /// segment only.
    pub holes: Vec<Hole>,
}

/// A place up to which the journal is known to have been synced, or a segment known to have been
/// begun (`end` is 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// The segment's number; 0 in a journal without any.
    pub segment: u64,
    /// The segment's salt.
    pub salt: u64,
    /// The offset up to which it was synced.
    pub end: u64,
}

/// The end of the last segment.
struct Last {
    end: u64,
    oldest: u64,
    unsynced: u64,
    holes: Vec<Hole>,
    torn: Option<Hole>,
    /// The oldest needed segment, by a mark behind a hole.
    doubtful_oldest: u64,
}

/// The beginning of a segment.
enum Opening {
    Mark(Mark),
    /// Nothing was written to it.
    Unbegun,
    /// There are whole records, but no first mark.
    Lost,
    /// There is no whole record, but octets that may have become one.
    Torn(Hole),
}

impl Layout {
    fn empty(names: &[String]) -> Self {
        Self {
            segments: BTreeMap::new(),
            last: 0,
            oldest: 1,
            unsynced: 0,
            torn: None,
            lost_mark: None,
            leftovers: Vec::new(),
            spare_files: names.iter().filter_map(|name| spare_of(name)).collect(),
        }
    }

    /// Reads the layout of a directory; `synced` is what is known to have been synced.
    ///
    /// # Errors
    /// A file that is needed is missing, damaged or newer, or an I/O error.
    pub fn read(disk: &dyn Disk, synced: Synced) -> Result<Self, StoreError> {
        let (names, numbers) = list(disk)?;
        let mut layout = Self::empty(&names);
        let highest = numbers.last().copied().unwrap_or(0);
        if highest < synced.segment {
            return Err(StoreError::Missing { file: name(synced.segment) });
        }
        if highest == 0 {
            return Ok(layout);
        }
        // The last segment may have been created and not begun.
        let mut last = highest;
        let mut segment = Segment::open(disk, last)?;
        let mut opening = open_with(&segment)?;
        if let Opening::Unbegun | Opening::Torn(_) = opening {
            if last == synced.segment && synced.end > 0 {
                return Err(damaged(last, HEADER_SIZE));
            }
            if let Opening::Torn(hole) = opening {
                layout.torn = Some((last, hole));
            }
            layout.leftovers.push(last);
            last -= 1;
            if last == 0 {
                return Ok(layout);
            }
            segment = open(disk, &numbers, last)?;
            opening = open_with(&segment)?;
        }
        if last == synced.segment && segment.header.salt != synced.salt {
            let what = "it is not the segment that the manifest names";
            return Err(StoreError::Corrupt { file: name(last), offset: 24, what });
        }
        // A segment is synced before the next one is created.
        let is_closed = last < highest;
        let known_end = if last == synced.segment { synced.end } else { 0 };
        let ending = Last::find(&segment, known_end, is_closed)?;
        let mut opening = match opening {
            Opening::Mark(mark) => mark,
            Opening::Lost if known_end == 0 && !is_closed => layout.find_lost_mark(disk, &numbers, &segment)?,
            _ => return Err(no_beginning(last)),
        };
        (layout.last, layout.oldest) = (last, ending.oldest.max(opening.oldest));
        layout.unsynced = ending.unsynced;
        layout.torn = ending.torn.map(|torn| (last, torn)).or(layout.torn);
        layout.leftovers.extend(numbers.iter().filter(|number| **number < layout.oldest));
        let first_hole = ending.holes.first().map(|hole| hole.from);
        layout.segments.insert(last, Needed { segment, end: ending.end, holes: ending.holes });
        for number in (layout.oldest..last).rev() {
            let segment = open(disk, &numbers, number).map_err(|error| match (error, first_hole) {
                // The segment was given up; so its damage does not count, nor that of the hole
                // before it.
                (StoreError::Missing { .. }, Some(hole)) if number < ending.doubtful_oldest => damaged(last, hole),
                (error, _) => error,
            })?;
            if opening.segment != number {
                return Err(no_beginning(number + 1));
            }
            let end = opening.offset;
            opening = match open_with(&segment)? {
                Opening::Mark(mark) => mark,
                _ => return Err(no_beginning(number)),
            };
            layout.segments.insert(number, Needed { segment, end, holes: Vec::new() });
        }
        Ok(layout)
    }

    /// Reads the layout after a clean stop, with the headers of the segments and the end from the
    /// checkpoint; none if the journal has gone on since.
    ///
    /// # Errors
    /// A file that is needed is missing or newer, or an I/O error. Damage is not looked for.
    pub fn stopped(disk: &dyn Disk, headers: &[Header], end: u64, synced: Synced) -> Result<Option<Self>, StoreError> {
        let (names, numbers) = list(disk)?;
        let mut layout = Self::empty(&names);
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else { return Ok(None) };
        let later: Vec<u64> = numbers.iter().copied().filter(|number| *number > last.number).collect();
        for &number in &later {
            if !matches!(Segment::open(disk, number).and_then(|segment| open_with(&segment)), Ok(Opening::Unbegun)) {
                return Ok(None);
            }
        }
        if synced.segment > last.number && !later.contains(&synced.segment) {
            return Err(StoreError::Missing { file: name(synced.segment) });
        }
        (layout.last, layout.oldest, layout.unsynced) = (last.number, first.number, end);
        layout.leftovers = later;
        layout.leftovers.extend(numbers.iter().filter(|number| **number < first.number));
        for &header in headers {
            if !numbers.contains(&header.number) {
                return Err(StoreError::Missing { file: name(header.number) });
            }
            let segment = Segment::open_as(disk, header)?;
            let end = if header.number == last.number { end } else { header.limit() };
            layout.segments.insert(header.number, Needed { segment, end, holes: Vec::new() });
        }
        Ok(Some(layout))
    }

    /// Returns the missing first mark of the last segment, computed from the end of the one before.
    fn find_lost_mark(&mut self, disk: &dyn Disk, numbers: &[u64], last: &Segment) -> Result<Mark, StoreError> {
        let (number, salt) = (last.header.number, last.header.salt);
        let before = match number - 1 {
            0 => Mark { salt, segment: 0, offset: 0, oldest: 1 },
            // The segments that this mark says are needed may be more than the lost mark said: no
            // harm.
            before => {
                let ending = Last::find(&open(disk, numbers, before)?, 0, true)?;
                Mark { salt, segment: before, offset: ending.end, oldest: ending.oldest }
            }
        };
        self.lost_mark = Some(before);
        Ok(before)
    }

    /// Returns the octets that are no record and were not known to be synced, with the numbers of
    /// their segments.
    pub fn lost(&self) -> impl Iterator<Item = (u64, Hole)> {
        let holes = self.segments.get(&self.last).map(|last| last.holes.iter());
        holes.into_iter().flatten().map(|hole| (self.last, *hole)).chain(self.torn)
    }
}

impl Layout {
    /// Returns the same as damage, with file and offset.
    pub fn torn_damage(&self) -> Vec<Damage> {
        let damage = |(number, hole): (u64, Hole)| {
            let what = if hole.is_followed { "no whole record" } else { "no whole record, at the end" };
            Damage { file: name(number), offset: hole.from, octets: hole.to - hole.from, what }
        };
        self.lost().map(damage).collect()
    }
}

fn list(disk: &dyn Disk) -> Result<(Vec<String>, Vec<u64>), StoreError> {
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok((names, numbers))
}

fn no_beginning(number: u64) -> StoreError {
    StoreError::Corrupt { file: name(number), offset: HEADER_SIZE, what: "it does not begin with a mark" }
}

fn open(disk: &dyn Disk, numbers: &[u64], number: u64) -> Result<Segment, StoreError> {
    if !numbers.contains(&number) {
        return Err(StoreError::Missing { file: name(number) });
    }
    Segment::open(disk, number)
}

/// Returns the beginning of a segment.
fn open_with(segment: &Segment) -> Result<Opening, StoreError> {
    let number = segment.header.number;
    let mut scan = segment.scan(u64::MAX);
    match next(&mut scan, number)? {
        ScanItem::Record { offset, record, .. } => match content(&record, number, offset)? {
            RecordContent::Mark(mark) if mark.salt == segment.header.salt => Ok(Opening::Mark(mark)),
            _ => Err(no_beginning(number)),
        },
        ScanItem::End => Ok(Opening::Unbegun),
        ScanItem::Nothing(offset, _) => {
            let hole = scan.hole(offset).map_err(unreadable(number))?;
            Ok(match hole {
                Hole { is_followed: true, .. } => Opening::Lost,
                Hole { records: 0, .. } if segment.is_end(offset)? => Opening::Unbegun,
                hole => Opening::Torn(hole),
            })
        }
    }
}

/// Returns the end of the segment before this one, from the first mark, if there is one.
///
/// # Errors
/// An I/O error.
pub fn end_before(segment: &Segment) -> Result<Option<u64>, StoreError> {
    Ok(match open_with(segment) {
        Ok(Opening::Mark(mark)) if mark.segment + 1 == segment.header.number => Some(mark.offset),
        Err(error @ StoreError::Io { .. }) => return Err(error),
        Ok(_) | Err(_) => None,
    })
}

impl Last {
    /// Reads the last segment, all of which was synced before `known_end`, or to its end if it
    /// `is_closed`.
    fn find(segment: &Segment, known_end: u64, is_closed: bool) -> Result<Self, StoreError> {
        let number = segment.header.number;
        let mut last =
            Self { end: 0, oldest: 1, unsynced: HEADER_SIZE, holes: Vec::new(), torn: None, doubtful_oldest: 0 };
        let mut scan = segment.scan(u64::MAX);
        loop {
            match next(&mut scan, number)? {
                ScanItem::Record { offset, record, size } => {
                    if let RecordContent::Mark(mark) = content(&record, number, offset)? {
                        last.heed(&mark, number, offset, size)?;
                    }
                }
                ScanItem::End => break,
                ScanItem::Nothing(offset, _) => {
                    let hole = scan.hole(offset).map_err(unreadable(number))?;
                    // Where a recovery has cut, heads of torn records may still be behind.
                    let is_cut = is_closed || offset == known_end;
                    let is_end = segment.is_end(offset)? && !hole.is_followed && (hole.records == 0 || is_cut);
                    // A hole shorter than a head cannot be made a gap; no two records are so near.
                    let is_odd = hole.is_followed && hole.to - hole.from < HEAD_SIZE as u64;
                    if offset < known_end || is_closed && !is_end || is_odd {
                        return Err(damaged(number, offset));
                    }
                    if !hole.is_followed {
                        last.torn = (!is_end).then_some(hole);
                        break;
                    }
                    last.holes.push(hole);
                }
            }
        }
        last.end = scan.offset();
        // A mark cannot need a segment behind it, nor say that it was synced.
        if last.oldest > number || last.unsynced > last.end || known_end > last.end {
            return Err(damaged(number, last.end));
        }
        Ok(last)
    }

    fn heed(&mut self, mark: &Mark, number: u64, offset: u64, size: u64) -> Result<(), StoreError> {
        if let Some(hole) = self.holes.first() {
            if mark.segment == number && mark.offset > hole.from {
                return Err(damaged(number, hole.from));
            }
            // The hole may have held a copy of a message that is otherwise only in an older
            // segment: such a mark must not count.
            if mark.oldest > self.oldest {
                self.doubtful_oldest = self.doubtful_oldest.max(mark.oldest);
                self.holes.push(Hole { from: offset, to: offset + size, is_followed: true, records: 1 });
            }
        } else {
            self.oldest = self.oldest.max(mark.oldest);
        }
        if mark.segment == number {
            self.unsynced = self.unsynced.max(mark.offset);
        }
        Ok(())
    }
}

/// Returns the next record of segment `number`.
///
/// # Errors
/// An I/O error.
pub fn next(scan: &mut Scan, number: u64) -> Result<ScanItem<'_>, StoreError> {
    scan.step().map_err(unreadable(number))
}

/// Returns a function that makes an error of segment `number` that cannot be read. Called for each
/// record, so the text is composed only when there is an error.
pub fn unreadable(number: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |error| StoreError::io(format!("cannot read {}", name(number)))(error)
}

/// Returns the content of a record of segment `number`.
///
/// # Errors
/// The content is not understood.
pub fn content<'a>(record: &Record<'a>, number: u64, offset: u64) -> Result<RecordContent<'a>, StoreError> {
    record.content().map_err(|unknown| not_understood(unknown, number, offset))
}

/// Returns the error of a whole record that is not understood.
pub fn not_understood(unknown: NotUnderstood, number: u64, offset: u64) -> StoreError {
    match unknown {
        NotUnderstood::Newer => StoreError::Newer { file: name(number), offset },
        NotUnderstood::Reserved(what) => StoreError::Reserved { file: name(number), offset, what },
        NotUnderstood::Malformed => {
            StoreError::Corrupt { file: name(number), offset, what: "a record has a right crc and no sense" }
        }
    }
}

/// Returns the error of octets that were synced and are no record.
pub fn damaged(number: u64, offset: u64) -> StoreError {
    StoreError::Corrupt { file: name(number), offset, what: "a record that was synced has a wrong crc" }
}
