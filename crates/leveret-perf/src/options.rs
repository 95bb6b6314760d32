//! Options of a run, and which of them fit together.

use crate::stamp;
use crate::url::BrokerUrl;
use leveret_wire::limits::SHORT_STRING_MAX;
use leveret_wire::table::Value;
use leveret_wire::table_builder::TableBuilder;
use std::str::FromStr;
use std::time::Duration;

/// The longest prefix of names, in octets: a queue's number and what exchanges add must fit behind
/// it.
const NAME_MAX: usize = SHORT_STRING_MAX - 32;
/// Most keys of all queues together.
const KEYS_MAX: usize = 1_000_000;
/// Largest body, in octets.
const BODY_MAX: usize = 128 << 20;

/// Everything a run is told. `cli::perf` documents each for users.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// Kind of run.
    pub mode: LoadMode,
    /// Connections that publish; in the churn mode: connections that work.
    pub producers: usize,
    /// Connections that consume.
    pub consumers: usize,
    /// Queues.
    pub queues: usize,
    /// Octets of a body.
    pub size: usize,
    /// Messages a second and producer connection; 0: as fast as they go.
    pub rate: f64,
    /// How long to publish, or to hold or churn; `None`: the mode's default, or until `count` is
    /// reached.
    pub time: Option<Duration>,
    /// Messages, or operations, of all connections together.
    pub count: Option<u64>,
    /// How long the figures do not count at the beginning.
    pub warmup: Duration,
    /// How long to wait without progress for the rest.
    pub drain: Duration,
    /// Delivery mode 2 instead of none.
    pub persistent: bool,
    /// Ask for messages back that reach no queue.
    pub mandatory: bool,
    /// Arguments of the queues.
    pub queue_args: QueueArgs,
    /// An exchange of its own instead of the default one.
    pub exchange: Option<ExchangeKind>,
    /// How many bindings; `None`: one a queue.
    pub bindings: Option<usize>,
    /// Different routing keys, or values of the header, of each queue; of all messages where all
    /// queues get all of them.
    pub keys: usize,
    /// Most unconfirmed messages a channel; `None`: no confirms.
    pub confirm: Option<u64>,
    /// How deliveries are acknowledged.
    pub ack: Ack,
    /// Most unacknowledged deliveries a consumer; 0: any number.
    pub prefetch: u16,
    /// Channels a connection.
    pub channels: u16,
    /// Most messages between published and consumed; 0: any number.
    pub backlog: u64,
    /// Consumers begin when everything is published.
    pub consume_after: bool,
    /// Prefix of the names of queues and exchanges; `None` for a new one.
    pub name: Option<String>,
    /// Heartbeat interval in seconds that is asked for; `None`: the mode's default.
    pub heartbeat: Option<u16>,
    /// The broker's process, to tell its CPU time and memory.
    pub pid: Option<u32>,
    /// No lines while it runs.
    pub quiet: bool,
}

/// Kind of run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum LoadMode {
    /// Publish and consume.
    Load,
    /// Find the highest rate whose p99 stays under so many ms.
    Ramp(f64),
    /// Make and unmake things.
    Churn(Churn),
    /// Hold so many connections.
    IdleConnections(usize),
    /// Hold so many empty queues.
    IdleQueues(usize),
}

/// Things that are made and unmade, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Churn {
    /// connect, log in, open a channel, close
    Connections,
    /// open, close
    Channels,
    /// declare, delete
    Queues,
    /// bind, unbind
    Bindings,
}

/// The types of exchanges that a run knows what to expect of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ExchangeKind {
    /// each message to one queue, by routing key
    Direct,
    /// each message to all queues
    Fanout,
    /// each message to the queues of the ten bindings that match its key
    Topic,
    /// each message to one queue, by a header
    Headers,
}

impl ExchangeKind {
    /// AMQP's name of it.
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }
}

/// How deliveries are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// They are not: no-ack.
    Auto,
    /// One basic.ack each.
    Each,
    /// One basic.ack, multiple, for so many.
    Batch(u32),
}

impl FromStr for Ack {
    type Err = String;

    fn from_str(text: &str) -> Result<Ack, String> {
        match (text, text.strip_prefix("batch=").map(str::parse)) {
            ("auto", _) => Ok(Ack::Auto),
            ("each", _) => Ok(Ack::Each),
            (_, Some(Ok(size))) if size > 0 => Ok(Ack::Batch(size)),
            _ => Err("expected auto, each or batch=N".to_owned()),
        }
    }
}

