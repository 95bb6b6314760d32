//! From a directory to what is live: reads the needed segments in order, each record checked, and makes the journal ready to
//! go on. Knows no queue but by its number.
//!
//! Why reading in order is enough: a segment is only given up after all that is live in it was copied behind, and always the
//! oldest one first. So whatever takes a message away (settle, purge) stands behind every copy of the message, and leaves
//! the disk later than all of them. Nothing that is gone can come back, and the copies of a message that still wait are
//! told from each other by their place: the later one counts.
//!
//! What was read may not be safe: a process that was killed leaves octets in the system's memory, and after a sync that
//! failed they are there while the disk does not have them. So the last stretch is written again and synced before anything
//! builds on it; the names are synced too.

use std::sync::Arc;

use crate::store::checkpoint::Checkpoint;
use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::store::journal::{Journal, Options};
use crate::store::layout::{Layout, damaged};
use crate::store::list::Run;
use crate::store::live::Queue;
use crate::store::pen::Pen;
use crate::store::random::Random;
use crate::store::replay::{Progress, Replay};
use crate::store::segment::{Segment, name, spare_name};
use crate::store::spares::Spares;

/// Octets written again at a time.
const REWRITE: u64 = 1024 * 1024;
/// Spare files that are kept.
pub const SPARES_MAX: usize = 1;

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Definitions, in the order of their keys.
    pub definitions: Vec<Definition>,
    /// Every queue that any record names, by number; also those without messages, and those that no definition names.
    pub queues: Vec<QueueState>,
    /// How it went.
    pub report: Report,
}

/// One durable definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub key: Box<[u8]>,
    /// What it says.
    pub value: Box<[u8]>,
}

/// One queue as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Its number.
    pub queue: u64,
    /// Its messages' numbers, in order.
    pub runs: Vec<Run>,
    /// How many messages that are.
    pub messages: u64,
    /// The number that its next message gets, or any larger one.
    pub next_seq: u64,
    /// Messages up to this number may have been delivered.
    pub handed_out: u64,
}

/// How a recovery went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// A checkpoint took the place of reading.
    pub from_checkpoint: bool,
    /// The file whose torn end was cut, if there was any.
    pub torn_file: Option<String>,
    /// Records cut, as far as they can be told.
    pub torn_records: u64,
    /// Octets cut, as far as they can be told.
    pub torn_octets: u64,
}

/// Opens the journal of a directory, or begins one. `progress` is called after each segment.
///
/// # Errors
/// If a file that is needed is missing, damaged or newer, or the disk refuses. Then nothing was changed, but for the last
/// case.
pub fn recover(
    disk: Arc<dyn Disk>,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Journal, Recovered), StoreError> {
    let layout = Layout::read(&*disk)?;
    let checkpoint = Checkpoint::read(&*disk, &layout)?;
    let from_checkpoint = checkpoint.is_some();
    let replay = match checkpoint {
        Some(checkpoint) => checkpoint.into_replay(),
        None => Replay::layout(&layout, progress)?,
    };
    let spares = tidy(&*disk, &layout, options.segment_octets)?;
    let report = Report {
        segments: layout.segments.len() as u64,
        records: replay.records,
        from_checkpoint,
        torn_file: (layout.torn.octets > 0).then(|| name(layout.last)),
        torn_records: layout.torn.records,
        torn_octets: layout.torn.octets,
    };
    let recovered = Recovered {
        definitions: replay.values.into_iter().map(|(key, value)| Definition { key, value }).collect(),
        queues: replay.live.queues().into_iter().map(QueueState::new).collect(),
        report,
    };
    let end = layout.segments.get(&layout.last).map_or(0, |last| last.end);
    let marking = Journal::marking(options.sync);
    let random = Random::new(options.seed);
    let pen = Pen::new(replay.live, layout.last, end, marking, options.segment_octets, random);
    let segments = layout.segments.into_iter().map(|(number, needed)| (number, needed.segment)).collect();
    Ok((Journal::new(disk, options, pen, segments, spares), recovered))
}

impl QueueState {
    fn new((queue, state): (u64, &Queue)) -> Self {
        Self {
            queue,
            runs: state.runs(),
            messages: state.messages.len(),
            next_seq: state.next_seq,
            handed_out: state.handed_out,
        }
    }
}

/// Makes safe what was found, and puts aside the files that are not needed.
fn tidy(disk: &dyn Disk, layout: &Layout, segment_octets: u64) -> Result<Spares, StoreError> {
    if let Some(last) = layout.segments.get(&layout.last) {
        rewrite(&last.segment, layout.unsynced, last.end)?;
    }
    let mut spares = Spares { ready: Vec::new(), next: layout.spares.iter().max().copied().unwrap_or(0) };
    // A spare may be half made, or its last sync may have failed: not worth the doubt. What was a segment is whole.
    let mut surplus: Vec<String> = layout.spares.iter().map(|number| spare_name(*number)).collect();
    for &number in &layout.leftovers {
        let capacity = Segment::open(disk, number).map_or(0, |segment| segment.header.capacity);
        if spares.ready.len() < SPARES_MAX && capacity == segment_octets {
            spares.next += 1;
            let spare = spare_name(spares.next);
            disk.rename(&name(number), &spare).map_err(StoreError::io(format!("cannot rename {}", name(number))))?;
            spares.ready.push(spares.next);
        } else {
            surplus.push(name(number));
        }
    }
    for name in surplus {
        disk.remove(&name).map_err(StoreError::io(format!("cannot remove {name}")))?;
    }
    disk.sync_directory().map_err(StoreError::io("cannot sync the directory"))?;
    Ok(spares)
}

/// Writes octets again as they are and syncs them: the system may believe that it had.
fn rewrite(segment: &Segment, from: u64, end: u64) -> Result<(), StoreError> {
    let name = name(segment.header.number);
    let mut octets = Vec::new();
    let mut at = from;
    while at < end {
        octets.resize((end - at).min(REWRITE) as usize, 0);
        let length = segment.file.read_at(at, &mut octets).map_err(StoreError::io(format!("cannot read {name}")))?;
        octets.truncate(length);
        if length == 0 {
            return Err(damaged(segment.header.number, at));
        }
        segment.file.write_at(at, &octets).map_err(StoreError::io(format!("cannot write {name}")))?;
        at += length as u64;
    }
    segment.file.sync_data().map_err(StoreError::io(format!("cannot sync {name}")))
}
