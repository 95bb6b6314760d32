//! Looks for the highest rate whose p99 stays under a bound: doubles until it breaks, then halves
//! the gap.

use crate::load::load;
use crate::load_report::{Trial, ramp_report};
use crate::options::LoadOptions;
use crate::report::{RunReport, rounded, time};

/// Messages a second of all producers together to begin with, if no rate is given.
const FIRST: f64 = 1_000.0;
/// A rate counts as kept if so much of it went through.
const KEPT: f64 = 0.95;
/// How often the gap between what holds and what does not is halved.
const HALVINGS: u32 = 5;
/// Messages a second that nobody asks for: below and above it the search ends.
const BOUNDS: (f64, f64) = (1.0, 1e8);

/// Runs loads of rising rates.
///
/// # Errors
/// As [`load`].
pub fn ramp(options: &LoadOptions, bound_ms: f64, name: &str) -> Result<RunReport, String> {
    let mut trials: Vec<Trial> = Vec::new();
    let producers = options.producers as f64;
    let mut search = Search::new(if options.rate > 0.0 { options.rate * producers } else { FIRST });
    while let Some(rate) = search.rate() {
        let paced = LoadOptions { rate: rate / producers, quiet: true, ..options.clone() };
        let mut held = false;
        // A machine that hiccups is no broker that cannot: only twice too much is too much.
        for _ in 0..2 {
            let trial = attempt(&paced, bound_ms, rate, &format!("{name}-{}", trials.len()))?;
            held = trial.held;
            if !options.quiet {
                let verdict = if held { "holds" } else { "too much" };
                eprintln!("{:>12}/s  p99 {:>10}  {verdict}", rounded(rate), time(trial.load.latency.p99));
            }
            let broken = !trial.load.faults.is_empty();
            trials.push(trial);
            if broken {
                return Ok(ramp_report(options, bound_ms, &trials));
            }
            if held {
                break;
            }
        }
        search.tell(held);
    }
    Ok(ramp_report(options, bound_ms, &trials))
}

fn attempt(paced: &LoadOptions, bound_ms: f64, rate: f64, name: &str) -> Result<Trial, String> {
    let load = load(paced, name)?;
    let kept = load.published_per_second.min(load.consumed_per_second / load.copies as f64) >= KEPT * rate;
    let held = kept && load.latency.count > 0 && load.latency.p99 <= bound_ms * 1e3;
    Ok(Trial { rate, held, load })
}

/// The search itself.
#[derive(Clone, Copy, Debug)]
struct Search {
    next: f64,
    /// Highest rate that held, lowest that did not.
    gap: (Option<f64>, Option<f64>),
    left: u32,
}

impl Search {
    fn new(first: f64) -> Search {
        Search { next: first, gap: (None, None), left: HALVINGS }
    }

    /// Returns the next rate to try; `None` at the end.
    fn rate(&self) -> Option<f64> {
        (self.left > 0 && (BOUNDS.0..=BOUNDS.1).contains(&self.next)).then_some(self.next)
    }

    /// Records whether the last rate stayed under the bound.
    fn tell(&mut self, held: bool) {
        if held {
            self.gap.0 = Some(self.next);
        } else {
            self.gap.1 = Some(self.next);
        }
        self.next = match self.gap {
            (Some(low), Some(high)) => {
                self.left -= 1;
                f64::midpoint(low, high)
            }
            (Some(low), None) => 2.0 * low,
            (None, Some(high)) => high / 2.0,
            (None, None) => self.next,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, limit: f64) -> (f64, usize) {
        let (mut search, mut best, mut tried) = (Search::new(first), 0.0f64, 0);
        while let Some(rate) = search.rate() {
            tried += 1;
            search.tell(rate <= limit);
            best = if rate <= limit { best.max(rate) } else { best };
        }
        (best, tried)
    }

    #[test]
    fn comes_close_to_the_limit_from_both_sides() {
        for (first, limit) in [(1000.0, 50_000.0), (1000.0, 300.0), (1000.0, 1000.0), (7.0, 1e6)] {
            let (best, tried) = search(first, limit);
            assert!(best <= limit && best > 0.93 * limit && tried < 30, "{best} of {limit} after {tried}");
        }
    }

    #[test]
    fn ends_where_nothing_holds_or_everything_does() {
        assert_eq!(search(1000.0, 0.0).0, 0.0);
        assert!(search(1000.0, f64::MAX).1 < 30);
    }
}
