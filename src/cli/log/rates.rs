//! Rate limits of the log by kind of line: a flood of one kind neither fills the disk nor hides
//! lines of another. A kind is a place in the code. Lines that were left out are summed up.

use crate::clock::{Clock, Tick};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Rate of warnings and errors of one kind: lines at once, and lines a second after that.
const WARNINGS: Rate = Rate { burst: 100, a_second: 10 };
/// Rate of lines of one kind about normal operation, such as a connection that was opened.
const ROUTINE: Rate = Rate { burst: 5_000, a_second: 100 };
/// Interval between summaries of lines that were left out, in ms.
const SUM_EVERY_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    a_second: u64,
}

/// A filter that leaves out lines of a kind that comes too often.
pub struct RateLimit<W> {
    kinds: Arc<Kinds>,
    /// Called when lines begin to be left out.
    wake: W,
}

impl<W: Fn() + 'static> RateLimit<W> {
    /// Creates a filter that takes the time from `clock`, and calls `wake` when there is something
    /// to [`Kinds::sum_up`] later.
    pub fn new(clock: Clock, wake: W) -> Self {
        Self { kinds: Arc::new(Kinds::new(clock)), wake }
    }

    /// Returns the kinds of lines, with the lines that were left out of each.
    pub fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.kinds)
    }
}

impl<S: Subscriber, W: Fn() + 'static> Layer<S> for RateLimit<W> {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let rate = match *metadata.level() {
            Level::ERROR | Level::WARN => WARNINGS,
            Level::INFO => ROUTINE,
            // An operator who turns on debug or trace wants all lines.
            _ => return true,
        };
        let message = || {
            let mut message = EventMessage(String::new());
            event.record(&mut message);
            message.0
        };
        let admitted = self.kinds.admit(metadata.callsite(), rate, message);
        if !admitted && !self.kinds.has_left_out.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
        admitted
    }
}

/// The message of an event, without its other fields.
struct EventMessage(String);

impl Visit for EventMessage {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// All kinds of lines logged so far.
#[derive(Debug)]
pub struct Kinds {
    clock: Clock,
    kinds: Mutex<HashMap<Identifier, LineKind>>,
    has_left_out: AtomicBool,
}

#[derive(Debug)]
struct LineKind {
    message: String,
    /// Lines that may still be written now.
    left: u64,
    /// When `left` was computed.
    since: Tick,
    left_out: u64,
    /// When the first line was left out since the last summary.
    left_out_since: Tick,
}

/// A summary of the lines of one kind that were left out.
#[derive(Debug, PartialEq, Eq)]
struct Sum {
    message: String,
    lines: u64,
    seconds: u64,
}

impl Kinds {
    /// Creates an empty set of kinds.
    pub fn new(clock: Clock) -> Self {
        Self { clock, kinds: Mutex::default(), has_left_out: AtomicBool::new(false) }
    }

    /// Returns true if lines were left out that are not summed up yet.
    pub fn has_left_out(&self) -> bool {
        self.has_left_out.load(Ordering::Acquire)
    }

    /// Logs a line for each kind of which lines were left out for [`SUM_EVERY_MS`].
    pub fn sum_up(&self) {
        if self.has_left_out() {
            for Sum { message, lines, seconds } in self.sums() {
                tracing::warn!("{message}: {lines} more like this in the last {seconds} s");
            }
        }
    }

    /// Takes the summaries that are due.
    fn sums(&self) -> Vec<Sum> {
        let now = self.clock.now();
        let mut kinds = self.kinds.lock();
        let mut sums = Vec::new();
        let mut remain = false;
        for kind in kinds.values_mut().filter(|kind| kind.left_out > 0) {
            let waited = now.since(kind.left_out_since);
            if waited < SUM_EVERY_MS {
                remain = true;
                continue;
            }
            let lines = std::mem::take(&mut kind.left_out);
            sums.push(Sum { message: kind.message.clone(), lines, seconds: waited / 1000 });
        }
        self.has_left_out.store(remain, Ordering::Release);
        sums
    }

    /// Takes a line from the rate of `kind`; returns false, and counts the line as left out, if the
    /// rate is used up.
    fn admit(&self, kind: Identifier, rate: Rate, message: impl FnOnce() -> String) -> bool {
        let now = self.clock.now();
        let mut kinds = self.kinds.lock();
        let fresh =
            || LineKind { message: String::new(), left: rate.burst, since: now, left_out: 0, left_out_since: now };
        let kind = kinds.entry(kind).or_insert_with(fresh);
        let gained = now.since(kind.since).saturating_mul(rate.a_second) / 1000;
        if gained > 0 {
            kind.left = kind.left.saturating_add(gained).min(rate.burst);
            kind.since = now;
        }
        if let Some(left) = kind.left.checked_sub(1) {
            kind.left = left;
            return true;
        }
        if kind.left_out == 0 {
            kind.left_out_since = now;
            kind.message = message();
        }
        kind.left_out += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::log::sink::{Lines, LogSink};
    use tracing_subscriber::layer::SubscriberExt;

    /// Returns the lines that `work` logs; it may advance the clock.
    fn lines(work: impl FnOnce(&crate::clock::ManualHand, &Kinds)) -> Vec<String> {
        let (clock, hand) = Clock::manual();
        let sink = Arc::new(LogSink::default());
        let rates = RateLimit::new(clock, || ());
        let kinds = rates.kinds();
        let format = tracing_subscriber::fmt::layer().with_writer(Lines(Arc::clone(&sink))).without_time();
        let subscriber = tracing_subscriber::registry().with(format.with_ansi(false).with_target(false)).with(rates);
        tracing::subscriber::with_default(subscriber, || work(&hand, &kinds));
        String::from_utf8(sink.taken()).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn a_kind_has_its_lines_and_the_rest_in_one() {
        let flood = |count| (0..count).for_each(|number| tracing::warn!(number, "login refused"));
        let written = lines(|hand, kinds| {
            flood(WARNINGS.burst + 7);
            assert!(kinds.has_left_out());
            tracing::warn!("another kind");
            kinds.sum_up();
            hand.advance(SUM_EVERY_MS - 1);
            kinds.sum_up();
            hand.advance(1);
            kinds.sum_up();
            assert!(!kinds.has_left_out());
            // The lines of one second are available again, up to the burst.
            flood(WARNINGS.burst + 1);
            hand.advance(1000);
            flood(WARNINGS.a_second + 1);
        });
        let burst = WARNINGS.burst as usize;
        assert_eq!(written[0], "WARN login refused number=0");
        assert_eq!(written[burst], "WARN another kind");
        assert_eq!(written[burst + 1], "WARN login refused: 7 more like this in the last 10 s");
        assert_eq!(written.len(), burst + 2 + burst + WARNINGS.a_second as usize);
    }

    #[test]
    fn what_is_asked_for_explicitly_has_no_bound() {
        let count = ROUTINE.burst as usize + 1;
        let written = lines(|_, _| (0..count).for_each(|_| tracing::debug!("detail")));
        assert_eq!(written.len(), count);
        let written = lines(|_, _| (0..count).for_each(|_| tracing::info!("news")));
        assert_eq!(written.len(), count - 1);
    }
}
