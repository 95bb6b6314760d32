//! `leveret perf`: arguments, output, exit code. The load itself is made by the crate
//! `leveret-perf`.
//!
//! Exit codes: 0 on success; 1 when a message was lost, duplicated or out of order, or the run
//! failed; 2 for bad arguments.

use leveret_perf as perf;
use leveret_perf::options::{Ack, Churn, ExchangeKind, LoadMode, LoadOptions, QueueArgs};
use leveret_perf::url::BrokerUrl;
use std::process::ExitCode;
use std::time::Duration;

const AFTER: &str = "\
Each message of 16 octets or more carries its producer, a number and the time: loss, duplicates and disorder are counted
queue by queue, and make the exit code 1. Latency is from just before the write of a message to just behind the read of
its delivery; a message more than 1 ms later than its --rate asks for counts from when it was due.

Examples:
  leveret perf                                           16 octets, as fast as they go, for 10 s
  leveret perf --rate 5000 --size 1024                   latency at a steady rate
  leveret perf --confirm 1000 --persistent --ack each --prefetch 100
  leveret perf --exchange topic --queues 10 --bindings 1000 --keys 1000
  leveret perf --ramp 5                                  the highest rate whose p99 stays under 5 ms
  leveret perf --churn connections --producers 4
  leveret perf --idle-connections 10000 --pid $(pgrep -x leveret)
  leveret perf --count 1000000 --size 1024 --consume-after --json";

const AFTER_LONG: &str = "\
Pairing: with at least as many producers as queues, producer p publishes to queue p mod queues; with fewer, each takes turns
over its share of the queues. Consumers likewise. Exchanges:
  direct    each queue has a key of its own; further --bindings match no message
  headers   the same with a header instead of a key
  fanout    every queue gets every message; --bindings N without --queues means N queues
  topic     --bindings N come in groups of 10 different patterns, which lead to the first 10 queues; each message is matched
            by one group, which of them its key says; without --bindings, every queue is bound with #
--keys N: each producer goes through N routing keys (direct: each queue has N of them, each bound; headers: N values of the
header) instead of repeating one, so that brokers have to route and not only to remember.

JSON (--json prints one object; times in us, memory in KiB; what needs --pid is null without it):
  mode, broker, ok, faults: always. faults is a list of sentences, ok whether it is empty
  load      seconds; published {messages, per_second}; consumed {messages, per_second}: while publishing, or while draining
            with --consume-after; drained {messages, seconds, per_second}: behind the last publication;
            confirmed, nacked, returned, unconfirmed, lost, duplicated, disordered, foreign, redelivered: messages;
            held_seconds: by connection.blocked or channel.flow; latency_us, confirm_latency_us {count, mean, p50, p90, p99,
            p999, max}; cpu_us_per_message; cpu_cores: while publishing and draining; resident_kib {before, after, peak};
            with --consume-after: backlog_kib: resident when all was published; backlog_kib_each: what it grew by, a message
  ramp      bound_ms, rate, trials [{rate, p99_us, held}], and what load has, of the best trial
  churn     what, seconds, operations, per_second, latency_us, cpu_us_per_operation
  idle-connections   connections, opened_per_second, held_seconds, open_latency_us, heartbeats_heard, heartbeats_sent,
            octets_heard_per_connection, closed_by_broker, resident_kib, resident_kib_each, cpu_percent
  idle-queues        queues, declared_per_second, held_seconds, resident_kib, resident_kib_each, cpu_percent";

