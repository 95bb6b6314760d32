//! From changes to records: encoded once, without a lock and without an allocation a record. The
//! format is described in [`record`](crate::record).

use crate::position::ALIGNMENT;
use crate::record::{
    BATCH, DEFINE, DELIVERED, GAP, HEAD_SIZE, MARK, MARK_SIZE, Mark, Operation, PAYLOAD_MAX, PUBLISH, PURGE,
    PublishRecord, QUEUE_GONE, SETTLE, UNDEFINE, head, head_crc, padded,
};

/// An encoder of records: everything that does not depend on their position is done in advance.
/// Reused, so that a record costs no allocation.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The octets of each record before the parts that the caller has.
    starts: Vec<u8>,
    records: Vec<Prepared>,
    octets: u64,
}

#[derive(Clone, Copy, Debug)]
struct Prepared {
    kind: u8,
    start: usize,
    length: u64,
    crc: u32,
}

/// Octets of `starts` that stay allocated.
const KEEP_STARTS: usize = 64 * 1024;

/// A record of so many octets is encoded whole before the appender's lock is taken, and handed over
/// without a copy. (Few in tests, so that simulated lives have such records.)
pub const WHOLE_OCTETS: u64 = if cfg!(test) { 2 * 1024 } else { 256 * 1024 };

/// The error of a record that is too large, for the format or for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Encoder {
    /// Removes all records, and keeps the memory up to [`KEEP_STARTS`].
    pub fn clear(&mut self) {
        self.starts.clear();
        self.starts.shrink_to(KEEP_STARTS);
        self.records.clear();
        self.octets = 0;
    }

    /// Encodes a record as far as possible without its position; the time goes into its crc.
    ///
    /// # Errors
    /// The record is too large for the format.
    pub fn prepare(&mut self, operation: &Operation<'_>) -> Result<(), TooLarge> {
        let start = self.starts.len();
        let kind = write_start(operation, &mut self.starts);
        let crc = self.starts.get(start..).map_or(0, crc32c::crc32c);
        let parts = parts(operation);
        let length = (self.starts.len() - start + parts.iter().map(|part| part.len()).sum::<usize>()) as u64;
        if length > PAYLOAD_MAX {
            return Err(TooLarge);
        }
        self.records.push(Prepared { kind, start, length, crc: parts.iter().fold(crc, crc_on) });
        self.octets += padded(length);
        Ok(())
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns true if there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the octets of all records, padding included.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Returns the octets of record `at`, padding included.
    pub fn size(&self, at: usize) -> u64 {
        self.records.get(at).map_or(0, |record| padded(record.length))
    }

    /// Returns record `at`, which was prepared for `operation`, if it is to be handed over whole.
    /// Its head is to get the salt of its segment, see [`salt_head`].
    pub fn whole(&self, at: usize, operation: &Operation<'_>) -> Option<Vec<u8>> {
        let size = self.size(at);
        if size < WHOLE_OCTETS {
            return None;
        }
        let mut record = Vec::with_capacity(size as usize);
        self.write(at, operation, false, 0, &mut record);
        Some(record)
    }

    /// Appends record `at`, which was prepared for `operation`, to `out`, for a segment with this
    /// salt.
    pub fn write(&self, at: usize, operation: &Operation<'_>, is_inside: bool, salt: u64, out: &mut Vec<u8>) {
        let Some(record) = self.records.get(at) else { return };
        let end = self.records.get(at + 1).map_or(self.starts.len(), |next| next.start);
        out.extend_from_slice(&head(record.kind, is_inside, record.length, record.crc, salt));
        out.extend_from_slice(self.starts.get(record.start..end).unwrap_or_default());
        for part in parts(operation) {
            out.extend_from_slice(part);
        }
        pad(out, record.length);
    }
}

