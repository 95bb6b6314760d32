//! Recovery: reads the needed segments of a directory in order, checks each record, and makes the
//! journal ready to go on. Queues are known by number only.
//!
//! Why reading in order suffices: a segment is given up only after its live records were copied to
//! the end of the journal, and always the oldest first. So a change that removes a message (settle,
//! purge) stands behind every copy of the message, and leaves the disk later than all of them. No
//! settled message can come back; of several copies of a live one, the last counts.
//!
//! What was read may not be safe: a killed process leaves octets in the system's memory, and after
//! a failed sync they can be read although the disk does not have them. So the last stretch is
//! written again and synced before anything is appended; names are synced, too.

use std::io;
use std::sync::Arc;

use crate::appender::Appender;
use crate::checkpoint::{self, Checkpoint};
use crate::damage::Damage;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::gap::{begin, gap};
use crate::journal::{Journal, JournalOptions};
use crate::layout::{Layout, Needed, Synced, damaged};
use crate::list::Run;
use crate::live::LiveQueue;
use crate::manifest::{self, Manifest, Stated};
use crate::random::Random;
use crate::record::Mark;
use crate::replay::{Progress, Replay};
use crate::segment::{HEADER_SIZE, Segment, name, spare_name};
use crate::spare_files::SpareFiles;

/// Octets written again at a time.
const REWRITE: u64 = 1024 * 1024;
/// Most spare files that are kept.
pub const SPARES_MAX: usize = 1;

/// The result of a recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Definitions, in the order of their keys.
    pub definitions: Vec<Definition>,
    /// Every queue that a record names, by number; also those without messages or without a
    /// definition.
    pub queues: Vec<QueueState>,
    /// The course of the recovery.
    pub report: Report,
}

/// One durable definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The definition's key.
    pub key: Box<[u8]>,
    /// The definition's value.
    pub value: Box<[u8]>,
}

/// The state of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue's number.
    pub queue: u64,
    /// The message numbers, in order.
    pub runs: Vec<Run>,
    /// The number of messages.
    pub messages: u64,
    /// The number of the next message, or any larger one.
    pub next_seq: u64,
    /// The number up to which messages may have been delivered.
    pub delivered_upto: u64,
}

/// The course of a recovery, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// A checkpoint was used instead of reading the segments.
    pub from_checkpoint: bool,
    /// Octets at the end of the journal that are no record and were not known to be synced: most
    /// likely torn by the crash, and never confirmed. Records behind them are kept.
    pub torn: Vec<Damage>,
    /// Records in `torn`, as far as they can be told.
    pub torn_records: u64,
    /// Gap records read: octets given up by an earlier repair or start.
    pub gaps: u64,
    /// Damage that was repaired without a loss.
    pub repaired: Vec<Damage>,
}

/// Recovers the journal of a directory, or begins a new one. `progress` is called after each
/// segment.
///
/// # Errors
/// A file that is needed is missing, damaged or newer, or an I/O error. Unless it is the latter,
/// nothing was changed.
pub fn recover(
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Journal, Recovered), StoreError> {
    let found = DirectoryContents::read(&*disk, progress)?;
    let layout = &found.layout;
    let (spare_files, manifest) = clean_up(&*disk, &found, options.segment_octets)?;
    let report = found.report();
    let recovered = Recovered {
        definitions: found.values(),
        queues: found.replay.live.queues().into_iter().map(QueueState::new).collect(),
        report,
    };
    let end = layout.segments.get(&layout.last).map_or(0, |last| last.end);
    let marking = Journal::marking(options.sync);
    let random = Random::new(options.seed);
    let segments = layout.segments.iter().map(|(number, needed)| (*number, needed.segment.clone())).collect();
    let last = layout.last;
    let appender = Appender::new(found.replay.live, last, end, marking, options.segment_octets, random);
    Ok((Journal::new(disk, options, appender, segments, spare_files, manifest), recovered))
}

/// The contents of a directory.
struct DirectoryContents {
    layout: Layout,
    replay: Replay,
    stated: Stated,
    from_checkpoint: bool,
    /// There is a checkpoint, and it is not whole.
    has_broken_checkpoint: bool,
}

