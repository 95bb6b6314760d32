//! Queues, exchange, bindings and routes of a run: who publishes where, who consumes what, and how
//! many messages each queue must receive.
//!
//! Producers and queues are paired by number. With at least as many producer connections as queues,
//! producer p publishes to queue p mod queues; with fewer, it takes turns over the queues q with q
//! mod producers = p. Consumers likewise. With a fanout or topic exchange each message goes to
//! every queue that a matching binding leads to.
//!
//! With several keys, each round over a producer's queues takes the next key. Bindings of a topic
//! exchange come in groups of ten, which match the same keys and are spread over the same queues,
//! so that every message reaches the same queues and yet by other bindings.

use crate::method::{self, DeclareFlags};
use crate::options::{ExchangeKind, LoadOptions};
use leveret_wire::table::Table;
use leveret_wire::table_builder::TableBuilder;
use std::borrow::Cow;

/// How many bindings of a topic exchange match a key.
pub const TOPIC_MATCHES: usize = 10;
/// Ten different patterns, around a group's own word, that match each of its keys.
const TOPIC_PATTERNS: [(&str, &str); TOPIC_MATCHES] = [
    ("perf.", ".key.*"),
    ("perf.", ".*.*"),
    ("*.", ".key.*"),
    ("*.", ".*.*"),
    ("perf.", ".key.#"),
    ("perf.", ".#"),
    ("*.", ".#"),
    ("#.", ".key.*"),
    ("perf.", ".*.#"),
    ("*.", ".key.#"),
];

/// Where a message goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishTarget {
    /// Its exchange.
    pub exchange: Vec<u8>,
    /// Its routing key; all targets of a producer have keys of one length.
    pub key: Vec<u8>,
    /// Its headers, if it needs any.
    pub headers: Option<Vec<u8>>,
}

/// Which of a producer's messages a queue receives: those whose sequence leaves `turn` when divided
/// by `turns`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamShare {
    /// 0 to `turns` - 1.
    pub turn: u64,
    /// At least 1.
    pub turns: u64,
}

impl StreamShare {
    /// How many of the first `published` messages are its own.
    pub fn share(self, published: u64) -> u64 {
        (published + self.turns - 1 - self.turn) / self.turns
    }
}

/// A binding to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
struct LayoutBinding {
    queue: usize,
    key: String,
    header: bool,
    /// True if it matches any message that is published.
    matches: bool,
}

/// The whole plan of a run.
#[derive(Debug)]
pub struct LoadLayout {
    /// Names of the queues.
    pub queues: Vec<Vec<u8>>,
    exchange: Vec<u8>,
    kind: Option<ExchangeKind>,
    bindings: Vec<LayoutBinding>,
    /// Routing keys, or values of the header, of each queue; of all where every queue gets every
    /// message.
    keys: usize,
    /// Groups of topic bindings.
    groups: usize,
    producers: usize,
    consumers: usize,
    channels: usize,
    /// Queues that get every message, where the exchange does that.
    everywhere: Option<Vec<bool>>,
}

impl LoadLayout {
    /// Plans a run whose names begin with `name`.
    pub fn new(options: &LoadOptions, name: &str) -> LoadLayout {
        let queues = match (options.exchange, options.bindings) {
            (Some(ExchangeKind::Fanout), Some(bindings)) if options.queues == 1 => bindings,
            _ => options.queues,
        };
        let bindings = bindings(options, queues);
        let everywhere = match options.exchange {
            Some(ExchangeKind::Fanout | ExchangeKind::Topic) => {
                let reached = |queue| bindings.iter().any(|bound| bound.queue == queue && bound.matches);
                Some((0..queues).map(reached).collect())
            }
            _ => None,
        };
        LoadLayout {
            queues: (0..queues).map(|queue| format!("{name}-{queue:05}").into_bytes()).collect(),
            exchange: options.exchange.map_or(String::new(), |kind| format!("{name}-{}", kind.name())).into_bytes(),
            kind: options.exchange,
            bindings,
            keys: options.keys,
            groups: groups(options.bindings.unwrap_or(0)),
            producers: options.producers,
            consumers: options.consumers,
            channels: options.channels.into(),
            everywhere,
        }
    }

    /// Channels that publish, over all connections.
    pub fn producers(&self) -> usize {
        self.producers * self.channels
    }

    /// The queues that a connection takes turns over.
    fn turns(connection: usize, connections: usize, queues: usize) -> Vec<usize> {
        if connections >= queues {
            vec![connection % queues]
        } else {
            (connection..queues).step_by(connections).collect()
        }
    }

