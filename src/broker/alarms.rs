//! Whether publishers have to wait, and the bell that tells them when they need not any more. Knows no connection and no disk.

use crate::counters::Counters;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The alarms of a broker.
#[derive(Debug)]
pub struct Alarms {
    counters: Arc<Counters>,
    high: u64,
    memory: AtomicBool,
    disk: AtomicBool,
    /// Somebody may be waiting.
    raised: AtomicBool,
    cleared: Notify,
}

impl Alarms {
    /// `high`: octets charged for messages from which on publishers wait.
    pub fn new(counters: Arc<Counters>, high: u64) -> Self {
        let [memory, disk, raised] = [const { AtomicBool::new(false) }; 3];
        Self { counters, high, memory, disk, raised, cleared: Notify::new() }
    }

    /// Says whether the disk is nearly full.
    pub fn tell_disk(&self, is_low: bool) {
        self.disk.store(is_low, Ordering::Relaxed);
        self.look();
    }

    /// Looks anew. Returns the reason that connection.blocked gives, if publishers have to wait.
    pub fn look(&self) -> Option<&'static str> {
        let reason = match (self.is_memory_low(), self.disk.load(Ordering::Relaxed)) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            // In RabbitMQ's order.
            (true, true) => Some("low on disk & memory"),
        };
        if reason.is_some() {
            self.raised.store(true, Ordering::Relaxed);
        } else if self.raised.load(Ordering::Relaxed) {
            self.raised.store(false, Ordering::Relaxed);
            self.cleared.notify_waiters();
        }
        reason
    }

    fn is_memory_low(&self) -> bool {
        let memory = self.counters.memory();
        if memory > self.high {
            if !self.memory.swap(true, Ordering::Relaxed) {
                tracing::warn!(memory, high_watermark = self.high, "memory alarm: publishers are held back");
            }
            return true;
        }
        // A little below the mark before it ends, or it would flutter.
        if self.memory.load(Ordering::Relaxed) {
            if memory > self.high - self.high / 10 {
                return true;
            }
            if self.memory.swap(false, Ordering::Relaxed) {
                tracing::warn!(memory, "memory alarm cleared");
            }
        }
        false
    }

    /// Whether an alarm was raised when somebody last looked.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Waits until no alarm is raised any more.
    pub async fn cleared(&self) {
        loop {
            let cleared = self.cleared.notified();
            if self.look().is_none() {
                return;
            }
            cleared.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_ends_a_little_below_its_mark() {
        let counters = Arc::new(Counters::default());
        let alarms = Alarms::new(Arc::clone(&counters), 100);
        counters.book_memory(0, 100);
        assert_eq!(alarms.look(), None);
        counters.book_memory(100, 101);
        assert!(!alarms.is_raised());
        assert!(alarms.look().is_some() && alarms.is_raised());
        counters.book_memory(101, 91);
        assert!(alarms.look().is_some());
        counters.book_memory(91, 90);
        assert!(alarms.look().is_none() && !alarms.is_raised());
    }

    #[test]
    fn both_alarms_are_named() {
        let counters = Arc::new(Counters::default());
        let alarms = Alarms::new(Arc::clone(&counters), 100);
        alarms.tell_disk(true);
        assert_eq!((alarms.look(), alarms.is_raised()), (Some("low on disk"), true));
        counters.book_memory(0, 101);
        assert_eq!(alarms.look(), Some("low on disk & memory"));
        alarms.tell_disk(false);
        assert_eq!(alarms.look(), Some("low on memory"));
        counters.book_memory(101, 0);
        assert_eq!((alarms.look(), alarms.is_raised()), (None, false));
    }

    #[tokio::test]
    async fn who_waits_is_told_by_whoever_looks() {
        let counters = Arc::new(Counters::default());
        let alarms = Arc::new(Alarms::new(Arc::clone(&counters), 100));
        counters.book_memory(0, 1000);
        alarms.look();
        let mut waiting = std::pin::pin!(alarms.cleared());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        counters.book_memory(1000, 0);
        alarms.look();
        waiting.await;
    }
}
