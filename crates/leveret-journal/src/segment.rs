//! A segment: one file of the journal, with its name, its header, and the records in it. Which
//! records are still needed is decided elsewhere.
//!
//! ```text
//!   0          8       12  16      24     32        40   44  64              capacity - 64
//!   +----------+-------+---+-------+------+----------+-----+---+---------+-----+-----+--------+
//!   | LEVERETJ | format| 0 | number| salt | capacity | crc | 0 | mark,   | end | old | the    |
//!   |          | u32   |   | u64   | u64  | u64      | u32 |   | records |     |     | header |
//!   +----------+-------+---+-------+------+----------+-----+---+---------+-----+-----+--------+
//! ```
//!
//! A file becomes a segment in this order: it is a spare (`N.spare`); its header is written and
//! synced; it is renamed to `N.journal`; the directory is synced; the manifest names it; only then
//! records are written to it. So a segment always has a whole header, and octets behind its last
//! record have another salt. It is given up in the opposite order: a mark that it is not needed is
//! synced, then it is renamed to a spare.
//!
//! The first mark of the next segment tells where a segment ends. In the last segment the first
//! octets that are no record are the end, torn or not, unless a mark behind them, the checkpoint or
//! the manifest says that they had been synced: then they are damaged. The last write is followed
//! by an end, if there is room: 8 zero octets, and salt xor offset. So an end is told from a record
//! whose head is damaged, and from octets that are lost. Format 1 has neither ends nor the header
//! at the end of the file.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::position::{ALIGNMENT, SEGMENT_MAX};
use crate::record::{HEAD_SIZE, Head, NoRecord, Record, may_begin};

/// Zeros, as in most of a segment's rest: comparing with them is the fastest check.
const EMPTY: [u8; 4096] = [0; 4096];

/// Octets before the first record.
pub const HEADER_SIZE: u64 = 64;
/// Octets of an end.
pub const END_SIZE: u64 = 16;
/// The version of the format of files.
pub const FORMAT: u32 = 2;
/// The format without ends and without a second header.
const FORMAT_WITHOUT_FOOTER: u32 = 1;
const MAGIC: &[u8; 8] = b"LEVERETJ";
/// Octets read at a time, unless a record is longer.
const WINDOW: u64 = 256 * 1024;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The segment's number; numbers ascend without a gap.
    pub number: u64,
    /// The salt, with which the crcs of its records' heads begin.
    pub salt: u64,
    /// Octets of the file.
    pub capacity: u64,
    /// The version of the file's format.
    pub format: u32,
}

/// An open segment.
#[derive(Clone)]
pub struct Segment {
    /// The header.
    pub header: Header,
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// A fault of the file as a whole, which does not keep it from being read.
    pub fault: Option<&'static str>,
}

/// Returns the name of a segment's file.
pub fn name(number: u64) -> String {
    format!("{number:010}.journal")
}

/// Returns the segment's number from the name of its file.
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".journal")?.parse().ok()?;
    (self::name(number) == name && (1..=SEGMENT_MAX).contains(&number)).then_some(number)
}

/// Returns the name of a spare.
pub fn spare_name(number: u64) -> String {
    format!("{number:010}.spare")
}

/// Returns the number in the name of a spare.
pub fn spare_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".spare")?.parse().ok()?;
    (spare_name(number) == name && number <= SEGMENT_MAX).then_some(number)
}

/// Returns the end for an offset of a segment with this salt.
pub fn end(salt: u64, offset: u64) -> [u8; END_SIZE as usize] {
    let mut end = [0; END_SIZE as usize];
    end[8..].copy_from_slice(&(salt ^ offset).to_le_bytes());
    end
}

impl Header {
    /// Creates the header of a segment of the current format.
    pub fn new(number: u64, salt: u64, capacity: u64) -> Self {
        Self { number, salt, capacity, format: FORMAT }
    }

