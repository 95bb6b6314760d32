//! A load generator for any AMQP 0-9-1 broker. It shares the octets (`wire`) with the broker of
//! this crate and nothing else: plain threads and blocking sockets, none of the broker's own code.
//!
//! It is made to be lighter than any broker: publications are encoded ahead and only stamped
//! ([`batch`]), written many at a time by one thread a connection ([`producer`], its other thread
//! listens: [`link`]); a consumer ([`consumer`]) looks at frame heads and at the stamp a body
//! begins with ([`stamp`]), and keeps one bit a message ([`track`]), so that loss, duplicates and
//! disorder are counted exactly ([`verdict`]).

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod batch;
pub mod churn;
pub mod confirms;
pub mod connection;
pub mod consumer;
pub mod idle;
pub mod incoming;
pub mod latency;
pub mod layout;
pub mod link;
pub mod load;
pub mod load_report;
pub mod method;
pub mod options;
pub mod pace;
pub mod process;
pub mod producer;
pub mod ramp;
pub mod report;
pub mod run;
pub mod stamp;
pub mod track;
pub mod url;
pub mod verdict;
pub mod watch;

use crate::options::{LoadMode, LoadOptions};
use crate::report::RunReport;
use std::time::{SystemTime, UNIX_EPOCH};

/// Does what the options say.
///
/// # Errors
/// LoadOptions that do not fit together, or a run that did not come to an end. One that did and
/// found faults has them in its report.
pub fn run(options: &LoadOptions) -> Result<RunReport, String> {
    options.check()?;
    let name = options.name.clone().unwrap_or_else(new_name);
    match options.mode {
        LoadMode::Load => load::load(options, &name).map(|load| load_report::report(&load)),
        LoadMode::Ramp(bound_ms) => ramp::ramp(options, bound_ms, &name),
        LoadMode::Churn(what) => churn::churn(options, what, &name),
        LoadMode::IdleConnections(count) => idle::connections(options, count),
        LoadMode::IdleQueues(count) => idle::queues(options, count, &name),
    }
}

/// A name that no other run has: the process and the time.
fn new_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    format!("perf-{:x}-{:x}", std::process::id(), now & 0xff_ffff)
}
