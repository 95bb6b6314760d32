//! Conversations with a session in memory: a client that writes octets and reads answers, without socket and clock.

#![cfg(test)]

use crate::broker::node::Node;
use crate::broker::vhost::Route;
use crate::clock::Tick;
use crate::config::Config;
use crate::outbox::Taken;
use crate::routing::headers::NoHeaders;
use crate::session::Session;
use crate::store::journal::{Journal, Options, Step, Sync};
use crate::store::recovery::recover;
use crate::store::simulated::{Crash, SimulatedDisk};
use crate::wire::frame::{self, Kind, Scan};
use crate::wire::method::id_of;
use crate::wire::method_id::*;
use std::io;
use std::sync::Arc;

const GUEST: &[u8] = b"\0guest\0guest";

/// A method that was heard: channel, id, arguments.
type Heard = (u16, Id, Vec<u8>);

struct Client {
    session: Session,
    /// What was heard last: methods, and payloads of body frames.
    last: Vec<Heard>,
    bodies: Vec<Vec<u8>>,
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn long(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes(), octets].concat()
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let (channel, size) = (channel.to_be_bytes(), (payload.len() as u32).to_be_bytes());
    [&[kind][..], &channel, &size, payload, &[frame::FRAME_END]].concat()
}

fn method(channel: u16, (class, id): Id, arguments: &[&[u8]]) -> Vec<u8> {
    let arguments = arguments.concat();
    frame(frame::METHOD, channel, &[&class.to_be_bytes()[..], &id.to_be_bytes(), &arguments].concat())
}

fn open(channel: u16) -> Vec<u8> {
    method(channel, CHANNEL_OPEN, &[b"\0"])
}

/// Flags: durable 2, exclusive 4, auto-delete 8.
fn declare(channel: u16, queue: &str, flags: u8) -> Vec<u8> {
    method(channel, QUEUE_DECLARE, &[b"\0\0", &short(queue), &[flags], &long(b"")])
}

fn publish_to(channel: u16, exchange: &str, key: &str, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u64).to_be_bytes();
    [
        method(channel, BASIC_PUBLISH, &[b"\0\0", &short(exchange), &short(key), b"\x01"]),
        frame(frame::HEADER, channel, &[b"\0\x3c\0\0", &size[..], properties].concat()),
        if body.is_empty() { Vec::new() } else { frame(frame::BODY, channel, body) },
    ]
    .concat()
}

fn publish(channel: u16, queue: &str, body: &[u8]) -> Vec<u8> {
    publish_to(channel, "", queue, b"\0\0", body)
}

/// With `no-wait`; consumers of one tag each.
fn consume(channel: u16, queue: &str, tag: &str) -> Vec<u8> {
    method(channel, BASIC_CONSUME, &[b"\0\0", &short(queue), &short(tag), b"\x08", &long(b"")])
}

fn cancel(channel: u16, tag: &str) -> Vec<u8> {
    method(channel, BASIC_CANCEL, &[&short(tag), b"\x01"])
}

fn ack(channel: u16, tag: u64) -> Vec<u8> {
    method(channel, BASIC_ACK, &[&tag.to_be_bytes(), b"\0"])
}

fn qos(channel: u16, count: u16, global: bool) -> Vec<u8> {
    method(channel, BASIC_QOS, &[b"\0\0\0\0", &count.to_be_bytes(), &[global.into()]])
}

fn node(config: Config) -> Arc<Node> {
    Arc::new(Node::new(config))
}

impl Client {
    /// A connection with channel 1 open, without heartbeats.
    fn connect(node: &Arc<Node>) -> Client {
        Client::connect_beating(node, 0)
    }

