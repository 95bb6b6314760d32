//! Due times of messages at a steady rate.

/// A message that goes out later than so many ns after it was due carries the time it was due, so
/// that a broker that holds its producers back does not look fast.
const LATE_NS: u64 = 1_000_000;

/// A steady rate from a start on, or none.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: u64,
    /// ns between two messages; 0: no pace.
    interval: f64,
}

impl Pace {
    /// `rate` messages a second from `start`, in ns; 0: as fast as they go.
    pub fn new(rate: f64, start: u64) -> Pace {
        Pace { start, interval: if rate > 0.0 { 1e9 / rate } else { 0.0 } }
    }

    /// Returns true if there is a rate.
    pub fn is_steady(self) -> bool {
        self.interval > 0.0
    }

    /// When message `number`, counted from 0, is due.
    pub fn due(self, number: u64) -> u64 {
        self.start + (number as f64 * self.interval) as u64
    }

    /// How many messages are due, of which the first `sent` are gone.
    pub fn open(self, sent: u64, now: u64) -> u64 {
        if !self.is_steady() {
            return u64::MAX;
        }
        let all = (now.saturating_sub(self.start) as f64 / self.interval) as u64 + 1;
        all.saturating_sub(sent)
    }

    /// The time that message `number` carries if it goes out now.
    #[inline]
    pub fn time(self, number: u64, now: u64) -> u64 {
        if !self.is_steady() {
            return now;
        }
        let due = self.due(number);
        if now > due + LATE_NS { due } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rate_everything_is_due() {
        let pace = Pace::new(0.0, 5);
        assert_eq!((pace.open(1_000_000, 5), pace.time(7, 99)), (u64::MAX, 99));
    }

    #[test]
    fn a_rate_makes_messages_due_one_by_one() {
        let pace = Pace::new(1000.0, 500);
        assert_eq!((pace.open(0, 500), pace.open(1, 500), pace.open(1, 1_000_499)), (1, 0, 0));
        assert_eq!((pace.open(1, 1_000_500), pace.open(1, 10_000_500)), (1, 10));
        assert_eq!((pace.due(0), pace.due(3)), (500, 3_000_500));
    }

    #[test]
    fn what_is_late_says_so() {
        let pace = Pace::new(1000.0, 0);
        assert_eq!(pace.time(3, 3_100_000), 3_100_000);
        assert_eq!(pace.time(3, 9_000_000), 3_000_000);
    }
}
