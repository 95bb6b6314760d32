//! The resident memory of the real program with `memory_high_watermark` = 64 MiB, whatever clients
//! have it keep: never 48 MiB more, and given back when they go.

#[path = "model/methods.rs"]
#[expect(dead_code, reason = "the model needs the rest of it")]
mod methods;
#[expect(dead_code, reason = "one module for all tests, of which each needs a part")]
mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use methods::Fields;
use process::{Directory, Process, leveret};

const MIB: u64 = 1 << 20;
/// The watermark, and as much again as three quarters of it.
const MOST: u64 = (64 + 48) * MIB;
/// Resident memory that may be left beside that of the start when all clients are gone: what is
/// durable is kept, in part in memory.
const LEFT: u64 = 40 * MIB;
/// Within which time it is given back.
const GIVEN_BACK: Duration = Duration::from_secs(5);
/// A client that can write nothing for so long is held back.
const HELD: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_MAX: usize = 131_072;
/// Persistent, and nothing else.
const PERSISTENT: &[u8] = b"\x10\0\x02";
const NO_PROPERTIES: &[u8] = b"\0\0";

/// One broker of this file at a time: each takes what memory it may, and a core.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Broker {
    process: Process,
    address: SocketAddr,
    resident_at_start: u64,
    directory: Directory,
    _turn: MutexGuard<'static, ()>,
}

impl Broker {
    fn start() -> Broker {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = Directory::new();
        directory.write("config.toml", "memory_high_watermark = \"64MiB\"\n");
        let mut process = Process::start(leveret(&directory, &["--bind", "127.0.0.1:0"]));
        let address = process.address();
        process.line("Server startup complete");
        let mut broker = Broker { process, address, resident_at_start: 0, directory, _turn: turn };
        drop(Client::new(address));
        broker.resident_at_start = broker.status("VmRSS");
        broker
    }

