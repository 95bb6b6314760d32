//! Conversations with a session in memory: a client that writes octets and reads answers, without
//! socket and clock.

#![cfg(test)]

use crate::broker::node::Node;
use crate::broker::vhost::Route;
use crate::clock::Tick;
use crate::config::Config;
use crate::limits;
use crate::outbox::Drained;
use crate::queue::ready::ENTRY_OCTETS;
use crate::routing::headers::NoHeaders;
use crate::session::Session;
use crate::session::read_gate::ReadGate;
use leveret_journal::journal::{Journal, JournalOptions, Step, Sync};
use leveret_journal::recovery::recover;
use leveret_journal::simulated::{Crash, SimulatedDisk};
use leveret_wire::frame::{self, FrameKind, FrameScan};
use leveret_wire::method::id_of;
use leveret_wire::method_id::*;
use std::io;
use std::sync::Arc;

const GUEST: &[u8] = b"\0guest\0guest";

/// A method that was heard: channel, id, arguments.
type Heard = (u16, Id, Vec<u8>);

struct TestClient {
    session: Session,
    /// Methods heard last, and payloads of body frames.
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

fn ack_all(channel: u16) -> Vec<u8> {
    method(channel, BASIC_ACK, &[&0u64.to_be_bytes(), b"\x01"])
}

fn nack(channel: u16, tag: u64, requeue: bool) -> Vec<u8> {
    method(channel, BASIC_NACK, &[&tag.to_be_bytes(), &[u8::from(requeue) << 1]])
}

fn qos(channel: u16, count: u16, global: bool) -> Vec<u8> {
    method(channel, BASIC_QOS, &[b"\0\0\0\0", &count.to_be_bytes(), &[global.into()]])
}

fn node(config: Config) -> Arc<Node> {
    Arc::new(Node::new(config))
}

impl TestClient {
    /// A connection with channel 1 open, without heartbeats.
    fn connect(node: &Arc<Node>) -> TestClient {
        TestClient::connect_beating(node, 0)
    }

    /// The same, with heartbeats of so many seconds.
    fn connect_beating(node: &Arc<Node>, heartbeat: u16) -> TestClient {
        let peer = ([127, 0, 0, 1], 50_000).into();
        let session = Session::new(Arc::clone(node), peer, Tick(0));
        let mut client = TestClient { session, last: Vec::new(), bodies: Vec::new() };
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

    /// Hands the frames over in as many steps as the session takes for them; how many octets each
    /// used.
    fn steps(&mut self, octets: &[u8]) -> Vec<usize> {
        let mut steps = Vec::new();
        loop {
            let used = steps.iter().sum();
            steps.push(self.session.receive(&octets[used..], Tick(0)).unwrap());
            if self.session.read_gate() != ReadGate::Unprocessed {
                return steps;
            }
        }
    }

    fn hear(&mut self) {
        let mut octets = Vec::new();
        self.last.clear();
        self.bodies.clear();
        loop {
            octets.clear();
            if self.session.outbox().take_octets(&mut octets) != Drained::Octets {
                break;
            }
            let mut rest = &octets[..];
            while let Ok(FrameScan::Frame(frame, used)) = frame::scan(rest, 0) {
                match frame.kind {
                    FrameKind::Method => {
                        self.last.push((frame.channel, id_of(frame.payload), frame.payload[4..].to_vec()))
                    }
                    FrameKind::Body => self.bodies.push(frame.payload.to_vec()),
                    _ => {}
                }
                rest = &rest[used..];
            }
            // A writer that has written tells the owner so.
            assert_eq!(self.session.notified(Tick(0)), Ok(()));
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
    let mut client = TestClient::connect(&node);
    client.say(&[ack(1, 9), publish_to(1, "absent", "", b"\0\0", b"")]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE]);
    client.say(&[method(1, CHANNEL_CLOSE_OK, &[]), open(1)]);
    assert_eq!(client.ids(), [CHANNEL_OPEN_OK]);
}

/// With prefetch, each that is settled lets one more come: so the order of settlements shows in
/// what comes.
#[test]
fn settlements_of_one_read_count_in_order_whatever_they_say() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), qos(1, 2, false), consume(1, "q", "a")]);
    client.say(&(0..6u8).map(|n| publish(1, "q", &[n])).collect::<Vec<_>>());
    assert_eq!(client.bodies.concat(), [0, 1]);
    client.say(&[ack(1, 1), nack(1, 2, true), nack(1, 3, false), nack(1, 4, true), ack(1, 5)]);
    assert_eq!(client.bodies.concat(), [2, 1, 3, 1, 4]);
    client.say(&[nack(1, 6, true), nack(1, 7, true)]);
    assert_eq!(client.bodies.concat(), [1, 4]);
    client.say(&[method(1, BASIC_RECOVER, &[b"\x01"])]);
    assert_eq!((client.ids()[0], client.bodies.concat()), (BASIC_RECOVER_OK, vec![1, 4]));
}

