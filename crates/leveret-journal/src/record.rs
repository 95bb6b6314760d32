//! The format of a record.
//!
//! All numbers are little-endian. A record begins at a multiple of 8 octets and is padded with
//! zeros to the next.
//!
//! ```text
//!   0        4     5        6         8             12           16
//!   +--------+-----+--------+---------+-------------+------------+----------------+---------+
//!   | length | kind| version| inside  | crc32c      | crc32c     | payload        | 0 .. 0  |
//!   | u32    | u8  | u8     | u16     | of payload  | of 0..12   | length octets  | padding |
//!   +--------+-----+--------+---------+-------------+------------+----------------+---------+
//!
//!   The crc of the head goes on from the eight octets of the segment's salt. A salt is drawn anew
//!   each time a file is used, so what the file held before is not a record, nor is what a
//!   publisher put into a body. `inside` is 1 in a record inside a batch, so that part of a damaged
//!   batch is not taken for a record of its own.
//!
//!   1 Publish    | wall ms u64 | flags u32 | targets u32 | route u32 | properties u32 |
//!                | body u32 | 0 u32 |
//!                | expires at, ms u64, 0: never (not in version 1) |
//!                | targets: (queue u64, seq u62 + delivered at bit 62 + transient at bit 63) ..
//!                | route | properties | body |
//!   2 Settle     | queue u64 | runs: (first u64, last u64) .. |
//!   3 Purge      | queue u64 | below u64 |       messages of the queue with a lower seq are gone
//!   4 QueueGone  | queue u64 |                   every message is
//!   5 Delivered  | queue u64 | upto u64 |        messages up to that seq may have been delivered
//!   6 Define     | key length u32 | 0 u32 | key | value |
//!   7 Undefine   | key |
//!   8 Batch      | records 1 to 7, whole, each padded |   all of them or none
//!   9 Mark       | salt u64 | segment u64 | offset u64 | oldest u64 |
//!                everything before (segment, offset) was synced when this was written, and no
//!                segment below `oldest` is needed. The first record of each segment is one, and
//!                says where the segment before it ends.
//!  10 Gap        | anything |                    octets given up by a repair
//! ```
//!
//! Reserved for replicated queues; this version refuses them by name, it does not skip them:
//!
//! ```text
//!  11 GroupEntry | group u64 | term u64 | index u64 | record 1 to 7, whole |
//!                an entry of a replicated group's log, applied when the group has committed it
//!  12 Truncate   | group u64 | term u64 | index u64 |   entries from that index on do not count
//!  13 Snapshot   | group u64 | term u64 | index u64 | records 1 to 7, whole, each padded |
//!                the group's live set as of that index: entries up to it do not count
//! ```

use crate::list::{List, PAIR_SIZE, Run, Target};
use crate::position::ALIGNMENT;

/// Octets of a record before its payload.
pub const HEAD_SIZE: usize = 16;
/// The version of records that are written; version 1 is read as well.
pub const VERSION: u8 = 2;
/// Octets of a mark's record.
pub const MARK_SIZE: u64 = 48;
/// Largest payload, in octets.
pub const PAYLOAD_MAX: u64 = 1 << 31;

pub(crate) const PUBLISH: u8 = 1;
pub(crate) const SETTLE: u8 = 2;
pub(crate) const PURGE: u8 = 3;
pub(crate) const QUEUE_GONE: u8 = 4;
pub(crate) const DELIVERED: u8 = 5;
pub(crate) const DEFINE: u8 = 6;
pub(crate) const UNDEFINE: u8 = 7;
pub(crate) const BATCH: u8 = 8;
pub(crate) const MARK: u8 = 9;
pub(crate) const GAP: u8 = 10;
const GROUP_ENTRY: u8 = 11;
const TRUNCATE: u8 = 12;
const SNAPSHOT: u8 = 13;

/// A message and its queues.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishRecord<'a> {
    /// The wall time of the publication, in ms since 1970.
    pub at_ms: u64,
    /// The time of its expiry, in ms since 1970, if it expires.
    pub expires_at: Option<u64>,
    /// Flags of the caller's.
    pub flags: u32,
    /// The queues that hold it.
    pub targets: List<'a, Target>,
    /// Exchange and routing key, as encoded by the caller.
    pub route: &'a [u8],
    /// The properties.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// A change of the store's contents.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Adds a message to queues.
    Publish(PublishRecord<'a>),
    /// Removes settled messages from a queue.
    Settle {
        /// The queue's number.
        queue: u64,
        /// The settled messages.
        runs: List<'a, Run>,
    },
    /// Removes all messages of a queue with lower numbers.
    Purge {
        /// The queue's number.
        queue: u64,
        /// The number of the first message that is kept.
        below: u64,
    },
    /// Removes a queue with all its messages.
    QueueGone {
        /// The queue's number.
        queue: u64,
    },
    /// Marks messages as possibly delivered: after a crash they are redelivered.
    Delivered {
        /// The queue's number.
        queue: u64,
        /// The largest number of them.
        upto: u64,
    },
    /// Adds a durable definition, or replaces the one with the same key.
    Define {
        /// The definition's key.
        key: &'a [u8],
        /// The definition's value.
        value: &'a [u8],
    },
    /// Removes a definition.
    Undefine {
        /// The definition's key.
        key: &'a [u8],
    },
}

