//! The format of a record. Knows no file, and not what the octets of a message or a definition mean.
//!
//! All numbers are little-endian. A record begins at a multiple of 8 octets and is padded with zeros to the next.
//!
//! ```text
//!   0        4     5        6         8             12           16
//!   +--------+-----+--------+---------+-------------+------------+----------------------+---------+
//!   | length | kind| version| 0       | crc32c      | crc32c     | payload              | 0 .. 0  |
//!   | u32    | u8  | u8     | u16     | of payload  | of 0..12   | length octets        | padding |
//!   +--------+-----+--------+---------+-------------+------------+----------------------+---------+
//!
//!   The crc of the head goes on from the eight octets of the segment's salt. A salt is drawn anew each time a file is
//!   used, so what an older life of the file left behind is not a record, nor is what a publisher put into a body.
//!
//!   1 Publish    | wall ms u64 | flags u32 | targets u32 | route u32 | properties u32 | body u32 | 0 u32 |
//!                | targets: (queue u64, seq u62 + handed out at bit 62 + transient at bit 63) ..
//!                | route | properties | body |
//!   2 Settle     | queue u64 | runs: (first u64, last u64) .. |
//!   3 Purge      | queue u64 | below u64 |       every message of the queue with a seq below is gone
//!   4 QueueGone  | queue u64 |                   every message is
//!   5 HandedOut  | queue u64 | upto u64 |        messages up to that seq may have been delivered
//!   6 Define     | key length u32 | 0 u32 | key | value |
//!   7 Undefine   | key |
//!   8 Batch      | records 1 to 7, whole, each padded |   all of them or none
//!   9 Mark       | salt u64 | segment u64 | offset u64 | oldest u64 |
//!                everything before (segment, offset) was synced when this was written, and no segment below `oldest` is
//!                needed. The first record of each segment is one, and says where the segment before it ends.
//!  10 Gap        | anything |                    octets given up by a repair
//! ```

use crate::store::list::{List, PAIR_SIZE, Run, Target};
use crate::store::position::ALIGNMENT;

/// Octets before the payload.
pub const HEAD_SIZE: usize = 16;
/// The version of every kind of record.
pub const VERSION: u8 = 1;
/// Octets of a whole mark.
pub const MARK_SIZE: u64 = 48;
/// Most octets of a payload.
pub const PAYLOAD_MAX: u64 = 1 << 31;

const PUBLISH: u8 = 1;
const SETTLE: u8 = 2;
const PURGE: u8 = 3;
const QUEUE_GONE: u8 = 4;
const HANDED_OUT: u8 = 5;
const DEFINE: u8 = 6;
const UNDEFINE: u8 = 7;
const BATCH: u8 = 8;
const MARK: u8 = 9;
const GAP: u8 = 10;

/// A message and the places it takes.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// The wall clock when it was published, in ms since 1970.
    pub at_ms: u64,
    /// The caller's flags.
    pub flags: u32,
    /// The queues that hold it.
    pub targets: List<'a, Target>,
    /// Exchange and key, as the caller encodes them.
    pub route: &'a [u8],
    /// Its properties.
    pub properties: &'a [u8],
    /// Its body.
    pub body: &'a [u8],
}

/// One change of what the store holds.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// A message arrived.
    Publish(Publish<'a>),
    /// Messages of a queue are done with.
    Settle {
        /// The queue's number.
        queue: u64,
        /// Which.
        runs: List<'a, Run>,
    },
    /// Every message of the queue with a lower number is done with.
    Purge {
        /// The queue's number.
        queue: u64,
        /// The number of the first message that stays.
        below: u64,
    },
    /// The queue and all its messages are gone.
    QueueGone {
        /// The queue's number.
        queue: u64,
    },
    /// Messages up to this one may have been delivered; after a crash they are redelivered.
    HandedOut {
        /// The queue's number.
        queue: u64,
        /// The number of the last one.
        upto: u64,
    },
    /// A durable definition, new or in the place of the one with the same key.
    Define {
        /// Its name.
        key: &'a [u8],
        /// What it says.
        value: &'a [u8],
    },
    /// A definition is gone.
    Undefine {
        /// Its name.
        key: &'a [u8],
    },
}

/// What was synced, and what is needed, when the mark was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The salt of the segment it stands in.
    pub salt: u64,
    /// Everything before this offset of this segment was synced.
    pub segment: u64,
    /// See `segment`; octets.
    pub offset: u64,
    /// The first segment that is needed.
    pub oldest: u64,
}