#[test]
fn a_bad_tag_is_the_fault_of_its_method_and_voids_what_comes_behind_it() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), publish(1, "q", b"1"), publish(1, "q", b"2"), consume(1, "q", "a")]);
    let close = method(1, CHANNEL_CLOSE, &[b"\0\0\0", b"\0\0\0\0"]);
    client.say(&[ack(1, 1), nack(1, 9, false), ack(1, 2), publish(1, "q", b"3"), close]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE, CHANNEL_CLOSE_OK]);
    let Some((_, _, arguments)) = client.last.first() else { panic!() };
    let (class, id) = BASIC_NACK;
    assert!(arguments.ends_with(&[class.to_be_bytes(), id.to_be_bytes()].concat()), "{arguments:?}");
    assert_eq!(ready(&node, "q"), Some(1), "2 is back, 1 is done with, and 3 was never published");
}

#[test]
fn a_settlement_of_many_deliveries_is_carried_out_in_steps_and_what_comes_behind_it_waits() {
    const MESSAGES: usize = 3 * limits::STEP_WORK;
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), declare(1, "other", 0)]);
    let batch = publish(1, "q", b"m").repeat(1_000);
    for _ in 0..MESSAGES.div_ceil(1_000) {
        client.say(std::slice::from_ref(&batch));
    }
    let published = ready(&node, "q").unwrap();
    client.say(&[consume(1, "q", "a")]);
    client.hear();
    while ready(&node, "q") != Some(0) {
        client.hear();
    }
    let memory = node.context().memory().used_by_messages();
    for settle in [method(1, BASIC_NACK, &[&0u64.to_be_bytes(), b"\x03"]), ack_all(1)] {
        let octets = [settle.clone(), publish(1, "other", b"m"), cancel(1, "none")].concat();
        let first = client.session.receive(&octets, Tick(0)).unwrap();
        assert_eq!((first, client.session.read_gate()), (settle.len(), ReadGate::Unprocessed));
        let before = ready(&node, "other");
        let steps = client.steps(&octets[first..]);
        assert!(steps.len() > 1 && steps.iter().sum::<usize>() == octets.len() - first, "{steps:?}");
        assert_eq!(ready(&node, "other"), before.map(|before| before + 1));
        while client.session.outbox().take_octets(&mut Vec::new()) == Drained::Octets {
            client.session.notified(Tick(0)).unwrap();
        }
    }
    assert!(published >= MESSAGES && ready(&node, "q") == Some(0));
    assert!(node.context().memory().used_by_messages() < memory / 100);
}

/// More than one step gives back.
const MANY: usize = 2 * limits::STEP_WORK;

fn close_channel(channel: u16) -> Vec<u8> {
    method(channel, CHANNEL_CLOSE, &[b"\0\xc8", &short(""), b"\0\0\0\0"])
}

/// Publishes so many messages, whose bodies count from 0, to the queue `q`.
fn fill(client: &mut TestClient, count: usize) {
    for n in (0..count as u32).step_by(1_000) {
        let messages: Vec<_> = (n..(n + 1_000).min(count as u32)).map(|n| publish(1, "q", &n.to_be_bytes())).collect();
        client.steps(&messages.concat());
    }
    client.hear();
}

fn numbers(bodies: &[Vec<u8>]) -> impl Iterator<Item = u32> {
    bodies.iter().map(|body| u32::from_be_bytes(body[..].try_into().unwrap()))
}

/// Hears deliveries until all is delivered; their bodies as numbers.
fn hear_all(client: &mut TestClient, node: &Node) -> Vec<u32> {
    let mut heard = Vec::new();
    loop {
        client.hear();
        heard.extend(numbers(&client.bodies));
        if ready(node, "q") == Some(0) && client.last.is_empty() {
            return heard;
        }
    }
}

#[test]
fn the_end_of_a_channel_goes_in_steps_and_nobody_gets_a_later_message_first() {
    let node = node(Config::default());
    let (mut client, mut other) = (TestClient::connect(&node), TestClient::connect(&node));
    client.say(&[declare(1, "q", 0), declare(1, "other", 0), open(2)]);
    fill(&mut client, MANY);
    client.steps(&consume(1, "q", "a"));
    assert_eq!(hear_all(&mut client, &node).len(), MANY);
    // The first half comes again, with higher tags than the second.
    client.steps(&method(1, BASIC_NACK, &[&(MANY as u64 / 2).to_be_bytes(), b"\x03"]));
    assert_eq!(hear_all(&mut client, &node).len(), MANY / 2);
    other.say(&[consume(1, "q", "b")]);
    let octets = [close_channel(1), publish(2, "other", b"m")].concat();
    let mut used = client.session.receive(&octets, Tick(0)).unwrap();
    assert_eq!((used, client.session.read_gate()), (close_channel(1).len(), ReadGate::Unprocessed));
    assert_eq!(ready(&node, "other"), Some(0));
    let mut heard = Vec::new();
    while client.session.read_gate() == ReadGate::Unprocessed {
        other.hear();
        heard.extend(numbers(&other.bodies));
        used += client.session.receive(&octets[used..], Tick(0)).unwrap();
    }
    client.hear();
    assert_eq!((client.ids(), ready(&node, "other")), (vec![CHANNEL_CLOSE_OK], Some(1)));
    heard.extend(hear_all(&mut other, &node));
    assert!(heard.into_iter().eq(0..MANY as u32));
}

