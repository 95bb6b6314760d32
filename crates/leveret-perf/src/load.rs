//! One load, from its first declare to its last delete: connect, publish, drain, compare.

use crate::connection::ClientConnection;
use crate::consumer::{Consumed, consume};
use crate::latency::Percentiles;
use crate::layout::LoadLayout;
use crate::method::{self, DeclareFlags};
use crate::options::LoadOptions;
use crate::process::Usage;
use crate::producer::{Published, produce};
use crate::report::per_second;
use crate::run::{RunStage, RunState, spawn};
use crate::stamp;
use crate::verdict::DeliveryAudit;
use crate::watch::{ProgressSample, RunMonitor, Tells};
use leveret_wire::method_id::*;
use leveret_wire::reply::{self, Reply};
use leveret_wire::table::Table;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How long declaring and deleting may take: a broker may need minutes for 100,000 bindings.
const SETUP_PATIENCE: Duration = Duration::from_secs(900);
/// How long producers may take to close when nothing moves any more.
const CLOSE_PATIENCE: Duration = Duration::from_secs(65);
/// How long connections may take until all are ready.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// Results of a load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The broker's product and version.
    pub broker: String,
    /// How many queues each message reaches.
    pub copies: u64,
    /// Messages published.
    pub published: u64,
    /// Deliveries.
    pub consumed: u64,
    /// Messages confirmed, refused, returned, and those without an answer.
    pub confirms: [u64; 4],
    /// Seconds that the figures count.
    pub seconds: f64,
    /// While publishing.
    pub published_per_second: f64,
    /// While publishing; if consumers began afterwards: while draining.
    pub consumed_per_second: f64,
    /// Deliveries after the last publication, and how long they took.
    pub drained: (u64, f64),
    /// Seconds that producers were held back by connection.blocked or channel.flow, all together.
    pub held: f64,
    /// Losses, duplicates and disorder.
    pub verdict: DeliveryAudit,
    /// From publish to delivery.
    pub latency: Percentiles,
    /// From publish to confirm.
    pub confirm_latency: Percentiles,
    /// The broker's usage before and after, and its highest memory in KiB.
    pub usage: Option<(Usage, Usage, u64)>,
    /// The broker's memory in KiB when all was published and nothing consumed yet; only if
    /// consumers began afterwards.
    pub full: Option<u64>,
    /// Seconds between the two usages.
    pub used_seconds: f64,
    /// Why the load failed.
    pub faults: Vec<String>,
}

/// Runs one load with names of its own.
///
/// # Errors
/// It did not come to an end: no broker, no login, a declare that was refused.
pub fn load(options: &LoadOptions, name: &str) -> Result<Load, String> {
    let layout = LoadLayout::new(options, name);
    let run = RunState::default();
    let mut watch = RunMonitor::new(&run, options, Tells::Messages, layout.copies())?;
    let mut control = ClientConnection::open(&options.url, "leveret perf", 0)?;
    control.open_channel(1)?;
    control.be_patient(SETUP_PATIENCE)?;
    let broker = control.broker.clone();
    let declared = control.send(&layout.declare(options)).and_then(|()| sync(&mut control));
    let load =
        declared.and_then(|()| Loading { options, layout: &layout, run: &run }.go(&mut watch, &mut control, broker));
    match load {
        Ok(load) => delete(&layout, control).map(|()| load),
        Err(why) => {
            // The channel may be closed. What is left behind is deleted if the broker lets us; the
            // reason counts more.
            let _ = tidy_up(options, &layout);
            Err(why)
        }
    }
}

/// Returns once everything that was sent before is done.
fn sync(control: &mut ClientConnection) -> Result<(), String> {
    let mut out = Vec::new();
    method::qos(&mut out, 1, 0);
    control.call(&out, 1, BASIC_QOS_OK).map(drop)
}

fn tidy_up(options: &LoadOptions, layout: &LoadLayout) -> Result<(), String> {
    let mut control = ClientConnection::open(&options.url, "leveret perf", 0)?;
    control.open_channel(1)?;
    delete(layout, control)
}

fn delete(layout: &LoadLayout, mut control: ClientConnection) -> Result<(), String> {
    control.send(&layout.delete())?;
    if layout.has_exchange() {
        control.answer(1, EXCHANGE_DELETE_OK)?;
    }
    control.answer(1, QUEUE_DELETE_OK)?;
    control.close()
}

struct Loading<'a> {
    options: &'a LoadOptions,
    layout: &'a LoadLayout,
    run: &'a RunState,
}

/// The moments that figures are taken from.
struct Moments {
    begin: ProgressSample,
    end: ProgressSample,
    /// When consumers began to drain.
    drain: ProgressSample,
    last: ProgressSample,
    /// Seconds that the broker's usage was watched.
    used: f64,
    /// The broker's memory in KiB when the backlog was complete.
    full: Option<u64>,
}

