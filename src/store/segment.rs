//! One file of the journal: its name, its header, how it comes into being, and the records in it one after the other. Knows
//! no queue, and not which records are still needed.
//!
//! ```text
//!   0          8         12       16         24       32         40      44      64
//!   +----------+---------+--------+----------+--------+----------+-------+-------+---------------------+-----------+
//!   | LEVERETJ | format  | 0      | number   | salt   | capacity | crc   | 0     | mark, records ..    | old octets|
//!   |          | u32     | u32    | u64      | u64    | u64      | u32   |       |                     | or zeros  |
//!   +----------+---------+--------+----------+--------+----------+-------+-------+---------------------+-----------+
//! ```
//!
//! A file becomes a segment in this order: it has another name (`N.spare`); its header is written and synced; it gets the
//! name `N.journal`; the directory is synced; only then records are written to it. So a segment always has a whole header,
//! and what stands behind its last record is of another salt. Leaving is the other way round: a mark that says that it is
//! not needed is synced, then it is renamed to a spare.
//!
//! Where a segment ends: the first mark of the next one says so. In the last segment the first octets that are no record
//! are the end, torn or not, unless a mark behind them says that they had been synced: then they are damaged.

use std::io;
use std::sync::Arc;

use crate::store::disk::{Disk, DiskFile};
use crate::store::error::StoreError;
use crate::store::position::{ALIGNMENT, SEGMENT_MAX};
use crate::store::record::{Content, HEAD_SIZE, Head, NoRecord, Record, may_begin};

/// What a segment's rest is made of, mostly: comparing is the quickest look at it.
const EMPTY: [u8; 4096] = [0; 4096];

/// Octets before the first record.
pub const HEADER_SIZE: u64 = 64;
/// The version of the format of files.
pub const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"LEVERETJ";
/// Octets read at a time, unless a record is longer.
const WINDOW: u64 = 256 * 1024;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number; they follow each other without a gap.
    pub number: u64,
    /// What its records' crcs begin with.
    pub salt: u64,
    /// Octets of the file.
    pub capacity: u64,
}

/// A segment that can be read and written.
#[derive(Clone)]
pub struct Segment {
    /// What it says of itself.
    pub header: Header,
    /// Its file.
    pub file: Arc<dyn DiskFile>,
}

/// The name of a segment's file.
pub fn name(number: u64) -> String {
    format!("{number:010}.journal")
}

/// The number of the segment in a file of that name.
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".journal")?.parse().ok()?;
    (self::name(number) == name && (1..=SEGMENT_MAX).contains(&number)).then_some(number)
}

/// The name of a file that waits to become a segment.
pub fn spare_name(number: u64) -> String {
    format!("{number:010}.spare")
}

/// The number in the name of a spare.
pub fn spare_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".spare")?.parse().ok()?;
    (spare_name(number) == name && number <= SEGMENT_MAX).then_some(number)
}

impl Header {
    fn write(&self) -> [u8; HEADER_SIZE as usize] {
        let mut octets = Vec::with_capacity(HEADER_SIZE as usize);
        octets.extend_from_slice(MAGIC);
        octets.extend_from_slice(&FORMAT.to_le_bytes());
        octets.extend_from_slice(&[0; 4]);
        for number in [self.number, self.salt, self.capacity] {
            octets.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&octets);
        octets.extend_from_slice(&crc.to_le_bytes());
        let mut header = [0; HEADER_SIZE as usize];
        for (to, from) in header.iter_mut().zip(octets) {
            *to = from;
        }
        header
    }