    /// The same, with heartbeats of so many seconds.
    fn connect_beating(node: &Arc<Node>, heartbeat: u16) -> Client {
        let peer = ([127, 0, 0, 1], 50_000).into();
        let session = Session::new(Arc::clone(node), peer, Tick(0));
        let mut client = Client { session, last: Vec::new(), bodies: Vec::new() };
        let capabilities = long(b"\x12connection.blockedt\x01\x16consumer_cancel_notifyt\x01");
        let properties = [b"\x0ccapabilitiesF", &capabilities[..]].concat();
        client.say(&[
            b"AMQP\0\0\x09\x01".to_vec(),
            method(0, CONNECTION_START_OK, &[&long(&properties), &short("PLAIN"), &long(GUEST), &short("en_US")]),
            method(
                0,
                CONNECTION_TUNE_OK,
                &[&2047u16.to_be_bytes(), &131_072u32.to_be_bytes(), &heartbeat.to_be_bytes()],
            ),
            method(0, CONNECTION_OPEN, &[&short("/"), b"\0\0"]),
            open(1),
        ]);
        assert_eq!(client.ids(), [CONNECTION_START, CONNECTION_TUNE, CONNECTION_OPEN_OK, CHANNEL_OPEN_OK]);
        client
    }

    /// Hands the frames over as one read; then hears what was answered.
    fn say(&mut self, frames: &[Vec<u8>]) {
        let octets = frames.concat();
        assert_eq!(self.session.receive(&octets, Tick(0)), Ok(octets.len()));
        self.hear();
    }

    fn hear(&mut self) {
        let mut octets = Vec::new();
        self.last.clear();
        self.bodies.clear();
        loop {
            octets.clear();
            if self.session.outbox().take(&mut octets) != Taken::Octets {
                break;
            }
            let mut rest = &octets[..];
            while let Ok(Scan::Frame(frame, used)) = frame::scan(rest, 0) {
                match frame.kind {
                    Kind::Method => self.last.push((frame.channel, id_of(frame.payload), frame.payload[4..].to_vec())),
                    Kind::Body => self.bodies.push(frame.payload.to_vec()),
                    _ => {}
                }
                rest = &rest[used..];
            }
            // A writer that has written tells the owner so.
            assert_eq!(self.session.ring(Tick(0)), Ok(()));
        }
    }

    fn ids(&self) -> Vec<Id> {
        self.last.iter().map(|(_, id, _)| *id).collect()
    }
}

/// Ready messages of a queue.
fn ready(node: &Node, queue: &str) -> Option<usize> {
    node.vhost(b"/")?.names().queue(queue.as_bytes()).map(|queue| queue.counts().messages)
}

#[test]
fn two_faults_in_one_read_close_a_channel_once() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[ack(1, 9), publish_to(1, "absent", "", b"\0\0", b"")]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE]);
    client.say(&[method(1, CHANNEL_CLOSE_OK, &[]), open(1)]);
    assert_eq!(client.ids(), [CHANNEL_OPEN_OK]);
}

#[test]
fn a_settlement_that_waits_for_commit_keeps_its_queue() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[declare(1, "one", 0), declare(1, "two", 0), publish(1, "one", b"1"), publish(1, "two", b"2")]);
    client.say(&[method(1, TX_SELECT, &[]), consume(1, "one", "a")]);
    // The consumer's slot is idle now, but tx.commit and tx.rollback still mean queue `one` by it.
    client.say(&[cancel(1, "a"), ack(1, 1), consume(1, "two", "b"), method(1, TX_COMMIT, &[])]);
    assert_eq!(client.ids(), [BASIC_DELIVER, TX_COMMIT_OK]);
    client.session.end("gone");
    assert_eq!((ready(&node, "one"), ready(&node, "two")), (Some(0), Some(1)));
    assert!(node.counters().memory() < 200, "one message is left: {}", node.counters().memory());
}