#[test]
fn the_end_of_a_connection_goes_in_steps() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), open(2)]);
    fill(&mut client, MANY);
    client.say(&[consume(2, "q", "a")]);
    hear_all(&mut client, &node);
    let owned: Vec<_> = (0..1_000).map(|n| declare(1, &format!("e{n}"), 4 | 16)).collect();
    let consumers: Vec<_> =
        (0..2 * limits::STEP_WORK / limits::METHOD_WORK).map(|n| consume(1, "e0", &n.to_string())).collect();
    client.steps(&[owned.concat(), consumers.concat()].concat());
    let mut steps = 1;
    while !client.session.close_step("it ends") {
        steps += 1;
    }
    assert!(steps >= 7, "{steps} steps");
    assert_eq!((ready(&node, "q"), ready(&node, "e0"), ready(&node, "e999")), (Some(MANY), None, None));
    // Behind the last step there is nothing.
    assert!(client.session.close_step("it ends"));
}

#[test]
fn a_client_that_closes_is_answered_when_everything_is_given_back() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0)]);
    fill(&mut client, MANY);
    client.say(&[consume(1, "q", "a")]);
    hear_all(&mut client, &node);
    let close = method(0, CONNECTION_CLOSE, &[b"\0\xc8", &short(""), b"\0\0\0\0"]);
    assert!(client.steps(&close).len() > 1);
    client.hear();
    assert_eq!((client.ids(), ready(&node, "q")), (vec![CONNECTION_CLOSE_OK], Some(MANY)));
}

#[test]
fn the_consumers_of_a_deleted_queue_are_told_in_steps() {
    let node = node(Config::default());
    let (mut client, mut other) = (TestClient::connect(&node), TestClient::connect(&node));
    client.say(&[declare(1, "q", 0)]);
    let count = 2 * limits::CONSUMERS_PER_STEP + 1;
    client.steps(&(0..count).map(|n| consume(1, "q", &n.to_string())).collect::<Vec<_>>().concat());
    other.say(&[method(1, QUEUE_DELETE, &[b"\0\0", &short("q"), b"\x04"])]);
    assert_eq!(client.session.notified(Tick(0)), Ok(()));
    assert_eq!(client.session.read_gate(), ReadGate::Unprocessed);
    client.steps(&[]);
    client.hear();
    assert_eq!(client.ids(), vec![BASIC_CANCEL; count]);
}

#[test]
fn a_large_transaction_is_rolled_back_in_steps_and_committed_whole() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0)]);
    fill(&mut client, MANY);
    client.say(&[method(1, TX_SELECT, &[]), consume(1, "q", "a")]);
    hear_all(&mut client, &node);
    for (end, answer, delivered) in [(TX_ROLLBACK, TX_ROLLBACK_OK, 0), (TX_COMMIT, TX_COMMIT_OK, MANY)] {
        fill(&mut client, MANY);
        client.steps(&ack_all(1));
        let steps = client.steps(&method(1, end, &[])).len();
        assert!(end == TX_COMMIT || steps > 1, "{steps} steps");
        client.hear();
        assert!(client.ids().contains(&answer));
        assert_eq!(client.bodies.len() + hear_all(&mut client, &node).len(), delivered);
    }
}

#[test]
fn a_settlement_that_waits_for_commit_keeps_its_queue() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "one", 0), declare(1, "two", 0), publish(1, "one", b"1"), publish(1, "two", b"2")]);
    client.say(&[method(1, TX_SELECT, &[]), consume(1, "one", "a")]);
    // The consumer's slot is idle now, but tx.commit and tx.rollback still mean queue `one` by it.
    client.say(&[cancel(1, "a"), ack(1, 1), consume(1, "two", "b"), method(1, TX_COMMIT, &[])]);
    assert_eq!(client.ids(), [BASIC_DELIVER, TX_COMMIT_OK]);
    client.session.close("gone");
    assert_eq!((ready(&node, "one"), ready(&node, "two")), (Some(0), Some(1)));
    assert!(
        node.context().memory().used_by_messages() < 200,
        "one message is left: {}",
        node.context().memory().used_by_messages()
    );
}

