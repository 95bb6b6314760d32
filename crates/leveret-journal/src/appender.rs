//! The appender: the batch that waits to be written, the end of the journal, and the live set, all
//! under one lock that is held for as long as a copy takes. Names no file and no thread.

use std::sync::Arc;

use crate::encode::{BatchRecord, Encoder, TooLarge, WHOLE_OCTETS, salt_head, write_mark};
use crate::index::Index;
use crate::live::Live;
use crate::position::{OFFSET_LIMIT, Position, SEGMENT_MAX};
use crate::random::Random;
use crate::record::{HEAD_SIZE, MARK_SIZE, Mark, Operation};
use crate::segment::{END_SIZE, HEADER_SIZE, Header, end};

/// Records on their way to the disk.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whole records.
    pub octets: Vec<u8>,
    /// Octets of the records that were handed over whole.
    handed_over: usize,
    /// The thread that writes the batch was woken.
    pub is_due: bool,
    /// Destinations of the octets; each cut ends where the next one begins.
    pub cuts: Vec<Cut>,
    /// The index of the last change in the batch.
    pub last: Index,
}

/// A part of a batch that goes to one segment.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Its first octet in the batch.
    pub start: usize,
    /// The segment's number.
    pub segment: u64,
    /// The offset in the segment, in octets.
    pub offset: u64,
    /// The salt of the segment.
    pub salt: u64,
    /// The header, if the segment begins with this cut.
    pub header: Option<Header>,
    /// The records are followed by an end.
    pub has_end: bool,
    /// A record handed over whole: it is the cut, and none of it is in the batch's own octets.
    pub record: Option<Arc<Vec<u8>>>,
}

impl Batch {
    /// Returns the cuts with their octets.
    pub fn stretches(&self) -> impl Iterator<Item = (&Cut, &[u8])> {
        let ends = self.cuts.iter().skip(1).map(|next| next.start).chain([self.octets.len()]);
        self.cuts.iter().zip(ends).map(|(cut, end)| match &cut.record {
            Some(record) => (cut, record.as_slice()),
            None => (cut, self.octets.get(cut.start..end).unwrap_or_default()),
        })
    }

    /// Returns the octets of all cuts.
    pub fn len(&self) -> usize {
        self.octets.len() + self.handed_over
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Returns the octets from a position on, and their salt, if the position is in the batch.
    pub fn at(&self, position: Position) -> Option<(&[u8], u64)> {
        let mut stretches = self.stretches();
        stretches.find_map(|(cut, octets)| {
            let start = position.offset().checked_sub(cut.offset).filter(|_| cut.segment == position.segment())?;
            let rest = octets.get(start as usize..).filter(|rest| !rest.is_empty())?;
            Some((rest, cut.salt))
        })
    }

    /// Returns the record that was handed over whole and in which a position lies, with the
    /// position's place in it and its salt.
    pub fn record_at(&self, position: Position) -> Option<(Arc<Vec<u8>>, usize, u64)> {
        self.cuts.iter().find_map(|cut| {
            let record = cut.record.as_ref().filter(|_| cut.segment == position.segment())?;
            let start = position.offset().checked_sub(cut.offset)? as usize;
            (start < record.len()).then(|| (Arc::clone(record), start, cut.salt))
        })
    }

    /// Empties the batch; frees its memory if that is more than `keep` octets.
    pub fn clear(&mut self, keep: usize) {
        self.octets.clear();
        self.octets.shrink_to(keep);
        self.cuts.clear();
        self.handed_over = 0;
        self.is_due = false;
    }
}

/// How marks, which begin each batch, know how far the journal was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// A batch is written only after everything before it was synced.
    Before,
    /// The writer reports it, in [`Appender::synced`].
    Told,
}

/// The end of the journal, the batch, and the live set.
#[derive(Debug)]
pub struct Appender {
    /// Records that wait to be written.
    pub batch: Batch,
    /// The live set, including the batch.
    pub live: Live,
    /// Segment and offset up to which the journal was synced, as far as reported.
    pub synced: (u64, u64),
    marking: Marking,
    segment: u64,
    offset: u64,
    capacity: u64,
    salt: u64,
    /// The salt of the next segment: what goes there can be encoded before it is begun.
    next_salt: u64,
    segment_octets: u64,
    random: Random,
    /// The index of the last change.
    last: Index,
    /// Work done under holds of the lock.
    #[cfg(any(test, feature = "simulation"))]
    pub work: HoldWork,
}