    /// The queues of a consumer connection.
    pub fn consumed(&self, connection: usize) -> Vec<usize> {
        LoadLayout::turns(connection, self.consumers, self.queues.len())
    }

    /// Where a producer connection publishes, in turn: over its queues, then over them with the
    /// next key.
    pub fn targets(&self, connection: usize) -> Vec<PublishTarget> {
        if self.everywhere.is_some() {
            let target = |key| {
                let key =
                    if self.kind == Some(ExchangeKind::Topic) { topic_key(key, self.groups) } else { key_of(key) };
                PublishTarget { exchange: self.exchange.clone(), key: key.into_bytes(), headers: None }
            };
            return (0..self.keys).map(target).collect();
        }
        let queues = LoadLayout::turns(connection, self.producers, self.queues.len());
        let target = |key: usize, queue: usize| {
            let number = key * self.queues.len() + queue;
            let (key, headers) = match self.kind {
                Some(ExchangeKind::Headers) => (Vec::new(), Some(header(&key_of(number)).into_octets())),
                Some(_) => (key_of(number).into_bytes(), None),
                None => (self.queues.get(queue).cloned().unwrap_or_default(), None),
            };
            PublishTarget { exchange: self.exchange.clone(), key, headers }
        };
        (0..self.keys).flat_map(|key| queues.iter().map(move |queue| target(key, *queue))).collect()
    }

    /// Returns the messages that a queue receives of one publishing channel; `None` if there are
    /// none.
    pub fn share_of(&self, producer: usize, queue: usize) -> Option<StreamShare> {
        if let Some(everywhere) = &self.everywhere {
            return everywhere.get(queue).is_some_and(|reached| *reached).then_some(StreamShare { turn: 0, turns: 1 });
        }
        let (connections, queues) = (self.producers, self.queues.len());
        let connection = producer / self.channels;
        if connections >= queues {
            (connection % queues == queue).then_some(StreamShare { turn: 0, turns: 1 })
        } else if queue % connections == connection {
            let turns = (queues - connection).div_ceil(connections);
            Some(StreamShare { turn: (queue / connections) as u64, turns: turns as u64 })
        } else {
            None
        }
    }

    /// How many queues each message reaches.
    pub fn copies(&self) -> u64 {
        self.everywhere.as_ref().map_or(1, |queues| queues.iter().filter(|reached| **reached).count() as u64)
    }

    /// The frames that make everything, on channel 1, none of which is answered.
    pub fn declare(&self, options: &LoadOptions) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(kind) = self.kind {
            method::exchange_declare(
                &mut out,
                1,
                &self.exchange,
                kind.name().as_bytes(),
                DeclareFlags { durable: true, no_wait: true, ..DeclareFlags::default() },
            );
        }
        let arguments = options.queue_args.table();
        let flags = queue_flags(options);
        for queue in &self.queues {
            method::queue_declare(&mut out, 1, queue, flags, arguments.as_table());
        }
        for LayoutBinding { queue, key, header: by_header, .. } in &self.bindings {
            let Some(queue) = self.queues.get(*queue) else { continue };
            let (key, arguments) = if *by_header {
                (&b""[..], Cow::Owned(header(key).into_octets()))
            } else {
                (key.as_bytes(), Cow::Borrowed(&[][..]))
            };
            method::queue_bind(&mut out, 1, queue, &self.exchange, key, true, Table::from_checked(&arguments));
        }
        out
    }

    /// The frames that delete everything, on channel 1; only the last one is answered, with
    /// queue.delete-ok.
    pub fn delete(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.kind.is_some() {
            method::exchange_delete(&mut out, 1, &self.exchange);
        }
        for (number, queue) in self.queues.iter().enumerate() {
            method::queue_delete(&mut out, 1, queue, number + 1 < self.queues.len());
        }
        out
    }

    /// Returns true if [`LoadLayout::delete`] is answered with exchange.delete-ok first.
    pub fn has_exchange(&self) -> bool {
        self.kind.is_some()
    }
}

/// Durable, because RabbitMQ 4.3 refuses others by default; gone with the last consumer where the
/// type allows it, so that a run that is killed leaves nothing behind.
pub fn queue_flags(options: &LoadOptions) -> DeclareFlags {
    let auto_delete = options.queue_args.is_classic();
    DeclareFlags { durable: true, auto_delete, no_wait: true, ..DeclareFlags::default() }
}

fn key_of(queue: usize) -> String {
    format!("key-{queue:06}")
}

fn header(key: &str) -> TableBuilder {
    let mut headers = TableBuilder::new();
    headers.put_long_str(b"perf-key", key.as_bytes());
    headers
}