    /// A line of the process's status, in octets.
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Octets that the journal takes on disk.
    fn journal_octets(&self) -> u64 {
        let all = std::fs::read_dir(self.directory.path().join("leveret-data/journal")).unwrap();
        all.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    /// The most that was ever resident is in bounds, and memory is given back once `clients` are
    /// gone.
    fn check_bounds<T>(self, clients: T) {
        let most = self.status("VmHWM");
        assert!(most < MOST, "{} MiB were resident", most / MIB);
        drop(clients);
        let since = Instant::now();
        loop {
            let left = self.status("VmRSS").saturating_sub(self.resident_at_start);
            if left < LEFT {
                return;
            }
            assert!(since.elapsed() < GIVEN_BACK, "{} MiB are kept", left / MIB);
            std::thread::yield_now();
        }
    }
}

/// A connection with channel 1 open.
struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A frame's kind, with a method's class and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Method(u16, u16),
    Content,
    Closed,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        let mut client = Client { stream: TcpStream::connect(address).unwrap(), read: Vec::new() };
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&[methods::handshake(FRAME_MAX as u32, 0), methods::open(1)].concat());
        client.until(20, 11);
        client
    }

    fn send(&mut self, octets: &[u8]) {
        self.stream.set_write_timeout(None).unwrap();
        self.stream.write_all(octets).unwrap();
    }

    /// Writes what the broker takes; false: it takes nothing more, or the connection is closed.
    fn offer(&mut self, octets: &[u8]) -> bool {
        self.write(octets, HELD)
    }

    /// As [`Client::offer`], on a connection that is not held back, however busy the broker is.
    fn write(&mut self, mut octets: &[u8], patience: Duration) -> bool {
        self.stream.set_write_timeout(Some(patience)).unwrap();
        while !octets.is_empty() {
            match self.stream.write(octets) {
                Ok(written) if written > 0 => octets = &octets[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }

    /// The next frame.
    fn hear(&mut self) -> (Heard, Vec<u8>) {
        loop {
            if let Some(head) = self.read.get(..7) {
                let length = u32::from_be_bytes(head[3..7].try_into().unwrap()) as usize;
                if self.read.len() >= length + 8 {
                    let frame: Vec<u8> = self.read.drain(..length + 8).collect();
                    let payload = &frame[7..length + 7];
                    let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                    let heard = if frame[0] == 1 { Heard::Method(word(0), word(2)) } else { Heard::Content };
                    return (heard, payload.to_vec());
                }
            }
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(read) if read > 0 => self.read.extend(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing is heard"),
                _ => return (Heard::Closed, Vec::new()),
            }
        }
    }

    /// Reads up to this method, which the broker may not come to.
    fn until(&mut self, class: u16, method: u16) -> Vec<u8> {
        loop {
            match self.hear() {
                (Heard::Method(10, 50) | Heard::Method(20, 40) | Heard::Closed, payload) => {
                    panic!("closed: {}", payload.escape_ascii())
                }
                (heard, payload) if heard == Heard::Method(class, method) => return payload,
                _ => {}
            }
        }
    }

    fn call(&mut self, octets: &[u8], class: u16, method: u16) -> Vec<u8> {
        self.send(octets);
        self.until(class, method)
    }

    /// Reads so many octets, whatever they are.
    fn skip(&mut self, octets: u64) {
        let mut left = octets - (self.read.len() as u64).min(octets);
        self.read.clear();
        let mut chunk = vec![0; 262_144];
        while left > 0 {
            let read = self.stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "closed with {left} octets to come");
            left = left.saturating_sub(read as u64);
        }
    }
}

const TRANSIENT: [bool; 5] = [false; 5];
const DURABLE: [bool; 5] = [false, true, false, false, false];
const EXCLUSIVE_NO_WAIT: [bool; 5] = [false, false, true, false, true];

fn bind(queue: &str, exchange: &str) -> Vec<u8> {
    Fields::new()
        .short(0)
        .name(queue.as_bytes())
        .name(exchange.as_bytes())
        .name(b"")
        .bits(&[true])
        .text(b"")
        .method(1, 50, 20)
}

fn content(size: usize, properties: &[u8]) -> Vec<u8> {
    methods::content(1, properties, &vec![b'x'; size], FRAME_MAX)
}

/// Runs `act` with `count` clients side by side, and returns them.
fn side_by_side(address: SocketAddr, count: usize, act: impl Fn(usize, &mut Client) + Sync) -> Vec<Client> {
    std::thread::scope(|scope| {
        let act = &act;
        let acting = |at| {
            scope.spawn(move || {
                let mut client = Client::new(address);
                act(at, &mut client);
                client
            })
        };
        let threads: Vec<_> = (0..count).map(acting).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// `count` persistent messages of `size` octets are published and confirmed, then delivered to one
/// consumer that acknowledges none.
fn unacked(address: SocketAddr, count: usize, size: usize) -> Vec<Client> {
    let (mut publisher, mut consumer) = (Client::new(address), Client::new(address));
    publisher.call(&methods::declare(1, b"unacked", &DURABLE), 50, 11);
    let one = methods::publish(1, b"", b"unacked", false, &content(size, PERSISTENT));
    for _ in 0..count / 100 {
        publisher.send(&one.repeat(100));
    }
    publisher.call(&methods::declare(1, b"unacked", &DURABLE), 50, 11);
    consumer.send(&methods::consume(1, b"unacked", b"c", &[false; 4]));
    consumer.until(60, 21);
    // basic.deliver with its short strings, the content header with one property, the body.
    let delivery = 8 + (4 + 2 + 8 + 1 + 1 + 8) + 8 + (14 + 1) + 8 + size;
    consumer.skip((delivery * count) as u64);
    vec![publisher, consumer]
}

/// Four clients announce bodies of 16 MiB on 15 channels each, and send most of them.
fn partial_bodies(address: SocketAddr) -> Vec<Client> {
    const CHANNELS: u16 = 15;
    const FRAMES: usize = 115;
    side_by_side(address, 4, |_, client| {
        for channel in 2..=CHANNELS {
            client.call(&methods::open(channel), 20, 11);
        }
        let size = 16 * MIB;
        let head = [&[0, 60, 0, 0], &size.to_be_bytes()[..], NO_PROPERTIES].concat();
        for channel in 1..=CHANNELS {
            let start = methods::publish(channel, b"", b"nowhere", false, &methods::frame(2, channel, &head));
            client.send(&start);
        }
        let bodies: Vec<_> =
            (1..=CHANNELS).map(|channel| methods::frame(3, channel, &vec![b'y'; FRAME_MAX - 8])).collect();
        for _ in 0..FRAMES {
            if !bodies.iter().all(|body| client.offer(body)) {
                return;
            }
        }
    })
}

/// Thirty clients publish mandatory messages of 100 KB to nowhere, and do not read.
fn unread_returns(address: SocketAddr) -> Vec<Client> {
    let one = methods::publish(1, b"", b"nowhere", true, &content(100_000, NO_PROPERTIES));
    side_by_side(address, 30, |_, client| {
        let _ = (0..400).all(|_| client.offer(&one));
    })
}

/// Clients that ask and do not read the answers.
fn unread_answers(address: SocketAddr, count: usize) -> Vec<Client> {
    let name = [b'n'; 255];
    let mut other = Client::new(address);
    other.call(&methods::declare(1, &name, &TRANSIENT), 50, 11);
    let asked = methods::declare(1, &name, &[true, false, false, false, false]).repeat(1_000);
    let mut clients = side_by_side(address, count, |_, client| {
        let _ = (0..60).all(|_| client.offer(&asked));
    });
    clients.push(other);
    clients
}

/// Queues with arguments of 100 kB each, until the broker has no room for more.
fn definitions(address: SocketAddr, queues: usize) -> Vec<Client> {
    let mut client = Client::new(address);
    let argument = [&b"\x06x-noteS\0\x01\x86\xa0"[..], &[b'z'; 100_000]].concat();
    for at in 0..queues {
        let bits = EXCLUSIVE_NO_WAIT;
        let name = format!("note-{at}");
        let declare = Fields::new().short(0).name(name.as_bytes()).bits(&bits).text(&argument).method(1, 50, 10);
        if !client.write(&declare, PATIENCE) {
            break;
        }
    }
    // Its answer, or why the connection is closed.
    let _ = client.write(&Fields::new().long(0).short(0).bits(&[false]).method(1, 60, 10), PATIENCE);
    let (heard, payload) = client.hear();
    if heard == Heard::Method(10, 50) {
        let text = String::from_utf8_lossy(&payload[7..]).into_owned();
        assert_eq!(payload[4..6], 506_u16.to_be_bytes(), "{text}");
        assert!(text.contains("no memory is left"), "{text}");
    } else {
        assert_eq!(heard, Heard::Method(60, 11));
    }
    vec![client]
}

/// Strangers that leave 131,000 octets each before they have logged in.
fn strangers(address: SocketAddr) -> Vec<TcpStream> {
    let start = [&[1, 0, 0], &130_990_u32.to_be_bytes()[..], &[0, 10, 0, 11], &[0; 130_000]].concat();
    let one = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        // What it does not take is refused or left unread.
        let _ = stream.write_all(methods::HEADER).and_then(|()| stream.write_all(&start));
        Some(stream)
    };
    (0..900).filter_map(one).collect()
}

/// Transient messages to a fanout of many queues, until the publisher is held back.
fn fanout(address: SocketAddr, queues: usize, messages: usize, size: usize) -> Vec<Client> {
    let (mut owner, mut publisher) = (Client::new(address), Client::new(address));
    for at in 0..queues {
        let name = format!("fanout-{at}");
        owner.send(&[methods::declare(1, name.as_bytes(), &EXCLUSIVE_NO_WAIT), bind(&name, "amq.fanout")].concat());
    }
    owner.call(&methods::declare(1, b"last", &TRANSIENT), 50, 11);
    let one = methods::publish(1, b"amq.fanout", b"", false, &content(size, NO_PROPERTIES));
    let _ = (0..messages).all(|_| publisher.offer(&one));
    vec![owner, publisher]
}

/// Clients with a message that names thousands of queues in its header `CC`, of which the first
/// copy was routed.
struct CarbonCopies {
    clients: Vec<Client>,
    message: Vec<u8>,
}

fn carbon_copy(address: SocketAddr, queues: usize) -> CarbonCopies {
    let (mut owner, mut publisher) = (Client::new(address), Client::new(address));
    let mut keys = Vec::new();
    for at in 0..queues {
        let name = format!("c{at}");
        owner.send(&methods::declare(1, name.as_bytes(), &EXCLUSIVE_NO_WAIT));
        keys.extend([&b"S"[..], &(name.len() as u32).to_be_bytes(), name.as_bytes()].concat());
    }
    owner.call(&methods::declare(1, b"last", &TRANSIENT), 50, 11);
    let array = [&b"\x02CCA"[..], &(keys.len() as u32).to_be_bytes(), &keys].concat();
    let properties = [&b"\x20\0"[..], &(array.len() as u32).to_be_bytes(), &array].concat();
    let one = methods::publish(1, b"", b"nowhere", false, &content(16, &properties));
    publisher.send(&one);
    publisher.call(&methods::declare(1, b"last", &TRANSIENT), 50, 11);
    let found = owner.call(&methods::declare(1, b"c0", &[true, false, false, false, false]), 50, 11);
    // Behind ids and name: the number of messages.
    assert_eq!(found[4..11], *b"\x02c0\0\0\0\x01");
    CarbonCopies { clients: vec![publisher, owner], message: one }
}

impl CarbonCopies {
    /// Publishes the message again and again, until the publisher is held back.
    fn flood(mut self, messages: usize) -> Vec<Client> {
        let _ = (1..messages).all(|_| self.clients[0].offer(&self.message));
        self.clients
    }
}

/// Clients that publish to as many routing keys as a connection remembers, and stay.
fn many_keys(address: SocketAddr, count: usize) -> Vec<Client> {
    let content = content(0, NO_PROPERTIES);
    let publish = |at: usize| methods::publish(1, b"amq.direct", format!("{at:0>250}").as_bytes(), false, &content);
    let all: Vec<u8> = (0..1_024).flat_map(publish).collect();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::new(address);
        client.send(&all);
        client.call(&methods::open(2), 20, 11);
        clients.push(client);
    }
    clients
}

#[test]
fn routes_of_many_keys() {
    let broker = Broker::start();
    let clients = many_keys(broker.address, 600);
    broker.check_bounds(clients);
}

#[test]
fn messages_delivered_and_not_acknowledged() {
    let broker = Broker::start();
    let clients = unacked(broker.address, 40_000, 4_096);
    broker.check_bounds(clients);
}

#[test]
fn bodies_that_are_never_finished() {
    let broker = Broker::start();
    let clients = partial_bodies(broker.address);
    broker.check_bounds(clients);
}

#[test]
fn returned_messages_that_nobody_reads() {
    let broker = Broker::start();
    let clients = unread_returns(broker.address);
    broker.check_bounds(clients);
}

#[test]
fn answers_that_nobody_reads() {
    let broker = Broker::start();
    let clients = unread_answers(broker.address, 20);
    broker.check_bounds(clients);
}

#[test]
fn large_definitions() {
    let broker = Broker::start();
    let clients = definitions(broker.address, 1_500);
    broker.check_bounds(clients);
}

#[test]
fn strangers_before_their_login() {
    let broker = Broker::start();
    let clients = strangers(broker.address);
    broker.check_bounds(clients);
}

#[test]
fn a_fanout_to_many_queues() {
    let broker = Broker::start();
    let clients = fanout(broker.address, 2_000, 1_500, 22_000);
    let journal = broker.journal_octets();
    assert!(journal <= 4 * 64 * MIB, "{} MiB in the journal", journal / MIB);
    broker.check_bounds(clients);
}

#[test]
fn copies_for_thousands_of_queues() {
    let broker = Broker::start();
    let clients = carbon_copy(broker.address, 11_500).flood(100);
    broker.check_bounds(clients);
}

#[test]
fn all_of_it_at_once() {
    let broker = Broker::start();
    let address = broker.address;
    // Before others raise the alarm, under which nothing of it would be taken.
    let copies = carbon_copy(address, 2_000);
    let clients = std::thread::scope(|scope| {
        let parts = [
            scope.spawn(move || partial_bodies(address)),
            scope.spawn(move || unread_returns(address)),
            scope.spawn(move || unread_answers(address, 10)),
            scope.spawn(move || definitions(address, 200)),
            scope.spawn(move || fanout(address, 500, 500, 22_000)),
            scope.spawn(move || copies.flood(60)),
        ];
        let strangers = strangers(address);
        (parts.map(|part| part.join().unwrap()), strangers)
    });
    broker.check_bounds(clients);
}