/// Work done under holds of the appender's lock: for tests that bound it.
#[cfg(any(test, feature = "simulation"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldWork {
    /// Holds so far.
    pub holds: u64,
    /// Changes made live, and octets copied, under the present hold.
    now: (u64, u64),
    /// Most of both under one hold.
    pub most: (u64, u64),
}

#[cfg(any(test, feature = "simulation"))]
impl HoldWork {
    /// Begins a hold.
    pub fn begin(&mut self) {
        self.holds += 1;
        self.now = (0, 0);
    }

    fn add(&mut self, changes: u64, octets: u64) {
        self.now = (self.now.0 + changes, self.now.1 + octets);
        self.most = (self.most.0.max(self.now.0), self.most.1.max(self.now.1));
    }
}

impl Appender {
    /// Creates the appender of a journal that ends at `end` in `segment` (0 in 0 for a new one).
    /// The first record begins a segment.
    pub fn new(live: Live, segment: u64, end: u64, marking: Marking, segment_octets: u64, mut random: Random) -> Self {
        Self {
            batch: Batch::default(),
            live,
            synced: (segment, end),
            marking,
            segment,
            offset: end,
            capacity: end,
            salt: 0,
            next_salt: random.draw(),
            segment_octets: segment_octets.min(OFFSET_LIMIT),
            random,
            last: Index::ZERO,
            #[cfg(any(test, feature = "simulation"))]
            work: HoldWork::default(),
        }
    }

    /// Returns the index of the last change.
    pub fn last(&self) -> Index {
        self.last
    }

    /// Returns the number of the last segment; 0 if there is none.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Returns the end of the journal, as an offset in the last segment.
    pub fn end(&self) -> u64 {
        self.offset
    }