    /// Returns the capacity of a file with room for records up to an offset.
    pub fn capacity_for(end: u64) -> u64 {
        end + HEADER_SIZE
    }

    /// Returns the offset up to which there is room for records.
    pub fn limit(&self) -> u64 {
        if self.has_end() { self.capacity.saturating_sub(HEADER_SIZE) } else { self.capacity }
    }

    /// Returns true if the format has ends and a second header.
    pub fn has_end(&self) -> bool {
        self.format > FORMAT_WITHOUT_FOOTER
    }

    fn write(&self) -> [u8; HEADER_SIZE as usize] {
        let mut octets = Vec::with_capacity(HEADER_SIZE as usize);
        octets.extend_from_slice(MAGIC);
        octets.extend_from_slice(&self.format.to_le_bytes());
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

    /// Reads the header at an offset of a file.
    fn read(file: &dyn DiskFile, name: &str, number: u64, at: u64) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::Corrupt { file: name.to_owned(), offset: at, what };
        let mut octets = [0; HEADER_SIZE as usize];
        let length = file.read_at(at, &mut octets).map_err(StoreError::io(format!("cannot read {name}")))?;
        if length < octets.len() || !octets.starts_with(MAGIC) {
            return Err(damaged("it is no journal"));
        }
        let number_at = |at: usize| {
            let octets = octets.get(at..).and_then(|rest| rest.first_chunk::<8>());
            octets.map_or(0, |octets| u64::from_le_bytes(*octets))
        };
        let format = number_at(8) as u32;
        let crc = octets.get(..40).map(crc32c::crc32c);
        if crc != Some(number_at(40) as u32) {
            return Err(damaged("its header has a wrong crc"));
        }
        if format > FORMAT {
            return Err(StoreError::Newer { file: name.to_owned(), offset: at + 8 });
        }
        let header = Self { number: number_at(16), salt: number_at(24), capacity: number_at(32), format };
        if header.number != number {
            return Err(damaged("its header has another number"));
        }
        Ok(header)
    }
}

impl Segment {
    /// Opens a segment. One of its two headers suffices.
    ///
    /// # Errors
    /// The file does not exist, its headers are damaged or newer, or an I/O error.
    pub fn open(disk: &dyn Disk, number: u64) -> Result<Self, StoreError> {
        let name = name(number);
        let file = disk.open(&name).map_err(StoreError::io(format!("cannot open {name}")))?;
        let size = file.size().map_err(StoreError::io(format!("cannot read {name}")))?;
        let (header, fault) = match Header::read(&*file, &name, number, 0) {
            Ok(header) => (header, (size < header.capacity).then_some("it is shorter than its header says")),
            Err(StoreError::Corrupt { offset, what, file: of }) => {
                let second = size.checked_sub(HEADER_SIZE).map(|at| Header::read(&*file, &name, number, at));
                match second {
                    Some(Ok(header)) if header.capacity == size && header.has_end() => {
                        (header, Some("its header is damaged, and the copy at its end is not"))
                    }
                    _ => return Err(StoreError::Corrupt { offset, what, file: of }),
                }
            }
            Err(error) => return Err(error),
        };
        Ok(Self { header, file, fault })
    }

    /// Opens a segment whose header is known from elsewhere, whatever its file holds.
    ///
    /// # Errors
    /// There is no such file, or an I/O error.
    pub fn open_as(disk: &dyn Disk, header: Header) -> Result<Self, StoreError> {
        let name = name(header.number);
        match Self::open(disk, header.number) {
            Ok(segment) if segment.header == header => Ok(segment),
            Ok(_) | Err(StoreError::Corrupt { .. }) => {
                let file = disk.open(&name).map_err(StoreError::io(format!("cannot open {name}")))?;
                Ok(Self { header, file, fault: Some("its header is not what it was") })
            }
            Err(error) => Err(error),
        }
    }