/// Appends a change as a record of a segment with this salt.
///
/// # Errors
/// The record is too large for the format.
pub fn write_operation(operation: &Operation<'_>, salt: u64, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let mut encoder = Encoder::default();
    encoder.prepare(operation)?;
    encoder.write(0, operation, false, salt, out);
    Ok(())
}

/// Appends a mark as a record of a segment with this salt: [`MARK_SIZE`] octets.
pub fn write_mark(mark: Mark, salt: u64, out: &mut Vec<u8>) {
    let mut payload = [0; MARK_SIZE as usize - HEAD_SIZE];
    for (to, number) in
        payload.as_chunks_mut::<8>().0.iter_mut().zip([mark.salt, mark.segment, mark.offset, mark.oldest])
    {
        *to = number.to_le_bytes();
    }
    out.extend_from_slice(&head(MARK, false, payload.len() as u64, crc32c::crc32c(&payload), salt));
    out.extend_from_slice(&payload);
}

/// Changes encoded as one record, of which a crash leaves all or none.
#[derive(Debug)]
pub struct BatchRecord {
    /// The whole record, with heads for `salt`.
    octets: Vec<u8>,
    salt: u64,
}

impl BatchRecord {
    /// Encodes changes for a segment with this salt.
    ///
    /// # Errors
    /// The record is too large for the format.
    pub fn new(operations: &[Operation<'_>], salt: u64) -> Result<Self, TooLarge> {
        let mut octets = vec![0; HEAD_SIZE];
        let mut encoder = Encoder::default();
        for operation in operations {
            encoder.clear();
            encoder.prepare(operation)?;
            encoder.write(0, operation, true, salt, &mut octets);
        }
        if octets.len() as u64 > PAYLOAD_MAX {
            return Err(TooLarge);
        }
        let mut batch = Self { octets, salt };
        batch.write_head();
        Ok(batch)
    }

    /// Changes the salt; all heads are computed again.
    pub fn set_salt(&mut self, salt: u64) {
        if self.salt != salt {
            self.salt = salt;
            salt_heads(self.octets.get_mut(HEAD_SIZE..).unwrap_or_default(), salt);
            self.write_head();
        }
    }

    fn write_head(&mut self) {
        if let Some((place, payload)) = self.octets.split_first_chunk_mut::<HEAD_SIZE>() {
            *place = head(BATCH, false, payload.len() as u64, crc32c::crc32c(payload), self.salt);
        }
    }

    /// Returns the octets of the whole record, padding included.
    pub fn size(&self) -> u64 {
        self.octets.len() as u64
    }

    /// Returns the size of each record inside, in octets.
    pub fn sizes_inside(&self) -> impl Iterator<Item = u64> + '_ {
        sizes(self.octets.get(HEAD_SIZE..).unwrap_or_default())
    }

    /// Returns the salt of its heads.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// Returns the record.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Consumes the value and returns the record.
    pub fn into_octets(self) -> Vec<u8> {
        self.octets
    }
}

/// Returns the size of each of some whole records, in octets.
pub fn sizes(mut records: &[u8]) -> impl Iterator<Item = u64> + '_ {
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(*records.first_chunk::<4>()?);
        let size = padded(u64::from(length));
        records = records.get(size as usize..).unwrap_or_default();
        Some(size)
    })
}

fn pad(out: &mut Vec<u8>, length: u64) {
    let padding = padded(length) - HEAD_SIZE as u64 - length;
    out.extend_from_slice([0; ALIGNMENT as usize].get(..padding as usize).unwrap_or_default());
}

/// Returns the parts of a record's payload that the caller has in memory, which follow its start.
fn parts<'a>(operation: &Operation<'a>) -> [&'a [u8]; 3] {
    match *operation {
        Operation::Publish(PublishRecord { route, properties, body, .. }) => [route, properties, body],
        Operation::Define { key, value } => [key, value, &[]],
        Operation::Undefine { key } => [key, &[], &[]],
        _ => [&[]; 3],
    }
}