    /// Returns the octets left in the last segment.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.offset)
    }

    /// Appends a change to the batch: record `at` of `encoder`.
    ///
    /// # Errors
    /// The record is larger than a segment.
    pub fn append(&mut self, operation: &Operation<'_>, encoder: &Encoder, at: usize) -> Result<Index, TooLarge> {
        let size = encoder.size(at);
        let position = self.begin_record(size)?;
        encoder.write(at, operation, false, self.salt, &mut self.batch.octets);
        #[cfg(any(test, feature = "simulation"))]
        self.work.add(0, size);
        self.make_live(operation, position, size);
        Ok(self.end_record(size))
    }

    /// Appends a change to the batch whose record was encoded whole, without a copy of it.
    ///
    /// # Errors
    /// The record is larger than a segment.
    pub fn append_whole(&mut self, operation: &Operation<'_>, mut record: Vec<u8>) -> Result<Index, TooLarge> {
        let size = record.len() as u64;
        let position = self.begin_record(size)?;
        salt_head(&mut record, self.salt);
        self.hand_over(record);
        self.make_live(operation, position, size);
        Ok(self.end_record(size))
    }

    /// Appends changes to the batch as one record, of which a crash leaves all or none. Returns its
    /// index, and the position from which on the caller is to make the changes live.
    ///
    /// # Errors
    /// The record is larger than a segment.
    pub fn append_batch(&mut self, mut record: BatchRecord) -> Result<(Index, Position), TooLarge> {
        let size = record.size();
        // The records inside have positions too.
        if size > OFFSET_LIMIT - HEADER_SIZE - MARK_SIZE {
            return Err(TooLarge);
        }
        let position = self.begin_record(size)?;
        record.set_salt(self.salt);
        if size >= WHOLE_OCTETS {
            self.hand_over(record.into_octets());
        } else {
            self.batch.octets.extend_from_slice(record.octets());
            #[cfg(any(test, feature = "simulation"))]
            self.work.add(0, size);
        }
        let inside = Position::new(position.segment(), position.offset() + HEAD_SIZE as u64);
        Ok((self.end_record(size), inside))
    }

    /// Applies a change to the live set.
    pub fn make_live(&mut self, operation: &Operation<'_>, position: Position, size: u64) {
        self.live.apply(operation, position, size, false);
        #[cfg(any(test, feature = "simulation"))]
        self.work.add(1, 0);
    }

    /// Returns the salt of the segment that a record of `size` octets would go to.
    pub fn salt(&self, size: u64) -> u64 {
        if self.fits(size) { self.salt } else { self.next_salt }
    }

    fn fits(&self, size: u64) -> bool {
        let before = if self.batch.is_empty() { MARK_SIZE } else { 0 };
        self.offset + before + size <= self.capacity && self.offset + before < OFFSET_LIMIT
    }

    /// Adds a whole record as a cut of its own.
    fn hand_over(&mut self, record: Vec<u8>) {
        self.batch.handed_over += record.len();
        self.cut(None);
        if let Some(cut) = self.batch.cuts.last_mut() {
            cut.record = Some(Arc::new(record));
        }
    }

    /// Appends a mark: segments before `oldest` are not needed.
    ///
    /// # Errors
    /// The journal has no segment number left.
    pub fn append_mark(&mut self, oldest: u64) -> Result<Index, TooLarge> {
        self.live.forget_before(oldest);
        let mark = self.mark();
        self.begin_record(MARK_SIZE)?;
        write_mark(Mark { salt: self.salt, ..mark }, self.salt, &mut self.batch.octets);
        Ok(self.end_record(MARK_SIZE))
    }

    /// Returns a mark for the place of the next record.
    fn mark(&self) -> Mark {
        let (segment, offset) = match self.marking {
            // True of the batch's beginning, and so of everything before it.
            Marking::Before => self.batch.cuts.first().map_or((self.segment, self.offset), |cut| match cut.header {
                Some(_) => (cut.segment, HEADER_SIZE),
                None => (cut.segment, cut.offset),
            }),
            Marking::Told => self.synced,
        };
        Mark { salt: self.salt, segment, offset, oldest: self.live.oldest() }
    }

    /// Makes room for a record of `size` octets and returns its position. The caller writes it,
    /// then calls [`Appender::end_record`].
    fn begin_record(&mut self, size: u64) -> Result<Position, TooLarge> {
        if !self.fits(size) {
            self.begin_segment(size)?;
        } else if self.batch.is_empty() {
            let mark = self.mark();
            self.cut(None);
            self.put_mark(mark);
        } else {
            self.follow_record();
        }
        Ok(Position::new(self.segment, self.offset))
    }

    /// Begins a cut if the last one is a record that was handed over.
    fn follow_record(&mut self) {
        if self.batch.cuts.last().is_some_and(|cut| cut.record.is_some()) {
            self.cut(None);
        }
    }

    fn end_record(&mut self, size: u64) -> Index {
        self.offset += size;
        self.last = self.last.next();
        self.batch.last = self.last;
        self.last
    }

    /// Begins a new segment, with room for a record of `size` octets.
    fn begin_segment(&mut self, size: u64) -> Result<(), TooLarge> {
        if self.segment == SEGMENT_MAX {
            return Err(TooLarge);
        }
        let (before, end) = (self.segment, self.offset);
        self.put_end();
        self.segment += 1;
        self.offset = HEADER_SIZE;
        self.salt = std::mem::replace(&mut self.next_salt, self.random.draw());
        let capacity = self.segment_octets.max(Header::capacity_for(HEADER_SIZE + MARK_SIZE + size));
        let header = Header::new(self.segment, self.salt, capacity);
        self.capacity = header.limit();
        self.cut(Some(header));
        let oldest = self.live.oldest();
        self.put_mark(Mark { salt: self.salt, segment: before, offset: end, oldest });
        Ok(())
    }

    /// Puts an end behind the batch's records, if there is room. The next record overwrites it.
    pub fn put_end(&mut self) {
        if self.offset + END_SIZE > self.capacity {
            return;
        }
        self.follow_record();
        if let Some(cut) = self.batch.cuts.last_mut() {
            cut.has_end = true;
            self.batch.octets.extend_from_slice(&end(self.salt, self.offset));
        }
    }

    fn cut(&mut self, header: Option<Header>) {
        let start = self.batch.octets.len();
        let (segment, offset, salt) = (self.segment, self.offset, self.salt);
        self.batch.cuts.push(Cut { start, segment, offset, salt, header, has_end: false, record: None });
    }

    fn put_mark(&mut self, mark: Mark) {
        write_mark(mark, self.salt, &mut self.batch.octets);
        self.offset += MARK_SIZE;
    }
}