/// What a record holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// One change.
    Operation(Operation<'a>),
    /// Whole records, all or none; [`records`] reads them.
    Batch(&'a [u8]),
    /// A mark.
    Mark(Mark),
    /// Given up.
    Gap,
}

/// Why octets are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRecord {
    /// No head with this salt.
    Head,
    /// The head is right, and the record has so many octets, more than there are.
    Short(u64),
    /// The head is right and the payload is not; so many octets in all.
    Payload(u64),
}

/// Why a whole record is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// A later version of this program wrote it.
    Newer,
    /// Its crc is right and its content is not.
    Malformed,
}

/// A whole record with a right crc.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    kind: u8,
    version: u8,
    payload: &'a [u8],
}

/// A record on its way to the journal, everything done that needs no salt.
#[derive(Debug)]
pub struct Encoded<'a> {
    kind: u8,
    /// The payload up to the parts.
    start: Vec<u8>,
    parts: [&'a [u8]; 3],
    crc: u32,
    length: u64,
}

/// Octets of a record with such a payload, padding included.
pub fn padded(payload: u64) -> u64 {
    (HEAD_SIZE as u64 + payload).next_multiple_of(ALIGNMENT)
}

fn head(kind: u8, length: u64, payload_crc: u32, salt: u64) -> [u8; HEAD_SIZE] {
    let [l0, l1, l2, l3] = (length as u32).to_le_bytes();
    let [c0, c1, c2, c3] = payload_crc.to_le_bytes();
    let start = [l0, l1, l2, l3, kind, VERSION, 0, 0, c0, c1, c2, c3];
    let [h0, h1, h2, h3] = head_crc(&start, salt).to_le_bytes();
    [l0, l1, l2, l3, kind, VERSION, 0, 0, c0, c1, c2, c3, h0, h1, h2, h3]
}

fn head_crc(start: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), start)
}

/// The head of a record.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    kind: u8,
    version: u8,
    length: u64,
    crc: u32,
}

impl Head {
    /// Reads the head that `octets` begin with, if it is one of this salt.
    pub fn read(octets: &[u8], salt: u64) -> Option<Self> {
        let head = octets.first_chunk::<HEAD_SIZE>()?;
        let [l0, l1, l2, l3, kind, version, _, _, c0, c1, c2, c3, h0, h1, h2, h3] = *head;
        let start = [l0, l1, l2, l3, kind, version, head[6], head[7], c0, c1, c2, c3];
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let is_head = u32::from_le_bytes([h0, h1, h2, h3]) == head_crc(&start, salt) && length <= PAYLOAD_MAX;
        is_head.then_some(Self { kind, version, length, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    /// Octets of the whole record, padding included.
    pub fn size(&self) -> u64 {
        padded(self.length)
    }

    /// The record that `octets` begin with, whose head this is.
    ///
    /// # Errors
    /// If it is not whole.
    pub fn record<'a>(&self, octets: &'a [u8]) -> Result<Record<'a>, NoRecord> {
        let end = HEAD_SIZE + self.length as usize;
        let payload = octets.get(HEAD_SIZE..end).ok_or(NoRecord::Short(self.size()))?;
        if self.crc != crc32c::crc32c(payload) {
            return Err(NoRecord::Payload(self.size()));
        }
        Ok(Record { kind: self.kind, version: self.version, payload })
    }
}

/// Whether a record, of this version or a later one, may begin with these eight octets: a look that costs less than a crc.
pub fn may_begin(start: &[u8]) -> bool {
    matches!(start, [_, _, _, _, 1..=255, 1..=255, 0, 0])
}

/// Reads the record that `octets` begin with.
///
/// # Errors
/// If there is none.
pub fn read(octets: &[u8], salt: u64) -> Result<(Record<'_>, u64), NoRecord> {
    let head = Head::read(octets, salt).ok_or(NoRecord::Head)?;
    Ok((head.record(octets)?, head.size()))
}

/// The records of a batch: where each begins in the payload, itself, and its octets. Ends early at one that is none.
pub fn records(payload: &[u8], salt: u64) -> impl Iterator<Item = (u64, Result<Record<'_>, NoRecord>, u64)> {
    let mut at = 0_u64;
    std::iter::from_fn(move || {
        let rest = payload.get(at as usize..).filter(|rest| !rest.is_empty())?;
        let (record, size) = match read(rest, salt) {
            Ok((record, size)) => (Ok(record), size),
            Err(error) => (Err(error), rest.len() as u64),
        };
        let start = at;
        at += size;
        Some((start, record, size))
    })
}

impl<'a> Record<'a> {
    /// What it holds.
    ///
    /// # Errors
    /// If this program does not understand it.
    pub fn content(&self) -> Result<Content<'a>, Unknown> {
        if self.version > VERSION || self.kind > GAP {
            return Err(Unknown::Newer);
        }
        self.parse().ok_or(Unknown::Malformed)
    }