    /// Repairs a fault of the file as a whole, and syncs it. The contents of a missing part stay
    /// lost.
    ///
    /// # Errors
    /// An I/O error.
    pub fn repair(&self) -> io::Result<()> {
        if self.fault.is_some() {
            self.file.allocate(self.header.capacity)?;
            self.write_headers()?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn write_headers(&self) -> io::Result<()> {
        let octets = self.header.write();
        if self.header.has_end() {
            self.file.write_at(self.header.limit(), &octets)?;
        }
        self.file.write_at(0, &octets)
    }

    /// Writes an end at an offset, if there is room.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write_end(&self, offset: u64) -> io::Result<()> {
        if self.header.has_end() && offset + END_SIZE <= self.header.limit() {
            self.file.write_at(offset, &end(self.header.salt, offset))?;
        }
        Ok(())
    }

    /// Returns true if the last write ended at an offset, as far as that can be told.
    ///
    /// # Errors
    /// An I/O error.
    pub fn is_end(&self, offset: u64) -> Result<bool, StoreError> {
        // Format 1 has no ends.
        if !self.header.has_end() || offset + END_SIZE > self.header.limit() {
            return Ok(true);
        }
        let mut octets = [0; END_SIZE as usize];
        let read = self.file.read_at(offset, &mut octets);
        read.map_err(StoreError::io(format!("cannot read {}", name(self.header.number))))?;
        Ok(octets == end(self.header.salt, offset))
    }

    /// Writes the header to a new file or a spare; syncs nothing.
    ///
    /// # Errors
    /// `StorageFull`, which may be tried again, or another I/O error.
    pub fn prepare(disk: &dyn Disk, spare: &str, header: Header) -> io::Result<Self> {
        let file = match disk.create(spare) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(spare)?,
            other => other?,
        };
        if file.size()? != header.capacity {
            file.allocate(header.capacity)?;
        }
        let segment = Self { header, file, fault: None };
        segment.write_headers()?;
        segment.write_end(HEADER_SIZE)?;
        Ok(segment)
    }

    /// Makes the spare a segment: syncs the header, renames the file. Must not be tried again.
    ///
    /// # Errors
    /// An I/O error.
    pub fn activate(&self, disk: &dyn Disk, spare: &str) -> io::Result<()> {
        self.file.sync_data()?;
        disk.rename(spare, &name(self.header.number))?;
        // IMPORTANT: octets of a file whose name is not synced can vanish with the name.
        disk.sync_directory()
    }

    /// Returns a scan of the records from the first one to `end`.
    pub fn scan(&self, end: u64) -> Scan {
        self.scan_after(None, end)
    }

    /// Returns a scan as [`Segment::scan`], with the buffer of an earlier one.
    pub fn scan_after(&self, before: Option<Scan>, end: u64) -> Scan {
        Scan {
            segment: self.clone(),
            at: HEADER_SIZE,
            end: end.min(self.header.limit()),
            window: Window { buffer: before.map_or_else(Vec::new, |scan| scan.window.buffer), ..Window::default() },
            window_octets: WINDOW,
        }
    }
}

/// A reader of a segment's records, one after the other.
pub struct Scan {
    segment: Segment,
    at: u64,
    end: u64,
    window: Window,
    window_octets: u64,
}

/// A part of a segment in memory.
#[derive(Default)]
struct Window {
    /// Never shrinks; only the first `length` octets are valid.
    buffer: Vec<u8>,
    at: u64,
    length: usize,
}

/// The next thing in a segment.
#[derive(Debug)]
pub enum ScanItem<'a> {
    /// A whole record.
    Record {
        /// The record's offset.
        offset: u64,
        /// The record.
        record: Record<'a>,
        /// The record's size, padding included, in octets.
        size: u64,
    },
    /// The end of the scan.
    End,
    /// Octets at this offset that are no record.
    Nothing(u64, NoRecord),
}

