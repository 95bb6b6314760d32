//! From the records of the needed segments, in their order, to what is live. Changes nothing on the disk.

use std::collections::BTreeMap;

use crate::store::error::StoreError;
use crate::store::layout::{Layout, content, damaged, next, not_understood};
use crate::store::live::Live;
use crate::store::position::{OFFSET_LIMIT, Position};
use crate::store::record::{Content, HEAD_SIZE, Operation, Unknown, records};
use crate::store::segment::{Found, Segment};

/// How far a recovery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments read.
    pub segments: u64,
    /// Segments in all.
    pub of: u64,
    /// Records read.
    pub records: u64,
}

/// What is live, and the values of definitions.
#[derive(Debug, Default)]
pub struct Replay {
    /// What is live.
    pub live: Live,
    /// Definitions.
    pub values: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Records read.
    pub records: u64,
}

impl Replay {
    /// Reads all needed segments.
    ///
    /// # Errors
    /// If anything in them is damaged or newer, or the disk refuses.
    pub fn layout(layout: &Layout, progress: &mut dyn FnMut(Progress)) -> Result<Self, StoreError> {
        let mut replay = Self { live: Live::new(layout.oldest), ..Self::default() };
        let of = layout.segments.len() as u64;
        for (segments, needed) in (1..).zip(layout.segments.values()) {
            replay.segment(&needed.segment, needed.end)?;
            progress(Progress { segments, of, records: replay.records });
        }
        Ok(replay)
    }

    fn segment(&mut self, segment: &Segment, end: u64) -> Result<(), StoreError> {
        let (number, salt) = (segment.header.number, segment.header.salt);
        let mut scan = segment.scan(end);
        loop {
            match next(&mut scan, number)? {
                Found::Record { offset, record, size } => {
                    self.records += 1;
                    let content = content(&record, number, offset)?;
                    if offset >= OFFSET_LIMIT {
                        return Err(not_understood(Unknown::Malformed, number, offset));
                    }
                    let applied = self.record(content, Position::new(number, offset), size, salt);
                    applied.map_err(|(offset, unknown)| not_understood(unknown, number, offset))?;
                }
                Found::End => return Ok(()),
                Found::Nothing(offset, _) => return Err(damaged(number, offset)),
            }
        }
    }

    /// Does what a record says. `salt` is that of its segment.
    ///
    /// # Errors
    /// The offset at which something inside a batch is not understood.
    pub fn record(
        &mut self,
        content: Content<'_>,
        position: Position,
        size: u64,
        salt: u64,
    ) -> Result<(), (u64, Unknown)> {
        match content {
            Content::Operation(operation) => self.operation(&operation, position, size),
            // What is inside has positions too.
            Content::Batch(inside) => {
                for (at, record, size) in records(inside, salt) {
                    let at = position.offset() + HEAD_SIZE as u64 + at;
                    let record = record.map_err(|_| (at, Unknown::Malformed))?;
                    match record.content().map_err(|unknown| (at, unknown))? {
                        Content::Operation(operation) if at < OFFSET_LIMIT => {
                            self.operation(&operation, Position::new(position.segment(), at), size);
                        }
                        _ => return Err((at, Unknown::Malformed)),
                    }
                }
            }
            Content::Mark(_) | Content::Gap => {}
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Operation<'_>, position: Position, size: u64) {
        match *operation {
            Operation::Define { key, value } => {
                self.values.insert(key.into(), value.into());
            }
            Operation::Undefine { key } => {
                self.values.remove(key);
            }
            _ => {}
        }
        self.live.apply(operation, position, size, true);
    }
}