#[test]
fn what_a_channel_had_goes_back_in_order_whoever_of_its_consumers_had_it() {
    let node = node(Config::default());
    let mut first = Client::connect(&node);
    first.say(&[declare(1, "q", 0), consume(1, "q", "a"), consume(1, "q", "b")]);
    first.say(&(0..6u8).map(|n| publish(1, "q", &[n])).collect::<Vec<_>>());
    assert_eq!(first.ids(), [BASIC_DELIVER; 6]);
    let mut second = Client::connect(&node);
    second.say(&[consume(1, "q", "c")]);
    first.say(&[method(1, CHANNEL_CLOSE, &[b"\0\0\0", b"\0\0\0\0"])]);
    second.hear();
    assert_eq!(second.bodies.concat(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn publishers_are_told_when_the_connection_with_all_the_messages_is_gone() {
    let node = node(Config { memory_high_watermark: 10_000, ..Config::default() });
    let mut owner = Client::connect(&node);
    owner.say(&[declare(1, "mine", 4)]);
    let mut publisher = Client::connect(&node);
    publisher.say(&[publish(1, "mine", &[0; 20_000])]);
    assert_eq!(publisher.ids(), [CONNECTION_BLOCKED]);
    assert!(publisher.session.is_blocked() && node.alarms().is_raised());
    owner.session.end("gone");
    assert!(!node.alarms().is_raised(), "nobody else would look");
    publisher.session.unblock();
    publisher.hear();
    assert_eq!(publisher.ids(), [CONNECTION_UNBLOCKED]);
    assert_eq!(node.counters().memory(), 0);
}

#[test]
fn memory_of_a_transaction_is_that_of_all_its_queues() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    let names: Vec<_> = (0..20).map(|n| format!("q{n}")).collect();
    let bind = |name: &String| {
        method(1, QUEUE_BIND, &[b"\0\0", &short(name), &short("amq.fanout"), &short(""), b"\0", &long(b"")])
    };
    client.say(&names.iter().map(|name| [declare(1, name, 0), bind(name)].concat()).collect::<Vec<_>>());
    client.say(&[method(1, TX_SELECT, &[]), publish_to(1, "amq.fanout", "", b"\0\0", &[0; 100_000])]);
    let pending = node.counters().memory();
    assert!(pending >= 100_000, "{pending}");
    client.say(&[method(1, TX_COMMIT, &[])]);
    assert_eq!(node.counters().memory(), pending);
    client.say(&[publish_to(1, "amq.fanout", "", b"\0\0", b"x"), method(1, TX_ROLLBACK, &[])]);
    assert_eq!(node.counters().memory(), pending);
    let purge = |name: &String| method(1, QUEUE_PURGE, &[b"\0\0", &short(name), b"\x01"]);
    client.say(&names.iter().map(purge).collect::<Vec<_>>());
    assert_eq!(node.counters().memory(), 0);
}

#[test]
fn a_reopened_channel_counts_its_tags_from_one() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[declare(1, "q", 0), publish(1, "q", b"m"), consume(1, "q", "a")]);
    client.say(&[method(1, CHANNEL_CLOSE, &[b"\0\0\0", b"\0\0\0\0"]), open(1), consume(1, "q", "b")]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE_OK, CHANNEL_OPEN_OK, BASIC_DELIVER]);
    let Some((_, _, arguments)) = client.last.last() else { panic!() };
    // Consumer tag, delivery tag 1, redelivered.
    assert_eq!(arguments[..11], [&b"\x01b"[..], &1u64.to_be_bytes(), b"\x01"].concat());
    client.say(&[ack(1, 1)]);
    assert_eq!(node.counters().memory(), 0);
}

#[test]
fn a_limit_of_the_channel_holds_for_its_consumers_together_and_is_lifted() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[declare(1, "q", 0), qos(1, 2, true), consume(1, "q", "a"), consume(1, "q", "b")]);
    client.say(&(0..5u8).map(|n| publish(1, "q", &[n])).collect::<Vec<_>>());
    assert_eq!(client.ids(), [BASIC_DELIVER; 2]);
    client.say(&[ack(1, 1)]);
    assert_eq!(client.ids(), [BASIC_DELIVER; 1]);
    client.say(&[qos(1, 0, true)]);
    assert_eq!(client.ids(), [BASIC_QOS_OK, BASIC_DELIVER, BASIC_DELIVER]);
}

#[test]
fn a_consumer_whose_queue_is_deleted_is_cancelled_and_its_tag_is_free() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[declare(1, "q", 0), consume(1, "q", "a")]);
    let mut other = Client::connect(&node);
    other.say(&[method(1, QUEUE_DELETE, &[b"\0\0", &short("q"), b"\0"])]);
    assert_eq!(client.session.ring(Tick(0)), Ok(()));
    client.say(&[declare(1, "q", 0), consume(1, "q", "a"), publish(1, "q", b"m")]);
    assert_eq!(client.ids(), [BASIC_CANCEL, QUEUE_DECLARE_OK, BASIC_DELIVER]);
}