/// A mark: how far the journal was synced, and which segments were needed, when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The salt of the mark's own segment.
    pub salt: u64,
    /// The segment of the place up to which the journal was synced.
    pub segment: u64,
    /// The offset of that place, in octets.
    pub offset: u64,
    /// The number of the first segment that is needed.
    pub oldest: u64,
}

/// The content of a record.
#[derive(Clone, Copy, Debug)]
pub enum RecordContent<'a> {
    /// A change.
    Operation(Operation<'a>),
    /// Whole records, all or none; see [`records`].
    Batch(&'a [u8]),
    /// A mark.
    Mark(Mark),
    /// Octets that were given up.
    Gap,
}

/// The reason why octets are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRecord {
    /// There is no head with this salt.
    Head,
    /// The head is valid, and the record has so many octets, more than there are.
    Short(u64),
    /// The head is valid, the payload is not; the record has so many octets.
    Payload(u64),
}

/// The reason why a whole record is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotUnderstood {
    /// A record of a later version.
    Newer,
    /// The crc is right, the content is malformed.
    Malformed,
    /// A record kind that is reserved for a feature.
    Reserved(&'static str),
}

/// A whole record with a valid crc.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    kind: u8,
    version: u8,
    payload: &'a [u8],
}

/// Returns the size of a record with such a payload, padding included, in octets.
pub fn padded(payload: u64) -> u64 {
    (HEAD_SIZE as u64 + payload).next_multiple_of(ALIGNMENT)
}

/// Returns the head of a record whose payload has this length and crc.
pub(crate) fn head(kind: u8, is_inside: bool, length: u64, payload_crc: u32, salt: u64) -> [u8; HEAD_SIZE] {
    let [l0, l1, l2, l3] = (length as u32).to_le_bytes();
    let [c0, c1, c2, c3] = payload_crc.to_le_bytes();
    let inside = u8::from(is_inside);
    let start = [l0, l1, l2, l3, kind, VERSION, inside, 0, c0, c1, c2, c3];
    let [h0, h1, h2, h3] = head_crc(&start, salt).to_le_bytes();
    [l0, l1, l2, l3, kind, VERSION, inside, 0, c0, c1, c2, c3, h0, h1, h2, h3]
}

/// Returns the crc of a head's first twelve octets.
pub(crate) fn head_crc(start: &[u8], salt: u64) -> u32 {
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
    /// Reads the head at the beginning of `octets`, if there is one with this salt.
    pub fn read(octets: &[u8], salt: u64) -> Option<Self> {
        let head = octets.first_chunk::<HEAD_SIZE>()?;
        let [l0, l1, l2, l3, kind, version, _, _, c0, c1, c2, c3, h0, h1, h2, h3] = *head;
        let start = [l0, l1, l2, l3, kind, version, head[6], head[7], c0, c1, c2, c3];
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let is_head = u32::from_le_bytes([h0, h1, h2, h3]) == head_crc(&start, salt) && length <= PAYLOAD_MAX;
        is_head.then_some(Self { kind, version, length, crc: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    /// Returns the size of the record, padding included, in octets.
    pub fn size(&self) -> u64 {
        padded(self.length)
    }

    /// Returns the record at the beginning of `octets`, whose head this is.
    ///
    /// # Errors
    /// The record is not whole.
    pub fn record<'a>(&self, octets: &'a [u8]) -> Result<Record<'a>, NoRecord> {
        let end = HEAD_SIZE + self.length as usize;
        let payload = octets.get(HEAD_SIZE..end).ok_or(NoRecord::Short(self.size()))?;
        if self.crc != crc32c::crc32c(payload) {
            return Err(NoRecord::Payload(self.size()));
        }
        Ok(Record { kind: self.kind, version: self.version, payload })
    }
}

/// Returns true if a record, of this version or a later one, may begin with these eight octets;
/// cheaper than a crc.
pub fn may_begin(start: &[u8]) -> bool {
    matches!(start, [_, _, _, _, 1..=255, 1..=255, 0, 0])
}

/// Reads the record at the beginning of `octets`; returns it and its size in octets.
///
/// # Errors
/// There is no record.
pub fn read(octets: &[u8], salt: u64) -> Result<(Record<'_>, u64), NoRecord> {
    let head = Head::read(octets, salt).ok_or(NoRecord::Head)?;
    Ok((head.record(octets)?, head.size()))
}

/// Returns the records of a batch: the offset in the payload, the record, and its size in octets.
/// Ends at an octet string that is no record.
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
    /// Decodes the content.
    ///
    /// # Errors
    /// This version does not understand it.
    pub fn content(&self) -> Result<RecordContent<'a>, NotUnderstood> {
        if self.version > VERSION || self.kind > SNAPSHOT {
            return Err(NotUnderstood::Newer);
        }
        match self.kind {
            GROUP_ENTRY => return Err(NotUnderstood::Reserved("an entry of a replicated group")),
            TRUNCATE => return Err(NotUnderstood::Reserved("a truncation of a replicated group's log")),
            SNAPSHOT => return Err(NotUnderstood::Reserved("a snapshot of a replicated group")),
            _ => {}
        }
        self.parse().ok_or(NotUnderstood::Malformed)
    }

    fn parse(&self) -> Option<RecordContent<'a>> {
        let mut rest = self.payload;
        let operation = match self.kind {
            PUBLISH => Operation::Publish(publish(rest, self.version)?),
            SETTLE => {
                let queue = take_u64(&mut rest)?;
                let runs = rest.len().is_multiple_of(PAIR_SIZE).then_some(List::Octets(rest))?;
                Operation::Settle { queue, runs }
            }
            PURGE => Operation::Purge { queue: take_u64(&mut rest)?, below: take_u64(&mut rest)? },
            QUEUE_GONE => Operation::QueueGone { queue: take_u64(&mut rest)? },
            DELIVERED => Operation::Delivered { queue: take_u64(&mut rest)?, upto: take_u64(&mut rest)? },
            DEFINE => {
                let length = take_u32(&mut rest)? as usize;
                take_u32(&mut rest)?;
                let (key, value) = rest.split_at_checked(length)?;
                Operation::Define { key, value }
            }
            UNDEFINE => Operation::Undefine { key: rest },
            BATCH => return Some(RecordContent::Batch(rest)),
            MARK => {
                let (salt, segment) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                let (offset, oldest) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                return Some(RecordContent::Mark(Mark { salt, segment, offset, oldest }));
            }
            GAP => return Some(RecordContent::Gap),
            _ => return None,
        };
        Some(RecordContent::Operation(operation))
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

