//! Unconfirmed publications of a channel.
//!
//! Two threads share it: the one that publishes writes the time of each publication and how many
//! there are, the one that listens settles them.

use std::sync::atomic::{AtomicU64, Ordering};

/// One channel's publications between publish and confirm. Delivery tags begin with 1, numbers with
/// 0.
#[derive(Debug)]
pub struct UnconfirmedPublishes {
    window: u64,
    published: AtomicU64,
    settled: AtomicU64,
    /// All below are settled.
    low: AtomicU64,
    /// When each was published, by number; a ring.
    times: Box<[AtomicU64]>,
}

/// The listener's side.
#[derive(Debug)]
pub struct ConfirmTracker {
    /// Settled out of turn, by number; a ring like the times.
    done: Box<[bool]>,
    /// Numbers of the messages that the broker refused.
    pub nacked: Vec<u64>,
    low: u64,
    settled: u64,
}

impl UnconfirmedPublishes {
    /// At most `window` unconfirmed publications.
    pub fn new(window: u64) -> UnconfirmedPublishes {
        // Wider than the window, so that one confirm that lags does not stop the channel at once.
        let ring = (4 * window).next_power_of_two();
        UnconfirmedPublishes {
            window,
            published: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            low: AtomicU64::new(0),
            times: (0..ring).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How many more may be published now.
    pub fn room(&self) -> u64 {
        let published = self.published.load(Ordering::Relaxed);
        let outstanding = published - self.settled.load(Ordering::Acquire);
        let span = published - self.low.load(Ordering::Acquire);
        self.window.saturating_sub(outstanding).min((self.times.len() as u64).saturating_sub(span))
    }

    /// Published and not settled.
    pub fn outstanding(&self) -> u64 {
        self.published.load(Ordering::Relaxed) - self.settled.load(Ordering::Acquire)
    }

    /// The next one is published now. To be told before the octets go out.
    #[inline]
    pub fn publish(&self, time: u64) {
        let number = self.published.load(Ordering::Relaxed);
        self.time(number).store(time, Ordering::Relaxed);
        self.published.store(number + 1, Ordering::Release);
    }

    #[inline]
    fn time(&self, number: u64) -> &AtomicU64 {
        static NEVER: AtomicU64 = AtomicU64::new(0);
        self.times.get(number as usize & (self.times.len() - 1)).unwrap_or(&NEVER)
    }
}

impl ConfirmTracker {
    /// The listener's side of that.
    pub fn new(confirms: &UnconfirmedPublishes) -> ConfirmTracker {
        ConfirmTracker { done: vec![false; confirms.times.len()].into(), nacked: Vec::new(), low: 0, settled: 0 }
    }

    /// basic.ack or basic.nack came; `heard` gets the time of publishing of each that it settles.
    /// Returns how many these are.
    ///
    /// # Errors
    /// The tag was settled before, or nothing was published under it.
    pub fn settle(
        &mut self,
        confirms: &UnconfirmedPublishes,
        tag: u64,
        multiple: bool,
        nack: bool,
        mut heard: impl FnMut(u64),
    ) -> Result<u64, String> {
        let published = confirms.published.load(Ordering::Acquire);
        let end = if multiple && tag == 0 { published } else { tag };
        let first = if multiple { self.low } else { end.wrapping_sub(1) };
        if end > published || first >= end || first < self.low {
            return Err(format!("the broker confirmed {tag} twice, or it was never published"));
        }
        let before = self.settled;
        let mask = self.done.len() - 1;
        for number in first..end {
            let Some(done) = self.done.get_mut(number as usize & mask) else { break };
            if std::mem::replace(done, true) {
                if multiple {
                    continue;
                }
                return Err(format!("the broker confirmed {tag} twice"));
            }
            heard(confirms.time(number).load(Ordering::Relaxed));
            self.settled += 1;
            if nack {
                self.nacked.push(number);
            }
        }
        while self.low < published {
            match self.done.get_mut(self.low as usize & mask) {
                Some(done) if *done => *done = false,
                _ => break,
            }
            self.low += 1;
        }
        Ok(self.settled - before)
    }

    /// Lets the publisher know.
    pub fn tell(&self, confirms: &UnconfirmedPublishes) {
        confirms.low.store(self.low, Ordering::Release);
        confirms.settled.store(self.settled, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestChannel(UnconfirmedPublishes, ConfirmTracker);

    impl TestChannel {
        fn new(window: u64, published: u64) -> TestChannel {
            let confirms = UnconfirmedPublishes::new(window);
            (0..published).for_each(|number| confirms.publish(100 + number));
            let settling = ConfirmTracker::new(&confirms);
            TestChannel(confirms, settling)
        }

        fn settle(&mut self, tag: u64, multiple: bool, nack: bool) -> Result<Vec<u64>, String> {
            let mut times = Vec::new();
            let settled = self.1.settle(&self.0, tag, multiple, nack, |time| times.push(time))?;
            assert_eq!(settled as usize, times.len());
            self.1.tell(&self.0);
            Ok(times)
        }
    }

    #[test]
    fn settles_one_or_all_below() {
        let mut channel = TestChannel::new(10, 8);
        assert_eq!((channel.0.room(), channel.0.outstanding()), (2, 8));
        assert_eq!(channel.settle(2, false, false), Ok(vec![101]));
        assert_eq!((channel.0.room(), channel.0.outstanding()), (3, 7));
        assert_eq!(channel.settle(3, true, true), Ok(vec![100, 102]));
        assert_eq!(channel.1.nacked, [0, 2]);
        assert_eq!(channel.settle(0, true, false), Ok(vec![103, 104, 105, 106, 107]));
        assert_eq!((channel.0.room(), channel.0.outstanding()), (10, 0));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let mut channel = TestChannel::new(10, 3);
        assert!(channel.settle(4, false, false).is_err());
        assert!(channel.settle(4, true, false).is_err());
        assert!(channel.settle(0, false, false).is_err());
        assert!(channel.settle(2, false, false).is_ok());
        assert!(channel.settle(2, false, false).is_err());
        assert!(channel.settle(2, true, false).is_ok());
        assert!(channel.settle(1, true, false).is_err());
        assert!(channel.settle(1, false, false).is_err());
    }

    #[test]
    fn a_confirm_that_lags_stops_the_channel_in_time() {
        let mut channel = TestChannel::new(4, 1);
        let mut tag = 1;
        while channel.0.room() > 0 {
            channel.0.publish(0);
            tag += 1;
            channel.settle(tag, false, false).unwrap();
        }
        assert_eq!((tag, channel.0.outstanding()), (16, 1));
        channel.settle(1, false, false).unwrap();
        assert_eq!(channel.0.room(), 4);
    }
}
