//! The store of a running broker: opened before anybody is served, looked after, stopped at the end. It knows no definition and no
//! message.

use crate::broker::node::Node;
use crate::config::{Config, StoreKind, SyncKind};
use crate::server::data_dir::DataDir;
use crate::server::start_error::StartError;
use crate::store::Store;
use crate::store::disk::Disk;
use crate::store::error::{Failure, StoreError};
use crate::store::journal::{Journal, OnDurable, Options, Sync};
use crate::store::position::Position;
use crate::store::real::RealDisk;
use crate::store::recovery::{Recovered, Report};
use crate::store::replay::Progress;
use crate::wire::fault::{Code, Fault};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Octets of a segment, where there is room for many.
const SEGMENT_MAX: u64 = 64 * 1024 * 1024;
/// The same on the smallest disk.
const SEGMENT_MIN: u64 = 1024 * 1024;
/// Publishers are not read while so many octets wait to be written.
const FULL_AT: u64 = 6 * 1024 * 1024;
/// How often the log tells how far a recovery has come.
const PROGRESS: Duration = Duration::from_secs(1);
/// Where the journal lies in the data directory.
pub const JOURNAL: &str = "journal";
/// The disk is looked at as often as what is free could be used up by so many octets a second, but within these bounds.
const FASTEST_OCTETS: u64 = 1 << 30;
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(10);

/// An open store, and the lock of its directory.
pub struct Keeping {
    store: Store,
    lock: Option<DataDir>,
    failed: watch::Receiver<Option<String>>,
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping").field("lock", &self.lock).finish_non_exhaustive()
    }
}

/// Hears of the journal's end.
struct Bell(watch::Sender<Option<String>>);

impl OnDurable for Bell {
    fn durable(&self, _: Position) {}

    fn failed(&self, failure: &Failure) {
        self.0.send_replace(Some(failure.to_string()));
    }
}

impl Keeping {
    /// Opens what `config` names; `None`: everything is in memory. It takes as long as there is to read.
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
        let disk = open_disk(&directory).map_err(refused)?;
        let (mut keeping, recovered) = Self::on_disk(Arc::new(disk), config).map_err(refused)?;
        keeping.lock = Some(lock);
        Ok(Some((keeping, recovered)))
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
        let options = Options { segment_octets: segment_octets(free), sync, full_at: FULL_AT, seed };
        let began = Instant::now();
        let mut told = began;
        let mut progress = |progress: Progress| {
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let Progress { segments, of, records } = progress;
                tracing::info!("recovering: segment {segments} of {of}, {records} records");
            }
        };
        let (store, recovered) = Store::open(disk, options, &mut progress)?;
        tell(&recovered, began.elapsed());
        let (failed, is_failed) = watch::channel(None);
        let bell: Arc<dyn OnDurable> = Arc::new(Bell(failed));
        // No position is as large: it waits for the failure only.
        if let Err(failure) = store.journal().watch(Position::from_number(u64::MAX), &bell) {
            bell.failed(&failure);
        }
        Ok((Self { store, lock: None, failed: is_failed }, recovered))
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        self.store.journal()
    }

    /// Tells when nothing becomes durable any more, and why.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Writes and syncs what is left, and leaves a checkpoint.
    ///
    /// # Errors
    /// What went wrong: the next start takes longer, or something was not durable, which was never confirmed.
    pub fn stop(self) -> Result<(), String> {
        let Self { store, lock, .. } = self;
        let began = Instant::now();
        let stopped = store.stop().map_err(|error| error.to_string());
        drop(lock);
        let took = began.elapsed();
        match &stopped {
            Ok(()) => tracing::info!(?took, "store: synced and closed"),
            Err(reason) => tracing::error!(reason, ?took, "store: not closed as it should be"),
        }
        stopped
    }
}

/// A sixteenth of what is free, as a power of two within bounds: on a small disk a segment must not be half of it.
fn segment_octets(free: u64) -> u64 {
    let share = (free / 16).clamp(SEGMENT_MIN, SEGMENT_MAX);
    1 << share.ilog2()
}

