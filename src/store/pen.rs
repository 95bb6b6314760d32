//! Where the next record goes: the batch that waits to be written, the place in the journal, and what is live. All of it stands
//! under one lock, held for as long as a copy takes. Knows no file and no thread.

use crate::store::live::Live;
use crate::store::position::{OFFSET_LIMIT, Position, SEGMENT_MAX};
use crate::store::random::Random;
use crate::store::record::{Encoded, HEAD_SIZE, MARK_SIZE, Mark, Operation};
use crate::store::segment::{HEADER_SIZE, Header};

/// Octets on their way to the disk.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whole records.
    pub octets: Vec<u8>,
    /// The thread that writes it was told.
    pub is_due: bool,
    /// Where they go; each cut ends where the next begins.
    pub cuts: Vec<Cut>,
}

/// A stretch of one segment.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Where in the batch it begins.
    pub start: usize,
    /// The segment it goes to.
    pub segment: u64,
    /// Where in the segment it goes, in octets.
    pub offset: u64,
    /// The salt of its records.
    pub salt: u64,
    /// The segment begins here.
    pub header: Option<Header>,
}

impl Batch {
    /// The cuts with their octets.
    pub fn stretches(&self) -> impl Iterator<Item = (Cut, &[u8])> {
        let ends = self.cuts.iter().skip(1).map(|next| next.start).chain([self.octets.len()]);
        self.cuts.iter().zip(ends).map(|(cut, end)| (*cut, self.octets.get(cut.start..end).unwrap_or_default()))
    }

    /// The octets from a position on and their salt, if it lies in here.
    pub fn at(&self, position: Position) -> Option<(&[u8], u64)> {
        let mut stretches = self.stretches();
        stretches.find_map(|(cut, octets)| {
            let start = position.offset().checked_sub(cut.offset).filter(|_| cut.segment == position.segment())?;
            let rest = octets.get(start as usize..).filter(|rest| !rest.is_empty())?;
            Some((rest, cut.salt))
        })
    }

    /// Empties it. A buffer that grew beyond `keep` octets is given back.
    pub fn clear(&mut self, keep: usize) {
        self.octets.clear();
        self.octets.shrink_to(keep);
        self.cuts.clear();
        self.is_due = false;
    }
}

/// How a mark at the beginning of a batch knows what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// A batch is written only when everything before it is synced.
    Before,
    /// What was synced is told from time to time.
    Told,
}

/// The next record's place, and what is live.
#[derive(Debug)]
pub struct Pen {
    /// What waits to be written.
    pub batch: Batch,
    /// What is live once it is.
    pub live: Live,
    /// Everything before it was synced, as far as told.
    pub synced: (u64, u64),
    marking: Marking,
    segment: u64,
    offset: u64,
    capacity: u64,
    salt: u64,
    segment_octets: u64,
    random: Random,
}

/// Octets of a batch record, or of one operation, that no segment could hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Pen {
    /// A pen for a journal that ends at `end` in `segment` (0 in 0 for a new one). The first record begins a segment.
    pub fn new(live: Live, segment: u64, end: u64, marking: Marking, segment_octets: u64, random: Random) -> Self {
        Self {
            batch: Batch::default(),
            live,
            synced: (segment, end),
            marking,
            segment,
            offset: end,
            capacity: end,
            salt: 0,
            segment_octets: segment_octets.min(OFFSET_LIMIT),
            random,
        }
    }

    /// The segment that is written to, 0 before there is one.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Where the journal ends, in octets of the last segment.
    pub fn end(&self) -> u64 {
        self.offset
    }

    /// Octets left in the last segment.
    pub fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.offset)
    }

    /// Puts a change into the batch.
    ///
    /// # Errors
    /// If it is larger than any segment.
    pub fn append(&mut self, operation: &Operation<'_>, encoded: &mut Encoded<'_>) -> Result<Position, TooLarge> {
        let position = self.write(encoded)?;
        self.live.apply(operation, position, encoded.size(), false);
        Ok(position)
    }

    /// Puts changes into the batch, of which a crash leaves all or none.
    ///
    /// # Errors
    /// If they are larger than any segment.
    pub fn append_batch(
        &mut self,
        operations: &[Operation<'_>],
        encoded: &mut Encoded<'_>,
    ) -> Result<Position, TooLarge> {
        // The records inside have positions too.
        if encoded.size() > OFFSET_LIMIT - HEADER_SIZE - MARK_SIZE {
            return Err(TooLarge);
        }
        let position = self.write(encoded)?;
        let mut offset = position.offset() + HEAD_SIZE as u64;
        for (operation, size) in operations.iter().zip(encoded.sizes_inside()) {
            self.live.apply(operation, Position::new(position.segment(), offset), size, false);
            offset += size;
        }
        Ok(position)
    }

    /// Puts a mark into the batch that says that segments before `oldest` are not needed.
    ///
    /// # Errors
    /// Never in a journal that is not full.
    pub fn append_mark(&mut self, oldest: u64) -> Result<Position, TooLarge> {
        self.live.forget_before(oldest);
        let mark = self.mark();
        self.write(&mut Encoded::mark(mark))
    }

    /// A mark that holds where the next record goes.
    fn mark(&self) -> Mark {
        let (segment, offset) = match self.marking {
            // True for the beginning of the batch, and so for what it follows.
            Marking::Before => self.batch.cuts.first().map_or((self.segment, self.offset), |cut| match cut.header {
                Some(_) => (cut.segment, HEADER_SIZE),
                None => (cut.segment, cut.offset),
            }),
            Marking::Told => self.synced,
        };
        Mark { salt: self.salt, segment, offset, oldest: self.live.oldest() }
    }

    fn write(&mut self, encoded: &mut Encoded<'_>) -> Result<Position, TooLarge> {
        if encoded.is_too_large() {
            return Err(TooLarge);
        }
        let begins = self.batch.octets.is_empty();
        let before = if begins { MARK_SIZE } else { 0 };
        if self.offset + before + encoded.size() > self.capacity || self.offset + before >= OFFSET_LIMIT {
            self.begin_segment(encoded.size())?;
        } else if begins {
            let mark = self.mark();
            self.cut(None);
            self.put(&mut Encoded::mark(mark));
        }
        let position = Position::new(self.segment, self.offset);
        self.put(encoded);
        Ok(position)
    }

    /// Begins the next segment, with room for a record of `size` octets.
    fn begin_segment(&mut self, size: u64) -> Result<(), TooLarge> {
        if self.segment == SEGMENT_MAX {
            return Err(TooLarge);
        }
        let (before, end) = (self.segment, self.offset);
        self.segment += 1;
        self.offset = HEADER_SIZE;
        self.salt = self.random.draw();
        self.capacity = self.segment_octets.max(HEADER_SIZE + MARK_SIZE + size);
        self.cut(Some(Header { number: self.segment, salt: self.salt, capacity: self.capacity }));
        let oldest = self.live.oldest();
        self.put(&mut Encoded::mark(Mark { salt: self.salt, segment: before, offset: end, oldest }));
        Ok(())
    }

    fn cut(&mut self, header: Option<Header>) {
        let start = self.batch.octets.len();
        let (segment, offset, salt) = (self.segment, self.offset, self.salt);
        self.batch.cuts.push(Cut { start, segment, offset, salt, header });
    }

    fn put(&mut self, encoded: &mut Encoded<'_>) {
        encoded.write(self.salt, &mut self.batch.octets);
        self.offset += encoded.size();
    }
}
