//! The notifications of the journal's threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The longest delay of a batch that nobody waits for.
const DEFERRED: Duration = Duration::from_millis(10);

/// The notification of the journal's thread, with the reasons for it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    reasons: Mutex<Reasons>,
    changed: Condvar,
}

/// The reasons for waking the thread.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    /// A batch is to be written now.
    pub batch: bool,
    /// A batch is to be written within [`DEFERRED`].
    pub later: bool,
    /// Written octets are to be synced, even if no sync is due.
    pub sync: bool,
    /// The thread is to end when everything is written.
    pub stop: bool,
}

/// The outcome of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Woken {
    /// A sync was requested.
    pub sync: bool,
}

impl Signal {
    /// Adds a reason and wakes the thread.
    pub fn notify(&self, add: impl FnOnce(&mut Reasons)) {
        add(&mut self.reasons.lock());
        self.changed.notify_one();
    }

    /// Waits for a reason, at most for `timeout`. `None`: the thread is to end.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Woken> {
        let mut reasons = self.reasons.lock();
        let mut until = timeout.map(|timeout| Instant::now() + timeout);
        let mut timed_out = false;
        while !(reasons.batch || reasons.sync || reasons.stop || timed_out) {
            if std::mem::take(&mut reasons.later) {
                let later = Instant::now() + DEFERRED;
                until = Some(until.map_or(later, |until| until.min(later)));
            }
            match until {
                Some(until) => timed_out = self.changed.wait_until(&mut reasons, until).timed_out(),
                None => self.changed.wait(&mut reasons),
            }
        }
        let woken = Woken { sync: reasons.sync || reasons.stop };
        let ends = reasons.stop && !reasons.batch;
        (reasons.batch, reasons.sync, reasons.later) = (false, false, false);
        (!ends).then_some(woken)
    }

    /// Takes the reason that a batch is to be written now; returns true if there was one.
    #[cfg(any(test, feature = "simulation"))]
    pub fn take_batch(&self) -> bool {
        std::mem::take(&mut self.reasons.lock().batch)
    }

    /// Returns true if a batch is to be written, now or later, that the thread has not taken.
    #[cfg(test)]
    pub fn has_batch(&self) -> bool {
        let reasons = self.reasons.lock();
        reasons.batch || reasons.later
    }

    /// Returns true if the thread is to end.
    pub fn is_stopping(&self) -> bool {
        self.reasons.lock().stop
    }
}

/// The notification of a thread that waits for work.
#[derive(Debug, Default)]
pub(crate) struct Resting {
    rests: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Resting {
    /// Declares that this thread will look for work, and wait if there is none. Notifications from
    /// now on are not missed.
    pub fn begin(&self) {
        self.thread.get_or_init(thread::current);
        self.rests.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Waits until a notification since [`Resting::begin`].
    pub fn rest(&self) {
        while self.rests.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    /// Notifies the thread. Costs one load if it is not waiting.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.rests.load(Ordering::Relaxed)
            && self.rests.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Returns true if the thread is waiting.
    #[cfg(test)]
    pub fn rests(&self) -> bool {
        self.rests.load(Ordering::SeqCst)
    }
}