    fn parse(&self) -> Option<Content<'a>> {
        let mut rest = self.payload;
        let operation = match self.kind {
            PUBLISH => Operation::Publish(publish(rest)?),
            SETTLE => {
                let queue = take_u64(&mut rest)?;
                let runs = rest.len().is_multiple_of(PAIR_SIZE).then_some(List::Octets(rest))?;
                Operation::Settle { queue, runs }
            }
            PURGE => Operation::Purge { queue: take_u64(&mut rest)?, below: take_u64(&mut rest)? },
            QUEUE_GONE => Operation::QueueGone { queue: take_u64(&mut rest)? },
            HANDED_OUT => Operation::HandedOut { queue: take_u64(&mut rest)?, upto: take_u64(&mut rest)? },
            DEFINE => {
                let length = take_u32(&mut rest)? as usize;
                take_u32(&mut rest)?;
                let (key, value) = rest.split_at_checked(length)?;
                Operation::Define { key, value }
            }
            UNDEFINE => Operation::Undefine { key: rest },
            BATCH => return Some(Content::Batch(rest)),
            MARK => {
                let (salt, segment) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                let (offset, oldest) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                return Some(Content::Mark(Mark { salt, segment, offset, oldest }));
            }
            GAP => return Some(Content::Gap),
            _ => return None,
        };
        Some(Content::Operation(operation))
    }
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(u32::from_le_bytes(*number))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*number))
}

fn publish(mut rest: &[u8]) -> Option<Publish<'_>> {
    let (at_ms, flags) = (take_u64(&mut rest)?, take_u32(&mut rest)?);
    let targets = (take_u32(&mut rest)? as usize).checked_mul(PAIR_SIZE)?;
    let (route, properties) = (take_u32(&mut rest)? as usize, take_u32(&mut rest)? as usize);
    let body = take_u32(&mut rest)? as usize;
    take_u32(&mut rest)?;
    let (targets, rest) = rest.split_at_checked(targets)?;
    let (route, rest) = rest.split_at_checked(route)?;
    let (properties, rest) = rest.split_at_checked(properties)?;
    (rest.len() == body).then_some(Publish {
        at_ms,
        flags,
        targets: List::Octets(targets),
        route,
        properties,
        body: rest,
    })
}

impl<'a> Encoded<'a> {
    /// One change.
    pub fn operation(operation: &Operation<'a>) -> Self {
        let mut start = Vec::new();
        let mut parts: [&[u8]; 3] = [&[]; 3];
        let kind = match *operation {
            Operation::Publish(publish) => {
                parts = [publish.route, publish.properties, publish.body];
                encode_publish(&publish, &mut start);
                PUBLISH
            }
            Operation::Settle { queue, runs } => {
                start.extend_from_slice(&queue.to_le_bytes());
                runs.write(&mut start);
                SETTLE
            }
            Operation::Purge { queue, below } => {
                start.extend_from_slice(&queue.to_le_bytes());
                start.extend_from_slice(&below.to_le_bytes());
                PURGE
            }
            Operation::QueueGone { queue } => {
                start.extend_from_slice(&queue.to_le_bytes());
                QUEUE_GONE
            }
            Operation::HandedOut { queue, upto } => {
                start.extend_from_slice(&queue.to_le_bytes());
                start.extend_from_slice(&upto.to_le_bytes());
                HANDED_OUT
            }
            Operation::Define { key, value } => {
                start.extend_from_slice(&(key.len() as u32).to_le_bytes());
                start.extend_from_slice(&[0; 4]);
                parts = [key, value, &[]];
                DEFINE
            }
            Operation::Undefine { key } => {
                parts = [key, &[], &[]];
                UNDEFINE
            }
        };
        Self::new(kind, start, parts)
    }

