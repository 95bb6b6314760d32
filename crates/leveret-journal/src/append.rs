//! Appending changes: each is encoded, given its position and made live under one short hold of the
//! appender's lock. Never waits for the disk.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use crate::appender::Appender;
use crate::encode::{BatchRecord, Encoder, TooLarge, WHOLE_OCTETS};
use crate::index::Index;
use crate::journal::{CommitMode, Journal, Refused};
use crate::list::Run;
use crate::position::Position;
use crate::record::Operation;

/// Most records, and octets of them apart from the last, appended under one hold of the appender's
/// lock.
const STEP_RECORDS: usize = 512;
const STEP_OCTETS: u64 = 512 * 1024;

thread_local! {
    static ENCODER: RefCell<Encoder> = RefCell::default();
}

/// Changes of one record that are made live under one hold of the appender's lock. (Few in tests,
/// so that simulated lives have more.)
const BATCH_STEP: usize = if cfg!(test) { 2 } else { 2_048 };
/// How often a large record is given the salt of the segment that it would go to now before the
/// appender's lock is taken; then it is done under it.
const SALT_TRIES: usize = 8;

/// Octets at which changes that nobody waits for are written.
const DEFERRED_OCTETS: usize = 256 * 1024;

/// Makes some changes live that stand one behind the other from a position on.
fn apply_some<'a>(
    appender: &mut Appender,
    changes: &mut impl Iterator<Item = (&'a Operation<'a>, u64)>,
    position: &mut Position,
) {
    for (operation, size) in changes.take(BATCH_STEP) {
        appender.make_live(operation, *position, size);
        *position = position.behind(size);
    }
}

impl Journal {
    /// Appends a change and returns its index; it is durable once [`Journal::durable`] is not
    /// smaller.
    ///
    /// # Errors
    /// The journal has failed, or the record is too large.
    pub fn append(&self, operation: &Operation<'_>) -> Result<Index, Refused> {
        self.append_all(std::slice::from_ref(operation), CommitMode::Now)
    }

    /// Appends changes in order, each on its own; returns the index of the last.
    ///
    /// # Errors
    /// As [`Journal::append`]; some may have been appended then.
    pub fn append_all(&self, operations: &[Operation<'_>], mode: CommitMode) -> Result<Index, Refused> {
        self.append_each(operations.iter().copied(), mode)
    }

    /// Appends changes in order, each on its own; returns the index of the last, [`Index::ZERO`] if
    /// there is none. They are encoded without the appender's lock, as far as possible, and many
    /// are appended in steps.
    ///
    /// # Errors
    /// As [`Journal::append`]; some may have been appended then.
    pub fn append_each<'a, I>(&self, operations: I, mode: CommitMode) -> Result<Index, Refused>
    where
        I: IntoIterator<Item = Operation<'a>, IntoIter: Clone>,
    {
        ENCODER.with_borrow_mut(|encoder| {
            let mut rest = operations.into_iter();
            let mut last = Index::ZERO;
            loop {
                encoder.clear();
                let step = rest.clone();
                while encoder.len() < STEP_RECORDS && encoder.octets() < STEP_OCTETS {
                    let Some(operation) = rest.next() else { break };
                    encoder.prepare(&operation).map_err(|TooLarge| Refused::TooLarge)?;
                }
                if encoder.is_empty() {
                    return Ok(last);
                }
                let mut whole = Vec::new();
                if encoder.octets() >= WHOLE_OCTETS {
                    whole.extend(step.clone().take(encoder.len()).enumerate().map(|(at, one)| encoder.whole(at, &one)));
                }
                last = self.with_appender_in(mode, |appender| {
                    let mut last = last;
                    for (at, operation) in step.take(encoder.len()).enumerate() {
                        let appended = match whole.get_mut(at).and_then(Option::take) {
                            Some(record) => appender.append_whole(&operation, record),
                            None => appender.append(&operation, encoder, at),
                        };
                        last = appended.map_err(|TooLarge| Refused::TooLarge)?;
                    }
                    Ok(last)
                })?;
            }
        })
    }

    /// Appends changes as one record, of which a crash leaves all or none; returns its index. The
    /// appender's lock is held for a bounded number of changes at a time, and not while a large
    /// record is copied.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_batch(&self, operations: &[Operation<'_>]) -> Result<Index, Refused> {
        let salt = self.hold_appender().salt(0);
        let mut record = BatchRecord::new(operations, salt).map_err(|TooLarge| Refused::TooLarge)?;
        let sizes: Vec<u64> = record.sizes_inside().collect();
        let mut changes = operations.iter().zip(sizes);
        // IMPORTANT: nothing is copied forward, and no segment is given up, between the record and
        // what it makes of the live set: a copy behind it would bring back what it takes away.
        let _moves = (operations.len() > BATCH_STEP).then(|| self.moves.lock());
        for _ in 0..SALT_TRIES {
            let salt = self.hold_appender().salt(record.size());
            if record.salt() == salt {
                break;
            }
            record.set_salt(salt);
        }
        let (index, mut position) = self.with_appender(|appender| {
            let (index, mut position) = appender.append_batch(record).map_err(|TooLarge| Refused::TooLarge)?;
            apply_some(appender, &mut changes, &mut position);
            Ok((index, position))
        })?;
        while changes.len() > 0 {
            apply_some(&mut self.hold_appender(), &mut changes, &mut position);
            self.reclaimer.notify();
        }
        Ok(index)
    }

    /// Removes settled transient messages from the live set; nothing is written.
    pub fn forget(&self, queue: u64, run: Run) {
        let mut appender = self.hold_appender();
        appender.live.settle(queue, run);
        let frees = appender.live.has_deferred_frees();
        drop(appender);
        if frees {
            self.reclaimer.notify();
        }
    }

    /// Runs `write` under the appender's lock, and wakes the journal's thread if needed.
    pub(crate) fn with_appender<T>(
        &self,
        write: impl FnOnce(&mut Appender) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.with_appender_in(CommitMode::Now, write)
    }

    fn with_appender_in<T>(
        &self,
        mode: CommitMode,
        write: impl FnOnce(&mut Appender) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut appender = self.hold_appender();
        if let Some(failure) = self.failure() {
            return Err(Refused::Failed(failure.clone()));
        }
        let before = appender.batch.len();
        let result = write(&mut appender);
        let after = appender.batch.len();
        self.backlog.fetch_add((after - before) as u64, Ordering::Relaxed);
        let is_due = after > before && (mode != CommitMode::Deferred || after >= DEFERRED_OCTETS);
        let is_news = is_due && !appender.batch.is_due;
        appender.batch.is_due |= is_due;
        let wakes = if is_news && mode == CommitMode::Inline {
            self.inline_commit_pending.store(true, Ordering::Release);
            false
        } else {
            // An inline commit was promised for less than what is now in the batch.
            is_news || is_due && mode == CommitMode::Now && self.inline_commit_pending.swap(false, Ordering::AcqRel)
        };
        let frees = appender.live.has_deferred_frees();
        drop(appender);
        if frees {
            self.reclaimer.notify();
        }
        if wakes {
            self.signal.notify(|reasons| reasons.batch = true);
        } else if before == 0 && after > 0 && !is_due {
            self.signal.notify(|reasons| reasons.later = true);
        }
        result
    }
}