#[test]
fn what_a_channel_had_goes_back_in_order_whoever_of_its_consumers_had_it() {
    let node = node(Config::default());
    let mut first = TestClient::connect(&node);
    first.say(&[declare(1, "q", 0), consume(1, "q", "a"), consume(1, "q", "b")]);
    first.say(&(0..6u8).map(|n| publish(1, "q", &[n])).collect::<Vec<_>>());
    assert_eq!(first.ids(), [BASIC_DELIVER; 6]);
    let mut second = TestClient::connect(&node);
    second.say(&[consume(1, "q", "c")]);
    first.say(&[method(1, CHANNEL_CLOSE, &[b"\0\0\0", b"\0\0\0\0"])]);
    second.hear();
    assert_eq!(second.bodies.concat(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn publishers_are_told_when_the_connection_with_all_the_messages_is_gone() {
    let node = node(Config { memory_high_watermark: 50_000, ..Config::default() });
    let mut owner = TestClient::connect(&node);
    owner.say(&[declare(1, "mine", 4)]);
    let mut publisher = TestClient::connect(&node);
    publisher.say(&[publish(1, "mine", &[0; 60_000])]);
    assert_eq!(publisher.ids(), []);
    assert_eq!(publisher.session.receive(&publish(1, "nowhere", b"x"), Tick(0)), Ok(0));
    publisher.hear();
    assert_eq!(publisher.ids(), [CONNECTION_BLOCKED]);
    assert!(publisher.session.read_gate() == ReadGate::Alarm && node.alarms().is_raised());
    owner.session.close("gone");
    assert!(!node.alarms().is_raised(), "nobody else would look");
    assert_eq!(publisher.session.notified(Tick(0)), Ok(()));
    publisher.hear();
    assert_eq!(publisher.ids(), [CONNECTION_UNBLOCKED]);
    assert_eq!(node.context().memory().used_by_messages(), 0);
}

#[test]
fn memory_of_a_message_is_charged_once_though_many_queues_hold_it() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    let names: Vec<_> = (0..20).map(|n| format!("q{n}")).collect();
    let bind = |name: &String| {
        method(1, QUEUE_BIND, &[b"\0\0", &short(name), &short("amq.fanout"), &short(""), b"\0", &long(b"")])
    };
    client.say(&names.iter().map(|name| [declare(1, name, 0), bind(name)].concat()).collect::<Vec<_>>());
    client.say(&[method(1, TX_SELECT, &[]), publish_to(1, "amq.fanout", "", b"\0\0", &[0; 100_000])]);
    let pending = node.context().memory().used_by_messages();
    assert!((100_000..101_000).contains(&pending), "{pending}");
    client.say(&[method(1, TX_COMMIT, &[])]);
    let committed = pending + 20 * ENTRY_OCTETS;
    assert_eq!(node.context().memory().used_by_messages(), committed);
    client.say(&[publish_to(1, "amq.fanout", "", b"\0\0", b"x"), method(1, TX_ROLLBACK, &[])]);
    assert_eq!(node.context().memory().used_by_messages(), committed);
    let purge = |name: &String| method(1, QUEUE_PURGE, &[b"\0\0", &short(name), b"\x01"]);
    client.say(&names.iter().map(purge).collect::<Vec<_>>());
    assert_eq!(node.context().memory().used_by_messages(), 0);
}

#[test]
fn a_reopened_channel_counts_its_tags_from_one() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), publish(1, "q", b"m"), consume(1, "q", "a")]);
    client.say(&[method(1, CHANNEL_CLOSE, &[b"\0\0\0", b"\0\0\0\0"]), open(1), consume(1, "q", "b")]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE_OK, CHANNEL_OPEN_OK, BASIC_DELIVER]);
    let Some((_, _, arguments)) = client.last.last() else { panic!() };
    // Consumer tag, delivery tag 1, redelivered.
    assert_eq!(arguments[..11], [&b"\x01b"[..], &1u64.to_be_bytes(), b"\x01"].concat());
    client.say(&[ack(1, 1)]);
    assert_eq!(node.context().memory().used_by_messages(), 0);
}

#[test]
fn a_limit_of_the_channel_holds_for_its_consumers_together_and_is_lifted() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), qos(1, 2, true), consume(1, "q", "a"), consume(1, "q", "b")]);
    client.say(&(0..5u8).map(|n| publish(1, "q", &[n])).collect::<Vec<_>>());
    assert_eq!(client.ids(), [BASIC_DELIVER; 2]);
    client.say(&[ack(1, 1)]);
    assert_eq!(client.ids(), [BASIC_DELIVER; 1]);
    client.say(&[qos(1, 0, true)]);
    assert_eq!(client.ids(), [BASIC_QOS_OK, BASIC_DELIVER, BASIC_DELIVER]);
}

#[test]
fn a_limit_of_the_channel_is_shared_by_its_queues_in_turn() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    let queues = ["p", "q", "r"];
    client.say(&queues.map(|queue| declare(1, queue, 0)));
    let messages: Vec<_> = (0..300).map(|n| publish(1, queues[n / 100], queues[n / 100].as_bytes())).collect();
    client.say(&messages);
    client.say(&[qos(1, 1, true), consume(1, "p", "p"), consume(1, "q", "q"), consume(1, "r", "r")]);
    let mut shares = [0; 3];
    for tag in 1..=99 {
        let [body] = &client.bodies[..] else { panic!("{:?}", client.ids()) };
        shares[usize::from(body[0] - b'p')] += 1;
        client.say(&[ack(1, tag)]);
    }
    assert_eq!(shares, [34, 33, 32]);
}

