//! Cost and steps: an operation on four times as many things costs about four times as much, and
//! while it runs, a client of another connection is served. The broker is the real program with two
//! workers.

use conformance::peer;
#[expect(dead_code, reason = "one way to run the program for all tests, of which each needs a part")]
mod process;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer::{Heard, Peer};
use process::{Directory, Process, leveret};
use running::{LONG, client};

/// The cost of four times as much, as a multiple: N log N stays below it, a square is 16.
const MOST_TIMES: f64 = 8.0;
/// Rounds of which the best counts: others use the machine as well.
const ROUNDS: usize = 4;
/// The longest that another client may wait for an answer: a step is far shorter, but the machine
/// may be busy.
const PATIENCE: Duration = Duration::from_millis(40);
/// Another client may wait for such a part of a long operation: a step is far shorter even in a
/// program that is not optimised, and an operation that is one step takes all of it.
const PART: u32 = 3;

/// One at a time: each measures.
static MEASURES: Mutex<()> = Mutex::new(());

struct Broker {
    process: Process,
    address: SocketAddr,
    _directory: Directory,
}

impl Broker {
    fn start() -> Broker {
        let directory = Directory::new();
        let mut command = leveret(&directory, &["--bind", "127.0.0.1:0"]);
        command.env("TOKIO_WORKER_THREADS", "2");
        let mut process = Process::start(command);
        let address = process.address();
        process.line("Server startup complete");
        Broker { process, address, _directory: directory }
    }

    /// CPU time of all its threads so far.
    fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("it runs");
        let spent = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
        spent
            .map(|text| {
                text.split_whitespace()
                    .next()
                    .and_then(|ns| ns.parse().ok())
                    .map_or(Duration::ZERO, Duration::from_nanos)
            })
            .sum()
    }

    fn client(&self) -> Peer {
        client(self.address, "")
    }
}

/// One operation on `n` things, and what comes before it.
struct Case {
    name: &'static str,
    n: usize,
    /// Connects and makes what the operation is about.
    prepare: fn(&Broker, usize) -> Vec<Peer>,
    /// The operation, to its answer.
    act: fn(&mut [Peer], usize),
}

/// Cost of an operation, how long it took, and how long another client waited at most meanwhile.
struct Measured {
    cpu: Duration,
    took: Duration,
    waited: Duration,
}

fn measure(case: &Case, n: usize) -> Measured {
    let broker = Broker::start();
    let mut peers = (case.prepare)(&broker, n);
    let mut other = broker.client();
    other.send_octets(&[declare("others", 0), select_confirms()].concat()).expect("sent");
    until(&mut other, "confirm.select-ok");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| others(&mut other, &stop));
        let (cpu, start) = (broker.cpu(), Instant::now());
        (case.act)(&mut peers, n);
        let (cpu, took) = (broker.cpu() - cpu, start.elapsed());
        stop.store(true, Ordering::Relaxed);
        Measured { cpu, took, waited: others.join().expect("others are served") }
    })
}

/// The longest wait of a client that asks and publishes every now and then.
fn others(peer: &mut Peer, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        for (octets, answer) in
            [(passive("others"), "queue.declare-ok"), (publish("", "others", b"", b"x"), "basic.ack")]
        {
            let start = Instant::now();
            peer.send_octets(&octets).expect("sent");
            until(peer, answer);
            longest = longest.max(start.elapsed());
        }
        // Between its requests the workers may fall asleep, as they do when there is little to do.
        std::thread::sleep(Duration::from_millis(2));
    }
    longest
}

