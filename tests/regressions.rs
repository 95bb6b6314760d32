//! Regressions: what fuzzing and reading found, each with the smallest input that shows it.
//! Sessions in memory; no socket.

#[expect(dead_code, reason = "the model's other parts are driven by session_model")]
mod model;

use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::config::Config;
use leveret::limits;
use leveret::outbox::Drained;
use leveret::session::Session;
use model::client::Client;
use model::decoder::{self, Fields, Received};
use model::methods;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const NOW: Tick = Tick(0);

fn node() -> Arc<Node> {
    Arc::new(Node::new(Config::default()))
}

/// A connection with channels 1 and 2 open.
fn client(node: &Arc<Node>) -> Client {
    let mut client = Client::new(node, NOW);
    client.send(&[methods::handshake(4096, 0), methods::open(1), methods::open(2)].concat(), 0, NOW);
    client
}

fn publish(queue: &[u8], body: &[u8]) -> Vec<u8> {
    methods::publish(1, b"", queue, false, &methods::content(1, b"\0\0", body, 4096))
}

fn declare(queue: &[u8]) -> Vec<u8> {
    methods::declare(1, queue, &[false; 5])
}

#[expect(clippy::unwrap_used, reason = "a queue that is not there fails the test")]
fn ready(node: &Node, queue: &[u8]) -> usize {
    node.vhost(b"/").unwrap().names().queue(queue).unwrap().counts().messages
}

fn ids(received: &[Received]) -> Vec<(u16, u16)> {
    received.iter().map(|one| one.id).collect()
}

/// An acknowledgement that waits for its commit still refers to the queue it was fetched from,
/// although the channel has nothing outstanding there and reads another queue meanwhile.
#[test]
fn an_uncommitted_ack_is_of_the_queue_it_was_fetched_from() {
    let node = node();
    let mut client = client(&node);
    for octets in [declare(b"a"), declare(b"b"), publish(b"a", b"1"), publish(b"b", b"2"), methods::bare(1, 90, 10)] {
        client.send(&octets, 0, NOW);
    }
    client.send(&methods::get(1, b"a", false), 0, NOW);
    client.send(&methods::ack(1, 1, false), 0, NOW);
    client.send(&methods::get(1, b"b", false), 0, NOW);
    client.send(&methods::bare(1, 90, 20), 0, NOW);
    client.end();
    assert_eq!((ready(&node, b"a"), ready(&node, b"b")), (0, 1));
}

/// The same, taken back: what is outstanding again belongs to its old queue.
#[test]
fn a_rolled_back_ack_is_of_the_queue_it_was_fetched_from() {
    let node = node();
    let mut client = client(&node);
    for octets in [declare(b"a"), declare(b"b"), publish(b"a", b"1"), methods::bare(1, 90, 10)] {
        client.send(&octets, 0, NOW);
    }
    client.send(&methods::get(1, b"a", false), 0, NOW);
    client.send(&methods::ack(1, 1, false), 0, NOW);
    client.send(&methods::consume(1, b"b", b"t", &[false; 4]), 0, NOW);
    client.send(&methods::bare(1, 90, 30), 0, NOW);
    client.end();
    assert_eq!(ready(&node, b"a"), 1, "the message came back to nowhere");
}

/// A connection that dies has nobody who reads: what one of its channels gives back must not go to
/// a consumer of another one, where without acknowledgements it would be lost.
#[test]
fn a_dying_connection_gets_no_deliveries() {
    let node = node();
    let mut client = client(&node);
    for octets in [declare(b"q"), methods::consume(1, b"q", b"t", &[false; 4]), publish(b"q", b"1")] {
        client.send(&octets, 0, NOW);
    }
    client.send(&methods::consume(2, b"q", b"t", &[false, true, false, false]), 0, NOW);
    let received = client.end();
    assert_eq!(ids(&received), []);
    assert_eq!(ready(&node, b"q"), 1, "the message is lost");
}