#[test]
fn consumers_without_acks_wait_for_the_channels_limit_and_fetched_messages_do_not_count() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    let no_ack = method(1, BASIC_CONSUME, &[b"\0\0", &short("q"), &short("b"), b"\x0a", &long(b"")]);
    let get = method(1, BASIC_GET, &[b"\0\0", &short("r"), b"\0"]);
    client.say(&["p", "q", "r"].map(|queue| declare(1, queue, 0)));
    client.say(&[publish(1, "r", b"r"), qos(1, 1, true), get, consume(1, "p", "a"), no_ack, publish(1, "p", b"p")]);
    assert_eq!(client.bodies, [b"r", b"p"]);
    client.say(&[publish(1, "q", b"1"), publish(1, "q", b"2")]);
    assert!(client.bodies.is_empty());
    client.say(&[ack(1, 2)]);
    assert_eq!(client.bodies, [b"1", b"2"]);
}

#[test]
fn an_ack_in_a_transaction_makes_room_in_the_channels_limit_when_it_is_committed() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), publish(1, "q", b"1"), publish(1, "q", b"2"), publish(1, "q", b"3")]);
    client.say(&[qos(1, 1, true), method(1, TX_SELECT, &[]), consume(1, "q", "a")]);
    assert_eq!(client.bodies, [b"1"]);
    client.say(&[ack(1, 1)]);
    assert!(client.bodies.is_empty());
    client.say(&[method(1, TX_ROLLBACK, &[])]);
    assert!(client.bodies.is_empty());
    client.say(&[ack(1, 1), method(1, TX_COMMIT, &[])]);
    assert_eq!(client.bodies, [b"2"]);
    client.say(&[ack(1, 2), method(1, TX_COMMIT, &[])]);
    assert_eq!(client.bodies, [b"3"]);
}

#[test]
fn a_consumer_whose_queue_is_deleted_is_cancelled_and_its_tag_is_free() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0), consume(1, "q", "a")]);
    let mut other = TestClient::connect(&node);
    other.say(&[method(1, QUEUE_DELETE, &[b"\0\0", &short("q"), b"\0"])]);
    assert_eq!(client.session.notified(Tick(0)), Ok(()));
    client.say(&[declare(1, "q", 0), consume(1, "q", "a"), publish(1, "q", b"m")]);
    assert_eq!(client.ids(), [BASIC_CANCEL, QUEUE_DECLARE_OK, BASIC_DELIVER]);
}

#[test]
fn exclusive_queues_that_are_gone_are_not_remembered() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    for n in 0..3 {
        let name = format!("q{n}");
        client.say(&[declare(1, &name, 4 | 8), consume(1, &name, "a"), cancel(1, "a")]);
    }
    let super::ConnectionState::Open(open) = &client.session.state else { panic!() };
    assert!(!open.owns_queues());
}

#[test]
fn a_consumer_that_comes_and_goes_while_nothing_is_written_costs_no_memory() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "q", 0)]);
    client.say(&(0..12).map(|_| publish(1, "q", &[0; 100_000])).collect::<Vec<_>>());
    let octets = [consume(1, "q", "a"), cancel(1, "a")].concat().repeat(50);
    assert_eq!(client.session.receive(&octets, Tick(0)), Ok(octets.len()));
    client.session.outbox().take_octets(&mut Vec::new());
    let stalled = client.session.outbox().lock().take_pending_actions().stalled;
    // One slot still has deliveries outstanding, the other one was used again and again.
    assert!(stalled.len() <= 2, "{stalled:?}");
}

#[test]
fn a_heartbeat_answers_the_peers_if_it_is_nearly_due_and_else_waits_an_eighth() {
    let node = node(Config::default());
    let mut client = TestClient::connect_beating(&node, 16);
    let heartbeat = frame(frame::HEARTBEAT, 0, &[]);
    let said = |client: &mut TestClient| {
        let mut octets = Vec::new();
        client.session.outbox().take_octets(&mut octets);
        octets
    };
    assert_eq!(client.session.tick(Tick(0)), Ok(Tick(9_000)));
    assert_eq!(client.session.receive(&heartbeat, Tick(6_999)), Ok(heartbeat.len()));
    assert_eq!(said(&mut client), b"");
    assert_eq!(client.session.receive(&heartbeat, Tick(7_000)), Ok(heartbeat.len()));
    assert_eq!(said(&mut client), heartbeat);
    assert_eq!(client.session.tick(Tick(15_999)), Ok(Tick(16_000)));
    assert_eq!(said(&mut client), b"");
    assert_eq!(client.session.tick(Tick(16_000)), Ok(Tick(25_000)));
    assert_eq!(said(&mut client), heartbeat);
    assert_eq!(client.session.tick(Tick(38_999)), Ok(Tick(39_000)), "two intervals after it was heard");
    assert!(client.session.tick(Tick(39_000)).is_err());
}

/// A broker with a journal. It writes when it is told to.
struct Fixture {
    disk: SimulatedDisk,
    journal: Arc<Journal>,
    node: Arc<Node>,
    /// Definitions that were found.
    definitions: usize,
}

