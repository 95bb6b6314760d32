//! Holds things that do nothing, and tells what each costs: connections with their heartbeats, and
//! empty queues. A few threads hold all connections: each looks at its own in turn, without
//! blocking.

use crate::connection::{CLOSED, ClientConnection};
use crate::incoming::Filled;
use crate::latency::Recorder;
use crate::load_report::resident;
use crate::method::{self, DeclareFlags, close_text};
use crate::options::LoadOptions;
use crate::process::Usage;
use crate::report::{RunReport, grouped, per_second, rounded, thousandths};
use crate::run::{RunStage, RunState, spawn};
use crate::watch::{ProgressSample, RunMonitor, Tells};
use leveret_wire::encode_content::heartbeat;
use leveret_wire::frame::FrameKind;
use leveret_wire::method::id_of;
use leveret_wire::method_id::*;
use serde_json::Value;
use std::io::Write;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

/// Threads that hold the connections.
const THREADS: usize = 4;
/// Heartbeat interval in seconds that is asked for if nothing else is.
const HEARTBEAT: u16 = 10;
/// Octets of a read buffer: heartbeats have 8.
const BUFFER: usize = 64;
/// How long the broker's memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(500);
const SETUP_PATIENCE: Duration = Duration::from_secs(900);

/// Counters of all threads.
#[derive(Default)]
struct IdleCounters {
    open: AtomicUsize,
    closed: AtomicU64,
    heard: AtomicU64,
    sent: AtomicU64,
    octets: AtomicU64,
}

/// Opens connections, holds them, tells of them.
///
/// # Errors
/// The broker does not let them in.
pub fn connections(options: &LoadOptions, count: usize) -> Result<RunReport, String> {
    let run = RunState::default();
    let mut watch = RunMonitor::new(&run, options, Tells::Operations, 1)?;
    let counters = IdleCounters::default();
    let before = watch.usage();
    let broker = {
        let first = ClientConnection::open(&options.url, "leveret perf", 0)?;
        let broker = first.broker.clone();
        first.close()?;
        broker
    };
    let begin = ProgressSample::take(&run);
    let (opened, usage, held) = std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (run, counters) = (&run, &counters);
            let share = (count + THREADS - 1 - number) / THREADS;
            let hold = move || {
                run.guard(|| "idle".to_owned(), || hold(run, options, counters, share));
                run.published_all.fetch_add(1, AcqRel);
            };
            spawn(scope, hold).inspect_err(|why| run.fail(why.clone()))?;
        }
        watch.begin();
        while counters.open.load(Acquire) < count && !run.is_at(RunStage::Failed) {
            watch.look();
        }
        let opened = ProgressSample::take(&run);
        std::thread::sleep(SETTLE);
        let settled = watch.usage();
        let since = ProgressSample::take(&run);
        let time = options.duration().unwrap_or_default().as_secs_f64();
        while ProgressSample::take(&run).seconds_since(since) < time && !run.is_at(RunStage::Failed) {
            watch.look();
        }
        let held = ProgressSample::take(&run).seconds_since(since);
        let usage = settled.zip(watch.usage());
        run.enter(RunStage::Ending);
        Ok::<_, String>((opened, usage, held))
    })?;
    let mut report = RunReport::new("idle-connections", &broker);
    let rate = per_second(opened.published, opened.seconds_since(begin));
    report.line("connections", format!("{} opened, {}/s, held for {held:.1} s", grouped(count as u64), rounded(rate)));
    report.field("connections", count as u64);
    report.field("opened_per_second", thousandths(rate));
    report.field("held_seconds", thousandths(held));
    report.latency("to open one", "open_latency_us", run.latencies.whole());
    let [heard, sent, octets, closed] =
        [&counters.heard, &counters.sent, &counters.octets, &counters.closed].map(|counter| counter.load(Relaxed));
    report.line("heartbeats", format!("{} heard, {} sent", grouped(heard), grouped(sent)));
    report.field("heartbeats_heard", heard);
    report.field("heartbeats_sent", sent);
    report.field("octets_heard_per_connection", thousandths(per_second(octets, count as f64)));
    report.field("closed_by_broker", closed);
    costs(&mut report, "connection", count, before, usage, held);
    report.faults.extend(run.failure());
    if closed > 0 {
        report.faults.push(format!("the broker closed {closed} connections"));
    }
    Ok(report)
}

/// Adds the broker's memory and CPU time a connection or queue to the report.
fn costs(
    report: &mut RunReport,
    what: &str,
    count: usize,
    before: Option<Usage>,
    usage: Option<(Usage, Usage)>,
    seconds: f64,
) {
    let Some((before, (settled, after))) = before.zip(usage) else {
        report.field("resident_kib", Value::Null);
        return;
    };
    let each = after.resident.saturating_sub(before.resident) as f64 / count.max(1) as f64;
    let percent = 100.0 * (after.cpu - settled.cpu) / seconds.max(1e-3);
    let text = format!("{each:.2} KiB a {what}, {} KiB in all; {percent:.2}% of a core", grouped(after.resident));
    report.line("broker's use", text);
    report.field("resident_kib", resident(before.resident, after.resident, after.resident.max(settled.resident)));
    report.field("resident_kib_each", thousandths(each));
    report.field("cpu_percent", thousandths(percent));
}

/// One connection that is held.
struct IdleConnections {
    connection: ClientConnection,
    written_at: u64,
}