fn check(case: &Case) {
    let _one_at_a_time = MEASURES.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut less, mut more, mut best_wait) = (Duration::MAX, Duration::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        less = less.min(measure(case, case.n).cpu);
        let Measured { cpu, took, waited } = measure(case, 4 * case.n);
        more = more.min(cpu);
        let bound = PATIENCE.max(took / PART);
        best_wait = best_wait.min(waited.as_secs_f64() / bound.as_secs_f64());
        let times = more.as_secs_f64() / less.as_secs_f64();
        println!(
            "{}: {less:?} for {}, {more:?} for 4 times, {times:.1}; {took:?}, others waited {waited:?}",
            case.name, case.n
        );
        if times < MOST_TIMES && best_wait < 1.0 {
            return;
        }
    }
    panic!(
        "{}: {less:?} for {}, {more:?} for 4 times as many; others waited {best_wait:.1} times what they may",
        case.name, case.n
    );
}

// Octets of methods.

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn long(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes(), octets].concat()
}

fn method(class: u16, id: u16, arguments: &[&[u8]]) -> Vec<u8> {
    peer::frame(1, 1, &[&class.to_be_bytes()[..], &id.to_be_bytes(), &arguments.concat()].concat())
}

/// With `no-wait`. Flags: durable 2, exclusive 4.
fn declare(queue: &str, flags: u8) -> Vec<u8> {
    method(50, 10, &[b"\0\0", &short(queue), &[flags | 16], &long(b"")])
}

fn passive(queue: &str) -> Vec<u8> {
    method(50, 10, &[b"\0\0", &short(queue), &[1], &long(b"")])
}

fn declare_exchange(kind: &str) -> Vec<u8> {
    method(40, 10, &[b"\0\0", &short("x"), &short(kind), &[16], &long(b"")])
}

fn bind(queue: &str, exchange: &str, key: &str, arguments: &[u8]) -> Vec<u8> {
    method(50, 20, &[b"\0\0", &short(queue), &short(exchange), &short(key), &[1], &long(arguments)])
}

fn unbind(queue: &str, exchange: &str, key: &str) -> Vec<u8> {
    method(50, 50, &[b"\0\0", &short(queue), &short(exchange), &short(key), &long(b"")])
}

fn delete(queue: &str, no_wait: bool) -> Vec<u8> {
    method(50, 40, &[b"\0\0", &short(queue), &[u8::from(no_wait) * 4]])
}

fn consume(queue: &str, tag: &str) -> Vec<u8> {
    method(60, 20, &[b"\0\0", &short(queue), &short(tag), &[8], &long(b"")])
}

fn cancel(tag: &str) -> Vec<u8> {
    method(60, 30, &[&short(tag), &[1]])
}

/// Properties begin with their flags; none: transient.
fn publish(exchange: &str, key: &str, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let properties = if properties.is_empty() { b"\0\0" } else { properties };
    let size = (body.len() as u64).to_be_bytes();
    let header = [b"\0\x3c\0\0", &size[..], properties].concat();
    [
        method(60, 40, &[b"\0\0", &short(exchange), &short(key), b"\0"]),
        peer::frame(2, 1, &header),
        peer::frame(3, 1, body),
    ]
    .concat()
}

fn ack_all() -> Vec<u8> {
    method(60, 80, &[&0u64.to_be_bytes(), b"\x01"])
}

fn nack_all() -> Vec<u8> {
    method(60, 120, &[&0u64.to_be_bytes(), b"\x03"])
}

fn select_confirms() -> Vec<u8> {
    method(85, 10, &[b"\0"])
}

/// basic.qos, whose answer shows that everything before was processed.
fn sync() -> Vec<u8> {
    method(60, 10, &[&0u32.to_be_bytes(), &0u16.to_be_bytes(), b"\0"])
}

/// Reads up to a method.
fn until(peer: &mut Peer, answer: &str) -> Heard {
    loop {
        let heard = peer.recv();
        match heard.method() {
            Some(name) if name == answer => return heard,
            Some("connection.close" | "channel.close") => panic!("{heard}"),
            None if matches!(heard, Heard::Closed | Heard::Timeout) => panic!("{heard}"),
            _ => {}
        }
    }
}

