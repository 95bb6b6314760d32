//! Group commit: changes are appended to a batch in memory; one at a time, mostly a thread of its own, writes the batch, syncs it
//! and says how far the journal is durable, while the next batch fills. Knows no queue and no connection: who waits is told through [`OnDurable`].
//!
//! ```text
//!   append (any thread)           step (the journal's thread)
//!     lock the pen                  lock the pen; batch <-> spare; in flight = batch
//!     copy into the batch           write each stretch; a new segment: first sync the old one, then found the new one
//!     note what is live             sync (Group: now; Interval: if due; Os: never)
//!     ring                          publish `durable`; in flight = none; tell who waits
//! ```
//!
//! A write or a sync that fails is the end: nothing is durable any more, as the system may have thrown away what it could not
//! write. Only a write that finds no space is tried again, when there is some: writing the same again is harmless.
//!
//! `append` never waits for the disk. A journal that falls behind says so ([`Journal::is_full`]), and who reads from
//! publishers is to stop reading until it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::store::disk::Disk;
use crate::store::error::{Failure, Trouble, trouble};
use crate::store::list::Run;
use crate::store::pen::{Batch, Marking, Pen};
use crate::store::position::{Entry, OFFSET_LIMIT, Position};
use crate::store::record::{Encoded, Head, Operation};
use crate::store::segment::{Header, Segment, spare_name};
use crate::store::spares::Spares;

/// A batch's buffer that grew beyond so many octets is given back.
const KEEP_BUFFER: usize = 4 * 1024 * 1024;

/// When the disk is made to keep what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before it is called durable; everything that arrived during a sync shares the next one.
    Group,
    /// It is called durable when it is written, which survives the end of the process, and synced at most so many ms later:
    /// that much a loss of power may take away.
    Interval {
        /// The bound.
        ms: u64,
    },
    /// It is called durable when it is written; the operating system syncs when it likes. A segment that is full is synced
    /// all the same.
    Os,
}

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Octets of a segment, at most 256 MiB.
    pub segment_octets: u64,
    /// When to sync.
    pub sync: Sync,
    /// The journal calls itself full when so many octets wait to be written.
    pub full_at: u64,
    /// Where salts come from: must be random, and another one each time, outside tests.
    pub seed: u64,
}

/// Someone who waits for a position.
pub trait OnDurable: Send + std::marker::Sync {
    /// The position waited for is durable, as is everything up to `durable`. Called by whoever writes: be short.
    fn durable(&self, durable: Position);
    /// It never will be.
    fn failed(&self, failure: &Failure);
}

/// Someone who minds the space on the disk.
pub trait OnSpace: Send + std::marker::Sync {
    /// The journal has taken more of the disk, or has found that there is no more. Called by its thread: be short.
    fn space_taken(&self);
}

/// How soon a change is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Somebody waits.
    Now,
    /// Nobody does: together with what comes next, or in a while.
    Leisure,
    /// Somebody waits, and whoever appends it will [`Journal::attend`] to it, or have it attended to, very soon.
    Attended,
}

/// What nobody waits for is written after so long.
const LEISURE: Duration = Duration::from_millis(10);
/// What nobody waits for is written when it has so many octets.
const LEISURE_OCTETS: usize = 256 * 1024;

/// Why a change was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The journal has failed.
    Failed(Failure),
    /// One record, or one batch, of more than 2 GiB, or 256 MiB.
    TooLarge,
}

/// The journal.
pub struct Journal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) pen: Mutex<Pen>,
    pub(crate) segments: RwLock<BTreeMap<u64, Segment>>,
    pub(crate) spares: Mutex<Spares>,
    pub(super) writer: Mutex<Writer>,
    in_flight: RwLock<Option<Arc<Batch>>>,
    wake: Mutex<Wake>,
    bell: Condvar,
    durable: AtomicU64,
    synced: AtomicU64,
    backlog: AtomicU64,
    /// Something is due, the thread was not rung, and nobody has attended to it.
    pub(super) owed: AtomicBool,
    out_of_space: AtomicBool,
    failure: OnceLock<Failure>,
    on_space: OnceLock<Weak<dyn OnSpace>>,
    waiters: Mutex<Vec<(Position, Arc<dyn OnDurable>)>>,
}