type Thread<'scope, T> = ScopedJoinHandle<'scope, Option<T>>;

impl<'a> Loading<'a> {
    fn go(&self, watch: &mut RunMonitor<'_>, control: &mut ClientConnection, broker: String) -> Result<Load, String> {
        let (options, run) = (self.options, self.run);
        let (moments, usage, published, consumed, depth) = std::thread::scope(|scope| {
            let outcome = self.stages(scope, watch, control);
            // Whatever happened, no thread may wait for what does not come.
            outcome.inspect_err(|why| run.fail(why.clone()))
        })?;
        let mut faults: Vec<String> = run.failure().into_iter().collect();
        let total: u64 = published.iter().flat_map(|published| &published.messages).sum();
        let excused: u64 =
            published.iter().flat_map(|published| &published.excused).map(|list| list.len() as u64).sum();
        let came = depth.filter(|_| options.consumers == 0).unwrap_or(moments.last.consumed);
        let verdict = if options.consumers == 0 || options.size < stamp::SIZE {
            let refused = run.meter.nacked.load(Relaxed) + run.meter.returned.load(Relaxed);
            DeliveryAudit::by_count(total * self.layout.copies(), excused.max(refused) * self.layout.copies(), came)
        } else {
            DeliveryAudit::by_stamps(self.layout, &published, consumed)
        };
        let unconfirmed = published.iter().map(|published| published.unconfirmed).sum();
        if faults.is_empty() {
            faults = verdict.faults();
            if unconfirmed > 0 {
                faults.push(format!("{unconfirmed} messages neither confirmed nor refused"));
            }
        }
        let Moments { begin, end, drain, last, used, full } = moments;
        let seconds = end.seconds_since(begin);
        let drained = (last.consumed - drain.consumed, last.seconds_since(drain));
        let consumed_per_second = match options.consume_after {
            true => per_second(drained.0, drained.1),
            false => per_second(end.consumed - begin.consumed, seconds),
        };
        let meter = &run.meter;
        Ok(Load {
            broker,
            copies: self.layout.copies(),
            published: total,
            consumed: last.consumed,
            confirms: [last.confirmed, meter.nacked.load(Relaxed), meter.returned.load(Relaxed), unconfirmed],
            seconds,
            published_per_second: per_second(end.published - begin.published, seconds),
            consumed_per_second,
            drained,
            held: published.iter().map(|published| published.held.as_secs_f64()).sum(),
            verdict,
            latency: run.latencies.whole(),
            confirm_latency: run.confirm_latencies.whole(),
            usage: usage.map(|(before, after)| (before, after, watch.peak)),
            full,
            used_seconds: used,
            faults,
        })
    }