/// Sends methods without answers, and awaits that they were processed.
fn all(peer: &mut Peer, frames: impl Iterator<Item = Vec<u8>>) {
    let octets: Vec<u8> = frames.flatten().chain(sync()).collect();
    peer.send_octets(&octets).expect("sent");
    until(peer, "basic.qos-ok");
}

fn ask(peer: &mut Peer, octets: &[u8], answer: &str) {
    peer.send_octets(octets).expect("sent");
    until(peer, answer);
}

/// Closes the connection: the answer comes when everything was given back.
fn leave(peer: &mut Peer) {
    let close = [&b"\0\x0a\0\x32\0\xc8"[..], &short(""), b"\0\0\0\0"].concat();
    ask(peer, &peer::frame(1, 0, &close), "connection.close-ok");
}

fn close_channel(peer: &mut Peer) {
    ask(peer, &method(20, 40, &[b"\0\xc8", &short(""), b"\0\0\0\0"]), "channel.close-ok");
}

/// A connection with a queue.
fn with_queue(broker: &Broker) -> Peer {
    let mut peer = broker.client();
    peer.patience = LONG;
    ask(&mut peer, &[declare("q", 0), sync()].concat(), "basic.qos-ok");
    peer
}

fn queues(n: usize, flags: u8) -> impl Iterator<Item = Vec<u8>> {
    (0..n).map(move |at| declare(&format!("q{at}"), flags))
}

fn consumers(n: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..n).map(|at| consume("q", &format!("t{at}")))
}

/// One header of this number.
fn header(at: usize) -> Vec<u8> {
    [&short("n")[..], b"I", &(at as u32).to_be_bytes()].concat()
}

/// A table in a table, different in its inside only.
fn nested(at: usize) -> Vec<u8> {
    [&short("t")[..], b"F", &long(&header(at))].concat()
}

/// A queue with `n` bindings to an exchange of this type.
fn bound(broker: &Broker, n: usize, kind: &str) -> Vec<Peer> {
    let mut peer = with_queue(broker);
    let bindings = (0..n).map(|at| bind("q", "x", &format!("k{at}"), &header(at)));
    all(&mut peer, std::iter::once(declare_exchange(kind)).chain(bindings));
    vec![peer]
}

/// `n` queues that are bound to a fanout exchange.
fn fanout(broker: &Broker, n: usize, flags: u8) -> Vec<Peer> {
    let mut peer = broker.client();
    all(&mut peer, queues(n, flags));
    all(&mut peer, (0..n).map(|at| bind(&format!("q{at}"), "amq.fanout", "", b"")).chain([select_confirms()]));
    vec![peer]
}

fn filled(broker: &Broker, n: usize) -> Vec<Peer> {
    let mut peer = with_queue(broker);
    let message = publish("", "q", b"", b"x");
    all(&mut peer, (0..n).map(|_| message.clone()));
    vec![peer]
}

/// A connection that has `n` unacknowledged messages, and another one.
fn unacked(broker: &Broker, n: usize) -> Vec<Peer> {
    let mut peers = filled(broker, n);
    let mut reader = broker.client();
    reader.send_octets(&consume("q", "t")).expect("sent");
    for _ in 0..n {
        until(&mut reader, "basic.deliver");
    }
    all(&mut reader, [cancel("t")].into_iter());
    peers.insert(0, reader);
    peers
}

fn is_back(peer: &mut Peer, n: usize) {
    peer.send_octets(&passive("q")).expect("sent");
    let declared = until(peer, "queue.declare-ok");
    assert_eq!(running::number(&declared, "message-count"), n as u64);
}

/// Publishes several messages and awaits their confirms.
fn publishes(peer: &mut Peer, message: &[u8]) {
    for _ in 0..5 {
        ask(peer, message, "basic.ack");
    }
}

/// Headers with CC, an array of `n` keys.
fn cc(n: usize, key: impl Fn(usize) -> String) -> Vec<u8> {
    let keys: Vec<u8> = (0..n).flat_map(|at| [&b"S"[..], &long(key(at).as_bytes())].concat()).collect();
    [&b"\x20\0"[..], &long(&[&short("CC")[..], b"A", &long(&keys)].concat())].concat()
}

