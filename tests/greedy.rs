//! Slow and greedy clients cost bounded memory and cost the others nothing: those that do not read,
//! those that flood, and publishers while memory is short.

use conformance::peer;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peer::text::fields;
use peer::{Heard, Peer, frame, method};
use running::{LONG, call, client, content, number, publish, publish_to, ready, start};

/// More than the system's buffers of one socket pair and the broker's own for one connection, in
/// octets.
const BUFFERS: u64 = 80 << 20;
/// The longest round trip of a client while another one floods.
const PATIENT: Duration = Duration::from_secs(5);
/// Client properties without connection.blocked.
const PLAIN_CLIENT: &str = "client-properties={product: \"old\"}";

fn body(n: u64, size: usize) -> Vec<u8> {
    let mut body = vec![0; size];
    body[..8].copy_from_slice(&n.to_be_bytes());
    body
}

fn number_of(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// Publishes and awaits the confirms, a hundred at a time.
fn fill(peer: &mut Peer, queue: &str, count: u64, size: usize) {
    call(peer, "confirm.select", "", "confirm.select-ok");
    for n in 0..count {
        publish(peer, queue, &body(n, size));
        if n % 100 == 99 || n + 1 == count {
            while number(&peer.recv(), "delivery-tag") != n + 1 {}
        }
    }
}

#[test]
fn a_consumer_that_does_not_read_leaves_its_messages_in_the_queue() {
    const COUNT: u64 = 3_200;
    const SIZE: usize = 64 << 10;
    let address = start(|_| ());
    let mut consumer = client(address, "");
    call(&mut consumer, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut consumer, "basic.consume", "queue=q consumer-tag=c no-ack", "basic.consume-ok");
    let mut publisher = client(address, "");
    fill(&mut publisher, "q", COUNT, SIZE);
    let kept = ready(&mut publisher, "q") * SIZE as u64;
    assert!(kept + BUFFERS > COUNT * SIZE as u64, "{} octets are kept", kept);
    assert!(COUNT * SIZE as u64 > BUFFERS, "the test is too small");
    for n in 0..COUNT {
        let (delivered, body) = content(&mut consumer);
        assert_eq!((number(&delivered, "delivery-tag"), number_of(&body)), (n + 1, n));
    }
    assert_eq!(ready(&mut publisher, "q"), 0);
}

#[test]
fn a_consumer_that_does_not_read_leaves_the_messages_to_others() {
    const COUNT: u64 = 1_600;
    const SIZE: usize = 64 << 10;
    let address = start(|_| ());
    let mut deaf = client(address, "");
    call(&mut deaf, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut deaf, "basic.consume", "queue=q consumer-tag=deaf", "basic.consume-ok");
    let mut publisher = client(address, "");
    fill(&mut publisher, "q", COUNT, SIZE);
    let kept = ready(&mut publisher, "q");
    assert!(kept * SIZE as u64 + BUFFERS > COUNT * SIZE as u64, "{kept} messages are kept");
    let mut reader = client(address, "");
    call(&mut reader, "basic.consume", "queue=q consumer-tag=reader no-ack", "basic.consume-ok");
    let mut heard: Vec<u64> = (0..100).map(|_| number_of(&content(&mut reader).1)).collect();
    assert!(heard.is_sorted(), "{heard:?}");
    // What it was handed and never read comes back.
    drop(deaf);
    heard.extend((100..COUNT).map(|_| number_of(&content(&mut reader).1)));
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..COUNT));
}

#[test]
fn a_client_that_asks_and_does_not_read_is_not_read() {
    const COUNT: u64 = 3_200;
    const SIZE: usize = 64 << 10;
    let address = start(|_| ());
    let mut other = client(address, "");
    call(&mut other, "queue.declare", "queue=q", "queue.declare-ok");
    fill(&mut other, "q", COUNT, SIZE);
    let mut greedy = client(address, "");
    let get = method::encode("basic.get", &fields("queue=q no-ack").unwrap()).unwrap();
    // All at once: the broker has them in one read.
    greedy.send_octets(&frame(1, 1, &get).repeat(COUNT as usize)).unwrap();
    // A request and its answer prove that the broker had its turn with what came before, on either
    // connection.
    let mut left = ready(&mut other, "q");
    let mut before = COUNT + 1;
    while left < before {
        before = left;
        call(&mut other, "queue.declare", "queue=r exclusive", "queue.declare-ok");
        left = ready(&mut other, "q");
    }
    assert!(left * SIZE as u64 + BUFFERS > COUNT * SIZE as u64, "{left} messages are left");
    for n in 0..COUNT {
        let (got, body) = content(&mut greedy);
        assert_eq!((got.method(), number_of(&body)), (Some("basic.get-ok"), n));
    }
    assert_eq!(ready(&mut other, "q"), 0);
    call(&mut greedy, "basic.get", "queue=q", "basic.get-empty");
}