/// All bindings. What is bound beyond the keys of the queues, or the groups of a topic exchange,
/// matches no message.
fn bindings(options: &LoadOptions, queues: usize) -> Vec<LayoutBinding> {
    let (Some(kind), count) = (options.exchange, options.bindings.unwrap_or(0)) else { return Vec::new() };
    let by_header = kind == ExchangeKind::Headers;
    let bind =
        |number: usize, key: String| LayoutBinding { queue: number % queues, key, header: by_header, matches: true };
    match kind {
        ExchangeKind::Topic if count == 0 => (0..queues).map(|queue| bind(queue, "#".to_owned())).collect(),
        ExchangeKind::Topic => (0..count).map(|number| topic_binding(number, count, options.keys, queues)).collect(),
        ExchangeKind::Fanout => (0..count.max(queues)).map(|number| bind(number, key_of(number))).collect(),
        ExchangeKind::Direct | ExchangeKind::Headers => {
            (0..count.max(queues * options.keys)).map(|number| bind(number, key_of(number))).collect()
        }
    }
}

/// Groups of ten topic bindings that are whole; a few bindings are one group.
fn groups(bindings: usize) -> usize {
    (bindings / TOPIC_MATCHES).max(1)
}

/// The number-th binding: those of a group differ in their pattern and lead to the first queues;
/// what is left over matches nothing.
fn topic_binding(number: usize, count: usize, keys: usize, queues: usize) -> LayoutBinding {
    let (group, place) = (number / TOPIC_MATCHES, number % TOPIC_MATCHES);
    let (before, behind) = TOPIC_PATTERNS.get(place).copied().unwrap_or_default();
    let matches = group < groups(count).min(keys);
    let queue = if matches { place % queues } else { number % queues };
    LayoutBinding { queue, key: format!("{before}{}{behind}", word(group)), header: false, matches }
}

/// The word of its own that a group's patterns have.
fn word(group: usize) -> String {
    format!("group-{group:06}")
}