/// Arguments of queues, each with a type.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct QueueArgs(Vec<(String, Argument)>);

#[derive(Clone, PartialEq, Debug)]
enum Argument {
    Bool(bool),
    Number(i64),
    Text(String),
}

impl FromStr for QueueArgs {
    type Err = String;

    /// `k=v,...`: `true` and `false` are booleans, digits are a number, anything else or in quotes
    /// is text.
    fn from_str(text: &str) -> Result<QueueArgs, String> {
        let entry = |entry: &str| {
            let (key, value) = entry.split_once('=').ok_or_else(|| format!("found {entry:?}, expected key=value"))?;
            if key.is_empty() || key.len() > SHORT_STRING_MAX {
                return Err(format!("found key {key:?}, expected 1 to {SHORT_STRING_MAX} octets"));
            }
            let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let value = match (value, quoted, value.parse()) {
                (_, Some(text), _) => Argument::Text(text.to_owned()),
                ("true", ..) => Argument::Bool(true),
                ("false", ..) => Argument::Bool(false),
                (.., Ok(number)) => Argument::Number(number),
                _ => Argument::Text(value.to_owned()),
            };
            Ok((key.to_owned(), value))
        };
        text.split(',').filter(|part| !part.is_empty()).map(entry).collect::<Result<_, String>>().map(QueueArgs)
    }
}

impl QueueArgs {
    /// As they go over the wire.
    pub fn table(&self) -> TableBuilder {
        let mut table = TableBuilder::new();
        for (key, value) in &self.0 {
            let value = match value {
                Argument::Bool(truth) => Value::Bool(*truth),
                Argument::Number(number) => Value::I64(*number),
                Argument::Text(text) => Value::LongStr(text.as_bytes()),
            };
            table.put(key.as_bytes(), value);
        }
        table
    }

    /// Returns true for a classic queue; others cannot be declared with auto-delete.
    pub fn is_classic(&self) -> bool {
        let other =
            |(key, value): &(String, Argument)| key == "x-queue-type" && *value != Argument::Text("classic".to_owned());
        !self.0.iter().any(other)
    }
}

impl LoadOptions {
    /// Options with every default.
    pub fn new(url: BrokerUrl) -> LoadOptions {
        LoadOptions {
            url,
            mode: LoadMode::Load,
            producers: 1,
            consumers: 1,
            queues: 1,
            size: stamp::SIZE,
            rate: 0.0,
            time: None,
            count: None,
            warmup: Duration::ZERO,
            drain: Duration::from_secs(10),
            persistent: false,
            mandatory: false,
            queue_args: QueueArgs::default(),
            exchange: None,
            bindings: None,
            keys: 1,
            confirm: None,
            ack: Ack::Auto,
            prefetch: 0,
            channels: 1,
            backlog: 1_000_000,
            consume_after: false,
            name: None,
            heartbeat: None,
            pid: None,
            quiet: false,
        }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// What does not, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let producers = self.producers.saturating_mul(self.channels.into());
        let largest = usize::from(u16::MAX);
        let rules = [
            (self.producers >= 1, "--producers: expected at least 1"),
            (self.queues >= 1, "--queues: expected at least 1"),
            (self.channels >= 1, "--channels: expected at least 1"),
            (producers <= largest, "--producers x --channels: expected at most 65535"),
            (self.consumers <= largest && self.queues <= largest, "expected at most 65535 consumers, as many queues"),
            (self.size <= BODY_MAX, "--size: expected at most 134217728 octets"),
            (self.rate >= 0.0 && self.rate.is_finite(), "--rate: expected a number that is not negative"),
            (self.confirm.is_none_or(|window| (1..=1 << 24).contains(&window)), "--confirm: expected 1 to 16777216"),
            (self.bindings.is_none() || self.exchange.is_some(), "--bindings: only with --exchange"),
            (self.bindings.is_none_or(|bindings| bindings >= 1), "--bindings: expected at least 1"),
            (
                self.keys >= 1 && self.keys.saturating_mul(self.queues) <= KEYS_MAX,
                "--keys: expected 1 to 1000000, x --queues",
            ),
            (self.keys == 1 || self.exchange.is_some(), "--keys: only with --exchange"),
            (!self.consume_after || self.consumers > 0, "--consume-after: expected consumers"),
            (!self.consume_after || self.count.is_some(), "--consume-after: only with --count"),
            (self.count.is_none_or(|count| count > 0), "--count: expected at least 1"),
            (self.duration().is_none_or(|time| time > self.warmup), "--warmup: expected less than --seconds"),
            (self.name.as_ref().is_none_or(|name| name.len() <= NAME_MAX), "--name: expected at most 223 octets"),
        ];
        if let Some((_, text)) = rules.iter().find(|(holds, _)| !holds) {
            return Err((*text).to_owned());
        }
        match self.ack {
            Ack::Batch(size) if self.prefetch > 0 && size > u32::from(self.prefetch) => {
                Err(format!("--ack batch={size} never comes with --prefetch {}", self.prefetch))
            }
            _ => Ok(()),
        }
    }

