//! The log: lines on standard error, written by a thread of its own, so that no connection waits
//! for the process that reads them.

mod rates;
mod sink;

use crate::cli::error::LogError;
use crate::cli::log::rates::RateLimit;
use crate::cli::log::sink::{Lines, LogSink};
use crate::clock::Clock;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How long the end of the process waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log of the process. Clones refer to the same log.
#[derive(Clone, Debug)]
pub struct Log(Arc<LogSink>);

/// Starts the log of the process: events of the broker, and panics, are written to standard error
/// from now on.
///
/// # Errors
/// `filter` is no valid filter of tracing; the system refuses another thread or descriptor.
pub fn start(filter: &str) -> Result<Log, LogError> {
    let parsed: Result<Targets, ParseError> = filter.parse();
    let targets = parsed.map_err(|source| LogError::Filter { text: filter.to_owned(), source })?;
    // A descriptor of its own: the standard library would hold its lock of standard error while a
    // write blocks.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned().map_err(LogError::Io)?);
    let sink = Arc::new(LogSink::default());
    let sums = Arc::clone(&sink);
    let rates = RateLimit::new(Clock::system(), move || sums.wake());
    let kinds = rates.kinds();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Lines(Arc::clone(&sink)))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines).with(rates).with(targets).init();
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%backtrace, "{panic}");
    }));
    let writer = Arc::clone(&sink);
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(out, &kinds));
    thread.map_err(LogError::Io)?;
    Ok(Log(sink))
}

impl Log {
    /// Writes a line as it is, without time and level.
    pub fn last_line(&self, line: &str) {
        self.0.push(format!("{line}\n").as_bytes());
    }

    /// Waits until all lines are written, for half a second at most: the reader may have stopped.
    pub fn flush(&self) {
        self.0.flush(LAST_LINES);
    }
}
