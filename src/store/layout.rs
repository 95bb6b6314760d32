//! Which segments a directory holds, which of them are needed, and where each ends. Reads and changes nothing; knows no queue.

use std::collections::BTreeMap;
use std::io;

use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::record::{Content, Mark, Record, Unknown};
use crate::store::segment::{Found, HEADER_SIZE, Scan, Segment, Tail, name, number_of, spare_of};

/// The files of a journal.
pub struct Layout {
    /// The needed segments, from the first to the last with a record, without a gap.
    pub segments: BTreeMap<u64, Needed>,
    /// The last of them, 0 if there is none.
    pub last: u64,
    /// The first needed segment, even if there is none yet.
    pub oldest: u64,
    /// From here on octets of the last segment may not have been synced.
    pub unsynced: u64,
    /// What stands behind the end of the last segment.
    pub torn: Tail,
    /// Segments that are not needed: given up, or not begun.
    pub leftovers: Vec<u64>,
    /// Spare files.
    pub spares: Vec<u64>,
}

/// One needed segment.
#[derive(Clone)]
pub struct Needed {
    /// It.
    pub segment: Segment,
    /// Where its records end, in octets.
    pub end: u64,
}

/// How far the last segment goes.
struct Last {
    end: u64,
    oldest: u64,
    unsynced: u64,
    torn: Tail,
}

impl Layout {
    /// Looks at a directory.
    ///
    /// # Errors
    /// If a file that is needed is missing, damaged or newer, or the disk refuses.
    pub fn read(disk: &dyn Disk) -> Result<Self, StoreError> {
        let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let mut layout = Self {
            segments: BTreeMap::new(),
            last: 0,
            oldest: 1,
            unsynced: 0,
            torn: Tail::default(),
            leftovers: Vec::new(),
            spares: names.iter().filter_map(|name| spare_of(name)).collect(),
        };
        let Some(mut last) = numbers.last().copied() else { return Ok(layout) };
        // The last segment may have been founded and not begun.
        let mut segment = Segment::open(disk, last)?;
        let mut opening = begin(&segment)?;
        if opening.is_none() {
            layout.leftovers.push(last);
            last -= 1;
            if last == 0 {
                return Ok(layout);
            }
            segment = open(disk, &numbers, last)?;
            opening = begin(&segment)?;
        }
        let Some(mut opening) = opening else { return Err(no_beginning(last)) };
        let ending = Last::find(&segment)?;
        (layout.last, layout.oldest) = (last, ending.oldest);
        (layout.unsynced, layout.torn) = (ending.unsynced, ending.torn);
        layout.segments.insert(last, Needed { segment, end: ending.end });
        layout.leftovers.extend(numbers.iter().filter(|number| **number < ending.oldest));
        for number in (ending.oldest..last).rev() {
            let segment = open(disk, &numbers, number)?;
            if opening.segment != number {
                return Err(no_beginning(number + 1));
            }
            let end = opening.offset;
            opening = begin(&segment)?.ok_or_else(|| no_beginning(number))?;
            layout.segments.insert(number, Needed { segment, end });
        }
        Ok(layout)
    }
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

/// The mark that a segment begins with; none if nothing was ever written to it.
fn begin(segment: &Segment) -> Result<Option<Mark>, StoreError> {
    let number = segment.header.number;
    let mut scan = segment.scan(u64::MAX);
    match next(&mut scan, number)? {
        Found::Record { offset, record, .. } => match content(&record, number, offset)? {
            Content::Mark(mark) if mark.salt == segment.header.salt => Ok(Some(mark)),
            _ => Err(no_beginning(number)),
        },
        Found::End => Ok(None),
        Found::Nothing(offset, _) => match examine(&mut scan, number, offset)?.proof {
            Some(_) => Err(damaged(number, offset)),
            None => Ok(None),
        },
    }
}

impl Last {
    fn find(segment: &Segment) -> Result<Self, StoreError> {
        let number = segment.header.number;
        let mut last = Self { end: 0, oldest: 1, unsynced: HEADER_SIZE, torn: Tail::default() };
        let mut scan = segment.scan(u64::MAX);
        loop {
            match next(&mut scan, number)? {
                Found::Record { offset, record, .. } => {
                    if let Content::Mark(mark) = content(&record, number, offset)? {
                        last.oldest = last.oldest.max(mark.oldest);
                        if mark.segment == number {
                            last.unsynced = last.unsynced.max(mark.offset);
                        }
                    }
                }
                Found::End => break,
                Found::Nothing(offset, _) => {
                    last.torn = examine(&mut scan, number, offset)?;
                    if last.torn.proof.is_some() {
                        return Err(damaged(number, offset));
                    }
                    break;
                }
            }
        }
        last.end = scan.offset();
        // A mark cannot need what comes after it, nor have synced it.
        if last.oldest > number || last.unsynced > last.end {
            return Err(damaged(number, last.end));
        }
        Ok(last)
    }
}

fn examine(scan: &mut Scan, number: u64, offset: u64) -> Result<Tail, StoreError> {
    scan.examine(offset).map_err(unreadable(number))
}

/// The next record of segment `number`.
///
/// # Errors
/// If the disk refuses.
pub fn next(scan: &mut Scan, number: u64) -> Result<Found<'_>, StoreError> {
    scan.step().map_err(unreadable(number))
}

/// The error for a segment that the disk does not read. Its words are put together when it is one: this is asked for each record.
pub fn unreadable(number: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |error| StoreError::io(format!("cannot read {}", name(number)))(error)
}

/// What a record of segment `number` holds.
///
/// # Errors
/// If it is not understood.
pub fn content<'a>(record: &Record<'a>, number: u64, offset: u64) -> Result<Content<'a>, StoreError> {
    record.content().map_err(|unknown| not_understood(unknown, number, offset))
}

/// The error for a whole record that is not understood.
pub fn not_understood(unknown: Unknown, number: u64, offset: u64) -> StoreError {
    match unknown {
        Unknown::Newer => StoreError::Newer { file: name(number), offset },
        Unknown::Malformed => {
            StoreError::Corrupt { file: name(number), offset, what: "a record has a right crc and no sense" }
        }
    }
}

/// The error for octets that were synced and are no record.
pub fn damaged(number: u64, offset: u64) -> StoreError {
    StoreError::Corrupt { file: name(number), offset, what: "a record that was synced has a wrong crc" }
}