fn open_disk(directory: &Path) -> Result<RealDisk, StoreError> {
    let failed = || StoreError::io(format!("cannot open {}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed())?;
    RealDisk::open(directory).map_err(failed())
}

fn tell(recovered: &Recovered, took: Duration) {
    let Report { segments, records, from_checkpoint, torn_file, torn_records, torn_octets } = &recovered.report;
    if let Some(file) = torn_file {
        tracing::warn!(
            file,
            records = torn_records,
            octets = torn_octets,
            "store: a torn end was cut: it was never confirmed"
        );
    }
    let messages: u64 = recovered.queues.iter().map(|queue| queue.messages).sum();
    let definitions = recovered.definitions.len();
    tracing::info!(messages, definitions, segments, records, from_checkpoint, ?took, "store: ready");
}

/// Reads messages back for the queues that ask.
pub async fn read_back(node: Arc<Node>) {
    loop {
        node.shared().pager().is_asked().await;
        let node = Arc::clone(&node);
        let work = tokio::task::spawn_blocking(move || node.shared().pager().work());
        if let Err(error) = work.await {
            tracing::error!(%error, "reading messages back ended badly");
        }
    }
}

/// Watches the space on the disk, and hears of the journal's failure.
#[derive(Debug)]
pub struct Watch {
    node: Arc<Node>,
    journal: Arc<Journal>,
    is_low: bool,
    look: Duration,
}

impl Watch {
    /// Looks at the disk for the first time, so that nobody publishes to a full one.
    pub fn new(node: Arc<Node>, journal: Arc<Journal>) -> Self {
        let mut watch = Self { node, journal, is_low: false, look: LOOK_MIN };
        watch.look_at_disk();
        watch
    }

    /// Goes on until the journal has failed; then it closes everybody's connection.
    pub async fn run(mut self, mut failed: watch::Receiver<Option<String>>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.look) => self.look_at_disk(),
                _ = failed.wait_for(Option::is_some) => break,
            }
        }
        let reason = failed.borrow().clone().unwrap_or_default();
        tracing::error!(reason, "the store has failed");
        let fault = Fault::new(Code::InternalError, format_args!("the store has failed: {reason}"));
        self.node.close_all(&fault);
    }

    fn look_at_disk(&mut self) {
        // With the next segment founded, the limit is still to be kept.
        let limit = match self.node.config().disk_free_limit {
            0 => 0,
            limit => limit.saturating_add(self.journal.segment_octets()),
        };
        let free = match self.journal.free_space() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "cannot find out how much space is left on the disk");
                self.look = LOOK_MAX;
                return;
            }
        };
        let was_low = std::mem::replace(&mut self.is_low, free < limit || self.journal.is_out_of_space());
        match (was_low, self.is_low) {
            (false, true) => tracing::warn!(free, limit, "disk alarm: publishers are held back"),
            (true, false) => tracing::warn!(free, limit, "disk alarm cleared"),
            _ => {}
        }
        self.node.alarms().tell_disk(self.is_low);
        self.look = if self.is_low { LOOK_MIN } else { look_after(free.saturating_sub(limit)) };
    }
}

/// How soon to look again when so many octets may be written until the alarm is due.
fn look_after(octets: u64) -> Duration {
    Duration::from_millis(octets / (FASTEST_OCTETS / 1000)).clamp(LOOK_MIN, LOOK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_looked_at_before_it_can_be_full_and_seldom_while_it_is_empty() {
        for octets in [0, 1 << 20, 1 << 30, 4 << 30] {
            let written = look_after(octets).saturating_sub(LOOK_MIN).as_millis() as u64 * FASTEST_OCTETS / 1000;
            assert!(written <= octets, "{octets}");
        }
        assert_eq!((look_after(0), look_after(1 << 40)), (LOOK_MIN, LOOK_MAX));
    }

    #[test]
    fn segments_are_small_where_there_is_little_room() {
        for (free, octets) in
            [(0, SEGMENT_MIN), (100_000_000, 4 << 20), (1 << 30, SEGMENT_MAX), (u64::MAX, SEGMENT_MAX)]
        {
            assert_eq!(segment_octets(free), octets, "{free}");
        }
    }
}
