//! Durability: one journal for all queues, written by one thread at a time; a second thread
//! reclaims space. Messages are octets and queues are numbers here. Names no AMQP, connection or
//! runtime.
//!
//! | file | holds |
//! |---|---|
//! | `disk`, `real`, `simulated` | the traits for files, and both implementations |
//! | `record`, `encode`, `list`, `position` | the format of a record; its position, a number |
//! | `segment`, `layout`, `spare_files` | one file; all of them; spare files |
//! | `message_map`, `live` | the live set, in about 9 octets a message |
//! | `index`, `appender`, `append` | the number of a change; where the next record goes |
//! | `journal`, `signal`, `inline_commit` | group commit by a thread, or by who appended |
//! | `replay`, `recovery`, `checkpoint` | from files to the live set |
//! | `reclaim`, `copy`, `salvage` | reclaiming space, of damaged segments too |
//! | `read` | reading messages and definitions back |
//! | `check`, `repair` | checking and repairing a directory that no broker uses |

#![deny(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::disk::Disk;
use crate::error::{Failure, StoreError};
use crate::journal::{Journal, JournalOptions, Step, Sync};
use crate::reclaim::Reclaim;
use crate::recovery::{Recovered, recover};
use crate::replay::Progress;

mod append;
pub mod appender;
pub mod check;
pub mod checkpoint;
mod copy;
pub mod damage;
pub mod disk;
pub mod encode;
pub mod error;
pub mod gap;
pub mod index;
mod inline_commit;
#[cfg(any(test, feature = "simulation"))]
pub mod inspect;
pub mod journal;
pub mod layout;
pub mod list;
pub mod live;
pub mod manifest;
pub mod message_map;
pub mod position;
pub mod random;
pub mod read;
pub mod real;
pub mod reclaim;
pub mod record;
pub mod recovery;
pub mod repair;
pub mod replay;
mod salvage;
pub mod segment;
mod signal;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
pub mod spare_files;

/// How long a write without space waits before it is tried again.
const SPACE_RETRY: Duration = Duration::from_millis(100);
/// How long the reclaiming thread waits after it was woken: events come in bursts.
const RECLAIM_REST: Duration = Duration::from_millis(50);

/// A journal with its threads.
pub struct Store {
    journal: Arc<Journal>,
    writer: Option<JoinHandle<()>>,
    reclaimer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens a directory that nobody else uses, and starts the threads.
    ///
    /// # Errors
    /// The directory's contents are damaged, or the system refuses a thread or an I/O operation.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Recovered), StoreError> {
        let (journal, recovered) = recover(disk, options, progress)?;
        let journal = Arc::new(journal);
        let start = |name: &str, work: fn(&Journal)| {
            let journal = Arc::clone(&journal);
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&journal))
        };
        let failed = || StoreError::io("cannot start a thread");
        let writer = start("store-journal", write).map_err(failed())?;
        let mut store = Self { journal: Arc::clone(&journal), writer: Some(writer), reclaimer: None };
        // If it cannot be started, dropping the store ends the first thread.
        store.reclaimer = Some(start("store-reclaim", give_back).map_err(failed())?);
        Ok((store, recovered))
    }

    /// Returns the journal, to append to and read from.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Writes and syncs all changes, ends the threads, and writes a checkpoint. Nobody may append
    /// any more.
    ///
    /// # Errors
    /// The journal has failed, or the checkpoint could not be written: the next start takes longer.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.end_threads();
        let journal = &self.journal;
        // The batch that waits for space is written first, then changes appended meanwhile.
        loop {
            let step = journal.step(true).map_err(|failure: Failure| StoreError::Io {
                what: "cannot sync the journal".to_owned(),
                error: io::Error::other(failure.reason),
            })?;
            match step {
                Step::Wrote => {}
                Step::Idle => break,
                Step::NoSpace => {
                    let error = io::Error::from(io::ErrorKind::StorageFull);
                    return Err(StoreError::Io { what: "cannot write the journal".to_owned(), error });
                }
            }
        }
        journal.write_checkpoint()
    }

    fn end_threads(&mut self) {
        self.journal.signal.notify(|reasons| reasons.stop = true);
        self.journal.reclaimer.notify();
        for thread in [self.reclaimer.take(), self.writer.take()].into_iter().flatten() {
            thread.thread().unpark();
            // A thread that panicked has nothing left to write.
            let _ = thread.join();
        }
        // An inline commit that is running began before this; no new one begins.
        self.journal.wait_for_writer();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end_threads();
    }
}

/// Runs the journal's thread.
fn write(journal: &Journal) {
    let interval = match journal.sync() {
        Sync::Interval { ms } => Some(Duration::from_millis(ms)),
        Sync::Group | Sync::Os => None,
    };
    let mut synced_at = Instant::now();
    let (mut timeout, mut was_held) = (None, false);
    while let Some(woken) = journal.signal.wait(timeout) {
        let is_due = interval.is_some_and(|interval| synced_at.elapsed() >= interval);
        let Ok(step) = journal.step(woken.sync || is_due) else { return };
        if !journal.is_unsynced() {
            synced_at = Instant::now();
        }
        timeout = match (step, interval) {
            (Step::NoSpace, _) => Some(SPACE_RETRY),
            // Changes appended while the batch waited for space have notified already, and will not
            // again.
            _ if was_held => Some(Duration::ZERO),
            (_, Some(interval)) if journal.is_unsynced() => Some(interval.saturating_sub(synced_at.elapsed())),
            _ => None,
        };
        was_held = step == Step::NoSpace;
    }
}

/// Runs the thread that reclaims space: at most 20 times a second, and not at all while nothing is
/// written.
fn give_back(journal: &Journal) {
    let mut work = Reclaim::default();
    loop {
        journal.reclaimer.begin();
        if journal.signal.is_stopping() {
            return;
        }
        match journal.reclaim(&mut work) {
            Ok(true) => {}
            Ok(false) => {
                journal.reclaimer.rest();
                if !journal.signal.is_stopping() {
                    thread::park_timeout(RECLAIM_REST);
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