#[test]
fn declaring() {
    check(&Case {
        name: "declare",
        n: 3_000,
        prepare: |broker, _| vec![broker.client()],
        act: |peers, n| all(&mut peers[0], queues(n, 2)),
    });
}

#[test]
fn binding_with_arguments_that_differ_in_their_inside_only() {
    check(&Case {
        name: "bind",
        n: 2_000,
        prepare: |broker, _| vec![with_queue(broker)],
        act: |peers, n| all(&mut peers[0], (0..n).map(|at| bind("q", "amq.direct", "k", &nested(at)))),
    });
}

#[test]
fn unbinding_one_by_one() {
    check(&Case {
        name: "unbind",
        n: 2_000,
        prepare: |broker, n| {
            let mut peer = with_queue(broker);
            all(&mut peer, (0..n).map(|at| bind("q", "amq.topic", &format!("k{at}.#"), b"")));
            vec![peer]
        },
        act: |peers, n| {
            let octets: Vec<u8> = (0..n).flat_map(|at| unbind("q", "amq.topic", &format!("k{at}.#"))).collect();
            peers[0].send_octets(&octets).expect("sent");
            (0..n).for_each(|_| _ = until(&mut peers[0], "queue.unbind-ok"));
        },
    });
}

/// Deletes a queue with many bindings.
fn delete_bound(peers: &mut [Peer], _: usize) {
    ask(&mut peers[0], &delete("q", false), "queue.delete-ok");
}

#[test]
fn deleting_a_queue_that_is_bound_to_a_headers_exchange() {
    let prepare = |broker: &Broker, n| bound(broker, n, "headers");
    check(&Case { name: "headers bindings", n: 5_000, prepare, act: delete_bound });
}

#[test]
fn deleting_a_queue_that_is_bound_to_a_fanout_exchange() {
    let prepare = |broker: &Broker, n| bound(broker, n, "fanout");
    check(&Case { name: "fanout bindings", n: 5_000, prepare, act: delete_bound });
}

#[test]
fn deleting_an_exchange() {
    check(&Case {
        name: "exchange.delete",
        n: 5_000,
        prepare: |broker, n| bound(broker, n, "topic"),
        act: |peers, _| ask(&mut peers[0], &method(40, 20, &[b"\0\0", &short("x"), b"\0"]), "exchange.delete-ok"),
    });
}

#[test]
fn consuming() {
    check(&Case {
        name: "consume",
        n: 3_000,
        prepare: |broker, _| vec![with_queue(broker)],
        act: |peers, n| all(&mut peers[0], consumers(n)),
    });
}

fn with_consumers(broker: &Broker, n: usize) -> Vec<Peer> {
    let mut peer = with_queue(broker);
    all(&mut peer, consumers(n));
    vec![peer, broker.client()]
}

#[test]
fn cancelling_one_by_one() {
    check(&Case {
        name: "cancel",
        n: 3_000,
        prepare: with_consumers,
        act: |peers, n| all(&mut peers[0], (0..n).map(|at| cancel(&format!("t{at}")))),
    });
}

#[test]
fn closing_a_channel_with_many_consumers() {
    let act = |peers: &mut [Peer], _| close_channel(&mut peers[0]);
    check(&Case { name: "channel with consumers", n: 15_000, prepare: with_consumers, act });
}

#[test]
fn closing_a_connection_with_many_consumers() {
    let act = |peers: &mut [Peer], _| leave(&mut peers[0]);
    check(&Case { name: "connection with consumers", n: 15_000, prepare: with_consumers, act });
}

#[test]
fn deleting_a_queue_with_many_consumers() {
    check(&Case {
        name: "queue with consumers",
        n: 10_000,
        prepare: with_consumers,
        act: |peers, n| {
            ask(&mut peers[1], &delete("q", false), "queue.delete-ok");
            (0..n).for_each(|_| _ = until(&mut peers[0], "basic.cancel"));
        },
    });
}