    fn read(file: &dyn DiskFile, name: &str, number: u64) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::Corrupt { file: name.to_owned(), offset: 0, what };
        let mut octets = [0; HEADER_SIZE as usize];
        let length = file.read_at(0, &mut octets).map_err(StoreError::io(format!("cannot read {name}")))?;
        if length < octets.len() || !octets.starts_with(MAGIC) {
            return Err(damaged("it is no journal"));
        }
        let number_at = |at: usize| {
            let octets = octets.get(at..).and_then(|rest| rest.first_chunk::<8>());
            octets.map_or(0, |octets| u64::from_le_bytes(*octets))
        };
        if number_at(8) as u32 > FORMAT {
            return Err(StoreError::Newer { file: name.to_owned(), offset: 8 });
        }
        let crc = octets.get(..40).map(crc32c::crc32c);
        if crc != Some(number_at(40) as u32) || number_at(8) as u32 != FORMAT {
            return Err(damaged("its header has a wrong crc"));
        }
        let header = Self { number: number_at(16), salt: number_at(24), capacity: number_at(32) };
        if header.number != number {
            return Err(damaged("its header has another number"));
        }
        if file.size().map_err(StoreError::io(format!("cannot read {name}")))? < header.capacity {
            return Err(damaged("it is shorter than its header says"));
        }
        Ok(header)
    }
}

impl Segment {
    /// Opens the file of a segment.
    ///
    /// # Errors
    /// If there is none, its header is damaged or newer, or the disk refuses.
    pub fn open(disk: &dyn Disk, number: u64) -> Result<Self, StoreError> {
        let name = name(number);
        let file = disk.open(&name).map_err(StoreError::io(format!("cannot open {name}")))?;
        let header = Header::read(&*file, &name, number)?;
        Ok(Self { header, file })
    }

    /// Puts a header on a file that was made or kept as a spare, without making anything safe yet.
    ///
    /// # Errors
    /// If there is no space (`StorageFull`: may be tried again), or the disk refuses.
    pub fn prepare(disk: &dyn Disk, spare: &str, header: Header) -> io::Result<Self> {
        let file = match disk.create(spare) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(spare)?,
            other => other?,
        };
        if file.size()? != header.capacity {
            file.allocate(header.capacity)?;
        }
        file.write_at(0, &header.write())?;
        Ok(Self { header, file })
    }

    /// Makes the spare a segment. Nothing here may be tried again.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn found(&self, disk: &dyn Disk, spare: &str) -> io::Result<()> {
        self.file.sync_data()?;
        disk.rename(spare, &name(self.header.number))?;
        // IMPORTANT: what is written to a file whose name is not synced can vanish with the name.
        disk.sync_directory()
    }

    /// All records from the first one on, up to `end`.
    pub fn scan(&self, end: u64) -> Scan {
        self.scan_after(None, end)
    }

    /// The same with the memory of a scan that is done.
    pub fn scan_after(&self, before: Option<Scan>, end: u64) -> Scan {
        Scan {
            segment: self.clone(),
            at: HEADER_SIZE,
            end: end.min(self.header.capacity),
            window: Window { buffer: before.map_or_else(Vec::new, |scan| scan.window.buffer), ..Window::default() },
            window_octets: WINDOW,
        }
    }
}

/// Reads the records of a segment one after the other.
pub struct Scan {
    segment: Segment,
    at: u64,
    end: u64,
    window: Window,
    window_octets: u64,
}

/// A stretch of a segment in memory.
#[derive(Default)]
struct Window {
    /// Does not shrink: what is behind `length` is old.
    buffer: Vec<u8>,
    at: u64,
    length: usize,
}

/// What comes next in a segment.
#[derive(Debug)]
pub enum Found<'a> {
    /// A whole record.
    Record {
        /// Where it begins, in octets.
        offset: u64,
        /// The record.
        record: Record<'a>,
        /// Its octets, padding included.
        size: u64,
    },
    /// The scan is at its end exactly.
    End,
    /// Something else begins at this offset.
    Nothing(u64, NoRecord),
}

/// What stands behind the first octets that are no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Records there, whole ones and those with a good head.
    pub records: u64,
    /// Octets up to the end of the last of them.
    pub octets: u64,
    /// Where a mark stands that says that the octets had been synced.
    pub proof: Option<u64>,
}