impl Fixture {
    fn new() -> Self {
        Self::open(SimulatedDisk::new(5, 1 << 40))
    }

    fn open(disk: SimulatedDisk) -> Self {
        let options = JournalOptions { segment_octets: 1 << 16, sync: Sync::Group, full_at: 1 << 24, seed: 7 };
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
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
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
    fixture.write();
    client.hear();
    let bound = [QUEUE_BIND_OK; 6];
    let expected = [&[EXCHANGE_DECLARE_OK; 3][..], &[QUEUE_DECLARE_OK; 5], &bound, &[EXCHANGE_BIND_OK]].concat();
    assert_eq!(client.ids(), expected);
    assert_eq!(fixture.routed("kept", "b.x").len(), 3);
    // The exchange `auto` goes with its last binding, and so does what led to it.
    client.say(&[delete_queue(1, "gone")]);
    assert!(client.ids().is_empty());
    fixture.write();
    client.hear();
    assert_eq!(client.ids(), [QUEUE_DELETE_OK]);

    let fixture = fixture.crash();
    assert_eq!(
        (fixture.routed("kept", "a.x"), fixture.routed("amq.direct", "k")),
        (vec!["one".into()], vec!["two".into()])
    );
    assert!(fixture.has_exchange("kept") && !fixture.has_exchange("auto") && !fixture.has_exchange("passing"));
    assert!(["gone", "passing", "mine"].iter().all(|queue| fixture.number(queue).is_none()));
    assert_eq!(fixture.definitions, 5);
    // They are what they were declared as, and nobody waits for what has been durable long since.
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare_exchange(1, "kept", "topic", 2), declare(1, "one", 2)]);
    assert_eq!(client.ids(), [EXCHANGE_DECLARE_OK, QUEUE_DECLARE_OK]);
    client.say(&[declare(1, "three", 2)]);
    assert!(fixture.number("three") > fixture.number("one").max(fixture.number("two")));
    assert!(client.ids().is_empty());
}

#[test]
fn what_the_journal_does_not_have_is_not_answered() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "passing", 0), declare(1, "one", 2), declare(1, "more", 0)]);
    assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
    let mut other = TestClient::connect(&fixture.node);
    // What is not durable waits for nobody, and the second to declare something as long as the
    // first.
    other.say(&[
        declare_exchange(1, "x", "fanout", 0),
        declare(1, "mine", 4),
        bind(1, QUEUE_BIND, "mine", "amq.topic", ""),
    ]);
    assert_eq!(other.ids(), [EXCHANGE_DECLARE_OK, QUEUE_DECLARE_OK, QUEUE_BIND_OK]);
    other.say(&[declare(1, "one", 2)]);
    assert!(other.ids().is_empty());
    fixture.write();
    client.hear();
    other.hear();
    assert_eq!((client.ids(), other.ids()), (vec![QUEUE_DECLARE_OK; 2], vec![QUEUE_DECLARE_OK]));
}

#[test]
fn a_connection_whose_answers_are_held_is_heard_all_the_same() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect_beating(&fixture.node, 16);
    client.say(&[declare(1, "one", 2)]);
    assert!(client.ids().is_empty());
    client.session.tick(Tick(9_000)).unwrap();
    let mut octets = Vec::new();
    assert_eq!(client.session.outbox().take_octets(&mut octets), Drained::Octets);
    assert_eq!(octets, frame(frame::HEARTBEAT, 0, &[]));
    fixture.write();
    client.hear();
    assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
}

#[test]
fn a_connection_that_ends_behind_answers_that_are_held_still_gives_all_of_them() {
    let close = method(0, CONNECTION_CLOSE, &[b"\0\0", &short(""), b"\0\0\0\0"]);
    // A second channel.open is a fault that ends the connection.
    for (last, farewell) in [(close, CONNECTION_CLOSE_OK), (open(1), CONNECTION_CLOSE)] {
        let fixture = Fixture::new();
        let mut client = TestClient::connect(&fixture.node);
        client.say(&[declare_large(1, "before")]);
        fixture.write();
        client.say(&[declare_large(1, "one")]);
        // The first is being written when the second comes.
        fixture.disk.set_capacity(fixture.disk.used());
        assert_eq!(fixture.write(), Step::NoSpace);
        client.say(&[bind(1, QUEUE_BIND, "before", "amq.fanout", ""), last]);
        assert!(client.ids().is_empty());
        fixture.disk.set_capacity(1 << 40);
        fixture.write();
        client.hear();
        assert_eq!(client.ids(), [QUEUE_DECLARE_OK]);
        fixture.write();
        client.hear();
        assert_eq!(client.ids(), [QUEUE_BIND_OK, farewell]);
    }
}

#[test]
fn answers_that_wait_for_a_journal_that_fails_are_never_given() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "one", 2)]);
    fixture.disk.fail_at(fixture.disk.calls() + 1, io::ErrorKind::Other);
    assert!(fixture.journal.step(false).is_err());
    assert_eq!(client.session.notified(Tick(0)), Ok(()));
    client.hear();
    assert_eq!(client.ids(), [CONNECTION_CLOSE]);
    assert_eq!(client.last[0].2[..2], 541u16.to_be_bytes());
}