/// The routing key that the bindings of its group match, and no others.
fn topic_key(key: usize, groups: usize) -> String {
    format!("perf.{}.key.{key:06}", word(key % groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn layout(change: impl FnOnce(&mut LoadOptions)) -> LoadLayout {
        let mut options = LoadOptions::new("amqp://".parse().unwrap());
        change(&mut options);
        LoadLayout::new(&options, "x")
    }

    /// Compares what each queue receives with the targets, message by message.
    fn shares_agree(layout: &LoadLayout) {
        for producer in 0..layout.producers() {
            let targets = layout.targets(producer / layout.channels);
            for sequence in 0..12 {
                let target = &targets[sequence % targets.len()];
                for (number, queue) in layout.queues.iter().enumerate() {
                    let share = layout.share_of(producer, number);
                    let due = share.is_some_and(|share| sequence as u64 % share.turns == share.turn);
                    assert_eq!(due, target.key == *queue, "producer {producer}, message {sequence}, queue {number}");
                }
            }
        }
    }

    #[test]
    fn pairs_producers_and_queues() {
        for (producers, queues, channels) in [(1, 1, 1), (1, 5, 1), (2, 5, 2), (5, 2, 1), (3, 3, 3)] {
            shares_agree(&layout(|options| {
                (options.producers, options.queues, options.channels) = (producers, queues, channels);
            }));
        }
        for (consumers, queues) in [(1, 1), (1, 5), (2, 5), (5, 2)] {
            let layout = layout(|options| (options.consumers, options.queues) = (consumers, queues));
            let consumed: HashSet<usize> = (0..consumers).flat_map(|consumer| layout.consumed(consumer)).collect();
            assert_eq!(consumed.len(), queues);
        }
    }

    #[test]
    fn shares_add_up() {
        for published in 0..20 {
            let shares: u64 = (0..3).map(|turn| StreamShare { turn, turns: 3 }.share(published)).sum();
            assert_eq!(shares, published);
        }
        assert_eq!(StreamShare { turn: 2, turns: 3 }.share(3), 1);
        assert_eq!(StreamShare { turn: 2, turns: 3 }.share(2), 0);
    }

    #[test]
    fn fanout_reaches_all() {
        let layout = layout(|options| (options.exchange, options.bindings) = (Some(ExchangeKind::Fanout), Some(10)));
        assert_eq!((layout.queues.len(), layout.copies(), layout.bindings.len()), (10, 10, 10));
        assert_eq!(layout.share_of(0, 9), Some(StreamShare { turn: 0, turns: 1 }));
    }

    #[test]
    fn ten_topic_bindings_match() {
        let plan = layout(|options| {
            (options.exchange, options.queues, options.bindings) = (Some(ExchangeKind::Topic), 20, Some(1000));
        });
        assert_eq!((plan.bindings.len(), plan.copies()), (1000, 10));
        let keys: HashSet<&str> = plan.bindings.iter().map(|binding| binding.key.as_str()).collect();
        assert_eq!(keys.len(), 1000);
        assert_eq!(plan.share_of(0, 10), None);
        let plan = layout(|options| options.exchange = Some(ExchangeKind::Topic));
        assert_eq!((plan.bindings.len(), plan.copies()), (1, 1));
        let plan = layout(|options| {
            (options.exchange, options.queues, options.bindings) = (Some(ExchangeKind::Topic), 3, Some(5));
        });
        assert_eq!((plan.bindings.len(), plan.copies()), (5, 3));
    }

    /// Matches a topic pattern against a key, word by word.
    fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => topic_matches(rest, key),
            (Some((&"#", rest)), Some((_, left))) => topic_matches(rest, key) || topic_matches(pattern, left),
            (Some((first, rest)), Some((word, left))) if *first == "*" || first == word => topic_matches(rest, left),
            _ => false,
        }
    }

    #[test]
    fn each_of_many_keys_is_matched_by_ten_bindings() {
        let words = |key: &str| key.split('.').map(str::to_owned).collect::<Vec<_>>();
        for (bindings, keys) in [(100, 30), (105, 7), (30, 100)] {
            let layout = layout(|options| {
                (options.exchange, options.queues) = (Some(ExchangeKind::Topic), 10);
                (options.bindings, options.keys) = (Some(bindings), keys);
            });
            assert_eq!((layout.copies(), layout.bindings.len()), (10, bindings));
            let targets = layout.targets(0);
            assert_eq!(targets.iter().map(|target| &target.key).collect::<HashSet<_>>().len(), keys);
            for target in targets {
                let key = words(std::str::from_utf8(&target.key).unwrap());
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                let matching = layout.bindings.iter().filter(|bound| {
                    let pattern = words(&bound.key);
                    topic_matches(&pattern.iter().map(String::as_str).collect::<Vec<_>>(), &key)
                });
                let reached: Vec<usize> = matching.map(|bound| bound.queue).collect();
                assert_eq!((reached.len(), reached.iter().collect::<HashSet<_>>().len()), (10, 10), "{key:?}");
            }
        }
    }

    #[test]
    fn many_keys_lead_to_the_queue_whose_turn_it_is() {
        for (kind, producers, queues) in
            [(ExchangeKind::Direct, 1, 3), (ExchangeKind::Headers, 2, 5), (ExchangeKind::Direct, 4, 2)]
        {
            let layout = layout(|options| {
                (options.exchange, options.queues) = (Some(kind), queues);
                (options.producers, options.keys, options.bindings) = (producers, 4, Some(3));
            });
            assert_eq!(layout.bindings.len(), 4 * queues);
            for producer in 0..producers {
                let targets = layout.targets(producer);
                for (sequence, target) in targets.iter().enumerate() {
                    let leads = |bound: &&LayoutBinding| match &target.headers {
                        Some(headers) => header(&bound.key).into_octets() == *headers,
                        None => bound.key.as_bytes() == target.key,
                    };
                    let reached: Vec<usize> = layout.bindings.iter().filter(leads).map(|bound| bound.queue).collect();
                    let due = (0..queues).filter(|queue| {
                        layout
                            .share_of(producer, *queue)
                            .is_some_and(|share| sequence as u64 % share.turns == share.turn)
                    });
                    assert_eq!(reached, due.collect::<Vec<_>>(), "{kind:?}, producer {producer}, message {sequence}");
                }
            }
        }
        let layout = layout(|options| (options.exchange, options.keys) = (Some(ExchangeKind::Fanout), 5));
        assert_eq!((layout.targets(0).len(), layout.bindings.len()), (5, 1));
    }

    #[test]
    fn other_bindings_only_fill() {
        for kind in [ExchangeKind::Direct, ExchangeKind::Headers] {
            let layout = layout(|options| {
                (options.exchange, options.queues, options.bindings) = (Some(kind), 2, Some(50));
            });
            assert_eq!((layout.bindings.len(), layout.copies()), (50, 1));
            let targets = layout.targets(0);
            assert_eq!(targets.len(), 2);
            assert_ne!(targets[0], targets[1]);
            assert_eq!(targets[0].headers.is_some(), kind == ExchangeKind::Headers);
        }
    }
}