impl Scan {
    /// Where the next record begins, in octets.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Goes on somewhere else.
    pub fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Has it read so many octets at a time.
    pub fn set_window(&mut self, octets: u64) {
        self.window_octets = octets;
    }

    /// The next record.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn step(&mut self) -> io::Result<Found<'_>> {
        if self.at >= self.end {
            return Ok(Found::End);
        }
        let at = self.at;
        self.fill(at, HEAD_SIZE as u64)?;
        let Some(head) = Head::read(self.window.behind(at), self.segment.header.salt) else {
            return Ok(Found::Nothing(at, NoRecord::Head));
        };
        let size = head.size();
        if at + size > self.end {
            return Ok(Found::Nothing(at, NoRecord::Short(size)));
        }
        self.fill(at, size)?;
        match head.record(self.window.behind(at)) {
            Ok(record) => {
                self.at = at + size;
                Ok(Found::Record { offset: at, record, size })
            }
            Err(error) => Ok(Found::Nothing(at, error)),
        }
    }

    /// Finds out what stands at and behind an offset where no record begins.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn examine(&mut self, bad: u64) -> io::Result<Tail> {
        let (salt, number) = (self.segment.header.salt, self.segment.header.number);
        let (mut tail, mut at) = (Tail::default(), bad);
        while at + HEAD_SIZE as u64 <= self.end {
            self.skip_to(at);
            let foreign = self.foreign()?;
            if foreign > 0 {
                at += foreign;
                continue;
            }
            let (is_head, size, mark) = match self.step()? {
                Found::Record { record, size, .. } => (true, size, record.content().ok()),
                Found::Nothing(_, NoRecord::Payload(size) | NoRecord::Short(size)) => (true, size, None),
                Found::Nothing(_, NoRecord::Head) | Found::End => (false, ALIGNMENT, None),
            };
            if let Some(Content::Mark(mark)) = mark
                && (mark.salt, mark.segment) == (salt, number)
                && mark.offset > bad
            {
                tail.proof = tail.proof.or(Some(at));
            }
            let is_whole = mark.is_some();
            if is_head {
                tail.records += 1;
                tail.octets = tail.octets.max((at + size).min(self.end) - bad);
            }
            // A torn record's length is no way to the next one.
            at += if is_whole { size } else { ALIGNMENT };
        }
        self.skip_to(bad);
        Ok(tail)
    }

    /// So many octets from here on, up to the end of what one read brings, are not the beginning of a record. Most of a segment's
    /// rest is empty, or from an older life of the file: a quick look finds that out.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn foreign(&mut self) -> io::Result<u64> {
        self.fill(self.at, HEAD_SIZE as u64)?;
        let rest = self.window.behind(self.at);
        let empty = rest.chunks_exact(EMPTY.len()).take_while(|part| *part == EMPTY).count() * EMPTY.len();
        let heads = rest.get(empty..).unwrap_or_default().chunks_exact(ALIGNMENT as usize);
        Ok(empty as u64 + heads.take_while(|head| !may_begin(head)).count() as u64 * ALIGNMENT)
    }

    /// Has the window hold `needed` octets from `at` on, as far as there are so many.
    fn fill(&mut self, at: u64, needed: u64) -> io::Result<()> {
        let needed = needed.min(self.end - at);
        if self.window.behind(at).len() as u64 >= needed {
            return Ok(());
        }
        let size = needed.max(self.window_octets).min(self.end - at) as usize;
        let window = &mut self.window;
        if window.buffer.len() < size {
            window.buffer.resize(size, 0);
        }
        // Should the disk refuse, there is nothing in it.
        window.length = 0;
        if let Some(into) = window.buffer.get_mut(..size) {
            window.length = self.segment.file.read_at(at, into)?;
            window.at = at;
        }
        Ok(())
    }
}

impl Window {
    /// The octets from `at` on.
    fn behind(&self, at: u64) -> &[u8] {
        let start = at.checked_sub(self.at).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.buffer.get(start..self.length)).unwrap_or_default()
    }
}
