//! The store of a running broker: opened before anybody is served, stopped at the end. Knows no
//! definition and no message.

use crate::config::{Config, StoreKind, SyncKind};
use crate::server::data_dir::DataDir;
use crate::server::error::StartError;
use crate::server::store_check::StoreCheck;
use leveret_journal::Store;
use leveret_journal::damage::{Damage, OnLost};
use leveret_journal::disk::Disk;
use leveret_journal::error::{Failure, StoreError};
use leveret_journal::index::Index;
use leveret_journal::journal::{Journal, JournalOptions, OnDurable, Sync};
use leveret_journal::real::{RealDisk, restrict};
use leveret_journal::recovery::{Recovered, Report};
use leveret_journal::repair::repair;
use leveret_journal::replay::Progress;
use leveret_journal::segment::number_of;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Octets of a segment, where there is room for many.
const SEGMENT_MAX: u64 = 64 * 1024 * 1024;
/// The same on the smallest disk.
const SEGMENT_MIN: u64 = 1024 * 1024;
/// Publishers are not read while so many octets wait to be written, or a segment.
const FULL_AT: u64 = 6 * 1024 * 1024;
/// Octets that have to be free for a new journal: a few of the smallest segments.
const NEW_MIN: u64 = 8 * SEGMENT_MIN;
/// How often the log tells how far a recovery has come.
const PROGRESS: Duration = Duration::from_secs(1);
/// Where the journal lies in the data directory.
pub const JOURNAL: &str = "journal";

/// The broker's open store, and the lock of its directory.
pub struct BrokerStore {
    store: Store,
    lock: Option<DataDir>,
    failed: watch::Receiver<Option<String>>,
    check: Option<StoreCheck>,
}

impl std::fmt::Debug for BrokerStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerStore").field("lock", &self.lock).finish_non_exhaustive()
    }
}

/// The waiter for the journal's failure.
struct OnFailure(watch::Sender<Option<String>>);

impl OnDurable for OnFailure {
    fn durable(&self, _: Index) {}

    fn failed(&self, failure: &Failure) {
        self.0.send_replace(Some(failure.to_string()));
    }
}

/// The log of messages that are found to be lost while space is reclaimed.
#[derive(Debug)]
struct LogLost;

impl OnLost for LogLost {
    fn lost(&self, queue: u64, seq: u64, damage: &Damage) {
        let Damage { file, offset, what, .. } = damage;
        tracing::error!(
            queue,
            id = seq,
            file,
            offset,
            what,
            "store: message lost: it is damaged, and its segment is given up"
        );
    }
}

impl BrokerStore {
    /// Opens what `config` names; `None`: everything is in memory. Takes as long as there is to
    /// read.
    ///
    /// # Errors
    /// Another broker uses the directory; what is in it cannot be relied on; the system refuses.
    pub fn open(config: &Config) -> Result<Option<(Self, Recovered)>, StartError> {
        if config.store.kind == StoreKind::Memory {
            tracing::warn!("queues and messages are kept in memory only: they end with this process");
            return Ok(None);
        }
        let lock = DataDir::lock(&config.data_dir).map_err(StartError::DataDir)?;
        let directory = lock.path().join(JOURNAL);
        let refused = |error: StoreError| StartError::store(&config.data_dir, error);
        let failed = StoreError::io(format!("cannot open {}", directory.display()));
        let disk = RealDisk::open(&directory).map_err(|error| refused(failed(error)))?;
        restrict_to_owner(lock.path());
        restrict_to_owner(&directory);
        let (mut store, recovered) = Self::on_disk(Arc::new(disk), config).map_err(refused)?;
        store.lock = Some(lock);
        Ok(Some((store, recovered)))
    }

