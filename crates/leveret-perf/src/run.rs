//! State that the threads of a run share: clock, stage, counters, first failure.

use crate::latency::Latencies;
use parking_lot::Mutex;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a thread sleeps at most before it looks at the run again.
pub const GLANCE: Duration = Duration::from_millis(50);

/// How far a run is. Only upwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub enum RunStage {
    /// Connections are being opened.
    Opening = 0,
    /// Producers publish.
    Publishing = 1,
    /// Producers finish: no more messages.
    Draining = 2,
    /// Consumers end, too.
    Ending = 3,
    /// Everything ends at once: something failed.
    Failed = 4,
}

/// The threads' common ground.
#[derive(Debug)]
pub struct RunState {
    epoch: Instant,
    stage: AtomicU8,
    failure: Mutex<Option<String>>,
    /// Threads whose connection is ready.
    pub ready: AtomicUsize,
    /// Producers that published everything.
    pub published_all: AtomicUsize,
    /// How much was done.
    pub meter: Meter,
    /// From publish to delivery.
    pub latencies: Latencies,
    /// From publish to confirm.
    pub confirm_latencies: Latencies,
}

/// Counters, added to once a batch.
#[derive(Default, Debug)]
#[expect(missing_docs, reason = "the names say it; messages unless said")]
pub struct Meter {
    pub published: Apart,
    pub consumed: Apart,
    pub confirmed: Apart,
    pub nacked: AtomicU64,
    pub returned: AtomicU64,
    /// Connections that the broker blocks now.
    pub blocked: AtomicUsize,
    /// When the last message was consumed, in ns since the epoch.
    pub last_consumed: AtomicU64,
}

/// A counter in a cache line of its own.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Apart(pub AtomicU64);

impl Default for RunState {
    fn default() -> RunState {
        RunState {
            epoch: Instant::now(),
            stage: AtomicU8::new(0),
            failure: Mutex::new(None),
            ready: AtomicUsize::new(0),
            published_all: AtomicUsize::new(0),
            meter: Meter::default(),
            latencies: Latencies::default(),
            confirm_latencies: Latencies::default(),
        }
    }
}

impl RunState {
    /// ns since the run's epoch, which is before its first message.
    #[inline]
    pub fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Returns true if the run has reached this stage.
    #[inline]
    pub fn is_at(&self, stage: RunStage) -> bool {
        self.stage.load(Acquire) >= stage as u8
    }

    /// Goes on to a stage; never back.
    pub fn enter(&self, stage: RunStage) {
        self.stage.fetch_max(stage as u8, Release);
    }

    /// Ends everything; the first reason is kept.
    pub fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
        self.enter(RunStage::Failed);
    }

    /// Why it failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Waits until the run is so far; false if it failed.
    pub fn wait_for(&self, stage: RunStage) -> bool {
        while !self.is_at(stage) {
            std::thread::sleep(Duration::from_micros(200));
        }
        !self.is_at(RunStage::Failed)
    }

    /// Does `work` in a thread of its own; its error fails the run.
    pub fn guard<T>(&self, who: impl FnOnce() -> String, work: impl FnOnce() -> Result<T, String>) -> Option<T> {
        work().map_err(|why| self.fail(format!("{}: {why}", who()))).ok()
    }

    /// Messages that wait in the broker, if each is copied so often.
    pub fn backlog(&self, copies: u64) -> u64 {
        let published = self.meter.published.0.load(Relaxed).saturating_mul(copies);
        published.saturating_sub(self.meter.consumed.0.load(Relaxed))
    }
}

/// Stack of a thread, in octets: there may be thousands.
const STACK: usize = 256 * 1024;

/// Starts a thread in a scope.
///
/// # Errors
/// The system has no more.
pub fn spawn<'scope, 'env, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<std::thread::ScopedJoinHandle<'scope, T>, String> {
    let builder = std::thread::Builder::new().stack_size(STACK);
    builder.spawn_scoped(scope, work).map_err(|error| format!("cannot start a thread: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_go_up_and_the_first_failure_stays() {
        let run = RunState::default();
        assert!(run.is_at(RunStage::Opening) && !run.is_at(RunStage::Publishing));
        run.enter(RunStage::Draining);
        run.enter(RunStage::Publishing);
        assert!(run.is_at(RunStage::Draining) && run.wait_for(RunStage::Draining));
        assert_eq!(run.guard(|| "a".to_owned(), || Err::<(), _>("first".to_owned())), None);
        run.fail("second".to_owned());
        assert_eq!(run.failure().as_deref(), Some("a: first"));
        assert!(!run.wait_for(RunStage::Ending));
    }

    #[test]
    fn backlog_counts_copies() {
        let run = RunState::default();
        run.meter.published.0.store(10, Relaxed);
        run.meter.consumed.0.store(25, Relaxed);
        assert_eq!((run.backlog(3), run.backlog(1)), (5, 0));
    }
}