    /// From the first connection to the last close.
    #[expect(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn stages<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        watch: &mut RunMonitor<'_>,
        control: &mut ClientConnection,
    ) -> Result<(Moments, Option<(Usage, Usage)>, Vec<Published>, Vec<Consumed>, Option<u64>), String> {
        let (options, run) = (self.options, self.run);
        let mut consumers = Vec::new();
        if !options.consume_after {
            consumers = self.consumers(scope)?;
        }
        let mut producers = Vec::new();
        for number in 0..options.producers {
            let produce = move || {
                let produce = || produce(self.run, self.options, self.layout, number);
                self.run.guard(|| format!("producer {number}"), produce)
            };
            producers.push(spawn(scope, produce)?);
        }
        self.wait_until_ready(consumers.len() + producers.len());
        let (before, used_since) = (watch.usage(), ProgressSample::take(run));
        run.enter(RunStage::Publishing);
        let (begin, mut end) = self.publishing(watch);
        let counted = run.published_all.load(Acquire) == options.producers;
        run.enter(RunStage::Draining);
        let published = self.join(producers, watch);
        let due = self.due(&published);
        let rests = options.consumers == 0 || options.consume_after;
        let depth = if rests { Some(self.depth(control, watch, due)?) } else { None };
        if rests || counted {
            // What is still in a socket is not published yet: now the broker has all of it.
            end = ProgressSample::take(run);
        }
        let drain = end;
        let mut full = None;
        if options.consume_after {
            full = watch.usage().map(|usage| usage.resident);
            consumers = self.consumers(scope)?;
            self.wait_until_ready(options.producers + consumers.len());
        }
        self.drain(watch, due);
        let last =
            ProgressSample { time: run.meter.last_consumed.load(Relaxed).max(end.time), ..ProgressSample::take(run) };
        let usage = before.zip(watch.usage());
        let used = ProgressSample::take(run).seconds_since(used_since);
        run.enter(RunStage::Ending);
        let consumed = consumers.into_iter().filter_map(|consumer| consumer.join().ok().flatten()).collect();
        let last = ProgressSample { consumed: run.meter.consumed.0.load(Relaxed), ..last };
        Ok((Moments { begin, end, drain, last, used, full }, usage, published, consumed, depth))
    }

    fn consumers<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Vec<Thread<'scope, Consumed>>, String> {
        let mut consumers = Vec::new();
        for number in 0..self.options.consumers {
            let consume = move || {
                let consume = || consume(self.run, self.options, self.layout, number);
                self.run.guard(|| format!("consumer {number}"), consume)
            };
            consumers.push(spawn(scope, consume)?);
        }
        Ok(consumers)
    }

    fn wait_until_ready(&self, threads: usize) {
        let since = Instant::now();
        while self.run.ready.load(Acquire) < threads && !self.run.is_at(RunStage::Failed) {
            std::thread::sleep(Duration::from_micros(500));
            if since.elapsed() > READY_PATIENCE {
                self.run.fail(format!("connections were not ready within {} s", READY_PATIENCE.as_secs()));
            }
        }
    }

    /// Watches until time is over or all is published.
    fn publishing(&self, watch: &mut RunMonitor<'_>) -> (ProgressSample, ProgressSample) {
        let (options, run) = (self.options, self.run);
        watch.begin();
        let start = run.now();
        let after = |time: Duration| start.saturating_add(time.as_nanos() as u64);
        let deadline = options.duration().map_or(u64::MAX, after);
        let mut begin = ProgressSample::take(run);
        let mut warm_at = Some(after(options.warmup)).filter(|_| !options.warmup.is_zero());
        while !run.is_at(RunStage::Failed)
            && run.published_all.load(Acquire) < options.producers
            && run.now() < deadline
        {
            watch.look();
            if warm_at.is_some_and(|warm_at| run.now() >= warm_at) {
                warm_at = None;
                run.latencies.begin();
                run.confirm_latencies.begin();
                begin = ProgressSample::take(run);
            }
        }
        (begin, ProgressSample::take(run))
    }

    /// Waits for the producers' last confirms. One that the broker does not let finish fails the
    /// run.
    fn join(&self, producers: Vec<Thread<'_, Published>>, watch: &mut RunMonitor<'_>) -> Vec<Published> {
        // A producer waits by itself for confirms; whoever lasts longer sits in a write that the
        // broker does not take.
        let patience = self.options.drain + CLOSE_PATIENCE;
        let (mut seen, mut since) = (ProgressSample::take(self.run), Instant::now());
        while producers.iter().any(|producer| !producer.is_finished()) {
            watch.look();
            let now = ProgressSample::take(self.run);
            if now.moved_since(seen) {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                self.run.fail("the broker takes no more of what is published".to_owned());
            }
        }
        producers.into_iter().filter_map(|producer| producer.join().ok().flatten()).collect()
    }

    /// Deliveries that are due.
    fn due(&self, published: &[Published]) -> u64 {
        let messages: u64 = published.iter().flat_map(|published| &published.messages).sum();
        let excused: u64 =
            published.iter().flat_map(|published| &published.excused).map(|list| list.len() as u64).sum();
        messages.saturating_sub(excused) * self.layout.copies()
    }

    /// Waits until all came, or nothing comes any more.
    fn drain(&self, watch: &mut RunMonitor<'_>, due: u64) {
        let (mut seen, mut since) = (ProgressSample::take(self.run), Instant::now());
        while self.options.consumers > 0
            && seen.consumed < due
            && !self.run.is_at(RunStage::Failed)
            && since.elapsed() < self.options.drain
        {
            watch.look();
            let now = ProgressSample::take(self.run);
            if now.moved_since(seen) {
                (seen, since) = (now, Instant::now());
            }
        }
    }

    /// Waits until as many messages lie in the queues, or no more come; how many there are.
    fn depth(&self, control: &mut ClientConnection, watch: &mut RunMonitor<'_>, due: u64) -> Result<u64, String> {
        let (mut depth, mut since) = (0, Instant::now());
        loop {
            let mut sum = 0;
            for queue in &self.layout.queues {
                let mut out = Vec::new();
                let passive = DeclareFlags { passive: true, ..DeclareFlags::default() };
                method::queue_declare(&mut out, 1, queue, passive, Table::empty());
                if let Some(Reply::QueueDeclareOk { message_count, .. }) =
                    reply::parse(&control.call(&out, 1, QUEUE_DECLARE_OK)?)
                {
                    sum += u64::from(message_count);
                }
            }
            if sum > depth {
                (depth, since) = (sum, Instant::now());
            }
            if depth >= due || since.elapsed() > self.options.drain || self.run.is_at(RunStage::Failed) {
                return Ok(depth);
            }
            watch.look();
        }
    }
}