/// Appends the start of a record's payload, and returns the record's kind.
fn write_start(operation: &Operation<'_>, start: &mut Vec<u8>) -> u8 {
    match *operation {
        Operation::Publish(publish) => {
            write_publish(&publish, start);
            PUBLISH
        }
        Operation::Settle { queue, runs } => {
            start.extend_from_slice(&queue.to_le_bytes());
            runs.write(start);
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
        Operation::Delivered { queue, upto } => {
            start.extend_from_slice(&queue.to_le_bytes());
            start.extend_from_slice(&upto.to_le_bytes());
            DELIVERED
        }
        Operation::Define { key, .. } => {
            start.extend_from_slice(&(key.len() as u32).to_le_bytes());
            start.extend_from_slice(&[0; 4]);
            DEFINE
        }
        Operation::Undefine { .. } => UNDEFINE,
    }
}

/// Returns the head that makes a gap record of a stretch of octets; `behind` are the octets after
/// the head.
pub fn gap_head(behind: &[u8], salt: u64) -> [u8; HEAD_SIZE] {
    head(GAP, false, behind.len() as u64, crc32c::crc32c(behind), salt)
}

fn crc_on(crc: u32, part: &&[u8]) -> u32 {
    if part.is_empty() { crc } else { crc32c::crc32c_append(crc, part) }
}

fn write_publish(publish: &PublishRecord<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&publish.at_ms.to_le_bytes());
    out.extend_from_slice(&publish.flags.to_le_bytes());
    for length in [publish.targets.len(), publish.route.len(), publish.properties.len(), publish.body.len(), 0] {
        out.extend_from_slice(&(length as u32).to_le_bytes());
    }
    out.extend_from_slice(&publish.expires_at.unwrap_or(0).to_le_bytes());
    publish.targets.write(out);
}

/// Replaces the head of a whole record by that for another salt.
pub fn salt_head(record: &mut [u8], salt: u64) {
    if let Some((start, crc)) = record.get_mut(..HEAD_SIZE).and_then(|head| head.split_at_mut_checked(12)) {
        crc.copy_from_slice(&head_crc(start, salt).to_le_bytes());
    }
}