/// Publishes to `to` as fast as the socket takes it, until told to stop.
fn flood(address: SocketAddr, to: &str, stop: &AtomicBool) -> u64 {
    let mut flooder = client(address, "");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        publish_to(&mut flooder, to, b"a flood").expect("published");
        count += 1;
    }
    count
}

fn others_go_on(to: &'static str, floods: usize) {
    let address = start(|_| ());
    let mut other = client(address, "");
    call(&mut other, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut other, "queue.declare", "queue=mine", "queue.declare-ok");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let floods: Vec<_> = (0..floods).map(|_| scope.spawn(|| flood(address, to, &stop))).collect();
        let since = Instant::now();
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let asked = Instant::now();
            publish(&mut other, "mine", b"tick");
            call(&mut other, "basic.get", "queue=mine no-ack", "basic.get-ok");
            other.recv();
            other.recv();
            // The flood's own queue answers too, and is kept small.
            call(&mut other, "queue.purge", "queue=q", "queue.purge-ok");
            slowest = slowest.max(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            assert!(flood.join().unwrap() > 0);
        }
        assert!(slowest < PATIENT, "a round took {slowest:?}");
        assert!(since.elapsed() < LONG, "all rounds took {:?}", since.elapsed());
    });
}

#[test]
fn a_flood_into_a_queue_does_not_starve_others() {
    others_go_on("routing-key=q", 1);
}

#[test]
fn a_flood_into_nowhere_does_not_starve_others() {
    others_go_on("exchange=amq.fanout routing-key=x", 3);
}