/// Arguments of `leveret perf`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER, after_long_help = format!("{AFTER}\n\n{AFTER_LONG}"))]
pub struct PerfArguments {
    /// The broker
    #[arg(
        long,
        value_name = "amqp://USER:PASSWORD@HOST:PORT/VHOST",
        default_value = "amqp://guest:guest@localhost:5672/"
    )]
    #[arg(hide_default_value = true)]
    url: BrokerUrl,
    /// Print one JSON object instead of a table (fields: --help)
    #[arg(long)]
    json: bool,
    /// No line each second
    #[arg(long)]
    quiet: bool,
    /// The broker's process, to tell its CPU time and memory
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// How long, in seconds [default: 10; 30 for --idle-connections; 3 a step for --ramp; no end
    /// with --count]
    #[arg(long, value_name = "S", value_parser = seconds, help_heading = "How long")]
    seconds: Option<Duration>,
    /// How many messages, or operations, all connections together
    #[arg(long, value_name = "N", help_heading = "How long")]
    count: Option<u64>,
    /// Seconds at the beginning that do not count for rates and latencies
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "0", help_heading = "How long")]
    warmup: Duration,
    /// Seconds without progress after which what is missing is lost
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "10", help_heading = "How long")]
    drain: Duration,

    /// Connections that publish, or that work with --churn
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Publish")]
    producers: usize,
    /// Channels a connection, for producers and consumers
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Publish")]
    channels: u16,
    /// Octets of a body; below 16, messages are only counted
    #[arg(long, value_name = "OCTETS", default_value_t = 16, help_heading = "Publish")]
    size: usize,
    /// Messages a second and producer; 0: as fast as they go
    #[arg(long, value_name = "N", default_value_t = 0.0, help_heading = "Publish")]
    rate: f64,
    /// Publish with confirms, at most so many unconfirmed a channel
    #[arg(long, value_name = "WINDOW", help_heading = "Publish")]
    confirm: Option<u64>,
    /// Delivery mode 2
    #[arg(long, help_heading = "Publish")]
    persistent: bool,
    /// Ask for messages back that reach no queue
    #[arg(long, help_heading = "Publish")]
    mandatory: bool,
    /// Publish no further while so many messages wait; 0: any number
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Publish")]
    backlog: u64,

    /// Connections that consume; with 0, messages are counted in the queues
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Consume")]
    consumers: usize,
    /// Acknowledge not at all, each delivery, or N at once: auto, each, batch=N
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Consume")]
    ack: Ack,
    /// Most unacknowledged deliveries a consumer; 0: any number
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Consume")]
    prefetch: u16,
    /// Consume when everything is published, not before; with --count
    #[arg(long, help_heading = "Consume")]
    consume_after: bool,

    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Queues and exchange")]
    queues: usize,
    /// Arguments of the queues: true and false, numbers, text or "text"
    #[arg(long, value_name = "K=V,...", default_value = "", hide_default_value = true)]
    #[arg(help_heading = "Queues and exchange")]
    queue_args: QueueArgs,
    /// Publish to an exchange of this type instead of the default exchange
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Queues and exchange")]
    exchange: Option<ExchangeKind>,
    /// Bindings of that exchange [default: one a queue]
    #[arg(long, value_name = "N", help_heading = "Queues and exchange")]
    bindings: Option<usize>,
    /// Different routing keys that each producer goes through
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Queues and exchange")]
    keys: usize,
    /// Prefix of the names of queues and exchanges [default: a new name]
    #[arg(long, value_name = "PREFIX", help_heading = "Queues and exchange")]
    name: Option<String>,
    /// Heartbeat interval to ask for, in seconds [default: 60; 10 for --idle-connections]
    #[arg(long, value_name = "S", help_heading = "Queues and exchange")]
    heartbeat: Option<u16>,

    #[command(flatten)]
    mode: Modes,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Modes {
    /// Find the highest rate whose p99 stays under so many ms
    #[arg(long, value_name = "MS", help_heading = "Instead of one load")]
    ramp: Option<f64>,
    /// Make and unmake things, one after the other
    #[arg(long, value_name = "WHAT", value_enum, help_heading = "Instead of one load")]
    churn: Option<Churn>,
    /// Hold so many connections with their heartbeats
    #[arg(long, value_name = "N", help_heading = "Instead of one load")]
    idle_connections: Option<usize>,
    /// Hold so many empty queues
    #[arg(long, value_name = "N", help_heading = "Instead of one load")]
    idle_queues: Option<usize>,
}

/// Runs the load and prints the results.
pub fn run(arguments: &PerfArguments) -> ExitCode {
    let options = options(arguments);
    if let Err(why) = options.check() {
        return fail(2, &why);
    }
    match perf::run(&options) {
        Err(why) => fail(1, &why),
        Ok(report) => {
            if arguments.json {
                print(&format!("{}\n", report.json()));
            } else {
                print(&report.to_string());
            }
            if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
    }
}

fn options(arguments: &PerfArguments) -> LoadOptions {
    let modes = &arguments.mode;
    let mode = match (modes.ramp, modes.churn, modes.idle_connections, modes.idle_queues) {
        (Some(bound_ms), ..) => LoadMode::Ramp(bound_ms),
        (_, Some(what), ..) => LoadMode::Churn(what),
        (.., Some(count), _) => LoadMode::IdleConnections(count),
        (.., Some(count)) => LoadMode::IdleQueues(count),
        _ => LoadMode::Load,
    };
    LoadOptions {
        url: arguments.url.clone(),
        mode,
        producers: arguments.producers,
        consumers: arguments.consumers,
        queues: arguments.queues,
        size: arguments.size,
        rate: arguments.rate,
        time: arguments.seconds,
        count: arguments.count,
        warmup: arguments.warmup,
        drain: arguments.drain,
        persistent: arguments.persistent,
        mandatory: arguments.mandatory,
        queue_args: arguments.queue_args.clone(),
        exchange: arguments.exchange,
        bindings: arguments.bindings,
        keys: arguments.keys,
        confirm: arguments.confirm,
        ack: arguments.ack,
        prefetch: arguments.prefetch,
        channels: arguments.channels,
        backlog: arguments.backlog,
        consume_after: arguments.consume_after,
        name: arguments.name.clone(),
        heartbeat: arguments.heartbeat,
        pid: arguments.pid,
        quiet: arguments.quiet,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn print(text: &str) {
    use std::io::Write;
    // A closed standard output is no error: its reader has seen enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("leveret perf: {message}");
    ExitCode::from(code)
}
