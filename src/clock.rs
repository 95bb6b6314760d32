//! Time: monotonic ticks for deadlines and for sleep, wall time for timestamps. Only this module
//! asks the operating system for either.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::Sleep;

/// A point in time: milliseconds since the clock was created. Monotonic; not a date.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// A point in time that is never reached.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// Returns the milliseconds from `earlier` to `self`; 0 if `earlier` is the later one.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Adds milliseconds; at most [`Tick::NEVER`].
impl Add<u64> for Tick {
    type Output = Tick;

    fn add(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }
}

/// Subtracts milliseconds; at least 0, the clock's start.
impl Sub<u64> for Tick {
    type Output = Tick;

    fn sub(self, ms: u64) -> Tick {
        Tick(self.0.saturating_sub(ms))
    }
}

/// A source of monotonic ticks and wall time. Clones read the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { start: Instant },
    Manual(Arc<Hands>),
}

/// The two readings of a manual clock, in milliseconds, and who sleeps by it.
#[derive(Debug)]
struct Hands {
    tick: AtomicU64,
    wall: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// The timers of a manual clock that are waited for, by deadline and number.
#[derive(Debug, Default)]
struct Sleepers {
    wakers: BTreeMap<(Tick, u64), Waker>,
    last_number: u64,
}

impl Clock {
    /// Creates a clock that reads the system's clocks; ticks count from now.
    pub fn system() -> Self {
        Clock(Source::System { start: Instant::now() })
    }

    /// Creates a clock that stands still until its [`ManualHand`] moves it, and that hand. It
    /// starts at tick 0 and 2001-09-09 01:46:40 UTC.
    pub fn manual() -> (Clock, ManualHand) {
        let (tick, wall) = (AtomicU64::new(0), AtomicU64::new(MANUAL_START_MS));
        let hands = Arc::new(Hands { tick, wall, sleepers: Mutex::default() });
        (Clock(Source::Manual(hands.clone())), ManualHand(hands))
    }

    /// Returns the current tick.
    pub fn now(&self) -> Tick {
        match &self.0 {
            Source::System { start } => Tick(millis(start.elapsed().as_millis())),
            Source::Manual(hands) => hands.now(),
        }
    }

    /// Returns the wall time: milliseconds since 1970-01-01 UTC, for timestamps. It jumps when an
    /// administrator sets the system's clock.
    pub fn wall_ms(&self) -> u64 {
        match &self.0 {
            // A system clock before 1970 reads as 0.
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| millis(since.as_millis()))
            }
            Source::Manual(hands) => hands.wall.load(Ordering::Acquire),
        }
    }
}

/// The far future, in place of a deadline that the system's clock cannot count to.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Clock {
    /// Returns a timer that elapses at `deadline`. By the system's clock it needs a tokio runtime
    /// with time enabled.
    pub fn timer(&self, deadline: Tick) -> Timer {
        let wait = match &self.0 {
            Source::System { start } => {
                let sleep = Box::pin(tokio::time::sleep_until(instant(*start, deadline)));
                Wait::System { start: *start, sleep }
            }
            Source::Manual(hands) => {
                let mut sleepers = hands.sleepers.lock();
                sleepers.last_number += 1;
                Wait::Manual { hands: Arc::clone(hands), number: sleepers.last_number }
            }
        };
        Timer { deadline, wait, has_elapsed: false }
    }

    /// Sleeps until `deadline`.
    pub async fn sleep_until(&self, deadline: Tick) {
        self.timer(deadline).await;
    }

    /// Sleeps for `ms` milliseconds.
    pub async fn sleep(&self, ms: u64) {
        self.sleep_until(self.now() + ms).await;
    }

    /// Returns the outcome of `future`, or `None` if it takes longer than `ms` milliseconds.
    pub async fn timeout<F: Future>(&self, ms: u64, future: F) -> Option<F::Output> {
        let mut timer = self.timer(self.now() + ms);
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => Pin::new(&mut timer).poll(context).map(|()| None),
        })
        .await
    }
}

/// Returns the system's time at a tick of a clock that was created at `start`.
fn instant(start: Instant, tick: Tick) -> tokio::time::Instant {
    let after = start.checked_add(Duration::from_millis(tick.0).min(FAR));
    tokio::time::Instant::from_std(after.unwrap_or(start))
}

/// A sleep until a tick that can be set again.
#[derive(Debug)]
pub struct Timer {
    deadline: Tick,
    wait: Wait,
    has_elapsed: bool,
}

#[derive(Debug)]
enum Wait {
    System { start: Instant, sleep: Pin<Box<Sleep>> },
    Manual { hands: Arc<Hands>, number: u64 },
}

impl Timer {
    /// Returns the tick at which it elapses, or has elapsed.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// Returns true if it has been awaited to its end since it was set.
    pub fn has_elapsed(&self) -> bool {
        self.has_elapsed
    }

