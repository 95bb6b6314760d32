//! Group commit: changes are appended to a batch in memory; one task at a time, mostly the
//! journal's thread, writes the batch, syncs it and advances `durable`, while the next batch fills.
//! Those that wait for an index are notified through [`OnDurable`].
//!
//! ```text
//!   append (any thread)           step (the journal's thread)
//!     lock the appender                  lock the appender; batch <-> spare; in flight = batch
//!     copy into the batch           write each stretch; before a new segment: sync the old one
//!     note what is live             sync (Group: now; Interval: if due; Os: never)
//!     notify the thread             advance `durable`; in flight = none; notify those that wait
//! ```
//!
//! A write or a sync that fails is final: nothing becomes durable any more, as the system may have
//! dropped what it could not write. Only a write without space is tried again, when there is some:
//! writing the same again is harmless.
//!
//! `append` never waits for the disk. A journal that falls behind is full ([`Journal::is_full`]):
//! publishers should not be read from until it is not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::{fmt, io};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::appender::{Appender, Batch, Marking};
use crate::damage::Damages;
use crate::disk::Disk;
use crate::error::{Failure, WriteError, write_error};
use crate::index::Index;
use crate::layout::Synced;
use crate::manifest::Manifest;
use crate::message_map::Totals;
use crate::position::{OFFSET_LIMIT, Position};
use crate::record::Head;
use crate::segment::{END_SIZE, Header, Segment, spare_name};
use crate::signal::{Resting, Signal};
use crate::spare_files::SpareFiles;

/// Capacity in octets beyond which a batch's buffer is freed.
const KEEP_BUFFER: usize = 4 * 1024 * 1024;

/// When the disk is made to keep what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before a change is durable; changes that arrive during a sync share the next one.
    Group,
    /// At most `ms` milliseconds after a change is durable. It is durable when it is written, which
    /// survives the end of the process; a power failure may lose so much.
    Interval {
        /// The longest time to the sync, in milliseconds.
        ms: u64,
    },
    /// When the operating system does it. A change is durable when it is written. A full segment is
    /// synced all the same.
    Os,
}

/// The options of a journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Octets of a segment, at most 256 MiB.
    pub segment_octets: u64,
    /// When to sync.
    pub sync: Sync,
    /// Octets waiting to be written at which the journal is full.
    pub full_at: u64,
    /// The seed of salts: random, and different each time, outside tests.
    pub seed: u64,
}

/// A waiter for an index.
pub trait OnDurable: Send + std::marker::Sync {
    /// Called once when the index is durable, with the index up to which everything is. The caller
    /// is the writer: must be quick.
    fn durable(&self, durable: Index);
    /// Called when the journal has failed: the index will never be durable.
    fn failed(&self, failure: &Failure);
}

/// An observer of the disk's space.
pub trait OnSpace: Send + std::marker::Sync {
    /// Called when the journal has taken more space, or found that there is none. The caller is the
    /// journal's thread: must be quick.
    fn space_taken(&self);
}

/// How soon a change is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// At once: a task waits for it.
    Now,
    /// With the next changes, or after a while: nobody waits.
    Deferred,
    /// Inline: a task waits, and will call [`Journal::commit_inline`] or
    /// [`Journal::hand_over_commit`] very soon.
    Inline,
}

/// The reason why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The journal has failed.
    Failed(Failure),
    /// A record of more than 2 GiB, or a batch record of more than 256 MiB.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "the journal has failed: {failure}"),
            Self::TooLarge => f.write_str("the record is larger than the journal can hold"),
        }
    }
}

/// A journal: the batch, the writer, and what is durable.
pub struct Journal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: JournalOptions,
    pub(crate) appender: Mutex<Appender>,
    /// Held by whoever copies live records forward or gives segments up, and while the changes of
    /// a large record are made live in steps. Taken before the appender's lock.
    pub(crate) moves: Mutex<()>,
    pub(crate) segments: RwLock<BTreeMap<u64, Segment>>,
    pub(crate) spare_files: Mutex<SpareFiles>,
    pub(crate) manifest: Mutex<Manifest>,
    pub(super) writer: Mutex<JournalWriter>,
    in_flight: RwLock<Option<Arc<Batch>>>,
    pub(crate) signal: Signal,
    /// The thread that reclaims space, while it waits for work.
    pub(crate) reclaimer: Resting,
    durable: AtomicU64,
    synced: AtomicU64,
    /// The position of the last record that is in its file.
    written: AtomicU64,
    pub(crate) backlog: AtomicU64,
    /// An inline commit is pending: changes wait, and the journal's thread was not woken.
    pub(super) inline_commit_pending: AtomicBool,
    out_of_space: AtomicBool,
    /// The reason why the last write is tried again.
    shortage: Mutex<Option<String>>,
    failure: OnceLock<Failure>,
    on_space: OnceLock<Weak<dyn OnSpace>>,
    waiters: Mutex<Vec<(Index, Arc<dyn OnDurable>)>>,
    /// The damage found since the start.
    pub damages: Damages,
}