#[test]
fn a_flood_of_requests_does_not_starve_others() {
    let address = start(|_| ());
    let mut other = client(address, "");
    call(&mut other, "queue.declare", "queue=q", "queue.declare-ok");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flooder = client(address, "");
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..500 {
                    flooder.send(1, "queue.declare", "queue=q passive").unwrap();
                }
                for _ in 0..500 {
                    running::expect(&flooder.recv(), "queue.declare-ok");
                }
            }
        });
        for _ in 0..100 {
            let asked = Instant::now();
            ready(&mut other, "q");
            assert!(asked.elapsed() < PATIENT, "a round took {:?}", asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A broker that is short of memory, a queue `q` that is why, and the publisher that filled it, in
/// confirm mode.
struct Short {
    address: SocketAddr,
    publisher: Peer,
    published: u64,
}

impl Short {
    const SIZE: usize = 32 << 10;

    /// Publishes message by message until a confirm is missing: the publisher is not read any more.
    fn new(options: &str) -> Short {
        let address = start(|config| config.memory_high_watermark = 1 << 20);
        let mut declarer = client(address, "");
        call(&mut declarer, "queue.declare", "queue=q", "queue.declare-ok");
        let mut short = Short { address, publisher: client(address, options), published: 0 };
        call(&mut short.publisher, "confirm.select", "", "confirm.select-ok");
        short
    }

    fn publish(&mut self) {
        publish(&mut self.publisher, "q", &body(self.published, Self::SIZE));
        self.published += 1;
    }

    /// Publishes until connection.blocked is heard, and answers it. The last message is held back.
    fn until_blocked(&mut self) -> Heard {
        while self.published < 100 {
            self.publish();
            let heard = self.publisher.recv();
            if heard.method() == Some("connection.blocked") {
                return heard;
            }
            assert_eq!(heard.method(), Some("basic.ack"), "heard {heard}");
        }
        panic!("never blocked");
    }

    /// Messages that the queue was given before the one that is held back.
    fn taken(&self) -> u64 {
        self.published - 1
    }

    /// How many messages the queue has after many round trips: the publisher could have been read
    /// meanwhile.
    fn settled(&self) -> u64 {
        let mut other = client(self.address, "");
        (0..50).map(|_| ready(&mut other, "q")).last().unwrap()
    }

    /// Consumes `count` messages on a connection of its own, from `from` on.
    fn drain(&self, from: u64, count: u64) -> Peer {
        let mut consumer = client(self.address, "");
        call(&mut consumer, "basic.consume", "queue=q consumer-tag=c no-ack", "basic.consume-ok");
        for n in from..from + count {
            let (delivered, body) = content(&mut consumer);
            assert_eq!((delivered.method(), number_of(&body)), (Some("basic.deliver"), n));
        }
        consumer
    }

    /// Expects unblocked, then the confirm of what was held back.
    fn goes_on(&mut self) {
        running::expect(&self.publisher.recv(), "connection.unblocked");
        let confirm = self.publisher.recv();
        assert_eq!((confirm.method(), number(&confirm, "delivery-tag")), (Some("basic.ack"), self.published));
    }
}

#[test]
fn a_publisher_is_told_when_memory_is_short_and_not_read() {
    let mut short = Short::new("");
    let blocked = short.until_blocked();
    assert_eq!(blocked.to_string(), "0 connection.blocked reason=\"low on memory\"");
    let held = short.taken();
    assert_eq!(short.settled(), held);
    let mut consumer = short.drain(0, held);
    short.goes_on();
    let (_, body) = content(&mut consumer);
    assert_eq!(number_of(&body), held);
    // And once more: an alarm is not for once.
    call(&mut consumer, "basic.cancel", "consumer-tag=c", "basic.cancel-ok");
    short.published = 0;
    call(&mut short.publisher, "channel.close", "reply-code=200", "channel.close-ok");
    call(&mut short.publisher, "channel.open", "", "channel.open-ok");
    call(&mut short.publisher, "confirm.select", "", "confirm.select-ok");
    assert_eq!(short.until_blocked().method(), Some("connection.blocked"));
}

#[test]
fn a_client_that_does_not_know_the_notice_is_held_back_without() {
    let mut short = Short::new(PLAIN_CLIENT);
    // An eighth is left to the allocator.
    while short.published * (Short::SIZE as u64) < 7 << 17 {
        short.publish();
        running::expect(&short.publisher.recv(), "basic.ack");
    }
    let held = short.published;
    short.publish();
    short.publish();
    let settled = short.settled();
    assert!(settled <= held + 1, "{settled} messages of {held} and the one that was too much");
    short.drain(0, held + 2);
    let mut confirmed = held;
    while confirmed < short.published {
        let confirm = short.publisher.recv();
        running::expect(&confirm, "basic.ack");
        confirmed = number(&confirm, "delivery-tag");
    }
    call(&mut short.publisher, "queue.declare", "queue=q passive", "queue.declare-ok");
}

#[test]
fn who_only_consumes_is_never_held_back() {
    let mut short = Short::new("");
    let mut consumer = client(short.address, "");
    call(&mut consumer, "basic.qos", "prefetch-count=1", "basic.qos-ok");
    call(&mut consumer, "basic.consume", "queue=q consumer-tag=c", "basic.consume-ok");
    short.until_blocked();
    let held = short.taken();
    for n in 0..held {
        let (delivered, body) = content(&mut consumer);
        assert_eq!((delivered.method(), number_of(&body)), (Some("basic.deliver"), n));
        // Requests are answered while the alarm is on.
        if n < 3 {
            call(&mut consumer, "queue.declare", "queue=other exclusive", "queue.declare-ok");
        }
        consumer.send(1, "basic.ack", &format!("delivery-tag={}", n + 1)).unwrap();
    }
    short.goes_on();
    assert_eq!(number_of(&content(&mut consumer).1), held);
    call(&mut consumer, "queue.declare", "queue=other passive", "queue.declare-ok");
}

#[test]
fn nothing_that_new_connections_publish_is_taken_while_memory_is_short() {
    const COUNT: u64 = 300;
    let mut short = Short::new("");
    short.until_blocked();
    let held = short.settled();
    let mut told = client(short.address, "");
    // Whoever does not publish is served, and told nothing.
    call(&mut told, "queue.declare", "queue=mine exclusive", "queue.declare-ok");
    call(&mut told, "basic.consume", "queue=mine consumer-tag=c", "basic.consume-ok");
    call(&mut told, "confirm.select", "", "confirm.select-ok");
    publish(&mut told, "q", b"one more");
    assert_eq!(told.recv().to_string(), "0 connection.blocked reason=\"low on memory\"");
    let mut newcomers: Vec<_> = (1..COUNT).map(|_| client(short.address, PLAIN_CLIENT)).collect();
    for newcomer in &mut newcomers {
        call(newcomer, "confirm.select", "", "confirm.select-ok");
        publish(newcomer, "q", b"one more");
    }
    assert_eq!(short.settled(), held, "messages are taken");
    // Nor is anything of those that leave.
    for _ in 0..COUNT {
        let mut visitor = client(short.address, PLAIN_CLIENT);
        publish(&mut visitor, "q", b"and no more");
    }
    assert_eq!(short.settled(), held, "messages of those that left are taken");
    let mut purger = client(short.address, "");
    call(&mut purger, "queue.purge", "queue=q", "queue.purge-ok");
    running::expect(&told.recv(), "connection.unblocked");
    for newcomer in newcomers.iter_mut().chain([&mut told]) {
        running::expect(&newcomer.recv(), "basic.ack");
    }
    running::expect(&short.publisher.recv(), "connection.unblocked");
    // Those that left count if nobody has seen that before the alarm ended.
    assert!((COUNT..=2 * COUNT).contains(&ready(&mut purger, "q")));
}

#[test]
fn a_publisher_that_only_consumes_now_goes_on_while_memory_is_short() {
    let mut short = Short::new("");
    let mut both = client(short.address, "");
    call(&mut both, "confirm.select", "", "confirm.select-ok");
    publish(&mut both, "nowhere", b"once");
    running::expect(&both.recv(), "basic.ack");
    call(&mut both, "basic.qos", "prefetch-count=1", "basic.qos-ok");
    call(&mut both, "basic.consume", "queue=q consumer-tag=c", "basic.consume-ok");
    short.until_blocked();
    for n in 0..short.taken() {
        assert_eq!(number_of(&content(&mut both).1), n);
        both.send(1, "basic.ack", &format!("delivery-tag={}", n + 1)).unwrap();
    }
    short.goes_on();
}

#[test]
fn a_queue_that_is_deleted_ends_the_alarm() {
    let mut short = Short::new("");
    short.until_blocked();
    let mut deleter = client(short.address, "");
    call(&mut deleter, "queue.delete", "queue=q", "queue.delete-ok");
    running::expect(&short.publisher.recv(), "connection.unblocked");
}

#[test]
fn a_consumer_that_fetches_ends_the_alarm() {
    let mut short = Short::new("");
    short.until_blocked();
    let mut fetcher = client(short.address, "");
    for n in 0..short.taken() {
        fetcher.send(1, "basic.get", "queue=q no-ack").unwrap();
        assert_eq!(number_of(&content(&mut fetcher).1), n);
    }
    running::expect(&short.publisher.recv(), "connection.unblocked");
}

#[test]
fn an_owner_that_leaves_ends_the_alarm_with_its_queue() {
    let address = start(|config| config.memory_high_watermark = 1 << 20);
    for how in ["connection.close", "channel.close", "socket"] {
        let mut owner = client(address, "");
        let name = format!("own-{how}");
        let kind = if how == "channel.close" { "auto-delete" } else { "exclusive" };
        call(&mut owner, "queue.declare", &format!("queue={name} {kind}"), "queue.declare-ok");
        call(&mut owner, "queue.bind", &format!("queue={name} exchange=amq.fanout"), "queue.bind-ok");
        call(&mut owner, "basic.qos", "prefetch-count=1", "basic.qos-ok");
        call(&mut owner, "basic.consume", &format!("queue={name} consumer-tag=c"), "basic.consume-ok");
        let mut publisher = client(address, "");
        call(&mut publisher, "confirm.select", "", "confirm.select-ok");
        loop {
            publish_to(&mut publisher, "exchange=amq.fanout", &[0; 300 << 10]).unwrap();
            let heard = publisher.recv();
            if heard.method() == Some("connection.blocked") {
                break;
            }
            running::expect(&heard, "basic.ack");
        }
        match how {
            "socket" => drop(owner),
            "channel.close" => owner.send(1, how, "reply-code=200").unwrap(),
            _ => owner.send(0, how, "reply-code=200").unwrap(),
        }
        running::expect(&publisher.recv(), "connection.unblocked");
        running::expect(&publisher.recv(), "basic.ack");
    }
}

#[test]
fn a_publisher_that_is_held_back_can_leave() {
    let mut short = Short::new("");
    short.until_blocked();
    let mut other = client(short.address, "");
    let drained = short.taken();
    drop(short.publisher);
    for _ in 0..drained {
        other.send(1, "basic.get", "queue=q no-ack").unwrap();
        content(&mut other);
    }
    publish(&mut other, "q", b"goes on");
    // The alarm may end before anybody has seen that it left: then its last message counts.
    assert!((1..=2).contains(&ready(&mut other, "q")));
}