/// A bad acknowledgement and a bad publish in one read: the channel is closed once, for what came
/// first.
#[test]
fn a_channel_is_closed_once() {
    let node = node();
    let mut session = Session::new(Arc::clone(&node), ([127, 0, 0, 1], 1).into(), NOW);
    session.receive(&[methods::handshake(4096, 0), methods::open(1)].concat(), NOW).unwrap();
    let mut octets = Vec::new();
    assert_eq!(session.outbox().take_octets(&mut octets), Drained::Octets);
    octets.clear();
    let content = methods::content(1, b"\0\0", b"x", 4096);
    let bad = [methods::ack(1, 9, false), methods::publish(1, b"none", b"k", false, &content)].concat();
    session.receive(&bad, NOW).unwrap();
    session.outbox().take_octets(&mut octets);
    let mut decoder = decoder::Decoder::default();
    decoder.open.insert(1);
    let received = decoder.hear(&octets);
    assert_eq!(ids(&received), [decoder::CHANNEL_CLOSE]);
    assert_eq!(Fields(&received[0].fields).number(2), 406);
}

/// Behind a bad acknowledgement nothing on its channel counts, in the same read no less than in the
/// next.
#[test]
fn a_publish_behind_a_bad_ack_is_ignored() {
    let node = node();
    let mut client = client(&node);
    client.send(&[declare(b"q"), methods::ack(1, 9, false), publish(b"q", b"1")].concat(), 0, NOW);
    assert_eq!(ready(&node, b"q"), 0);
}

/// One read of small requests must not make answers of any size pile up: getting and returning a
/// big message, over and over, without reading anything.
#[test]
fn the_outbox_of_a_client_that_never_reads_is_bounded() {
    const BODY: usize = 1 << 20;
    let node = node();
    let mut session = Session::new(Arc::clone(&node), ([127, 0, 0, 1], 1).into(), NOW);
    let body = vec![0; BODY];
    let setup = [methods::handshake(4096, 0), methods::open(1), declare(b"q"), publish(b"q", &body)].concat();
    session.receive(&setup, NOW).unwrap();
    let mut octets = Vec::new();
    session.outbox().take_octets(&mut octets);
    octets.clear();
    let mut asked = Vec::new();
    for tag in 1..=64 {
        asked.extend(methods::get(1, b"q", false));
        asked.extend(methods::nack(1, tag, false, true));
    }
    assert!(asked.len() < limits::READ_CHUNK);
    session.receive(&asked, NOW).unwrap();
    session.outbox().take_octets(&mut octets);
    assert!(octets.len() <= limits::HOLD_READER_AT + 2 * BODY, "{} octets wait", octets.len());
}

/// Says that it is over when it goes, in a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whatever is delivered behind recover-ok is outstanding, though others deliver at the same
/// moment: it was given back behind the client's back if they did so between the answer and what it
/// answers for.
#[test]
fn what_is_delivered_behind_recover_ok_can_be_acknowledged() {
    const ROUNDS: usize = 20_000;
    let node = node();
    let mut consumer = client(&node);
    consumer.send(&declare(b"q"), 0, NOW);
    consumer.send(&methods::consume(1, b"q", b"t", &[false; 4]), 0, NOW);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = client(&node);
            while !is_over.load(Relaxed) {
                publisher.send(&publish(b"q", b"x"), 0, NOW);
            }
        });
        let _over = Over(&is_over);
        for _ in 0..ROUNDS {
            let received = consumer.send(&methods::Fields::new().bits(&[true]).method(1, 60, 110), 0, NOW);
            let answered = received.iter().position(|one| one.id == (60, 111)).expect("recover-ok");
            let behind = received.iter().skip(answered).filter(|one| one.id == decoder::DELIVER);
            let acks: Vec<u8> = behind
                .flat_map(|delivery| {
                    let mut fields = Fields(&delivery.fields);
                    fields.name();
                    methods::ack(1, fields.number(8), false)
                })
                .collect();
            let received = consumer.send(&acks, 0, NOW);
            assert!(
                received.iter().all(|one| one.id != decoder::CHANNEL_CLOSE),
                "a delivery behind recover-ok was not outstanding"
            );
        }
    });
}