/// Replaces the heads of whole records by those for another salt.
fn salt_heads(mut records: &mut [u8], salt: u64) {
    loop {
        let size = sizes(records).next();
        let Some(size) = size else { return };
        salt_head(records, salt);
        records = records.get_mut(size as usize..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::List;
    use crate::list::{Run, Target};
    use crate::record::{RecordContent, may_begin, read, records};
    use proptest::prelude::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn written(operation: &Operation<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        write_operation(operation, SALT, &mut out).unwrap();
        out
    }

    fn said(octets: &[u8]) -> String {
        let (record, size) = read(octets, SALT).unwrap();
        assert_eq!(size, octets.len() as u64);
        match record.content().unwrap() {
            RecordContent::Operation(Operation::Publish(publish)) => {
                let targets: Vec<Target> = publish.targets.iter().collect();
                let times = (publish.at_ms, publish.expires_at);
                format!("{times:?} {} {targets:?} {:?}", publish.flags, (publish.route, publish.body))
            }
            RecordContent::Operation(Operation::Settle { queue, runs }) => {
                format!("settle {queue} {:?}", runs.iter().collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        }
    }

    fn all<'a>(targets: &'a [Target], runs: &'a [Run], octets: &'a [u8]) -> Vec<Operation<'a>> {
        let targets = List::Given(targets);
        vec![
            Operation::Publish(PublishRecord {
                at_ms: 9,
                expires_at: Some(12),
                flags: 3,
                targets,
                route: octets,
                properties: b"pp",
                body: octets,
            }),
            Operation::Settle { queue: 7, runs: List::Given(runs) },
            Operation::Purge { queue: 7, below: u64::MAX },
            Operation::QueueGone { queue: 7 },
            Operation::Delivered { queue: 7, upto: 8 },
            Operation::Define { key: octets, value: b"v" },
            Operation::Undefine { key: octets },
        ]
    }

    #[test]
    fn the_format_is_what_it_was() {
        let mut octets = Vec::new();
        write_mark(Mark { salt: SALT, segment: 2, offset: 3, oldest: 1 }, SALT, &mut octets);
        assert_eq!(octets.len() as u64, MARK_SIZE);
        assert_eq!(octets[..8], [32, 0, 0, 0, 9, 2, 0, 0]);
        assert_eq!(octets[16..24], SALT.to_le_bytes());
        let (record, _) = read(&octets, SALT).unwrap();
        assert!(matches!(record.content(), Ok(RecordContent::Mark(Mark { segment: 2, offset: 3, oldest: 1, .. }))));
        let gone = written(&Operation::QueueGone { queue: 5 });
        assert_eq!(gone[..12], [8, 0, 0, 0, 4, 2, 0, 0, 192, 77, 9, 228]);
        assert_eq!(gone[16..], [5, 0, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn every_kind_comes_back(octets in proptest::collection::vec(any::<u8>(), 0..60),
                numbers in proptest::collection::vec((any::<u64>(), 0..SEQ, any::<(bool, bool)>()), 0..4)) {
            let targets: Vec<Target> = numbers.iter().map(|&(queue, seq, (transient, delivered))| {
                Target { queue, seq, transient, delivered }
            }).collect();
            let runs: Vec<Run> = numbers.iter().map(|&(first, last, _)| Run { first, last }).collect();
            let operations = all(&targets, &runs, &octets);
            let publish = said(&written(&operations[0]));
            prop_assert_eq!(publish, format!("(9, Some(12)) 3 {targets:?} {:?}", (&octets, &octets)));
            prop_assert_eq!(said(&written(&operations[1])), format!("settle 7 {runs:?}"));
            for operation in &operations[2..] {
                let octets = written(operation);
                prop_assert_eq!(said(&octets), format!("Operation({operation:?})"));
            }
            let mut batch = BatchRecord::new(&operations, SALT + 1).unwrap();
            batch.set_salt(SALT);
            prop_assert!(batch.sizes_inside().eq(operations.iter().map(|operation| written(operation).len() as u64)));
            let anew = BatchRecord::new(&operations, SALT).unwrap();
            prop_assert_eq!(batch.octets(), anew.octets());
            let batch = batch.into_octets();
            let RecordContent::Batch(inside) = read(&batch, SALT).unwrap().0.content().unwrap() else { panic!() };
            let mut count = 0;
            for ((at, record, size), operation) in records(inside, SALT).zip(&operations) {
                prop_assert!(record.is_ok());
                let (mut alone, mut encoder) = (Vec::new(), Encoder::default());
                encoder.prepare(operation).unwrap();
                encoder.write(0, operation, true, SALT, &mut alone);
                prop_assert_eq!(&inside[at as usize..(at + size) as usize], &alone[..]);
                prop_assert!(!may_begin(&alone[..8]), "part of a batch is no record of its own");
                count += 1;
            }
            prop_assert_eq!(count, operations.len());
        }

        #[test]
        fn nothing_damaged_is_a_record(body in proptest::collection::vec(any::<u8>(), 0..40), at: usize, bit in 0u32..8) {
            let targets = [Target::new(1, 2)];
            let mut octets = written(&all(&targets, &[], &body)[0]);
            let unpadded = 16 + u32::from_le_bytes([octets[0], octets[1], octets[2], octets[3]]) as usize;
            octets[at % unpadded] ^= 1u8 << bit;
            prop_assert!(read(&octets, SALT).is_err());
            octets[at % unpadded] ^= 1u8 << bit;
            prop_assert!(read(&octets, SALT).is_ok());
            prop_assert!(read(&octets, SALT + 1).is_err());
            prop_assert!(read(&octets[..at % unpadded], SALT).is_err());
        }
    }

    const SEQ: u64 = crate::list::SEQ_MAX;
}
