//! Makes and unmakes connections, channels, queues or bindings as fast as answers come.

use crate::connection::ClientConnection;
use crate::latency::Recorder;
use crate::method::{self, DeclareFlags};
use crate::options::{Churn, LoadOptions};
use crate::report::{RunReport, grouped, per_second, rounded, thousandths};
use crate::run::{RunStage, RunState, spawn};
use crate::watch::{ProgressSample, RunMonitor, Tells};
use leveret_wire::method_id::*;
use leveret_wire::table::Table;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

/// The exchange that bindings come and go at.
const EXCLUSIVE: DeclareFlags =
    DeclareFlags { passive: false, durable: false, exclusive: true, auto_delete: false, no_wait: false };
const EXCHANGE: &[u8] = b"amq.topic";

/// Works with as many connections as there are producers, one thing at a time each.
///
/// # Errors
/// The broker does not answer as it should.
pub fn churn(options: &LoadOptions, what: Churn, name: &str) -> Result<RunReport, String> {
    let run = RunState::default();
    let mut watch = RunMonitor::new(&run, options, Tells::Operations, 1)?;
    let control = ClientConnection::open(&options.url, "leveret perf", 0)?;
    let broker = control.broker.clone();
    let (begin, end, usage) = std::thread::scope(|scope| {
        for number in 0..options.producers {
            let run = &run;
            let work = move || {
                let worker = || Worker::new(run, options, what, format!("{name}-{number}")).work(number);
                run.guard(|| format!("worker {number}"), worker);
                run.published_all.fetch_add(1, AcqRel);
            };
            spawn(scope, work).inspect_err(|why| run.fail(why.clone()))?;
        }
        while run.ready.load(Acquire) < options.producers && !run.is_at(RunStage::Failed) {
            std::thread::sleep(Duration::from_micros(500));
        }
        let before = watch.usage();
        run.enter(RunStage::Publishing);
        watch.begin();
        let begin = ProgressSample::take(&run);
        let deadline = options.duration().map_or(u64::MAX, |time| begin.time.saturating_add(time.as_nanos() as u64));
        while run.published_all.load(Acquire) < options.producers
            && run.now() < deadline
            && !run.is_at(RunStage::Failed)
        {
            watch.look();
        }
        let end = ProgressSample::take(&run);
        run.enter(RunStage::Draining);
        Ok::<_, String>((begin, end, before.zip(watch.usage())))
    })?;
    // Best effort: it only held the broker's name.
    let _ = control.close();
    let seconds = end.seconds_since(begin);
    let (operations, rate) = (end.published, per_second(end.published, seconds));
    let mut report = RunReport::new("churn", &broker);
    let word = match what {
        Churn::Connections => "connections",
        Churn::Channels => "channels",
        Churn::Queues => "queues",
        Churn::Bindings => "bindings",
    };
    report.field("what", word);
    report.line(word, format!("{} made and unmade, {}/s", grouped(operations), rounded(rate)));
    report.field("seconds", thousandths(seconds));
    report.field("operations", operations);
    report.field("per_second", thousandths(rate));
    report.latency("each", "latency_us", run.latencies.whole());
    let cpu = usage.map(|(before, after)| (after.cpu - before.cpu) * 1e6 / (operations.max(1) as f64));
    if let Some(cpu) = cpu {
        report.line("broker's use", format!("{cpu:.1} us of CPU each"));
    }
    report.field("cpu_us_per_operation", cpu.map(thousandths));
    report.faults.extend(run.failure());
    Ok(report)
}

/// One connection's work.
struct Worker<'a> {
    run: &'a RunState,
    options: &'a LoadOptions,
    what: Churn,
    name: String,
    recorder: Recorder<'a>,
}

impl<'a> Worker<'a> {
    fn new(run: &'a RunState, options: &'a LoadOptions, what: Churn, name: String) -> Worker<'a> {
        Worker { run, options, what, name, recorder: Recorder::new(&run.latencies) }
    }

    fn work(mut self, number: usize) -> Result<(), String> {
        let producers = self.options.producers as u64;
        let quota = self.options.count.map_or(u64::MAX, |count| (count + producers - 1 - number as u64) / producers);
        let mut connection = match self.what {
            Churn::Connections => None,
            _ => Some(self.prepare()?),
        };
        self.run.ready.fetch_add(1, AcqRel);
        if !self.run.wait_for(RunStage::Publishing) {
            return Ok(());
        }
        let mut done = 0;
        while done < quota && !self.run.is_at(RunStage::Draining) {
            let begin = self.run.now();
            match &mut connection {
                None => {
                    let mut connection = ClientConnection::open(&self.options.url, "leveret perf churn", 60)?;
                    connection.open_channel(1)?;
                    connection.close()?;
                }
                Some(connection) => self.operate(connection, done)?,
            }
            let now = self.run.now();
            self.recorder.record(now - begin);
            self.recorder.flush_when_due(now);
            self.run.meter.published.0.fetch_add(1, Relaxed);
            done += 1;
        }
        self.recorder.flush();
        connection.map_or(Ok(()), ClientConnection::close)
    }

    /// A connection, and on it what the work needs.
    fn prepare(&self) -> Result<ClientConnection, String> {
        let mut connection = ClientConnection::open(&self.options.url, "leveret perf churn", 0)?;
        connection.open_channel(1)?;
        if self.what == Churn::Bindings {
            let mut out = Vec::new();
            method::queue_declare(&mut out, 1, self.name.as_bytes(), EXCLUSIVE, Table::empty());
            connection.call(&out, 1, QUEUE_DECLARE_OK)?;
        }
        Ok(connection)
    }

    /// Makes and unmakes one thing.
    fn operate(&self, connection: &mut ClientConnection, number: u64) -> Result<(), String> {
        let mut out = Vec::new();
        match self.what {
            Churn::Connections => {}
            Churn::Channels => {
                connection.open_channel(2)?;
                method::channel_close(&mut out, 2);
                connection.call(&out, 2, CHANNEL_CLOSE_OK)?;
            }
            Churn::Queues => {
                let queue = format!("{}-{number}", self.name).into_bytes();
                let durable = DeclareFlags { durable: true, ..DeclareFlags::default() };
                let flags = if self.options.persistent { durable } else { EXCLUSIVE };
                let arguments = self.options.queue_args.table();
                method::queue_declare(&mut out, 1, &queue, flags, arguments.as_table());
                connection.call(&out, 1, QUEUE_DECLARE_OK)?;
                out.clear();
                method::queue_delete(&mut out, 1, &queue, false);
                connection.call(&out, 1, QUEUE_DELETE_OK)?;
            }
            Churn::Bindings => {
                let (queue, key) = (self.name.as_bytes(), format!("{}.{number}", self.name).into_bytes());
                method::queue_bind(&mut out, 1, queue, EXCHANGE, &key, false, Table::empty());
                connection.call(&out, 1, QUEUE_BIND_OK)?;
                out.clear();
                method::queue_unbind(&mut out, 1, queue, EXCHANGE, &key);
                connection.call(&out, 1, QUEUE_UNBIND_OK)?;
            }
        }
        Ok(())
    }
}
