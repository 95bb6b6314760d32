//! Latencies: recorded by each thread, merged, reported as percentiles.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// How often a thread hands over what it recorded, in ns.
const FLUSH_NS: u64 = 200_000_000;
/// Smallest and largest latency that are told apart, in ns; digits that count.
const RANGE: (u64, u64, u8) = (1_000, 600_000_000_000, 3);

/// Latencies of all threads: since the last look, and since the figures count.
#[derive(Debug)]
pub struct Latencies(Mutex<Option<Both>>);

#[derive(Debug)]
struct Both {
    recent: Histogram<u64>,
    whole: Histogram<u64>,
}

/// A few points of a distribution, in us. All zero if nothing was recorded.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Percentiles {
        if histogram.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Percentiles {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
            mean: histogram.mean() / 1e3,
        }
    }
}

fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 1e3).round()
}

fn empty() -> Option<Histogram<u64>> {
    let (low, high, digits) = RANGE;
    // The bounds are constants that the crate accepts; without a histogram nothing would be
    // recorded.
    Histogram::new_with_bounds(low, high, digits).ok()
}

impl Default for Latencies {
    fn default() -> Latencies {
        let both = empty().zip(empty()).map(|(recent, whole)| Both { recent, whole });
        Latencies(Mutex::new(both))
    }
}

impl Latencies {
    /// Returns the percentiles since the last call.
    pub fn look(&self) -> Percentiles {
        match &mut *self.0.lock() {
            Some(both) => {
                let percentiles = Percentiles::of(&both.recent);
                both.recent.reset();
                percentiles
            }
            None => Percentiles::default(),
        }
    }

    /// Returns the percentiles since the end of the warm-up.
    pub fn whole(&self) -> Percentiles {
        self.0.lock().as_ref().map(|both| Percentiles::of(&both.whole)).unwrap_or_default()
    }

    /// From now on the figures count.
    pub fn begin(&self) {
        if let Some(both) = &mut *self.0.lock() {
            both.whole.reset();
        }
    }

    fn add(&self, histogram: &Histogram<u64>) {
        if let Some(both) = &mut *self.0.lock() {
            // Both have the same bounds, so adding cannot fail.
            let _ = both.recent.add(histogram);
            let _ = both.whole.add(histogram);
        }
    }
}

/// Latencies of one thread. Equal latencies in a row, as messages of one write have them, cost next
/// to nothing.
#[derive(Debug)]
pub struct Recorder<'a> {
    latencies: &'a Latencies,
    histogram: Option<Histogram<u64>>,
    latency: u64,
    repeated: u64,
    flush_at: u64,
}

impl<'a> Recorder<'a> {
    /// Records for those.
    pub fn new(latencies: &'a Latencies) -> Recorder<'a> {
        Recorder { latencies, histogram: empty(), latency: 0, repeated: 0, flush_at: 0 }
    }

    /// One latency, in ns.
    #[inline]
    pub fn record(&mut self, latency: u64) {
        if latency != self.latency {
            self.settle();
            self.latency = latency;
        }
        self.repeated += 1;
    }

    fn settle(&mut self) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record_n(self.latency, self.repeated);
        }
        self.repeated = 0;
    }

    /// Hands over what there is, if it is time.
    #[inline]
    pub fn flush_when_due(&mut self, now: u64) {
        if now >= self.flush_at {
            self.flush_at = now + FLUSH_NS;
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&mut self) {
        self.settle();
        if let Some(histogram) = self.histogram.as_mut().filter(|histogram| !histogram.is_empty()) {
            self.latencies.add(histogram);
            histogram.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_what_threads_record() {
        let latencies = Latencies::default();
        assert_eq!(latencies.look(), Percentiles::default());
        let (mut one, mut two) = (Recorder::new(&latencies), Recorder::new(&latencies));
        for _ in 0..98 {
            one.record(1_000_000);
        }
        two.record(50_000_000);
        two.record(u64::MAX);
        one.flush_when_due(0);
        two.flush();
        let seen = latencies.look();
        assert_eq!(seen.count, 100);
        assert!((seen.p50 - 1000.0).abs() < 2.0 && (seen.p99 - 50_000.0).abs() < 100.0 && seen.max > 1e8, "{seen:?}");
        assert_eq!(latencies.look().count, 0);
        assert_eq!(latencies.whole().count, 100);
        latencies.begin();
        one.record(5_000);
        one.flush_when_due(1);
        assert_eq!(latencies.whole().count, 0);
        one.flush_when_due(FLUSH_NS);
        assert_eq!(latencies.whole().count, 1);
    }
}