    /// Opens the store on a disk that nobody else uses: a simulated one, in tests.
    ///
    /// # Errors
    /// What is on it cannot be relied on, or the disk refuses.
    pub fn on_disk(disk: Arc<dyn Disk>, config: &Config) -> Result<(Self, Recovered), StoreError> {
        let sync = match config.store.sync {
            SyncKind::Group => Sync::Group,
            SyncKind::Interval => Sync::Interval { ms: config.store.sync_interval_ms },
            SyncKind::Os => Sync::Os,
        };
        match sync {
            Sync::Group => tracing::info!("store: what is confirmed is synced"),
            Sync::Interval { ms } => {
                tracing::warn!(ms, "store: a loss of power may take away what was confirmed so recently")
            }
            Sync::Os => tracing::warn!("store: a loss of power may take away what was confirmed"),
        }
        let drawn = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()));
        let seed = drawn.map_err(StoreError::io("cannot draw a random number"))?;
        let free = disk.free_space().map_err(StoreError::io("cannot find out how much space is left on the disk"))?;
        let names = disk.list().map_err(StoreError::io("cannot list the directory"))?;
        if free < NEW_MIN && !names.iter().any(|name| number_of(name).is_some()) {
            return Err(StoreError::DiskTooSmall { free, needed: NEW_MIN });
        }
        let segment_octets = segment_octets(free);
        let options = JournalOptions { segment_octets, sync, full_at: FULL_AT.min(segment_octets), seed };
        let began = Instant::now();
        let mut told = began;
        let mut progress = |progress: Progress| {
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let Progress { segments, of, records } = progress;
                tracing::info!("recovering: segment {segments} of {of}, {records} records");
            }
        };
        let (store, recovered) = match Store::open(Arc::clone(&disk), options.clone(), &mut progress) {
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) if config.store.repair => {
                tracing::error!(%error, "store: damaged: what cannot be read is given up");
                for damage in repair(&*disk, seed)? {
                    let Damage { file, offset, octets, what } = damage;
                    tracing::error!(
                        file,
                        offset,
                        octets,
                        what,
                        "store: given up: messages may be lost, settled ones return"
                    );
                }
                Store::open(disk, options, &mut progress)
            }
            opened => opened,
        }?;
        report(&recovered, began.elapsed());
        let (failed, is_failed) = watch::channel(None);
        let waiter: Arc<dyn OnDurable> = Arc::new(OnFailure(failed));
        // No index is as large: it waits for the failure only.
        if let Err(failure) = store.journal().watch(Index::NEVER, &waiter) {
            waiter.failed(&failure);
        }
        let check =
            recovered.report.from_checkpoint.then(|| StoreCheck::start(Arc::clone(store.journal()), &recovered));
        let check = check.transpose().map_err(StoreError::io("cannot start a thread"))?;
        store.journal().damages.observe(Arc::new(LogLost));
        Ok((Self { store, lock: None, failed: is_failed, check }, recovered))
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        self.store.journal()
    }

    /// Returns the reason why nothing becomes durable any more, once there is one.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Writes and syncs what is left, and leaves a checkpoint.
    ///
    /// # Errors
    /// What went wrong: the next start takes longer, or something was not durable, which was never
    /// confirmed.
    pub fn stop(self) -> Result<(), StoreError> {
        let Self { store, lock, check, .. } = self;
        drop(check);
        let began = Instant::now();
        let stopped = store.stop();
        drop(lock);
        let took = began.elapsed();
        match &stopped {
            Ok(()) => tracing::info!(?took, "store: synced and closed"),
            Err(error) => tracing::error!(%error, ?took, "store: not closed as it should be"),
        }
        stopped
    }
}

/// A sixteenth of what is free, as a power of two within bounds: on a small disk a segment must not
/// be half of it.
fn segment_octets(free: u64) -> u64 {
    let share = (free / 16).clamp(SEGMENT_MIN, SEGMENT_MAX);
    1 << share.ilog2()
}

/// Takes what others can read away from them: messages are nobody's business.
fn restrict_to_owner(directory: &Path) {
    match restrict(directory) {
        Ok(restricted) if restricted.is_empty() => {}
        Ok(restricted) => tracing::warn!(?restricted, "store: other users could read these: now only their owner can"),
        Err(error) => {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "store: cannot take the directory away from other users");
        }
    }
}

/// Logs what was found.
fn report(recovered: &Recovered, took: Duration) {
    let Report { segments, records, from_checkpoint, torn, torn_records, repaired, .. } = &recovered.report;
    for Damage { file, offset, octets, what } in torn {
        tracing::warn!(
            file,
            offset,
            octets,
            records = torn_records,
            what,
            "store: a torn end was cut: it was never confirmed, unless the disk has lost what it had synced"
        );
    }
    for Damage { file, offset, what, .. } in repaired {
        tracing::warn!(file, offset, what, "store: damage was repaired without a loss");
    }
    let messages: u64 = recovered.queues.iter().map(|queue| queue.messages).sum();
    let definitions = recovered.definitions.len();
    tracing::info!(messages, definitions, segments, records, from_checkpoint, ?took, "store: ready");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_small_where_there_is_little_room() {
        for (free, octets) in
            [(0, SEGMENT_MIN), (100_000_000, 4 << 20), (1 << 30, SEGMENT_MAX), (u64::MAX, SEGMENT_MAX)]
        {
            assert_eq!(segment_octets(free), octets, "{free}");
        }
    }
}