/// Limits a queue to a number of ready messages.
fn limit_length(node: &Node, queue: &str, max: usize) {
    node.vhost(b"/").unwrap().names().queue(queue.as_bytes()).unwrap().limit_length(max);
}

/// Confirms as they were heard: channel, number, and kind.
fn confirms(client: &TestClient) -> Vec<(u16, u64, &'static str)> {
    let confirms = client.last.iter().filter(|(_, id, _)| [BASIC_ACK, BASIC_NACK].contains(id));
    let number = |arguments: &[u8]| u64::from_be_bytes(*arguments.first_chunk().unwrap());
    let kind = |id: Id, multiple: u8| match (id == BASIC_ACK, multiple) {
        (true, 0) => "ack",
        (true, _) => "acks",
        (false, bits) => ["nack", "nacks"][usize::from(bits & 1)],
    };
    confirms.map(|(channel, id, arguments)| (*channel, number(arguments), kind(*id, arguments[8]))).collect()
}

#[test]
fn what_a_full_queue_rejects_is_nacked_by_itself_in_order_with_acks() {
    let node = node(Config::default());
    let mut client = TestClient::connect(&node);
    client.say(&[declare(1, "few", 0), declare(1, "many", 0), open(2), open(3)]);
    client.say(&[method(1, CONFIRM_SELECT, &[b"\0"]), method(2, CONFIRM_SELECT, &[b"\0"])]);
    limit_length(&node, "few", 3);
    // Channel 3 has no confirms, and takes a place.
    client.say(&[publish(3, "few", b"0"), publish(1, "few", b"1"), publish(1, "many", b"2"), publish(2, "few", b"3")]);
    assert_eq!(confirms(&client), [(1, 2, "acks"), (2, 1, "ack")]);
    let to = ["many", "few", "few", "many", "none", "few"];
    client.say(&to.map(|queue| publish(1, queue, b"m")));
    let expected = [(1, 3, "ack"), (1, 4, "nack"), (1, 5, "nack"), (1, 7, "acks"), (1, 8, "nack")];
    assert_eq!(confirms(&client), expected);
    client.say(&[publish(3, "few", b"m"), publish(2, "few", b"m")]);
    assert_eq!(confirms(&client), [(2, 2, "nack")]);
    assert_eq!((ready(&node, "few"), ready(&node, "many")), (Some(3), Some(3)));
}

#[test]
fn a_nack_comes_in_order_behind_confirms_that_wait_for_the_journal() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "q", 2), declare(1, "r", 2), method(1, CONFIRM_SELECT, &[b"\0"])]);
    let both = [bind(1, QUEUE_BIND, "q", "amq.fanout", ""), bind(1, QUEUE_BIND, "r", "amq.fanout", "")];
    client.say(&both);
    fixture.write();
    client.hear();
    limit_length(&fixture.node, "q", 2);
    let persistent = |exchange: &str, key: &str| publish_to(1, exchange, key, b"\x10\0\x02", b"m");
    client.say(&[persistent("", "q"), persistent("amq.fanout", ""), persistent("amq.fanout", ""), persistent("", "q")]);
    client.say(&[persistent("", "q")]);
    assert_eq!(confirms(&client), []);
    fixture.write();
    assert_eq!(client.session.notified(Tick(0)), Ok(()));
    client.hear();
    assert_eq!(confirms(&client), [(1, 2, "acks"), (1, 3, "nack"), (1, 4, "nack"), (1, 5, "nack")]);
    assert_eq!((ready(&fixture.node, "q"), ready(&fixture.node, "r")), (Some(2), Some(2)));
}

/// Several gain more from the journal's thread, which writes them while the next are read.
#[test]
fn only_a_lone_publication_is_left_to_its_connection_to_commit() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "q", 2), method(1, CONFIRM_SELECT, &[b"\0"])]);
    fixture.write();
    let persistent = publish_to(1, "", "q", b"\x10\0\x02", b"m");
    for (inline_commit, count) in [(true, 1), (true, 2), (false, 1)] {
        client.session.set_inline_commit(inline_commit);
        fixture.journal.was_woken();
        client.say(&vec![persistent.clone(); count]);
        let is_left = inline_commit && count == 1;
        assert_eq!((fixture.journal.was_woken(), client.session.uncommitted().is_some()), (!is_left, is_left));
        if is_left {
            assert!(fixture.journal.commit_inline());
        } else {
            fixture.write();
        }
        assert_eq!(client.session.notified(Tick(0)), Ok(()));
        client.hear();
        assert_eq!(confirms(&client).len(), 1);
    }
}