#[test]
fn exclusive_queues_that_are_gone_are_not_remembered() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    for n in 0..3 {
        let name = format!("q{n}");
        client.say(&[declare(1, &name, 4 | 8), consume(1, &name, "a"), cancel(1, "a")]);
    }
    let super::Stage::Running(running) = &client.session.stage else { panic!() };
    assert!(running.owned.is_empty(), "{:?}", running.owned);
}

#[test]
fn a_consumer_that_comes_and_goes_while_nothing_is_written_costs_no_memory() {
    let node = node(Config::default());
    let mut client = Client::connect(&node);
    client.say(&[declare(1, "q", 0)]);
    client.say(&(0..12).map(|_| publish(1, "q", &[0; 100_000])).collect::<Vec<_>>());
    let octets = [consume(1, "q", "a"), cancel(1, "a")].concat().repeat(50);
    assert_eq!(client.session.receive(&octets, Tick(0)), Ok(octets.len()));
    client.session.outbox().take(&mut Vec::new());
    let stalled = client.session.outbox().lock().take_errands().stalled;
    // One slot still has deliveries outstanding, the other one was used again and again.
    assert!(stalled.len() <= 2, "{stalled:?}");
}

#[test]
fn a_heartbeat_answers_the_peers_if_it_is_nearly_due_and_else_waits_an_eighth() {
    let node = node(Config::default());
    let mut client = Client::connect_beating(&node, 16);
    let beat = frame(frame::HEARTBEAT, 0, &[]);
    let said = |client: &mut Client| {
        let mut octets = Vec::new();
        client.session.outbox().take(&mut octets);
        octets
    };
    assert_eq!(client.session.tick(Tick(0)), Ok(Tick(9_000)));
    assert_eq!(client.session.receive(&beat, Tick(6_999)), Ok(beat.len()));
    assert_eq!(said(&mut client), b"");
    assert_eq!(client.session.receive(&beat, Tick(7_000)), Ok(beat.len()));
    assert_eq!(said(&mut client), beat);
    assert_eq!(client.session.tick(Tick(15_999)), Ok(Tick(16_000)));
    assert_eq!(said(&mut client), b"");
    assert_eq!(client.session.tick(Tick(16_000)), Ok(Tick(25_000)));
    assert_eq!(said(&mut client), beat);
    assert_eq!(client.session.tick(Tick(38_999)), Ok(Tick(39_000)), "two intervals after it was heard");
    assert!(client.session.tick(Tick(39_000)).is_err());
}

/// A broker with a journal. It writes when it is told to.
struct House {
    disk: SimulatedDisk,
    journal: Arc<Journal>,
    node: Arc<Node>,
    /// Definitions that were found.
    definitions: usize,
}

impl House {
    fn new() -> Self {
        Self::open(SimulatedDisk::new(5, 1 << 40))
    }

    fn open(disk: SimulatedDisk) -> Self {
        let options = Options { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 24, seed: 7 };
        let (journal, recovered) = recover(Arc::new(disk.clone()), options, &mut |_| {}).unwrap();
        let journal = Arc::new(journal);
        let node = Arc::new(Node::with_store(Config::default(), &journal, &recovered).unwrap());
        Self { disk, journal, node, definitions: recovered.definitions.len() }
    }

    fn write(&self) -> Step {
        self.journal.step(false).unwrap()
    }

    /// The power fails; what was not synced may be lost.
    fn crash(self) -> Self {
        self.disk.restart(Crash::PowerLoss);
        Self::open(self.disk)
    }

    fn routed(&self, exchange: &str, key: &str) -> Vec<String> {
        let vhost = self.node.vhost(b"/").unwrap();
        let Route::Queues(queues) = vhost.route(exchange.as_bytes(), &[key.as_bytes()], &NoHeaders) else {
            return Vec::new();
        };
        queues.iter().map(|queue| queue.name().to_string()).collect()
    }