/// What only whoever writes touches: mostly the thread.
#[derive(Default)]
pub(super) struct Writer {
    current: Option<Segment>,
    pub(super) batch: Option<Arc<Batch>>,
    /// Stretches of the batch that are written.
    written: usize,
    /// The end of what was written, as segment and offset.
    end: (u64, u64),
    is_unsynced: bool,
    spare_batch: Batch,
}

/// What the writing thread is woken for.
#[derive(Debug, Default)]
struct Wake {
    batch: bool,
    later: bool,
    sync: bool,
    stop: bool,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to write.
    Idle,
    /// A batch is written.
    Wrote,
    /// There was no space for it; it waits.
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
    /// A journal that goes on behind what was recovered: `pen` knows the end, `segments` are all that is needed.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        pen: Pen,
        segments: BTreeMap<u64, Segment>,
        spares: Spares,
    ) -> Self {
        let end = (pen.segment(), pen.end());
        let durable = last_unit(end).number();
        Self {
            disk,
            options,
            pen: Mutex::new(pen),
            segments: RwLock::new(segments),
            spares: Mutex::new(spares),
            writer: Mutex::new(Writer { end, ..Writer::default() }),
            in_flight: RwLock::new(None),
            wake: Mutex::new(Wake::default()),
            bell: Condvar::new(),
            durable: AtomicU64::new(durable),
            synced: AtomicU64::new(durable),
            backlog: AtomicU64::new(0),
            owed: AtomicBool::new(false),
            out_of_space: AtomicBool::new(false),
            failure: OnceLock::new(),
            on_space: OnceLock::new(),
            waiters: Mutex::new(Vec::new()),
        }
    }

    /// How marks know what was synced.
    pub(crate) fn marking(sync: Sync) -> Marking {
        if sync == Sync::Group { Marking::Before } else { Marking::Told }
    }

    /// Takes a change. It is durable when [`Journal::durable`] has come to the position.
    ///
    /// # Errors
    /// If the journal has failed, or the record is too large.
    pub fn append(&self, operation: &Operation<'_>) -> Result<Position, Refused> {
        let mut encoded = Encoded::operation(operation);
        self.with_pen(|pen| pen.append(operation, &mut encoded).map_err(|_| Refused::TooLarge))
    }

    /// Takes changes, in order, each on its own: the position of the last. None may be missing.
    ///
    /// # Errors
    /// As [`Journal::append`]; some may have been taken then.
    pub fn append_all(&self, operations: &[Operation<'_>], haste: Haste) -> Result<Position, Refused> {
        let mut encoded: Vec<_> = operations.iter().map(Encoded::operation).collect();
        self.with_pen_in(haste, |pen| {
            let mut last = Position::ZERO;
            for (operation, encoded) in operations.iter().zip(&mut encoded) {
                last = pen.append(operation, encoded).map_err(|_| Refused::TooLarge)?;
            }
            Ok(last)
        })
    }

    /// Nothing becomes durable any more, as `reason` says.
    pub fn fail(&self, reason: &str) {
        self.poison(Failure { reason: reason.to_owned() });
    }

    /// Takes changes of which a crash leaves all or none.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_batch(&self, operations: &[Operation<'_>]) -> Result<Position, Refused> {
        let mut encoded = Encoded::batch(operations);
        self.with_pen(|pen| pen.append_batch(operations, &mut encoded).map_err(|_| Refused::TooLarge))
    }

    /// Messages that do not outlive the process are done with: nothing is written.
    pub fn forget(&self, queue: u64, run: Run) {
        self.pen.lock().live.settle(queue, run);
    }

    /// Whether a message is there and does not outlive the process.
    pub fn is_transient(&self, queue: u64, seq: u64) -> bool {
        self.pen.lock().live.entry(queue, seq).is_some_and(Entry::is_transient)
    }

    /// Runs `write` under the pen's lock and rings the thread if need be.
    pub(crate) fn with_pen<T>(&self, write: impl FnOnce(&mut Pen) -> Result<T, Refused>) -> Result<T, Refused> {
        self.with_pen_in(Haste::Now, write)
    }

    fn with_pen_in<T>(&self, haste: Haste, write: impl FnOnce(&mut Pen) -> Result<T, Refused>) -> Result<T, Refused> {
        let mut pen = self.pen.lock();
        if let Some(failure) = self.failure.get() {
            return Err(Refused::Failed(failure.clone()));
        }
        let before = pen.batch.octets.len();
        let result = write(&mut pen);
        let after = pen.batch.octets.len();
        self.backlog.fetch_add((after - before) as u64, Ordering::Relaxed);
        let is_due = after > before && (haste != Haste::Leisure || after >= LEISURE_OCTETS);
        let is_news = is_due && !pen.batch.is_due;
        pen.batch.is_due |= is_due;
        let rings = if is_news && haste == Haste::Attended {
            self.owed.store(true, Ordering::Release);
            false
        } else {
            // Whoever promised to attend has company now.
            is_news || is_due && haste == Haste::Now && self.owed.swap(false, Ordering::AcqRel)
        };
        drop(pen);
        if rings {
            self.ring(|wake| wake.batch = true);
        } else if before == 0 && after > 0 && !is_due {
            self.ring(|wake| wake.later = true);
        }
        result
    }

    /// Everything up to here is durable, as [`Sync`] understands it: a record is when its position is not larger.
    pub fn durable(&self) -> Position {
        Position::from_number(self.durable.load(Ordering::Acquire))
    }

    /// The end of what was appended: when it is durable, everything appended before now is.
    pub fn end(&self) -> Position {
        let pen = self.pen.lock();
        last_unit((pen.segment(), pen.end()))
    }

    /// Everything up to here is synced.
    pub fn synced(&self) -> Position {
        Position::from_number(self.synced.load(Ordering::Acquire))
    }

    /// Has `waiter` told once when the position is durable. `false` if it is already: then it is not told.
    ///
    /// # Errors
    /// If the journal has failed; then it is not told either.
    pub fn watch(&self, position: Position, waiter: &Arc<dyn OnDurable>) -> Result<bool, Failure> {
        let mut waiters = self.waiters.lock();
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if self.durable() >= position {
            return Ok(false);
        }
        waiters.push((position, Arc::clone(waiter)));
        Ok(true)
    }

    /// Whether so much waits to be written that publishers should not be read from.
    pub fn is_full(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) >= self.options.full_at
    }

    /// Whether a write waits for space on the disk.
    pub fn is_out_of_space(&self) -> bool {
        self.out_of_space.load(Ordering::Relaxed)
    }

    /// Has one be told whenever space is taken. The first who asks is.
    pub fn mind_space(&self, who: Weak<dyn OnSpace>) {
        // There is one broker to a journal.
        let _ = self.on_space.set(who);
    }

    fn tell_space(&self) {
        if let Some(who) = self.on_space.get().and_then(Weak::upgrade) {
            who.space_taken();
        }
    }

    /// Octets that may still be written to the disk before it is full.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space()
    }

    /// Why nothing becomes durable any more, if it is so.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Has what was appended at leisure written now.
    pub fn hurry(&self) {
        self.ring(|wake| wake.batch = true);
    }

    /// Asks the thread for a sync, though none may be due.
    pub(crate) fn request_sync(&self) {
        self.ring(|wake| wake.sync = true);
    }

    /// Asks the thread to end when all is written.
    pub(crate) fn request_stop(&self) {
        self.ring(|wake| wake.stop = true);
    }

    fn ring(&self, say: impl FnOnce(&mut Wake)) {
        say(&mut self.wake.lock());
        self.bell.notify_one();
    }

    /// Copies the record at a position into `out` if it is not written yet; its salt.
    pub(crate) fn copy_unwritten(&self, position: Position, out: &mut Vec<u8>) -> Option<u64> {
        if position <= self.durable() {
            return None;
        }
        let mut copy = |(octets, salt): (&[u8], u64)| {
            let size = Head::read(octets, salt).map_or(0, |head| head.size() as usize);
            out.clear();
            out.extend_from_slice(octets.get(..size).unwrap_or_default());
            salt
        };
        let pen = self.pen.lock();
        if let Some(found) = pen.batch.at(position) {
            return Some(copy(found));
        }
        drop(pen);
        let in_flight = self.in_flight.read().clone();
        in_flight.as_ref().and_then(|batch| batch.at(position)).map(copy)
    }

    /// Writes what was appended. `sync`: though [`Sync::Group`] is not set.
    ///
    /// # Errors
    /// If the journal has failed, now or before.
    pub fn step(&self, sync: bool) -> Result<Step, Failure> {
        self.step_as(self.writer.lock(), sync)
    }

    /// The same for who has the writer's lock already.
    pub(super) fn step_as(&self, mut writer: MutexGuard<'_, Writer>, sync: bool) -> Result<Step, Failure> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        self.take_batch(&mut writer);
        if writer.batch.is_none() && !(sync && writer.is_unsynced) {
            return Ok(Step::Idle);
        }
        match self.write_out(&mut writer, sync) {
            Ok(()) => {
                self.out_of_space.store(false, Ordering::Relaxed);
                self.publish(writer);
                Ok(Step::Wrote)
            }
            Err(Trouble::NoSpace) => {
                self.out_of_space.store(true, Ordering::Relaxed);
                self.tell_space();
                Ok(Step::NoSpace)
            }
            Err(Trouble::Failed(failure)) => {
                self.poison(failure.clone());
                Err(failure)
            }
        }
    }

    fn take_batch(&self, writer: &mut Writer) {
        if writer.batch.is_some() {
            return;
        }
        let mut pen = self.pen.lock();
        if !writer.is_unsynced {
            pen.synced = writer.end;
        }
        if pen.batch.octets.is_empty() {
            return;
        }
        let batch = Arc::new(std::mem::replace(&mut pen.batch, std::mem::take(&mut writer.spare_batch)));
        // Under the pen's lock: who looks for a position finds it in one batch or the other.
        *self.in_flight.write() = Some(Arc::clone(&batch));
        writer.batch = Some(batch);
        writer.written = 0;
    }

    fn write_out(&self, writer: &mut Writer, sync: bool) -> Result<(), Trouble> {
        if let Some(batch) = writer.batch.clone() {
            for (cut, octets) in batch.stretches().skip(writer.written) {
                if let Some(header) = cut.header
                    && writer.current.as_ref().is_none_or(|current| current.header != header)
                {
                    sync_current(writer)?;
                    let segment = self.found(header)?;
                    self.segments.write().insert(header.number, segment.clone());
                    writer.current = Some(segment);
                    // Before anything more is written, and confirmed.
                    self.tell_space();
                }
                let Some(current) = &writer.current else { continue };
                let written = current.file.write_at(cut.offset, octets);
                written.map_err(|error| trouble(error, &format!("cannot write segment {}", cut.segment)))?;
                writer.is_unsynced = true;
                writer.end = (cut.segment, cut.offset + octets.len() as u64);
                writer.written += 1;
            }
        }
        if sync || self.options.sync == Sync::Group {
            sync_current(writer)?;
        }
        Ok(())
    }

    /// Makes a spare the segment that the header says.
    fn found(&self, header: Header) -> Result<Segment, Trouble> {
        let what = format!("cannot begin segment {}", header.number);
        let spare = self.spares.lock().take();
        let name = spare_name(spare);
        let segment = match Segment::prepare(&*self.disk, &name, header) {
            Ok(segment) => segment,
            Err(error) => {
                self.spares.lock().ready.push(spare);
                return Err(trouble(error, &what));
            }
        };
        // Once it is founded in part, there is no second try.
        let founded = segment.found(&*self.disk, &name);
        founded.map_err(|error| Trouble::Failed(Failure { reason: format!("{what}: {error}") }))?;
        Ok(segment)
    }

    /// Says how far the journal has come, and lets go of what is written.
    fn publish(&self, mut writer: MutexGuard<'_, Writer>) {
        let durable = last_unit(writer.end);
        self.durable.store(durable.number(), Ordering::Release);
        if !writer.is_unsynced {
            self.synced.store(durable.number(), Ordering::Release);
        }
        *self.in_flight.write() = None;
        if let Some(batch) = writer.batch.take() {
            self.backlog.fetch_sub(batch.octets.len() as u64, Ordering::Relaxed);
            // A reader may hold on to it: then the next one is made anew.
            let mut batch = Arc::try_unwrap(batch).unwrap_or_default();
            batch.clear(KEEP_BUFFER);
            writer.spare_batch = batch;
        }
        drop(writer);
        let mut waiters = self.waiters.lock();
        let due: Vec<_> = waiters.extract_if(.., |(position, _)| *position <= durable).collect();
        drop(waiters);
        for (_, waiter) in due {
            waiter.durable(durable);
        }
    }

    /// Nothing becomes durable any more.
    pub(crate) fn poison(&self, failure: Failure) {
        if self.failure.set(failure.clone()).is_err() {
            return;
        }
        let waiters = std::mem::take(&mut *self.waiters.lock());
        for (_, waiter) in waiters {
            waiter.failed(&failure);
        }
    }

    /// Has the thread sleep until there is something to do; what that is. `None`: time to end.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<Woken> {
        let mut wake = self.wake.lock();
        let mut until = timeout.map(|timeout| Instant::now() + timeout);
        let mut timed_out = false;
        while !(wake.batch || wake.sync || wake.stop || timed_out) {
            if std::mem::take(&mut wake.later) {
                let later = Instant::now() + LEISURE;
                until = Some(until.map_or(later, |until| until.min(later)));
            }
            match until {
                Some(until) => timed_out = self.bell.wait_until(&mut wake, until).timed_out(),
                None => self.bell.wait(&mut wake),
            }
        }
        let woken = Woken { sync: wake.sync || wake.stop };
        let ends = wake.stop && !wake.batch;
        (wake.batch, wake.sync, wake.later) = (false, false, false);
        (!ends).then_some(woken)
    }

    /// Whether the thread was rung for something to write, since this was asked.
    #[cfg(test)]
    pub(crate) fn rang(&self) -> bool {
        std::mem::take(&mut self.wake.lock().batch)
    }

    /// Whether it was asked to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.wake.lock().stop
    }

    /// Octets of the segments that it begins.
    pub fn segment_octets(&self) -> u64 {
        self.options.segment_octets
    }

    /// When it syncs.
    pub fn sync(&self) -> Sync {
        self.options.sync
    }

    /// Whether something is written and not synced.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.synced.load(Ordering::Acquire) < self.durable.load(Ordering::Acquire)
    }
}

/// What the thread was woken for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Woken {
    /// Someone asked for a sync.
    pub sync: bool,
}

/// The position of the last unit before an end.
fn last_unit((segment, end): (u64, u64)) -> Position {
    if segment == 0 { Position::ZERO } else { Position::new(segment, (end - 8).min(OFFSET_LIMIT - 8)) }
}

fn sync_current(writer: &mut Writer) -> Result<(), Trouble> {
    if let Some(current) = writer.current.as_ref().filter(|_| writer.is_unsynced) {
        let failed = |error| Failure { reason: format!("cannot sync segment {}: {error}", current.header.number) };
        // Never tried again, not even for want of space: what was written may be gone.
        current.file.sync_data().map_err(failed).map_err(Trouble::Failed)?;
        writer.is_unsynced = false;
    }
    Ok(())
}