/// As in RabbitMQ: what the queues have taken stays, and what was settled is settled.
#[test]
fn a_transaction_of_which_a_full_queue_rejects_a_part_ends_its_channel_and_does_the_rest() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "few", 2), declare(1, "many", 2)]);
    client.say(&[publish(1, "many", b"acked"), publish(1, "many", b"requeued"), publish(1, "many", b"unsettled")]);
    fixture.write();
    client.say(&[method(1, TX_SELECT, &[]), consume(1, "many", "c")]);
    limit_length(&fixture.node, "few", 2);
    client.say(&[ack(1, 1), nack(1, 2, true)]);
    let persistent = |queue: &str| publish_to(1, "", queue, b"\x10\0\x02", b"m");
    client.say(&[persistent("few"), persistent("few"), persistent("few"), persistent("many")]);
    client.say(&[method(1, TX_COMMIT, &[])]);
    let (_, id, arguments) = client.last.last().unwrap();
    let text = [&406u16.to_be_bytes()[..], &short("PRECONDITION_FAILED - partial tx completion"), b"\0\x5a\0\x14"];
    assert_eq!((*id, arguments), (CHANNEL_CLOSE, &text.concat()));
    assert_eq!((ready(&fixture.node, "few"), ready(&fixture.node, "many")), (Some(2), Some(3)));
}

#[test]
fn a_transaction_that_the_journal_cannot_hold_is_refused_whatever_makes_it_large() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    client.say(&[declare(1, "kept", 2), method(1, TX_SELECT, &[])]);
    fixture.write();
    client.hear();
    // Persistent, without a body, and with as large a header as a frame takes.
    let headers = long(&[b"\x01aS", &long(&[b'x'; 130_000])[..]].concat());
    let message = publish_to(1, "", "kept", &[b"\x30\0", &headers[..], b"\x02"].concat(), b"");
    let mut other = TestClient::connect(&fixture.node);
    other.say(&[publish(1, "kept", b"acked in the transaction")]);
    client.say(&[consume(1, "kept", "a")]);
    assert_eq!(client.ids(), [BASIC_DELIVER]);
    for _ in 0..22 {
        client.say(&vec![message.clone(); 100]);
    }
    client.say(&[ack(1, 1), method(1, TX_COMMIT, &[])]);
    assert_eq!(client.ids(), [CHANNEL_CLOSE]);
    assert_eq!((ready(&fixture.node, "kept"), fixture.journal.failure()), (Some(1), None), "what was acked is back");
    client.session.close("gone");
    other.session.close("gone");
    drop((client, other));
    assert_eq!(fixture.node.context().memory().used_by_connections(), 0);
}

/// Nobody else would bound what waits to be written: such a connection publishes nothing, and
/// nobody waits for an answer.
#[test]
fn whoever_defines_without_waiting_is_held_back_by_a_journal_that_cannot_follow() {
    let fixture = Fixture::new();
    let mut client = TestClient::connect(&fixture.node);
    let note = [b"\x06x-noteS", &long(&[b'a'; 50_000])[..]].concat();
    let declare = method(1, QUEUE_DECLARE, &[b"\0\0", &short("q"), &[2 | 16], &long(&note)]);
    let delete = method(1, QUEUE_DELETE, &[b"\0\0", &short("q"), b"\x04"]);
    let octets = [declare, delete].concat().repeat(1_000);
    let used = client.steps(&octets).iter().sum::<usize>();
    assert!(matches!(client.session.read_gate(), ReadGate::Journal(_)) && fixture.journal.is_full());
    assert!((used as u64) < (1 << 24) + 200_000, "{used} octets were taken");
    while fixture.write() == Step::Wrote {}
    assert_eq!(client.session.notified(Tick(0)), Ok(()));
    assert_eq!(client.session.read_gate(), ReadGate::Unprocessed);
    assert!(client.session.receive(&octets[used..], Tick(0)).is_ok_and(|used| used > 0));
}

/// Messages that are acked or come back after their queue was deleted bring nothing back in the
/// journal's live set.
#[test]
fn a_deleted_queue_stays_deleted_whatever_is_settled_late() {
    let fixture = Fixture::new();
    let nack = |channel: u16, tag: u64| method(channel, BASIC_NACK, &[&tag.to_be_bytes(), b"\x02"]);
    for round in 0..300 {
        let mut client = TestClient::connect(&fixture.node);
        client.say(&[declare(1, "q", 2 | 16)]);
        client.say(&[publish_to(1, "", "q", b"\x10\0\x02", b"one"), publish_to(1, "", "q", b"\x10\0\x02", b"two")]);
        client.say(&[consume(1, "q", "c")]);
        assert_eq!(client.ids(), [BASIC_DELIVER; 2]);
        client.say(&[method(1, QUEUE_DELETE, &[b"\0\0", &short("q"), b"\x04"])]);
        match round % 3 {
            0 => client.say(&[ack(1, 1), nack(1, 2)]),
            1 => client.say(&[nack(1, 2), ack(1, 1)]),
            _ => client.session.close("gone"),
        }
    }
    assert!(fixture.journal.live_messages().is_empty(), "{:?}", fixture.journal.live_messages());
    fixture.write();
    let fixture = fixture.crash();
    assert!(fixture.journal.live_messages().is_empty(), "{:?}", fixture.journal.live_messages());
}
