//! Durability: one journal for all queues, written by one thread at a time, with a second that gives space back. Knows messages as octets
//! and queues as numbers; no AMQP, no connection, no runtime.
//!
//! | file | holds |
//! |---|---|
//! | `disk`, `real`, `simulated` | the seam to files, and both sides of it |
//! | `record`, `list`, `position` | the format of a record, and its place as a number |
//! | `segment`, `layout`, `spares` | one file; all of them; those that wait to be used again |
//! | `index`, `live` | what is live, in 8 octets a message |
//! | `pen`, `journal`, `attend` | where the next record goes; group commit; and without the thread |
//! | `replay`, `recovery`, `checkpoint` | from files to what is live |
//! | `reclaim`, `read` | space given back; messages read back |
//! | `check`, `repair` | a directory looked at, and mended, while no broker uses it |

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::store::disk::Disk;
use crate::store::error::{Failure, StoreError};
use crate::store::journal::{Journal, Options, Step, Sync};
use crate::store::reclaim::Reclaim;
use crate::store::recovery::{Recovered, recover};
use crate::store::replay::Progress;

mod attend;
pub mod check;
pub mod checkpoint;
pub mod disk;
pub mod error;
pub mod index;
pub mod journal;
pub mod layout;
pub mod list;
pub mod live;
pub mod pen;
pub mod position;
pub mod random;
pub mod read;
pub mod real;
pub mod reclaim;
pub mod record;
pub mod recovery;
pub mod repair;
pub mod replay;
pub mod segment;
pub mod simulated;
pub mod spares;

/// How long a write that found no space waits for some.
const SPACE_RETRY: Duration = Duration::from_millis(100);
/// How long the thread that gives space back rests when there was nothing to do.
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
    /// If what is in the directory cannot be relied on, or the system refuses.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
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
        // If it cannot be started, dropping the store ends the first.
        store.reclaimer = Some(start("store-reclaim", give_back).map_err(failed())?);
        Ok((store, recovered))
    }

    /// The journal, to append to and read from.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Writes and syncs what was appended, ends the threads, and leaves a checkpoint. Nobody may append any more.
    ///
    /// # Errors
    /// If the journal has failed, or the checkpoint could not be written (then the next start takes longer).
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.end_threads();
        let journal = &self.journal;
        // What waited for space is written first, and only then what was appended meanwhile.
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
        self.journal.request_stop();
        for thread in [self.reclaimer.take(), self.writer.take()].into_iter().flatten() {
            thread.thread().unpark();
            // A thread that panicked has nothing left to write.
            let _ = thread.join();
        }
        // Whoever attends to the journal now has begun before it was to stop; nobody begins after.
        self.journal.wait_for_writer();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end_threads();
    }
}

/// The journal's thread.
fn write(journal: &Journal) {
    let interval = match journal.sync() {
        Sync::Interval { ms } => Some(Duration::from_millis(ms)),
        Sync::Group | Sync::Os => None,
    };
    let mut synced_at = Instant::now();
    let (mut timeout, mut was_held) = (None, false);
    while let Some(woken) = journal.wait(timeout) {
        let is_due = interval.is_some_and(|interval| synced_at.elapsed() >= interval);
        let Ok(step) = journal.step(woken.sync || is_due) else { return };
        if !journal.is_unsynced() {
            synced_at = Instant::now();
        }
        timeout = match (step, interval) {
            (Step::NoSpace, _) => Some(SPACE_RETRY),
            // What was appended while that one waited for space has rung already, and will not ring again.
            _ if was_held => Some(Duration::ZERO),
            (_, Some(interval)) if journal.is_unsynced() => Some(interval.saturating_sub(synced_at.elapsed())),
            _ => None,
        };
        was_held = step == Step::NoSpace;
    }
}

/// The thread that gives space back.
fn give_back(journal: &Journal) {
    let mut work = Reclaim::default();
    while !journal.is_stopping() {
        match journal.reclaim(&mut work) {
            Ok(true) => {}
            Ok(false) => thread::park_timeout(RECLAIM_REST),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