/// Opens so many, holds them until the run ends, closes them.
fn hold(run: &RunState, options: &LoadOptions, counters: &IdleCounters, count: usize) -> Result<(), String> {
    let mut recorder = Recorder::new(&run.latencies);
    let mut held = Vec::with_capacity(count);
    let mut looked_at = run.now();
    while held.len() < count && !run.is_at(RunStage::Ending) {
        let begin = run.now();
        let mut connection =
            ClientConnection::open(&options.url, "leveret perf idle", options.heartbeat.unwrap_or(HEARTBEAT))
                .map_err(|why| format!("{why} (connection {}; ulimit -n?)", counters.open.load(Relaxed) + 1))?;
        connection.incoming.resize(BUFFER);
        connection.socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        let now = run.now();
        recorder.record(now - begin);
        recorder.flush_when_due(now);
        held.push(IdleConnections { connection, written_at: now });
        counters.open.fetch_add(1, AcqRel);
        run.meter.published.0.fetch_add(1, Relaxed);
        if now - looked_at > 1_000_000_000 {
            look_at_all(run, counters, &mut held);
            looked_at = now;
        }
    }
    recorder.flush();
    while !run.is_at(RunStage::Ending) {
        look_at_all(run, counters, &mut held);
        // Short steps, so that the end is not slept through.
        let next = run.now() + 500_000_000;
        while run.now() < next && !run.is_at(RunStage::Ending) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for IdleConnections { connection, .. } in held {
        let Ok(()) = connection.socket.set_nonblocking(false) else { continue };
        // It is over; whether the last words arrive changes no figure.
        let _ = connection.close();
    }
    Ok(())
}

fn look_at_all(run: &RunState, counters: &IdleCounters, held: &mut Vec<IdleConnections>) {
    held.retain_mut(|held| match look_at(run, counters, held) {
        Ok(()) => true,
        Err(why) => {
            if counters.closed.fetch_add(1, Relaxed) == 0 {
                eprintln!("the first connection that was lost: {why}");
            }
            false
        }
    });
}

/// Takes what came; sends a heartbeat if it is time.
fn look_at(run: &RunState, counters: &IdleCounters, held: &mut IdleConnections) -> Result<(), String> {
    let connection = &mut held.connection;
    let before = connection.incoming.total;
    loop {
        let filled = connection.incoming.fill(&connection.socket).map_err(|error| error.to_string())?;
        while let Some(frame) = connection.incoming.next_frame()? {
            match frame.kind {
                FrameKind::Heartbeat => drop(counters.heard.fetch_add(1, Relaxed)),
                FrameKind::Method if id_of(frame.payload) == CONNECTION_CLOSE => return Err(close_text(frame.payload)),
                _ => {}
            }
        }
        match filled {
            Filled::Some => {}
            Filled::Nothing => break,
            Filled::End => return Err(CLOSED.to_owned()),
        }
    }
    counters.octets.fetch_add(connection.incoming.total - before, Relaxed);
    let now = run.now();
    if connection.heartbeat > 0 && now - held.written_at > 500_000_000 * u64::from(connection.heartbeat) {
        let mut out = Vec::new();
        heartbeat(&mut out);
        connection.socket.write_all(&out).map_err(|error| error.to_string())?;
        held.written_at = now;
        counters.sent.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Declares queues, holds them, tells of them, deletes them.
///
/// # Errors
/// The broker refuses one.
pub fn queues(options: &LoadOptions, count: usize, name: &str) -> Result<RunReport, String> {
    let run = RunState::default();
    let mut watch = RunMonitor::new(&run, options, Tells::Operations, 1)?;
    let mut connection = ClientConnection::open(&options.url, "leveret perf", 0)?;
    connection.open_channel(1)?;
    connection.be_patient(SETUP_PATIENCE)?;
    let broker = connection.broker.clone();
    let before = watch.usage();
    let begin = ProgressSample::take(&run);
    let arguments = options.queue_args.table();
    let names: Vec<String> = (0..count).map(|number| format!("{name}-{number:06}")).collect();
    let mut out = Vec::new();
    for queue in &names {
        let flags = DeclareFlags { durable: true, no_wait: true, ..DeclareFlags::default() };
        method::queue_declare(&mut out, 1, queue.as_bytes(), flags, arguments.as_table());
    }
    connection.send(&out)?;
    out.clear();
    method::qos(&mut out, 1, 0);
    connection.call(&out, 1, BASIC_QOS_OK)?;
    let seconds = ProgressSample::take(&run).seconds_since(begin);
    std::thread::sleep(SETTLE);
    let settled = watch.usage();
    let since = ProgressSample::take(&run);
    let time = options.duration().unwrap_or_default().as_secs_f64();
    while ProgressSample::take(&run).seconds_since(since) < time {
        std::thread::sleep(Duration::from_millis(20));
    }
    let held = ProgressSample::take(&run).seconds_since(since);
    let usage = settled.zip(watch.usage());
    out.clear();
    for (number, queue) in names.iter().enumerate() {
        method::queue_delete(&mut out, 1, queue.as_bytes(), number + 1 < count);
    }
    connection.call(&out, 1, QUEUE_DELETE_OK)?;
    connection.close()?;
    let mut report = RunReport::new("idle-queues", &broker);
    let rate = per_second(count as u64, seconds);
    report.line("queues", format!("{} declared, {}/s, held for {held:.1} s", grouped(count as u64), rounded(rate)));
    report.field("queues", count as u64);
    report.field("declared_per_second", thousandths(rate));
    report.field("held_seconds", thousandths(held));
    costs(&mut report, "queue", count, before, usage, held);
    Ok(report)
}
