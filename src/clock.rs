//! Time: monotonic ticks for deadlines, wall time for stamps. The only place that asks the system for either; knows nobody who waits.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since the clock was made. Never goes back, and is not a date.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// A moment that never comes.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// Milliseconds from `earlier` to this moment; 0 if it is later.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// So many milliseconds later, at most [`Tick::NEVER`].
impl Add<u64> for Tick {
    type Output = Tick;

    fn add(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }
}

/// So many milliseconds earlier, at least the start of the clock.
impl Sub<u64> for Tick {
    type Output = Tick;

    fn sub(self, ms: u64) -> Tick {
        Tick(self.0.saturating_sub(ms))
    }
}

/// Tells the time. Clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { start: Instant },
    Manual(Arc<Hands>),
}

/// A hand-moved clock's two readings, in milliseconds.
#[derive(Debug)]
struct Hands {
    tick: AtomicU64,
    wall: AtomicU64,
}

impl Clock {
    /// The system's clocks; ticks count from now.
    pub fn system() -> Self {
        Clock(Source::System { start: Instant::now() })
    }

    /// A clock that stands still until its hand is moved. It starts at tick 0 and 2001-09-09 01:46:40 UTC.
    pub fn manual() -> (Clock, ManualHand) {
        let hands = Arc::new(Hands { tick: AtomicU64::new(0), wall: AtomicU64::new(MANUAL_START_MS) });
        (Clock(Source::Manual(hands.clone())), ManualHand(hands))
    }

    /// This moment, for deadlines.
    pub fn now(&self) -> Tick {
        match &self.0 {
            Source::System { start } => Tick(millis(start.elapsed().as_millis())),
            Source::Manual(hands) => Tick(hands.tick.load(Ordering::Acquire)),
        }
    }

    /// Milliseconds since 1970-01-01 UTC, for stamps that others read. It may jump when somebody sets the system's clock.
    pub fn wall_ms(&self) -> u64 {
        match &self.0 {
            // A system set to before 1970 has no better answer than 0.
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| millis(since.as_millis()))
            }
            Source::Manual(hands) => hands.wall.load(Ordering::Acquire),
        }
    }
}

const MANUAL_START_MS: u64 = 1_000_000_000_000;

fn millis(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// Moves a clock made by [`Clock::manual`]. It moves the reading only: whoever waits for a deadline has to be told to look.
#[derive(Clone, Debug)]
pub struct ManualHand(Arc<Hands>);

impl ManualHand {
    /// Lets so many milliseconds pass on both readings.
    pub fn advance(&self, ms: u64) {
        for hand in [&self.0.tick, &self.0.wall] {
            let moved = |held: u64| Some(held.saturating_add(ms));
            // The closure never declines, so the update cannot fail.
            let _ = hand.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
        }
    }

    /// Sets the wall time alone, forward or back, as an administrator might; ticks do not move.
    pub fn set_wall_ms(&self, ms: u64) {
        self.0.wall.store(ms, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Tick(5) + 3, Tick(8));
        assert_eq!(Tick(5) - 8, Tick::default());
        assert_eq!(Tick::NEVER + 1, Tick::NEVER);
        assert_eq!(Tick(9).since(Tick(4)), 5);
        assert_eq!(Tick(4).since(Tick(9)), 0);
    }

    #[test]
    fn a_manual_clock_moves_by_hand_alone() {
        let (clock, hand) = Clock::manual();
        let clone = clock.clone();
        assert_eq!(clock.now(), Tick(0));
        hand.advance(1500);
        assert_eq!(clone.now(), Tick(1500));
        assert_eq!(clone.wall_ms(), MANUAL_START_MS + 1500);
        hand.set_wall_ms(7);
        assert_eq!((clock.now(), clock.wall_ms()), (Tick(1500), 7));
        hand.advance(u64::MAX);
        assert_eq!(clock.now(), Tick::NEVER);
    }

    #[test]
    fn a_system_clock_never_goes_back() {
        let clock = Clock::system();
        let first = clock.now();
        assert!(first < Tick(60_000) && clock.clone().now() >= first);
        assert!(clock.wall_ms() > MANUAL_START_MS);
    }
}