/// The state that only the writer touches: the journal's thread, or a task that commits inline.
#[derive(Default)]
pub(super) struct JournalWriter {
    current: Option<Segment>,
    pub(super) batch: Option<Arc<Batch>>,
    /// The number of cuts of the batch that are written.
    written: usize,
    /// The end of the written octets, as segment and offset.
    end: (u64, u64),
    is_unsynced: bool,
    spare_batch: Batch,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to write.
    Idle,
    /// A batch was written.
    Wrote,
    /// The batch waits for space.
    NoSpace,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("durable", &self.durable())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Creates a journal that goes on behind what was recovered: `appender` has the end, `segments`
    /// are all that are needed.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        appender: Appender,
        segments: BTreeMap<u64, Segment>,
        spare_files: SpareFiles,
        manifest: Manifest,
    ) -> Self {
        let end = (appender.segment(), appender.end());
        let written = last_unit(end).number();
        Self {
            disk,
            options,
            appender: Mutex::new(appender),
            moves: Mutex::new(()),
            segments: RwLock::new(segments),
            spare_files: Mutex::new(spare_files),
            manifest: Mutex::new(manifest),
            writer: Mutex::new(JournalWriter { end, ..JournalWriter::default() }),
            in_flight: RwLock::new(None),
            signal: Signal::default(),
            reclaimer: Resting::default(),
            durable: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            written: AtomicU64::new(written),
            backlog: AtomicU64::new(0),
            inline_commit_pending: AtomicBool::new(false),
            out_of_space: AtomicBool::new(false),
            shortage: Mutex::default(),
            failure: OnceLock::new(),
            on_space: OnceLock::new(),
            waiters: Mutex::new(Vec::new()),
            damages: Damages::default(),
        }
    }

    /// Takes the appender's lock: for a bounded number of changes, and no large copy.
    pub(crate) fn hold_appender(&self) -> MutexGuard<'_, Appender> {
        #[cfg_attr(not(any(test, feature = "simulation")), expect(unused_mut))]
        let mut appender = self.appender.lock();
        #[cfg(any(test, feature = "simulation"))]
        appender.work.begin();
        appender
    }

    /// Returns how marks know how far the journal was synced.
    pub(crate) fn marking(sync: Sync) -> Marking {
        if sync == Sync::Group { Marking::Before } else { Marking::Told }
    }

    /// Fails the journal for `reason`: nothing becomes durable any more.
    pub fn fail(&self, reason: &str) {
        self.poison(Failure { reason: reason.to_owned() });
    }

    /// Returns the index up to which all changes are durable, in the sense of [`Sync`].
    pub fn durable(&self) -> Index {
        Index::from_number(self.durable.load(Ordering::Acquire))
    }

    /// Returns the index of the last change that was appended.
    pub fn end(&self) -> Index {
        self.hold_appender().last()
    }

    /// Returns the index up to which all changes are synced.
    pub fn synced(&self) -> Index {
        Index::from_number(self.synced.load(Ordering::Acquire))
    }

    /// Notifies `waiter` once when the change is durable. Returns false, without a notification, if
    /// it is durable already.
    ///
    /// # Errors
    /// The journal has failed; `waiter` is not notified.
    pub fn watch(&self, index: Index, waiter: &Arc<dyn OnDurable>) -> Result<bool, Failure> {
        let mut waiters = self.waiters.lock();
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if self.durable() >= index {
            return Ok(false);
        }
        waiters.push((index, Arc::clone(waiter)));
        Ok(true)
    }

    /// Returns the totals of the messages of a queue from `first` to `last`, without reading them:
    /// one look a chunk of 128 message numbers, under the appender's lock.
    pub fn totals(&self, queue: u64, first: u64, last: u64) -> Totals {
        self.hold_appender().live.totals(queue, first, last)
    }

    /// Returns true if so much waits to be written that publishers should not be read from.
    pub fn is_full(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) >= self.options.full_at
    }

    /// Returns the octets that have to be free on the disk so that space can always be reclaimed:
    /// what publishers may have appended before they are held back, and two segments, for what
    /// settles messages and for what is copied forward.
    pub fn reserve(&self) -> u64 {
        self.options.full_at + 2 * self.options.segment_octets
    }

    /// Returns true if a write waits for space on the disk, or for descriptors or memory.
    pub fn is_out_of_space(&self) -> bool {
        self.out_of_space.load(Ordering::Relaxed)
    }

    /// Returns the operation and the error of a write that waits for space.
    pub fn shortage(&self) -> Option<String> {
        if self.is_out_of_space() { self.shortage.lock().clone() } else { None }
    }

    /// Sets the observer of the disk's space; the first one set stays.
    pub fn mind_space(&self, who: Weak<dyn OnSpace>) {
        // There is one broker to a journal.
        let _ = self.on_space.set(who);
    }

    fn tell_space(&self) {
        if let Some(who) = self.on_space.get().and_then(Weak::upgrade) {
            who.space_taken();
        }
    }

    /// Returns the octets that can be written before the disk is full.
    ///
    /// # Errors
    /// An I/O error.
    pub fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space()
    }

    /// Returns the reason why nothing becomes durable any more, if the journal has failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Makes the journal's thread write deferred changes now.
    pub fn write_deferred(&self) {
        self.signal.notify(|reasons| reasons.batch = true);
    }

    /// Returns true if the journal's thread was woken to write since the last call.
    #[cfg(any(test, feature = "simulation"))]
    pub fn was_woken(&self) -> bool {
        self.signal.take_batch()
    }

    /// Copies the record at a position to `out` if it is not written yet; returns its salt.
    pub(crate) fn copy_unwritten(&self, position: Position, out: &mut Vec<u8>) -> Option<u64> {
        if position.number() <= self.written.load(Ordering::Acquire) {
            return None;
        }
        let mut copy = |(octets, salt): (&[u8], u64)| {
            let size = Head::read(octets, salt).map_or(0, |head| head.size() as usize);
            out.clear();
            out.extend_from_slice(octets.get(..size).unwrap_or_default());
            salt
        };
        let appender = self.hold_appender();
        // A large record is not copied under the lock.
        let whole = appender.batch.record_at(position);
        if let Some(found) = appender.batch.at(position).filter(|_| whole.is_none()) {
            return Some(copy(found));
        }
        drop(appender);
        if let Some((record, start, salt)) = whole {
            return record.get(start..).map(|octets| copy((octets, salt)));
        }
        let in_flight = self.in_flight.read().clone();
        in_flight.as_ref().and_then(|batch| batch.at(position)).map(copy)
    }

    /// Writes and syncs a batch; with `sync` also where [`Sync::Group`] is not set.
    ///
    /// # Errors
    /// The journal has failed, now or before.
    pub fn step(&self, sync: bool) -> Result<Step, Failure> {
        self.step_as(self.writer.lock(), sync)
    }

    /// Acts as [`Journal::step`], with the writer's lock held.
    pub(super) fn step_as(&self, mut writer: MutexGuard<'_, JournalWriter>, sync: bool) -> Result<Step, Failure> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.take_batch(&mut writer);
        if writer.batch.is_none() && !(sync && writer.is_unsynced) {
            return Ok(Step::Idle);
        }
        match self.write_out(&mut writer, sync) {
            Ok(()) => {
                if self.out_of_space.swap(false, Ordering::Relaxed) {
                    *self.shortage.lock() = None;
                }
                self.publish(writer);
                Ok(Step::Wrote)
            }
            Err(WriteError::Shortage(reason)) => {
                *self.shortage.lock() = Some(reason);
                self.out_of_space.store(true, Ordering::Relaxed);
                self.tell_space();
                Ok(Step::NoSpace)
            }
            Err(WriteError::Failed(failure)) => {
                self.poison(failure.clone());
                Err(failure)
            }
        }
    }

    fn take_batch(&self, writer: &mut JournalWriter) {
        if writer.batch.is_some() {
            return;
        }
        let mut appender = self.hold_appender();
        if !writer.is_unsynced {
            appender.synced = writer.end;
        }
        if appender.batch.is_empty() {
            return;
        }
        let before = appender.batch.len();
        appender.put_end();
        self.backlog.fetch_add((appender.batch.len() - before) as u64, Ordering::Relaxed);
        let batch = Arc::new(std::mem::replace(&mut appender.batch, std::mem::take(&mut writer.spare_batch)));
        // Under the appender's lock: a reader finds a position in one batch or the other.
        *self.in_flight.write() = Some(Arc::clone(&batch));
        writer.batch = Some(batch);
        writer.written = 0;
    }

    fn write_out(&self, writer: &mut JournalWriter, sync: bool) -> Result<(), WriteError> {
        if let Some(batch) = writer.batch.clone() {
            for (cut, octets) in batch.stretches().skip(writer.written) {
                if let Some(header) = cut.header
                    && writer.current.as_ref().is_none_or(|current| current.header != header)
                {
                    sync_current(writer)?;
                    let segment = self.begin_segment(header)?;
                    self.segments.write().insert(header.number, segment.clone());
                    writer.current = Some(segment);
                    // Before anything more is written and confirmed.
                    self.tell_space();
                }
                let Some(current) = &writer.current else { continue };
                let written = current.file.write_at(cut.offset, octets);
                written.map_err(|error| write_error(error, &format!("cannot write segment {}", cut.segment)))?;
                writer.is_unsynced = true;
                let end = if cut.has_end { END_SIZE } else { 0 };
                writer.end = (cut.segment, cut.offset + octets.len() as u64 - end);
                writer.written += 1;
            }
        }
        if sync || self.options.sync == Sync::Group {
            sync_current(writer)?;
        }
        Ok(())
    }

    /// Turns a spare into the segment of the header.
    fn begin_segment(&self, header: Header) -> Result<Segment, WriteError> {
        let what = format!("cannot begin segment {}", header.number);
        let spare = self.spare_files.lock().take();
        let name = spare_name(spare);
        let segment = match Segment::prepare(&*self.disk, &name, header) {
            Ok(segment) => segment,
            Err(error) => {
                self.spare_files.lock().ready.push(spare);
                return Err(write_error(error, &what));
            }
        };
        // A failure after this is final.
        let state = |()| self.manifest.lock().state(Synced { segment: header.number, salt: header.salt, end: 0 });
        let begun = segment.activate(&*self.disk, &name).and_then(state);
        begun.map_err(|error| WriteError::Failed(Failure { reason: format!("{what}: {error}") }))?;
        Ok(segment)
    }

    /// Advances `durable`, and drops the batch that was written.
    fn publish(&self, mut writer: MutexGuard<'_, JournalWriter>) {
        self.written.store(last_unit(writer.end).number(), Ordering::Release);
        let durable = writer.batch.as_ref().map_or_else(|| self.durable(), |batch| batch.last);
        self.durable.store(durable.number(), Ordering::Release);
        if !writer.is_unsynced {
            self.synced.store(durable.number(), Ordering::Release);
        }
        *self.in_flight.write() = None;
        if let Some(batch) = writer.batch.take() {
            self.backlog.fetch_sub(batch.len() as u64, Ordering::Relaxed);
            // A reader may hold the batch: then a new one is made.
            let mut batch = Arc::try_unwrap(batch).unwrap_or_default();
            batch.clear(KEEP_BUFFER);
            writer.spare_batch = batch;
        }
        drop(writer);
        self.reclaimer.notify();
        let mut waiters = self.waiters.lock();
        let due: Vec<_> = waiters.extract_if(.., |(index, _)| *index <= durable).collect();
        drop(waiters);
        for (_, waiter) in due {
            waiter.durable(durable);
        }
    }

    /// Fails the journal: nothing becomes durable any more.
    pub(crate) fn poison(&self, failure: Failure) {
        if self.failure.set(failure.clone()).is_err() {
            return;
        }
        let waiters = std::mem::take(&mut *self.waiters.lock());
        for (_, waiter) in waiters {
            waiter.failed(&failure);
        }
    }

    /// Returns the size of new segments, in octets.
    pub fn segment_octets(&self) -> u64 {
        self.options.segment_octets
    }

    /// Returns when it syncs.
    pub fn sync(&self) -> Sync {
        self.options.sync
    }

    /// Returns true if something is written and not synced.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.durable.load(Ordering::Acquire)
    }
}

/// Returns the position of the last unit before an end.
fn last_unit((segment, end): (u64, u64)) -> Position {
    if segment == 0 { Position::ZERO } else { Position::new(segment, (end - 8).min(OFFSET_LIMIT - 8)) }
}

fn sync_current(writer: &mut JournalWriter) -> Result<(), WriteError> {
    if let Some(current) = writer.current.as_ref().filter(|_| writer.is_unsynced) {
        let failed = |error| Failure { reason: format!("cannot sync segment {}: {error}", current.header.number) };
        // Never tried again, not even without space: octets may be lost.
        current.file.sync_data().map_err(failed).map_err(WriteError::Failed)?;
        writer.is_unsynced = false;
    }
    Ok(())
}
