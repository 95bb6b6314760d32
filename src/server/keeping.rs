//! The store of a running broker: opened before anybody is served, looked after, stopped at the end. It knows no definition and no
//! message.

use crate::broker::node::Node;
use crate::config::{Config, StoreKind, SyncKind};
use crate::server::data_dir::DataDir;
use crate::server::start_error::StartError;
use crate::store::Store;
use crate::store::disk::Disk;
use crate::store::error::{Failure, StoreError};
use crate::store::journal::{Journal, OnDurable, OnSpace, Options, Sync};
use crate::store::position::Position;
use crate::store::real::RealDisk;
use crate::store::recovery::{Recovered, Report};
use crate::store::replay::Progress;
use crate::wire::fault::{Code, Fault};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::{Arc, Weak};
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
    is_low: Mutex<bool>,
}

impl OnSpace for Watch {
    /// A disk can be filled in less time than lies between two looks.
    fn space_taken(&self) {
        self.look_at_disk();
    }
}

impl Watch {
    /// Looks at the disk for the first time, so that nobody publishes to a full one; then whenever the journal takes more of it.
    pub fn new(node: Arc<Node>, journal: Arc<Journal>) -> Arc<Self> {
        let watch = Arc::new(Self { node, journal, is_low: Mutex::new(false) });
        watch.look_at_disk();
        let weak: Weak<Self> = Arc::downgrade(&watch);
        watch.journal.mind_space(weak);
        watch
    }

    /// Looks at the disk for the sake of what others write, and goes on until the journal has failed; then it closes everybody's
    /// connection.
    pub async fn run(self: Arc<Self>, mut failed: watch::Receiver<Option<String>>) {
        loop {
            let look = self.look_at_disk();
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                _ = failed.wait_for(Option::is_some) => break,
            }
        }
        let reason = failed.borrow().clone().unwrap_or_default();
        tracing::error!(reason, "the store has failed");
        let fault = Fault::new(Code::InternalError, format_args!("the store has failed: {reason}"));
        self.node.close_all(&fault);
    }

    /// Says how soon to look again.
    fn look_at_disk(&self) -> Duration {
        // With the next segment founded, the limit is still to be kept.
        let limit = match self.node.config().disk_free_limit {
            0 => 0,
            limit => limit.saturating_add(self.journal.segment_octets()),
        };
        let mut is_low = self.is_low.lock();
        let free = match self.journal.free_space() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "cannot find out how much space is left on the disk");
                return LOOK_MAX;
            }
        };
        let was_low = std::mem::replace(&mut *is_low, free < limit || self.journal.is_out_of_space());
        match (was_low, *is_low) {
            (false, true) => tracing::warn!(free, limit, "disk alarm: publishers are held back"),
            (true, false) => tracing::warn!(free, limit, "disk alarm cleared"),
            _ => {}
        }
        self.node.alarms().tell_disk(*is_low);
        if *is_low { LOOK_MIN } else { look_after(free.saturating_sub(limit)) }
    }
}

/// How soon to look again when so many octets may be written until the alarm is due.
fn look_after(octets: u64) -> Duration {
    Duration::from_millis(octets / (FASTEST_OCTETS / 1000)).clamp(LOOK_MIN, LOOK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::Step;
    use crate::store::record::Operation;
    use crate::store::recovery::recover;
    use crate::store::simulated::SimulatedDisk;

    #[test]
    fn the_disk_is_looked_at_before_it_can_be_full_and_seldom_while_it_is_empty() {
        for octets in [0, 1 << 20, 1 << 30, 4 << 30] {
            let written = look_after(octets).saturating_sub(LOOK_MIN).as_millis() as u64 * FASTEST_OCTETS / 1000;
            assert!(written <= octets, "{octets}");
        }
        assert_eq!((look_after(0), look_after(1 << 40)), (LOOK_MIN, LOOK_MAX));
    }

    #[test]
    fn the_alarm_is_raised_by_the_segment_that_takes_too_much_and_by_a_write_without_space() {
        let disk = SimulatedDisk::new(1, 1 << 20);
        let options = Options { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 20, seed: 1 };
        let (journal, recovered) = recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap();
        let journal = Arc::new(journal);
        let config = Config { disk_free_limit: 1 << 19, ..Config::default() };
        let node = Arc::new(Node::with_store(config, &journal, &recovered).unwrap());
        let watch = Watch::new(Arc::clone(&node), Arc::clone(&journal));
        let write = || {
            journal.append(&Operation::Define { key: b"k", value: &[7; 10_000] }).unwrap();
            journal.step(false).unwrap()
        };
        while !node.alarms().is_raised() {
            write();
            assert!(disk.free_space().unwrap() >= 1 << 19, "nobody looks");
        }
        disk.set_capacity(1 << 30);
        watch.look_at_disk();
        assert!(!node.alarms().is_raised());
        disk.set_capacity(disk.used());
        while write() != Step::NoSpace {}
        assert!(node.alarms().is_raised());
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