fn publish(mut rest: &[u8], version: u8) -> Option<PublishRecord<'_>> {
    let (at_ms, flags) = (take_u64(&mut rest)?, take_u32(&mut rest)?);
    let targets = (take_u32(&mut rest)? as usize).checked_mul(PAIR_SIZE)?;
    let (route, properties) = (take_u32(&mut rest)? as usize, take_u32(&mut rest)? as usize);
    let body = take_u32(&mut rest)? as usize;
    take_u32(&mut rest)?;
    let expires_at = if version == 1 { 0 } else { take_u64(&mut rest)? };
    let (targets, rest) = rest.split_at_checked(targets)?;
    let (route, rest) = rest.split_at_checked(route)?;
    let (properties, rest) = rest.split_at_checked(properties)?;
    (rest.len() == body).then_some(PublishRecord {
        at_ms,
        expires_at: (expires_at != 0).then_some(expires_at),
        flags,
        targets: List::Octets(targets),
        route,
        properties,
        body: rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_told_from_nonsense_and_what_is_reserved_is_named() {
        let payload = [0; 4];
        let record = Record { kind: SETTLE, version: VERSION, payload: &payload };
        assert_eq!(record.content().unwrap_err(), NotUnderstood::Malformed);
        assert_eq!(Record { version: VERSION + 1, ..record }.content().unwrap_err(), NotUnderstood::Newer);
        assert_eq!(Record { kind: SNAPSHOT + 1, ..record }.content().unwrap_err(), NotUnderstood::Newer);
        for (kind, word) in [(GROUP_ENTRY, "entry"), (TRUNCATE, "truncation"), (SNAPSHOT, "snapshot")] {
            let NotUnderstood::Reserved(what) = (Record { kind, ..record }).content().unwrap_err() else { panic!() };
            assert!(what.contains(word), "{what}");
        }
    }

    #[test]
    fn a_message_of_the_first_version_never_expires() {
        let mut payload = Vec::new();
        payload.extend_from_slice(&9_u64.to_le_bytes());
        for number in [3_u32, 1, 1, 2, 3, 0] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&[[7_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat(), b"rppbbb".to_vec()].concat());
        let record = Record { kind: PUBLISH, version: 1, payload: &payload };
        let Ok(RecordContent::Operation(Operation::Publish(publish))) = record.content() else { panic!() };
        assert_eq!((publish.at_ms, publish.expires_at, publish.flags), (9, None, 3));
        assert_eq!((publish.route, publish.properties, publish.body), (&b"r"[..], &b"pp"[..], &b"bbb"[..]));
        assert_eq!(publish.targets.iter().collect::<Vec<_>>(), [Target::new(7, 8)]);
    }
}