    /// How long the run lasts if nothing else ends it; `None`: until the count is reached.
    pub fn duration(&self) -> Option<Duration> {
        let default = match self.mode {
            LoadMode::Load | LoadMode::Churn(_) | LoadMode::IdleQueues(_) => 10,
            LoadMode::Ramp(_) => 3,
            LoadMode::IdleConnections(_) => 30,
        };
        match (self.time, self.count) {
            (Some(time), _) => Some(time),
            (None, Some(_)) => None,
            (None, None) => Some(Duration::from_secs(default)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut LoadOptions)) -> Result<(), String> {
        let mut options = LoadOptions::new("amqp://".parse().unwrap());
        change(&mut options);
        options.check()
    }

    #[test]
    fn ways_to_acknowledge() {
        assert_eq!("auto".parse(), Ok(Ack::Auto));
        assert_eq!("each".parse(), Ok(Ack::Each));
        assert_eq!("batch=100".parse(), Ok(Ack::Batch(100)));
        for text in ["", "batch", "batch=", "batch=0", "batch=x", "none"] {
            assert!(text.parse::<Ack>().is_err(), "{text}");
        }
    }

    #[test]
    fn arguments_have_types() {
        let args: QueueArgs = "x-max-length=10,x-queue-type=quorum,a=true,b=false,c=\"5\",d=-1,e=1.5".parse().unwrap();
        let table = args.table();
        let table = table.as_table();
        assert_eq!(table.get(b"x-max-length"), Some(Value::I64(10)));
        assert_eq!(table.get(b"x-queue-type"), Some(Value::LongStr(b"quorum")));
        assert_eq!((table.get(b"a"), table.get(b"b")), (Some(Value::Bool(true)), Some(Value::Bool(false))));
        assert_eq!((table.get(b"c"), table.get(b"d")), (Some(Value::LongStr(b"5")), Some(Value::I64(-1))));
        assert_eq!(table.get(b"e"), Some(Value::LongStr(b"1.5")));
        assert!(!args.is_classic());
        assert!("x-queue-type=classic,".parse::<QueueArgs>().unwrap().is_classic());
        assert!("x".parse::<QueueArgs>().is_err());
        assert!("=x".parse::<QueueArgs>().is_err());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(options(|_| {}), Ok(()));
        assert!(options(|options| options.producers = 0).is_err());
        assert!(options(|options| (options.producers, options.channels) = (1000, 100)).is_err());
        assert!(options(|options| options.rate = f64::NAN).is_err());
        assert!(options(|options| options.confirm = Some(0)).is_err());
        assert!(options(|options| options.bindings = Some(5)).is_err());
        assert!(options(|options| options.keys = 2).is_err());
        let direct = |options: &mut LoadOptions| options.exchange = Some(ExchangeKind::Direct);
        for (keys, queues, fits) in [(0, 1, false), (2, 1, true), (20, 50_000, true), (21, 50_000, false)] {
            let result = options(|options| {
                direct(options);
                (options.keys, options.queues) = (keys, queues);
            });
            assert_eq!(result.is_ok(), fits, "{keys} keys of {queues} queues");
        }
        assert!(options(|options| options.consume_after = true).is_err());
        assert!(options(|options| (options.ack, options.prefetch) = (Ack::Batch(10), 9)).is_err());
        assert!(options(|options| (options.ack, options.prefetch) = (Ack::Batch(10), 10)).is_ok());
        assert!(options(|options| options.name = Some("x".repeat(224))).is_err());
    }
}
