//! What a directory holds, told without changing it: `leveret store check`. Knows no queue but by its number.

use crate::store::checkpoint;
use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::store::position::Entry;
use crate::store::recovery::Definition;
use crate::store::replay::{Progress, Replay};
use crate::store::segment::{HEADER_SIZE, Tail, name};

/// A directory that can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Every queue that any record names, by number.
    pub queues: Vec<QueueCheck>,
    /// Durable definitions.
    pub definitions: Vec<Definition>,
    /// The needed segments, in order.
    pub segments: Vec<SegmentCheck>,
    /// Files that wait to be used again.
    pub spares: u64,
    /// Segments that are not needed; the next start puts them aside.
    pub leftovers: u64,
    /// Octets of live records, about.
    pub live: u64,
    /// Octets of records that are not live.
    pub dead: u64,
    /// What the next start cuts off the last segment.
    pub torn: Tail,
    /// There is a checkpoint; whether it fits, a start finds out.
    pub has_checkpoint: bool,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCheck {
    /// Its number.
    pub queue: u64,
    /// Messages.
    pub messages: u64,
    /// Octets of their records, about; a message in several queues is shared out.
    pub octets: u64,
    /// The number of its next message.
    pub next_seq: u64,
    /// Messages up to this number may have been delivered.
    pub handed_out: u64,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentCheck {
    /// The file's name.
    pub file: String,
    /// Octets of the file.
    pub capacity: u64,
    /// Octets of its records.
    pub written: u64,
    /// Octets of those that are live, about.
    pub live: u64,
}

/// Reads all of a directory that no broker uses.
///
/// # Errors
/// As a start would give: what is damaged, missing or newer, with file and offset.
pub fn check(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Check, StoreError> {
    let layout = Layout::read(disk)?;
    let mut replay = Replay::layout(&layout, progress)?;
    while replay.live.sweep() {}
    let live = &replay.live;
    let segment = |(number, needed): (&u64, &crate::store::layout::Needed)| SegmentCheck {
        file: name(*number),
        capacity: needed.segment.header.capacity,
        written: needed.end - HEADER_SIZE,
        live: live.octets_in(*number),
    };
    let segments: Vec<SegmentCheck> = layout.segments.iter().map(segment).collect();
    let queue = |(number, queue): (u64, &crate::store::live::Queue)| QueueCheck {
        queue: number,
        messages: queue.messages.len(),
        octets: queue.messages.iter_from(0).filter_map(|(_, word)| Entry::from_number(word)).map(Entry::size).sum(),
        next_seq: queue.next_seq,
        handed_out: queue.handed_out,
    };
    let written: u64 = segments.iter().map(|segment| segment.written).sum();
    let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
    Ok(Check {
        queues: live.queues().into_iter().map(queue).collect(),
        definitions: replay.values.into_iter().map(|(key, value)| Definition { key, value }).collect(),
        spares: layout.spares.len() as u64,
        leftovers: layout.leftovers.len() as u64,
        live: live.octets(),
        dead: written.saturating_sub(live.octets()),
        torn: layout.torn,
        has_checkpoint: names.iter().any(|name| name == checkpoint::NAME),
        segments,
    })
}