    /// All changes or none.
    pub fn batch(operations: &[Operation<'a>]) -> Self {
        let mut start = Vec::new();
        for operation in operations {
            // The salt is not known yet: `write` puts the heads right.
            Self::operation(operation).write(0, &mut start);
        }
        Self::new(BATCH, start, [&[]; 3])
    }

    /// A mark.
    pub fn mark(mark: Mark) -> Self {
        let numbers = [mark.salt, mark.segment, mark.offset, mark.oldest];
        Self::new(MARK, numbers.iter().flat_map(|number| number.to_le_bytes()).collect(), [&[]; 3])
    }

    fn new(kind: u8, start: Vec<u8>, parts: [&'a [u8]; 3]) -> Self {
        let length = start.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        let crc = if kind == BATCH { 0 } else { parts.iter().fold(crc32c::crc32c(&start), crc_on) };
        Self { kind, start, parts, crc, length: length as u64 }
    }

    /// Octets of the whole record.
    pub fn size(&self) -> u64 {
        padded(self.length)
    }

    /// Octets of each record in a batch.
    pub fn sizes_inside(&self) -> impl Iterator<Item = u64> + '_ {
        let mut rest = self.start.as_slice();
        std::iter::from_fn(move || {
            let length = u32::from_le_bytes(*rest.first_chunk::<4>()?);
            let size = padded(u64::from(length));
            rest = rest.get(size as usize..).unwrap_or_default();
            Some(size)
        })
    }

    /// Whether it can be a record at all.
    pub fn is_too_large(&self) -> bool {
        self.length > PAYLOAD_MAX
    }

    /// Appends the record as it stands in a segment with this salt.
    pub fn write(&mut self, salt: u64, out: &mut Vec<u8>) {
        if self.kind == BATCH {
            salt_heads(&mut self.start, salt);
            self.crc = crc32c::crc32c(&self.start);
        }
        out.extend_from_slice(&head(self.kind, self.length, self.crc, salt));
        out.extend_from_slice(&self.start);
        for part in self.parts {
            out.extend_from_slice(part);
        }
        let padding = self.size() - HEAD_SIZE as u64 - self.length;
        out.resize(out.len() + padding as usize, 0);
    }
}

/// The head that makes a record that says nothing out of `size` octets, whatever stands behind it.
pub fn gap_head(behind: &[u8], salt: u64) -> [u8; HEAD_SIZE] {
    head(GAP, behind.len() as u64, crc32c::crc32c(behind), salt)
}

fn crc_on(crc: u32, part: &&[u8]) -> u32 {
    if part.is_empty() { crc } else { crc32c::crc32c_append(crc, part) }
}

fn encode_publish(publish: &Publish<'_>, out: &mut Vec<u8>) {
    out.reserve(32 + publish.targets.len() * PAIR_SIZE);
    out.extend_from_slice(&publish.at_ms.to_le_bytes());
    out.extend_from_slice(&publish.flags.to_le_bytes());
    for length in [publish.targets.len(), publish.route.len(), publish.properties.len(), publish.body.len(), 0] {
        out.extend_from_slice(&(length as u32).to_le_bytes());
    }
    publish.targets.write(out);
}

/// Gives whole records that were written without a salt the crc of one.
fn salt_heads(mut records: &mut [u8], salt: u64) {
    while let Some((head, behind)) = records.split_first_chunk_mut::<HEAD_SIZE>() {
        let (start, crc) = head.split_at_mut(12);
        crc.copy_from_slice(&head_crc(start, salt).to_le_bytes());
        let length = start.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
        let rest = padded(u64::from(length)) as usize - HEAD_SIZE;
        records = behind.get_mut(rest..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn written(mut encoded: Encoded<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encoded.write(SALT, &mut out);
        assert_eq!(out.len() as u64, encoded.size());
        out
    }

    fn said(octets: &[u8]) -> String {
        let (record, size) = read(octets, SALT).unwrap();
        assert_eq!(size, octets.len() as u64);
        match record.content().unwrap() {
            Content::Operation(Operation::Publish(publish)) => {
                let targets: Vec<Target> = publish.targets.iter().collect();
                format!("{} {} {targets:?} {:?}", publish.at_ms, publish.flags, (publish.route, publish.body))
            }
            Content::Operation(Operation::Settle { queue, runs }) => {
                format!("settle {queue} {:?}", runs.iter().collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        }
    }

    fn all<'a>(targets: &'a [Target], runs: &'a [Run], octets: &'a [u8]) -> Vec<Operation<'a>> {
        let targets = List::Given(targets);
        vec![
            Operation::Publish(Publish { at_ms: 9, flags: 3, targets, route: octets, properties: b"pp", body: octets }),
            Operation::Settle { queue: 7, runs: List::Given(runs) },
            Operation::Purge { queue: 7, below: u64::MAX },
            Operation::QueueGone { queue: 7 },
            Operation::HandedOut { queue: 7, upto: 8 },
            Operation::Define { key: octets, value: b"v" },
            Operation::Undefine { key: octets },
        ]
    }

    #[test]
    fn the_first_format_is_what_it_was() {
        let mark = Encoded::mark(Mark { salt: SALT, segment: 2, offset: 3, oldest: 1 });
        assert_eq!(mark.size(), MARK_SIZE);
        let octets = written(mark);
        assert_eq!(octets[..8], [32, 0, 0, 0, 9, 1, 0, 0]);
        assert_eq!(octets[16..24], SALT.to_le_bytes());
        let gone = written(Encoded::operation(&Operation::QueueGone { queue: 5 }));
        assert_eq!(gone, [8, 0, 0, 0, 4, 1, 0, 0, 192, 77, 9, 228, 118, 74, 56, 135, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_later_version_is_told_from_nonsense() {
        let payload = [0; 4];
        let record = Record { kind: SETTLE, version: 2, payload: &payload };
        assert_eq!(record.content().unwrap_err(), Unknown::Newer);
        assert_eq!(Record { kind: 11, version: 1, ..record }.content().unwrap_err(), Unknown::Newer);
        assert_eq!(Record { version: 1, ..record }.content().unwrap_err(), Unknown::Malformed);
    }

    proptest! {
        #[test]
        fn every_kind_comes_back(octets in proptest::collection::vec(any::<u8>(), 0..60),
                numbers in proptest::collection::vec((any::<u64>(), 0..SEQ, any::<(bool, bool)>()), 0..4)) {
            let targets: Vec<Target> = numbers.iter().map(|&(queue, seq, (transient, handed_out))| {
                Target { queue, seq, transient, handed_out }
            }).collect();
            let runs: Vec<Run> = numbers.iter().map(|&(first, last, _)| Run { first, last }).collect();
            let operations = all(&targets, &runs, &octets);
            let publish = said(&written(Encoded::operation(&operations[0])));
            prop_assert_eq!(publish, format!("9 3 {targets:?} {:?}", (&octets, &octets)));
            prop_assert_eq!(said(&written(Encoded::operation(&operations[1]))), format!("settle 7 {runs:?}"));
            for operation in &operations[2..] {
                let octets = written(Encoded::operation(operation));
                prop_assert_eq!(said(&octets), format!("Operation({operation:?})"));
            }
            let batch = written(Encoded::batch(&operations));
            let Content::Batch(inside) = read(&batch, SALT).unwrap().0.content().unwrap() else { panic!() };
            let mut count = 0;
            for ((at, record, size), operation) in records(inside, SALT).zip(&operations) {
                prop_assert!(record.is_ok());
                let alone = written(Encoded::operation(operation));
                prop_assert_eq!(&inside[at as usize..(at + size) as usize], &alone[..]);
                count += 1;
            }
            prop_assert_eq!(count, operations.len());
        }

        #[test]
        fn nothing_damaged_is_a_record(body in proptest::collection::vec(any::<u8>(), 0..40), at: usize, bit in 0u32..8) {
            let targets = [Target::new(1, 2)];
            let mut octets = written(Encoded::operation(&all(&targets, &[], &body)[0]));
            let unpadded = 16 + u32::from_le_bytes([octets[0], octets[1], octets[2], octets[3]]) as usize;
            octets[at % unpadded] ^= 1u8 << bit;
            prop_assert!(read(&octets, SALT).is_err());
            octets[at % unpadded] ^= 1u8 << bit;
            prop_assert!(read(&octets, SALT).is_ok());
            prop_assert!(read(&octets, SALT + 1).is_err());
            prop_assert!(read(&octets[..at % unpadded], SALT).is_err());
        }
    }

    const SEQ: u64 = crate::store::list::SEQ_MAX;
}
