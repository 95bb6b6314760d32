//! From the records of the needed segments, in order, to the live set. Changes nothing on the disk.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::error::StoreError;
use crate::layout::{Layout, Needed, content, damaged, next, not_understood};
use crate::live::Live;
use crate::position::{OFFSET_LIMIT, Position};
use crate::record::{HEAD_SIZE, NotUnderstood, Operation, RecordContent, records};
use crate::segment::ScanItem;

/// The progress of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments read.
    pub segments: u64,
    /// Segments to read.
    pub of: u64,
    /// Records read.
    pub records: u64,
}

/// The live set, with the values of definitions.
#[derive(Debug, Default)]
pub struct Replay {
    /// The live set.
    pub live: Live,
    /// Definitions by key.
    pub values: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Records read.
    pub records: u64,
    /// Gap records among them.
    pub gaps: u64,
    /// Octets of all records of each queue, live or not, by queue number.
    pub written: HashMap<u64, u64>,
}

impl Replay {
    /// Reads all needed segments.
    ///
    /// # Errors
    /// A record is damaged or newer, or an I/O error.
    pub fn layout(layout: &Layout, progress: &mut dyn FnMut(Progress)) -> Result<Self, StoreError> {
        let mut replay = Self { live: Live::new(layout.oldest), ..Self::default() };
        let of = layout.segments.len() as u64;
        for (segments, needed) in (1..).zip(layout.segments.values()) {
            replay.segment(needed)?;
            progress(Progress { segments, of, records: replay.records });
        }
        Ok(replay)
    }

    fn segment(&mut self, needed: &Needed) -> Result<(), StoreError> {
        let (number, salt) = (needed.segment.header.number, needed.segment.header.salt);
        let mut scan = needed.segment.scan(needed.end);
        let mut holes = needed.holes.iter();
        let mut hole = holes.next();
        loop {
            while let Some(next) = hole.filter(|hole| hole.from == scan.offset()) {
                scan.skip_to(next.to);
                hole = holes.next();
            }
            match next(&mut scan, number)? {
                ScanItem::Record { offset, record, size } => {
                    self.records += 1;
                    let content = content(&record, number, offset)?;
                    if offset >= OFFSET_LIMIT {
                        return Err(not_understood(NotUnderstood::Malformed, number, offset));
                    }
                    let applied = self.record(content, Position::new(number, offset), size, salt);
                    applied.map_err(|(offset, unknown)| not_understood(unknown, number, offset))?;
                }
                ScanItem::End => return Ok(()),
                ScanItem::Nothing(offset, _) => return Err(damaged(number, offset)),
            }
        }
    }

    /// Applies a record; `salt` is that of its segment.
    ///
    /// # Errors
    /// The offset of a record inside a batch that is not understood.
    pub fn record(
        &mut self,
        content: RecordContent<'_>,
        position: Position,
        size: u64,
        salt: u64,
    ) -> Result<(), (u64, NotUnderstood)> {
        match content {
            RecordContent::Operation(operation) => self.operation(&operation, position, size),
            // The records inside have positions, too.
            RecordContent::Batch(inside) => {
                for (at, record, size) in records(inside, salt) {
                    let at = position.offset() + HEAD_SIZE as u64 + at;
                    let record = record.map_err(|_| (at, NotUnderstood::Malformed))?;
                    match record.content().map_err(|unknown| (at, unknown))? {
                        RecordContent::Operation(operation) if at < OFFSET_LIMIT => {
                            self.operation(&operation, Position::new(position.segment(), at), size);
                        }
                        _ => return Err((at, NotUnderstood::Malformed)),
                    }
                }
            }
            RecordContent::Gap => self.gaps += 1,
            RecordContent::Mark(_) => {}
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Operation<'_>, position: Position, size: u64) {
        let mut wrote = |queue, octets| *self.written.entry(queue).or_default() += octets;
        match *operation {
            Operation::Publish(publish) => {
                let share = size / (publish.targets.len() as u64).max(1);
                publish.targets.iter().for_each(|target| wrote(target.queue, share));
            }
            Operation::Settle { queue, .. }
            | Operation::Purge { queue, .. }
            | Operation::Delivered { queue, .. }
            | Operation::QueueGone { queue } => wrote(queue, size),
            Operation::Define { key, value } => {
                self.values.insert(key.into(), value.into());
            }
            Operation::Undefine { key } => {
                self.values.remove(key);
            }
        }
        self.live.apply(operation, position, size, true);
    }
}