    fn number(&self, queue: &str) -> Option<u64> {
        self.node.vhost(b"/")?.names().queue(queue.as_bytes()).map(|queue| queue.number())
    }

    fn has_exchange(&self, exchange: &str) -> bool {
        self.node.vhost(b"/").unwrap().names().exchange(exchange.as_bytes()).is_some()
    }
}

/// Flags: durable 2, auto-delete 4.
fn declare_exchange(channel: u16, exchange: &str, kind: &str, flags: u8) -> Vec<u8> {
    method(channel, EXCHANGE_DECLARE, &[b"\0\0", &short(exchange), &short(kind), &[flags], &long(b"")])
}

fn bind(channel: u16, id: Id, destination: &str, source: &str, key: &str) -> Vec<u8> {
    method(channel, id, &[b"\0\0", &short(destination), &short(source), &short(key), b"\0", &long(b"")])
}

fn delete_queue(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, QUEUE_DELETE, &[b"\0\0", &short(queue), b"\0"])
}

/// A durable queue whose definition takes most of a segment.
fn declare_large(channel: u16, queue: &str) -> Vec<u8> {
    let note = [b"\x06x-noteS", &long(&[b'a'; 50_000])[..]].concat();
    method(channel, QUEUE_DECLARE, &[b"\0\0", &short(queue), &[2], &long(&note)])
}

#[test]
fn durable_names_come_back_after_a_loss_of_power_and_deleted_ones_do_not() {
    let house = House::new();
    let mut client = Client::connect(&house.node);
    client.say(&[
        declare_exchange(1, "kept", "topic", 2),
        declare_exchange(1, "auto", "fanout", 2 | 4),
        declare_exchange(1, "passing", "fanout", 0),
        declare(1, "one", 2),
        declare(1, "two", 2),
        declare(1, "gone", 2),
        declare(1, "passing", 0),
        declare(1, "mine", 2 | 4),
        bind(1, QUEUE_BIND, "one", "kept", "a.*"),
        bind(1, QUEUE_BIND, "two", "amq.direct", "k"),
        bind(1, QUEUE_BIND, "passing", "kept", "#"),
        bind(1, QUEUE_BIND, "mine", "kept", "#"),
        bind(1, QUEUE_BIND, "two", "passing", ""),
        bind(1, QUEUE_BIND, "gone", "auto", ""),
        bind(1, EXCHANGE_BIND, "auto", "kept", "b.*"),
    ]);
    assert!(client.ids().is_empty());
    house.write();
    client.hear();
    let bound = [QUEUE_BIND_OK; 6];
    let expected = [&[EXCHANGE_DECLARE_OK; 3][..], &[QUEUE_DECLARE_OK; 5], &bound, &[EXCHANGE_BIND_OK]].concat();
    assert_eq!(client.ids(), expected);
    assert_eq!(house.routed("kept", "b.x").len(), 3);
    // The exchange `auto` goes with its last binding, and so does what led to it.
    client.say(&[delete_queue(1, "gone")]);
    assert!(client.ids().is_empty());
    house.write();
    client.hear();
    assert_eq!(client.ids(), [QUEUE_DELETE_OK]);

    let house = house.crash();
    assert_eq!(
        (house.routed("kept", "a.x"), house.routed("amq.direct", "k")),
        (vec!["one".into()], vec!["two".into()])
    );
    assert!(house.has_exchange("kept") && !house.has_exchange("auto") && !house.has_exchange("passing"));
    assert!(["gone", "passing", "mine"].iter().all(|queue| house.number(queue).is_none()));
    assert_eq!(house.definitions, 5);
    // They are what they were declared as, and nobody waits for what has been durable long since.
    let mut client = Client::connect(&house.node);
    client.say(&[declare_exchange(1, "kept", "topic", 2), declare(1, "one", 2)]);
    assert_eq!(client.ids(), [EXCHANGE_DECLARE_OK, QUEUE_DECLARE_OK]);
    client.say(&[declare(1, "three", 2)]);
    assert!(house.number("three") > house.number("one").max(house.number("two")));
    assert!(client.ids().is_empty());
}