/// A stretch of octets that are no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hole {
    /// The offset of the first one.
    pub from: u64,
    /// The offset of the next whole record; without one, the end of the last octets that may have
    /// been one.
    pub to: u64,
    /// Records in the hole whose heads are valid.
    pub records: u64,
    /// A whole record follows.
    pub is_followed: bool,
}

impl Scan {
    /// Returns the offset of the next record.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Continues at another offset.
    pub fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    /// Sets how many octets are read at a time.
    pub fn set_window(&mut self, octets: u64) {
        self.window_octets = octets;
    }

    /// Returns the next record.
    ///
    /// # Errors
    /// An I/O error.
    pub fn step(&mut self) -> io::Result<ScanItem<'_>> {
        if self.at >= self.end {
            return Ok(ScanItem::End);
        }
        let at = self.at;
        self.fill(at, HEAD_SIZE as u64)?;
        let Some(head) = Head::read(self.window.behind(at), self.segment.header.salt) else {
            return Ok(ScanItem::Nothing(at, NoRecord::Head));
        };
        let size = head.size();
        if at + size > self.end {
            return Ok(ScanItem::Nothing(at, NoRecord::Short(size)));
        }
        self.fill(at, size)?;
        match head.record(self.window.behind(at)) {
            Ok(record) => {
                self.at = at + size;
                Ok(ScanItem::Record { offset: at, record, size })
            }
            Err(error) => Ok(ScanItem::Nothing(at, error)),
        }
    }

    /// Finds the end of the octets at `from`, where there is no record, and continues there.
    ///
    /// # Errors
    /// An I/O error.
    pub fn hole(&mut self, from: u64) -> io::Result<Hole> {
        let mut hole = Hole { from, to: from, ..Hole::default() };
        let mut at = from;
        while at + HEAD_SIZE as u64 <= self.end {
            self.skip_to(at);
            let foreign = self.foreign()?;
            if foreign > 0 {
                at += foreign;
                continue;
            }
            let why = match self.step()? {
                ScanItem::Record { .. } => None,
                ScanItem::Nothing(_, why) => Some(why),
                ScanItem::End => Some(NoRecord::Head),
            };
            match why {
                None => {
                    self.skip_to(at);
                    return Ok(Hole { to: at, is_followed: true, ..hole });
                }
                // The valid head tells where the next record is.
                Some(NoRecord::Payload(size)) => {
                    hole.records += 1;
                    at += size;
                    hole.to = at;
                }
                Some(NoRecord::Short(_)) => {
                    hole.records += 1;
                    (at, hole.to) = (self.end, self.end);
                }
                Some(NoRecord::Head) => at += ALIGNMENT,
            }
        }
        self.skip_to(from);
        Ok(hole)
    }

    /// Returns how many octets from here on, at most those of one read, are not the beginning of a
    /// record. Most of a segment's rest is zeros or records of another salt, which is found
    /// quickly.
    ///
    /// # Errors
    /// An I/O error.
    pub fn foreign(&mut self) -> io::Result<u64> {
        self.fill(self.at, HEAD_SIZE as u64)?;
        let rest = self.window.behind(self.at);
        let empty = rest.chunks_exact(EMPTY.len()).take_while(|part| *part == EMPTY).count() * EMPTY.len();
        let heads = rest.get(empty..).unwrap_or_default().chunks_exact(ALIGNMENT as usize);
        Ok(empty as u64 + heads.take_while(|head| !may_begin(head)).count() as u64 * ALIGNMENT)
    }

    /// Reads until the window holds `needed` octets from `at` on, or all that there are.
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
        // Nothing is valid if the read fails.
        window.length = 0;
        if let Some(into) = window.buffer.get_mut(..size) {
            window.length = self.segment.file.read_at(at, into)?;
            window.at = at;
        }
        Ok(())
    }
}

impl Window {
    /// Returns the octets of the window from `at` on.
    fn behind(&self, at: u64) -> &[u8] {
        let start = at.checked_sub(self.at).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.buffer.get(start..self.length)).unwrap_or_default()
    }
}