impl DirectoryContents {
    fn read(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Self, StoreError> {
        let stated = Stated::read(disk)?;
        let checkpoint = Checkpoint::read(disk)?;
        let has_broken_checkpoint = checkpoint.is_none() && Checkpoint::is_there(disk)?;
        let synced = latest(&stated, checkpoint.as_ref());
        let stopped = match &checkpoint {
            Some(checkpoint) => Layout::stopped(disk, &checkpoint.headers, checkpoint.synced.end, stated.synced)?,
            None => None,
        };
        let checkpoint = match (checkpoint, stopped) {
            (Some(checkpoint), Some(layout)) => {
                let replay = checkpoint.replay;
                return Ok(Self { layout, replay, stated, from_checkpoint: true, has_broken_checkpoint });
            }
            (checkpoint, _) => checkpoint,
        };
        let layout = Layout::read(disk, synced)?;
        // A checkpoint of format 1 has no headers.
        let end = layout.segments.get(&layout.last).map(|last| (layout.last, last.segment.header.salt, last.end));
        let fits = |checkpoint: &Checkpoint| {
            let Synced { segment, salt, end: at } = checkpoint.synced;
            end == Some((segment, salt, at)) && checkpoint.replay.live.oldest() == layout.oldest
        };
        let (replay, from_checkpoint) = match checkpoint.filter(fits) {
            Some(checkpoint) => (checkpoint.replay, true),
            None => (Replay::layout(&layout, progress)?, false),
        };
        Ok(Self { layout, replay, stated, from_checkpoint, has_broken_checkpoint })
    }

    fn report(&self) -> Report {
        let faults = self.layout.segments.iter().filter_map(|(number, needed)| {
            let what = needed.segment.fault?;
            Some(Damage { file: name(*number), offset: 0, octets: HEADER_SIZE, what })
        });
        let has_format = self.layout.segments.values().any(|needed| needed.segment.header.has_end());
        let manifest = (!self.stated.is_there && has_format).then(|| {
            let what = "it is missing: it was made anew";
            Damage { file: manifest::NAME.to_owned(), offset: 0, octets: 0, what }
        });
        let checkpoint = self.has_broken_checkpoint.then(|| {
            let what = "it is not whole: the journal was read instead";
            Damage { file: checkpoint::NAME.to_owned(), offset: 0, octets: 0, what }
        });
        Report {
            segments: self.layout.segments.len() as u64,
            records: self.replay.records,
            from_checkpoint: self.from_checkpoint,
            torn: self.layout.torn_damage(),
            torn_records: self.layout.lost().map(|(_, hole)| hole.records).sum(),
            gaps: self.replay.gaps,
            repaired: faults.chain(self.stated.damage.clone()).chain(manifest).chain(checkpoint).collect(),
        }
    }

    fn values(&self) -> Vec<Definition> {
        let values = self.replay.values.iter();
        values.map(|(key, value)| Definition { key: key.clone(), value: value.clone() }).collect()
    }
}

/// Returns the later of the places up to which manifest and checkpoint say the journal was synced.
pub(crate) fn latest(stated: &Stated, checkpoint: Option<&Checkpoint>) -> Synced {
    let synced = checkpoint.map(|checkpoint| checkpoint.synced).into_iter().chain([stated.synced]);
    synced.max_by_key(|synced| (synced.segment, synced.end)).unwrap_or_default()
}

impl QueueState {
    fn new((queue, state): (u64, &LiveQueue)) -> Self {
        Self {
            queue,
            runs: state.runs(),
            messages: state.messages.len(),
            next_seq: state.next_seq,
            delivered_upto: state.delivered_upto,
        }
    }
}

/// Syncs what was read, and turns files that are not needed into spares, or removes them.
fn clean_up(
    disk: &dyn Disk,
    found: &DirectoryContents,
    segment_octets: u64,
) -> Result<(SpareFiles, Manifest), StoreError> {
    let layout = &found.layout;
    for (number, needed) in &layout.segments {
        needed.segment.repair().map_err(StoreError::io(format!("cannot write {}", name(*number))))?;
    }
    let mut synced = Synced::default();
    if let Some(last) = layout.segments.get(&layout.last) {
        close_holes(last, layout.lost_mark)
            .and_then(|()| last.segment.write_end(last.end))
            .map_err(StoreError::io(format!("cannot write {}", name(layout.last))))?;
        rewrite(&last.segment, layout.unsynced, last.end)?;
        synced = Synced { segment: layout.last, salt: last.segment.header.salt, end: last.end };
    }
    let failed = || StoreError::io("cannot write the manifest");
    let mut manifest = Manifest::open(disk, &found.stated).map_err(failed())?;
    // A segment that was begun and is empty becomes a spare: it must not be missed later.
    if synced != found.stated.synced {
        manifest.state(synced).map_err(failed())?;
    }
    let mut spare_files = SpareFiles { ready: Vec::new(), next: layout.spare_files.iter().max().copied().unwrap_or(0) };
    // A spare may be partly allocated, or its last sync may have failed: it is removed. A segment
    // is whole.
    let mut surplus: Vec<String> = layout.spare_files.iter().map(|number| spare_name(*number)).collect();
    for &number in &layout.leftovers {
        let capacity = Segment::open(disk, number).map_or(0, |segment| segment.header.capacity);
        if spare_files.ready.len() < SPARES_MAX && capacity == segment_octets {
            spare_files.next += 1;
            let spare = spare_name(spare_files.next);
            disk.rename(&name(number), &spare).map_err(StoreError::io(format!("cannot rename {}", name(number))))?;
            spare_files.ready.push(spare_files.next);
        } else {
            surplus.push(name(number));
        }
    }
    for name in surplus {
        disk.remove(&name).map_err(StoreError::io(format!("cannot remove {name}")))?;
    }
    disk.sync_directory().map_err(StoreError::io("cannot sync the directory"))?;
    Ok((spare_files, manifest))
}

/// Makes gap records of the holes in the last segment, so that the records behind them are read
/// from now on.
fn close_holes(last: &Needed, lost_mark: Option<Mark>) -> io::Result<()> {
    let mut holes = last.holes.iter().map(|hole| (hole.from, hole.to));
    if let Some(mark) = lost_mark
        && let Some((_, to)) = holes.next()
    {
        begin(&last.segment, mark, to)?;
    }
    holes.try_for_each(|(from, to)| gap(&last.segment, from, to))
}

/// Writes octets again as they are and syncs them: the system may take them for synced already.
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