#[test]
fn what_the_journal_does_not_have_is_not_answered() {
    let house = House::new();
    let mut client = Client::connect(&house.node);
    client.say(&[declare(1, "passing", 0), declare(1, "one", 2), declare(1, "more", 0)]);
    assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
    let mut other = Client::connect(&house.node);
    // What is not durable waits for nobody, and the second to declare something as long as the first.
    other.say(&[
        declare_exchange(1, "x", "fanout", 0),
        declare(1, "mine", 4),
        bind(1, QUEUE_BIND, "mine", "amq.topic", ""),
    ]);
    assert_eq!(other.ids(), [EXCHANGE_DECLARE_OK, QUEUE_DECLARE_OK, QUEUE_BIND_OK]);
    other.say(&[declare(1, "one", 2)]);
    assert!(other.ids().is_empty());
    house.write();
    client.hear();
    other.hear();
    assert_eq!((client.ids(), other.ids()), (vec![QUEUE_DECLARE_OK; 2], vec![QUEUE_DECLARE_OK]));
}

#[test]
fn a_connection_whose_answers_are_held_is_heard_all_the_same() {
    let house = House::new();
    let mut client = Client::connect_beating(&house.node, 16);
    client.say(&[declare(1, "one", 2)]);
    assert!(client.ids().is_empty());
    client.session.tick(Tick(9_000)).unwrap();
    let mut octets = Vec::new();
    assert_eq!(client.session.outbox().take(&mut octets), Taken::Octets);
    assert_eq!(octets, frame(frame::HEARTBEAT, 0, &[]));
    house.write();
    client.hear();
    assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
}

#[test]
fn a_connection_that_ends_behind_answers_that_are_held_still_gives_all_of_them() {
    let close = method(0, CONNECTION_CLOSE, &[b"\0\0", &short(""), b"\0\0\0\0"]);
    // A second channel.open is a fault that ends the connection.
    for (last, farewell) in [(close, CONNECTION_CLOSE_OK), (open(1), CONNECTION_CLOSE)] {
        let house = House::new();
        let mut client = Client::connect(&house.node);
        client.say(&[declare_large(1, "before")]);
        house.write();
        client.say(&[declare_large(1, "one")]);
        // The first is being written when the second comes.
        house.disk.set_capacity(house.disk.used());
        assert_eq!(house.write(), Step::NoSpace);
        client.say(&[declare_large(1, "two"), last]);
        assert!(client.ids().is_empty());
        house.disk.set_capacity(1 << 40);
        house.write();
        client.hear();
        assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
        house.write();
        client.hear();
        assert_eq!(client.ids(), [QUEUE_DECLARE_OK, farewell]);
    }
}

#[test]
fn answers_that_wait_for_a_journal_that_fails_are_never_given() {
    let house = House::new();
    let mut client = Client::connect(&house.node);
    client.say(&[declare(1, "one", 2)]);
    house.disk.fail_at(house.disk.calls() + 1, io::ErrorKind::Other);
    assert!(house.journal.step(false).is_err());
    assert_eq!(client.session.ring(Tick(0)), Ok(()));
    client.hear();
    assert_eq!(client.ids(), [CONNECTION_CLOSE]);
    assert_eq!(client.last[0].2[..2], 541u16.to_be_bytes());
}

#[test]
fn a_transaction_that_the_journal_cannot_hold_is_refused_whatever_makes_it_large() {
    let house = House::new();
    let mut client = Client::connect(&house.node);
    client.say(&[declare(1, "kept", 2), method(1, TX_SELECT, &[])]);
    house.write();
    client.hear();
    // Persistent, without a body, and with as large a header as a frame takes.
    let headers = long(&[b"\x01aS", &long(&[b'x'; 130_000])[..]].concat());
    let message = publish_to(1, "", "kept", &[b"\x30\0", &headers[..], b"\x02"].concat(), b"");
    for _ in 0..22 {
        client.say(&vec![message.clone(); 100]);
    }
    client.say(&[method(1, TX_COMMIT, &[])]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE]);
    assert_eq!((ready(&house.node, "kept"), house.journal.failure()), (Some(0), None));
    assert_eq!(house.node.counters().memory(), 0);
}
