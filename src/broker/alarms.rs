//! The memory and disk alarms, which block publishers, and the notification that they are cleared.
//! Names no connection and no disk.

use crate::memory::MemoryAccount;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// The alarms of a broker.
#[derive(Debug)]
pub struct Alarms {
    memory: MemoryAccount,
    /// Octets charged from which the memory alarm is on (`memory_high_watermark`).
    high: u64,
    memory_is_low: AtomicBool,
    disk: AtomicBool,
    /// An alarm was raised; publishers may be waiting.
    raised: AtomicBool,
    cleared: Notify,
    /// The most octets charged, nearly, since much was freed.
    peak: AtomicU64,
    freed: Notify,
}

/// Most octets charged fewer than at the peak until [`Alarms::freed`] is notified.
const FREED_AT: u64 = 8 * 1024 * 1024;

impl Alarms {
    /// Creates the alarms of a broker whose publishers are blocked while more than `high` octets
    /// are charged to `memory`.
    pub fn new(memory: MemoryAccount, high: u64) -> Self {
        let [memory_is_low, disk, raised] = [const { AtomicBool::new(false) }; 3];
        Self {
            memory,
            high,
            memory_is_low,
            disk,
            raised,
            cleared: Notify::new(),
            peak: AtomicU64::new(0),
            freed: Notify::new(),
        }
    }

    /// Sets whether the disk alarm is on.
    pub fn tell_disk(&self, is_low: bool) {
        self.disk.store(is_low, Ordering::Relaxed);
        self.look();
    }

    /// Evaluates the alarms. Returns the reason for connection.blocked if one is raised.
    pub fn look(&self) -> Option<&'static str> {
        self.look_at_peak();
        let reason = match (self.is_memory_low(), self.disk.load(Ordering::Relaxed)) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            // The order of RabbitMQ's text.
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

    fn look_at_peak(&self) {
        let (used, peak) = (self.memory.estimate(), self.peak.load(Ordering::Relaxed));
        if used >= peak + FREED_AT / 8 {
            self.peak.store(used, Ordering::Relaxed);
        } else if used + FREED_AT < peak {
            self.peak.store(used, Ordering::Relaxed);
            self.freed.notify_one();
        }
    }

    /// Waits until much of the memory charged was freed.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    fn is_memory_low(&self) -> bool {
        let was_low = self.memory_is_low.load(Ordering::Relaxed);
        if !was_low && self.memory.estimate() + MemoryAccount::estimate_error() <= self.high {
            return false;
        }
        let memory = self.memory.used();
        // A margin below the high watermark, so that the alarm does not flap.
        let is_low = memory > if was_low { self.memory_clear() } else { self.high };
        if is_low != was_low && self.memory_is_low.swap(is_low, Ordering::Relaxed) != is_low {
            self.memory.set_scarce(is_low);
            if is_low {
                tracing::warn!(
                    memory,
                    high_watermark = self.high,
                    "memory alarm set: publishers are blocked until it clears"
                );
            } else {
                tracing::warn!(memory, high_watermark = self.high, "memory alarm cleared: publishers are unblocked");
            }
        }
        is_low
    }

    /// Returns the octets charged from which the memory alarm is raised.
    pub fn memory_limit(&self) -> u64 {
        self.high
    }

    /// Returns the octets charged at which the memory alarm is cleared.
    fn memory_clear(&self) -> u64 {
        self.high - self.high / 10
    }

    /// Returns true if `octets` of one owner take more than half of what the memory alarm allows,
    /// and everything else at most half: so there is at most one such owner.
    pub fn is_caused_by(&self, octets: u64) -> bool {
        let (half, others) = (self.high / 2, self.memory.used().saturating_sub(octets));
        octets > half && others <= half && !self.disk.load(Ordering::Relaxed)
    }

    /// Returns true if the last evaluation found an alarm raised.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Waits until no alarm is raised.
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
    use crate::memory::AccountLease;

    #[test]
    fn an_alarm_ends_a_little_below_its_mark() {
        let lease = AccountLease::default();
        let (memory, alarms) = (lease.account(), Alarms::new(lease.account(), 100));
        memory.charge(100);
        assert_eq!(alarms.look(), None);
        memory.charge(1);
        assert!(!alarms.is_raised());
        assert!(alarms.look().is_some() && alarms.is_raised());
        memory.refund(10);
        assert!(alarms.look().is_some());
        memory.refund(1);
        assert!(alarms.look().is_none() && !alarms.is_raised());
    }

    #[test]
    fn whoever_waits_is_told_when_much_was_freed_and_not_before() {
        let lease = AccountLease::default();
        let (memory, alarms) = (lease.account(), Alarms::new(lease.account(), u64::MAX));
        let is_told = || {
            let mut waiting = std::pin::pin!(alarms.freed());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            waiting.as_mut().poll(&mut context).is_ready()
        };
        memory.charge(4 * FREED_AT);
        alarms.look();
        memory.refund(FREED_AT);
        alarms.look();
        assert!(!is_told());
        memory.refund(FREED_AT);
        alarms.look();
        assert!(is_told() && !is_told());
        memory.refund(2 * FREED_AT);
        alarms.look();
        assert!(is_told());
    }

    #[test]
    fn both_alarms_are_named() {
        let lease = AccountLease::default();
        let (memory, alarms) = (lease.account(), Alarms::new(lease.account(), 100));
        alarms.tell_disk(true);
        assert_eq!((alarms.look(), alarms.is_raised()), (Some("low on disk"), true));
        memory.charge(101);
        assert_eq!(alarms.look(), Some("low on disk & memory"));
        alarms.tell_disk(false);
        assert_eq!(alarms.look(), Some("low on memory"));
        memory.refund(101);
        assert_eq!((alarms.look(), alarms.is_raised()), (None, false));
    }

    #[test]
    fn an_alarm_has_at_most_one_cause() {
        let lease = AccountLease::default();
        let (memory, alarms) = (lease.account(), Alarms::new(lease.account(), 100));
        memory.charge(105);
        assert!(alarms.is_caused_by(60) && alarms.is_caused_by(105) && !alarms.is_caused_by(45));
        memory.charge(15);
        assert!(!alarms.is_caused_by(60), "others have as much");
        alarms.tell_disk(true);
        assert!(!alarms.is_caused_by(120));
    }

    #[tokio::test]
    async fn who_waits_is_told_by_whoever_looks() {
        let lease = AccountLease::default();
        let (memory, alarms) = (lease.account(), Alarms::new(lease.account(), 100));
        memory.charge(1000);
        alarms.look();
        let mut waiting = std::pin::pin!(alarms.cleared());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        memory.refund(1000);
        alarms.look();
        waiting.await;
    }
}
