//! `leveret store check`: the contents of a directory, read without changing it. Queues are known
//! by number only.

use crate::checkpoint::{self, Checkpoint};
use crate::damage::Damage;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layout::Layout;
use crate::manifest::Stated;
use crate::recovery::{Definition, latest};
use crate::replay::{Progress, Replay};
use crate::segment::{HEADER_SIZE, name};

/// The contents of a sound directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// All queues that a record names, by number.
    pub queues: Vec<QueueCheck>,
    /// Durable definitions.
    pub definitions: Vec<Definition>,
    /// The segments that are needed, in order.
    pub segments: Vec<SegmentCheck>,
    /// Files kept for new segments.
    pub spare_files: u64,
    /// Segments that are not needed, which the next start turns into spares or removes.
    pub leftovers: u64,
    /// Octets of live records, approximately.
    pub live: u64,
    /// Octets of records that are not live.
    pub dead: u64,
    /// Damage that the next start gives up at the end of the journal: octets that are no record,
    /// and that were not known to be synced.
    pub torn: Vec<Damage>,
    /// Records in `torn`, as far as they can be told.
    pub torn_records: u64,
    /// There is a checkpoint, whether it fits or not.
    pub has_checkpoint: bool,
}

/// The totals of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCheck {
    /// The queue's number.
    pub queue: u64,
    /// The number of messages.
    pub messages: u64,
    /// Octets of their records, approximately; a message in several queues is shared among them.
    pub octets: u64,
    /// Octets of all its records in the files, live or not.
    pub on_disk: u64,
    /// The number of its next message.
    pub next_seq: u64,
    /// The number up to which messages may have been delivered.
    pub delivered_upto: u64,
}

/// The totals of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentCheck {
    /// The file's name.
    pub file: String,
    /// Octets of the file.
    pub capacity: u64,
    /// Octets of its records.
    pub written: u64,
    /// Octets of live records, approximately.
    pub live: u64,
}

/// Reads all of a directory that no broker uses.
///
/// # Errors
/// The error of a start: a file is damaged, missing or newer, with file and offset.
pub fn check(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Check, StoreError> {
    let (stated, checkpoint) = (Stated::read(disk)?, Checkpoint::read(disk)?);
    let layout = Layout::read(disk, latest(&stated, checkpoint.as_ref()))?;
    let mut replay = Replay::layout(&layout, progress)?;
    while replay.live.free_some() {}
    let live = &replay.live;
    let segment = |(number, needed): (&u64, &crate::layout::Needed)| SegmentCheck {
        file: name(*number),
        capacity: needed.segment.header.capacity,
        written: needed.end - HEADER_SIZE,
        live: live.octets_in(*number),
    };
    let segments: Vec<SegmentCheck> = layout.segments.iter().map(segment).collect();
    let queue = |(number, queue): (u64, &crate::live::LiveQueue)| QueueCheck {
        queue: number,
        messages: queue.messages.len(),
        octets: queue.messages.octets(),
        on_disk: replay.written.get(&number).copied().unwrap_or(0),
        next_seq: queue.next_seq,
        delivered_upto: queue.delivered_upto,
    };
    let written: u64 = segments.iter().map(|segment| segment.written).sum();
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    Ok(Check {
        queues: live.queues().into_iter().map(queue).collect(),
        definitions: replay.values.into_iter().map(|(key, value)| Definition { key, value }).collect(),
        spare_files: layout.spare_files.len() as u64,
        leftovers: layout.leftovers.len() as u64,
        live: live.octets(),
        dead: written.saturating_sub(live.octets()),
        torn: layout.torn_damage(),
        torn_records: layout.lost().map(|(_, hole)| hole.records).sum(),
        has_checkpoint: names.iter().any(|name| name == checkpoint::NAME),
        segments,
    })
}