#[test]
fn publishing_to_many_durable_queues() {
    check(&Case {
        name: "wide durable",
        n: 2_500,
        prepare: |broker, n| fanout(broker, n, 2),
        act: |peers, _| publishes(&mut peers[0], &publish("amq.fanout", "", b"\x10\0\x02", b"x")),
    });
}

#[test]
fn publishing_to_many_transient_queues() {
    check(&Case {
        name: "wide transient",
        n: 2_000,
        prepare: |broker, n| fanout(broker, n, 0),
        act: |peers, _| publishes(&mut peers[0], &publish("amq.fanout", "", b"", b"x")),
    });
}

#[test]
fn publishing_with_many_keys_to_many_patterns() {
    check(&Case {
        name: "CC",
        n: 100,
        prepare: |broker, _| {
            let mut peer = with_queue(broker);
            let words = |at: usize| (0..8).map(move |bit| if at >> bit & 1 == 1 { "#" } else { "a" });
            let pattern = |at| words(at).collect::<Vec<_>>().join(".");
            all(&mut peer, (0..200).map(|at| bind("q", "amq.topic", &pattern(at), b"")).chain([select_confirms()]));
            vec![peer]
        },
        act: |peers, n| {
            let headers = cc(n, |at| format!("{}b{at}", "a.".repeat(10)));
            publishes(&mut peers[0], &publish("amq.topic", "k", &headers, b"x"));
        },
    });
}

#[test]
fn acknowledging_many_at_once() {
    check(&Case {
        name: "ack",
        n: 25_000,
        prepare: unacked,
        act: |peers, _| all(&mut peers[0], [ack_all()].into_iter()),
    });
}

#[test]
fn requeueing_many_at_once() {
    check(&Case {
        name: "nack",
        n: 25_000,
        prepare: unacked,
        act: |peers, n| {
            all(&mut peers[0], [nack_all()].into_iter());
            is_back(&mut peers[0], n);
        },
    });
}

#[test]
fn closing_a_connection_with_many_unacked_messages() {
    check(&Case {
        name: "connection with unacked",
        n: 25_000,
        prepare: unacked,
        act: |peers, n| {
            leave(&mut peers[0]);
            is_back(&mut peers[1], n);
        },
    });
}

#[test]
fn closing_a_connection_with_many_exclusive_queues() {
    check(&Case {
        name: "connection with queues",
        n: 3_000,
        prepare: |broker, n| {
            let mut peer = broker.client();
            all(&mut peer, queues(n, 4));
            all(&mut peer, (0..n).map(|at| bind(&format!("q{at}"), "amq.topic", &format!("{at}.*"), b"")));
            vec![peer]
        },
        act: |peers, _| leave(&mut peers[0]),
    });
}

#[test]
fn purging() {
    check(&Case {
        name: "purge",
        n: 25_000,
        prepare: filled,
        act: |peers, _| ask(&mut peers[0], &method(50, 30, &[b"\0\0", &short("q"), b"\0"]), "queue.purge-ok"),
    });
}

#[test]
fn deleting_many_queues() {
    check(&Case {
        name: "delete",
        n: 2_000,
        prepare: |broker, n| fanout(broker, n, 2),
        act: |peers, n| all(&mut peers[0], (0..n).map(|at| delete(&format!("q{at}"), true))),
    });
}

#[test]
fn committing() {
    check(&Case {
        name: "tx.commit",
        n: 25_000,
        prepare: |broker, n| {
            let mut peer = with_queue(broker);
            ask(&mut peer, &method(90, 10, &[]), "tx.select-ok");
            let message = publish("", "q", b"\x10\0\x02", b"x");
            all(&mut peer, (0..n).map(|_| message.clone()));
            vec![peer]
        },
        act: |peers, _| ask(&mut peers[0], &method(90, 20, &[]), "tx.commit-ok"),
    });
}
