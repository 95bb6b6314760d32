//! Watches a run from outside: the line each second, progress, the broker's memory.

use crate::latency::Percentiles;
use crate::options::LoadOptions;
use crate::process::{Process, Usage};
use crate::report::{grouped, per_second, time};
use crate::run::RunState;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// How often a run is looked at.
pub const LOOK: Duration = Duration::from_millis(2);

/// How much was done up to a moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct ProgressSample {
    /// ns since the run's epoch.
    pub time: u64,
    /// Messages, or operations.
    pub published: u64,
    /// Messages.
    pub consumed: u64,
    /// Messages.
    pub confirmed: u64,
}

impl ProgressSample {
    /// Now.
    pub fn take(run: &RunState) -> ProgressSample {
        ProgressSample {
            time: run.now(),
            published: run.meter.published.0.load(Relaxed),
            consumed: run.meter.consumed.0.load(Relaxed),
            confirmed: run.meter.confirmed.0.load(Relaxed),
        }
    }

    /// Seconds since an earlier one.
    pub fn seconds_since(self, earlier: ProgressSample) -> f64 {
        self.time.saturating_sub(earlier.time) as f64 / 1e9
    }

    /// Returns true if any counter moved since an earlier snapshot.
    pub fn moved_since(self, earlier: ProgressSample) -> bool {
        (self.published, self.consumed, self.confirmed) != (earlier.published, earlier.consumed, earlier.confirmed)
    }
}

/// Subject of the lines that are printed each second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tells {
    /// Messages.
    Messages,
    /// Operations.
    Operations,
}

/// The watch over one run.
#[derive(Debug)]
pub struct RunMonitor<'a> {
    run: &'a RunState,
    tells: Tells,
    quiet: bool,
    copies: u64,
    confirms: bool,
    process: Option<Process>,
    /// Use of the broker's process before the run.
    pub before: Option<Usage>,
    /// Most resident memory seen, in KiB.
    pub peak: u64,
    start: u64,
    next_line: u64,
    last: ProgressSample,
}

impl<'a> RunMonitor<'a> {
    /// Watches a run in which each message is copied so often.
    ///
    /// # Errors
    /// There is no such process.
    pub fn new(run: &'a RunState, options: &LoadOptions, tells: Tells, copies: u64) -> Result<RunMonitor<'a>, String> {
        let process = options.pid.map(Process::new).transpose()?;
        let before = process.and_then(Process::usage);
        let now = run.now();
        Ok(RunMonitor {
            run,
            tells,
            quiet: options.quiet,
            copies,
            confirms: options.confirm.is_some(),
            process,
            before,
            peak: before.map_or(0, |usage| usage.resident),
            start: now,
            next_line: now + SECOND,
            last: ProgressSample::take(run),
        })
    }

    /// The broker's usage now; it counts for the peak.
    pub fn usage(&mut self) -> Option<Usage> {
        let usage = self.process.and_then(Process::usage)?;
        self.peak = self.peak.max(usage.resident);
        Some(usage)
    }

    /// The lines count from now.
    pub fn begin(&mut self) {
        self.last = ProgressSample::take(self.run);
        self.start = self.last.time;
        self.next_line = self.start + SECOND;
    }

    /// Sleeps a moment; tells a line when a second is over.
    pub fn look(&mut self) {
        std::thread::sleep(LOOK);
        if self.run.now() < self.next_line {
            return;
        }
        self.next_line += SECOND;
        self.usage();
        let now = ProgressSample::take(self.run);
        if !self.quiet {
            let text = self.line(now);
            eprintln!("{text}");
        }
        self.last = now;
    }

    fn line(&self, now: ProgressSample) -> String {
        let seconds = now.seconds_since(self.last);
        let rate = |now: u64, last: u64| grouped(per_second(now - last, seconds).round() as u64);
        let mut text = format!("{:>4} s", (now.time - self.start + SECOND / 2) / SECOND);
        let mut add = |part: String| text.push_str(&part);
        match self.tells {
            Tells::Operations => add(format!("  {:>11}/s", rate(now.published, self.last.published))),
            Tells::Messages => {
                add(format!("  published {:>11}/s", rate(now.published, self.last.published)));
                add(format!("  consumed {:>11}/s", rate(now.consumed, self.last.consumed)));
                if self.confirms {
                    add(format!("  confirmed {:>11}/s", rate(now.confirmed, self.last.confirmed)));
                }
                add(format!("  backlog {:>9}", grouped(self.run.backlog(self.copies))));
            }
        }
        let latency = self.run.latencies.look();
        let confirm_latency = self.run.confirm_latencies.look();
        add(points("latency", latency));
        add(points("confirm", confirm_latency));
        match self.run.meter.blocked.load(Relaxed) {
            0 => {}
            blocked => add(format!("  {blocked} blocked by the broker")),
        }
        text
    }
}

fn points(what: &str, latency: Percentiles) -> String {
    match latency.count {
        0 => String::new(),
        _ => format!("  {what} p50 {} p99 {} max {}", time(latency.p50), time(latency.p99), time(latency.max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rates_and_backlog() {
        let run = RunState::default();
        let mut options = LoadOptions::new("amqp://".parse().unwrap());
        options.confirm = Some(1);
        let watch = RunMonitor::new(&run, &options, Tells::Messages, 2).unwrap();
        run.meter.published.0.store(5000, Relaxed);
        run.meter.consumed.0.store(4000, Relaxed);
        let then = ProgressSample { time: watch.last.time + 2 * SECOND, published: 5000, consumed: 4000, confirmed: 0 };
        let line = watch.line(then);
        for part in [
            "   2 s",
            "published       2,500/s",
            "consumed       2,000/s",
            "confirmed           0/s",
            "backlog     6,000",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(then.moved_since(ProgressSample::default()) && !then.moved_since(then));
    }
}