    /// Sets another deadline. Whoever sleeps has to poll it again.
    pub fn set(&mut self, deadline: Tick) {
        match &mut self.wait {
            Wait::System { start, sleep } => sleep.as_mut().reset(instant(*start, deadline)),
            Wait::Manual { hands, number } => {
                hands.sleepers.lock().wakers.remove(&(self.deadline, *number));
            }
        }
        (self.deadline, self.has_elapsed) = (deadline, false);
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let polled = match &mut self.wait {
            Wait::System { sleep, .. } => sleep.as_mut().poll(context),
            Wait::Manual { hands, number } => hands.poll(deadline, *number, context),
        };
        self.has_elapsed = polled.is_ready();
        polled
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Wait::Manual { hands, number } = &self.wait {
            hands.sleepers.lock().wakers.remove(&(self.deadline, *number));
        }
    }
}

impl Hands {
    fn now(&self) -> Tick {
        Tick(self.tick.load(Ordering::Acquire))
    }

    fn poll(&self, deadline: Tick, number: u64, context: &Context<'_>) -> Poll<()> {
        // Under the lock: the hand, once moved, finds whoever has not seen that.
        let mut sleepers = self.sleepers.lock();
        if self.now() >= deadline {
            sleepers.wakers.remove(&(deadline, number));
            return Poll::Ready(());
        }
        if deadline != Tick::NEVER {
            sleepers.wakers.insert((deadline, number), context.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes everybody whose deadline has come.
    fn wake(&self) {
        let mut sleepers = self.sleepers.lock();
        let later = sleepers.wakers.split_off(&(self.now() + 1, 0));
        let due = std::mem::replace(&mut sleepers.wakers, later);
        drop(sleepers);
        due.into_values().for_each(Waker::wake);
    }
}

const MANUAL_START_MS: u64 = 1_000_000_000_000;

fn millis(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// The hand of a manual clock.
#[derive(Clone, Debug)]
pub struct ManualHand(Arc<Hands>);

impl ManualHand {
    /// Advances ticks and wall time by `ms` milliseconds, and wakes whoever slept until then.
    pub fn advance(&self, ms: u64) {
        for hand in [&self.0.tick, &self.0.wall] {
            let moved = |held: u64| Some(held.saturating_add(ms));
            // The closure never declines, so the update cannot fail.
            let _ = hand.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
        }
        self.0.wake();
    }

    /// Returns the earliest tick that anybody sleeps until.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.0.sleepers.lock().wakers.first_key_value().map(|((deadline, _), _)| *deadline)
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

    fn is_ready(timer: &mut Timer) -> bool {
        Pin::new(timer).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn timers_of_a_manual_clock_elapse_at_their_tick_and_are_forgotten_with_it() {
        let (clock, hand) = Clock::manual();
        let (mut early, mut late) = (clock.timer(Tick(10)), clock.timer(Tick(20)));
        assert_eq!(hand.next_deadline(), None, "nobody has polled");
        assert!(!is_ready(&mut late) && !is_ready(&mut early));
        assert_eq!(hand.next_deadline(), Some(Tick(10)));
        hand.advance(10);
        assert!(is_ready(&mut early) && early.has_elapsed() && !is_ready(&mut late));
        late.set(Tick(15));
        assert_eq!((late.deadline(), hand.next_deadline()), (Tick(15), None));
        assert!(!is_ready(&mut late));
        drop(late);
        assert_eq!(hand.next_deadline(), None);
    }

    #[tokio::test]
    async fn whoever_sleeps_by_a_manual_clock_is_woken_by_its_hand() {
        let (clock, hand) = Clock::manual();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                let endless = clock.timeout(5, std::future::pending::<()>()).await;
                clock.sleep(5).await;
                (endless, clock.now(), clock.timeout(5, async { 7 }).await)
            }
        });
        for deadline in [5, 10] {
            while hand.next_deadline() != Some(Tick(deadline)) {
                tokio::task::yield_now().await;
            }
            hand.advance(4);
            tokio::task::yield_now().await;
            assert_eq!(hand.next_deadline(), Some(Tick(deadline)), "a millisecond is left");
            hand.advance(1);
        }
        assert_eq!(sleeper.await.unwrap(), (None, Tick(10), Some(7)));
    }

    #[tokio::test]
    async fn a_sleep_by_the_system_clock_is_never_too_short() {
        let clock = Clock::system();
        for ms in 0..5 {
            let deadline = clock.now() + ms;
            clock.sleep_until(deadline).await;
            assert!(clock.now() >= deadline);
        }
        let mut far = clock.timer(Tick::NEVER);
        assert!(!is_ready(&mut far));
    }

    #[test]
    fn a_system_clock_never_goes_back() {
        let clock = Clock::system();
        let first = clock.now();
        assert!(first < Tick(60_000) && clock.clone().now() >= first);
        assert!(clock.wall_ms() > MANUAL_START_MS);
    }
}
