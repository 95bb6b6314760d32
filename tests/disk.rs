//! The broker and its disk: one that fails, one that is full, and a directory that others use or
//! that is not as it was left. What `tests/store.rs` shows with a client as they come is shown here
//! frame by frame.

use conformance::peer;
mod process;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leveret::{Broker, Config};
use leveret_journal::disk::{Disk, DiskFile};
use leveret_journal::simulated::{Crash, SimulatedDisk};
use peer::text::fields;
use peer::{Heard, Peer};
use process::{Directory, Process, leveret};
use running::{LONG, call, client, content, expect, number, ready, silence};
use tokio::runtime::Runtime;

const GB: u64 = 1_000_000_000;

/// A broker on this disk, with `disk_free_limit` octets.
fn start(runtime: &Runtime, disk: &SimulatedDisk, limit: u64) -> Broker {
    let bind = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { bind, disk_free_limit: limit, ..Config::default() };
    runtime.block_on(Broker::start_on(config, Arc::new(disk.clone()))).unwrap()
}

/// Publishes a persistent message to the durable queue `q`.
fn publish(peer: &mut Peer, body: &[u8]) {
    let properties = fields("delivery-mode=2").unwrap();
    peer.publish(1, &fields("routing-key=q").unwrap(), &properties, body).unwrap();
}

/// With a durable queue `q`, and in confirm mode.
fn publisher(address: std::net::SocketAddr) -> Peer {
    let mut peer = client(address, "");
    call(&mut peer, "queue.declare", "queue=q durable", "queue.declare-ok");
    call(&mut peer, "confirm.select", "", "confirm.select-ok");
    peer
}

/// Publishes and awaits the confirm.
fn confirmed(peer: &mut Peer, body: &[u8]) {
    publish(peer, body);
    expect(&peer.recv(), "basic.ack");
}

#[test]
fn a_sync_that_fails_ends_the_broker_and_nothing_confirmed_is_lost() {
    let runtime = Runtime::new().unwrap();
    let disk = SimulatedDisk::new(5, 100 * GB);
    let broker = start(&runtime, &disk, 0);
    let mut idle = client(broker.address(), "");
    let mut publisher = publisher(broker.address());
    confirmed(&mut publisher, b"kept");

    disk.fail_next_sync();
    publish(&mut publisher, b"never confirmed");
    for peer in [&mut publisher, &mut idle] {
        let heard = peer.recv();
        expect(&heard, "connection.close");
        assert_eq!(number(&heard, "reply-code"), 541, "{heard}");
        assert!(heard.to_string().contains("the store has failed: cannot sync segment 1"), "{heard}");
        peer.send(0, "connection.close-ok", "").unwrap();
        assert_eq!(peer.recv(), Heard::Closed);
    }
    let reason = runtime.block_on(async { tokio::time::timeout(LONG, broker.failed()).await }).unwrap();
    assert!(reason.contains("cannot sync segment 1"), "{reason}");
    // Who comes later is not served.
    let mut late = Peer::connect(broker.address()).unwrap();
    late.patience = LONG;
    let stopped = runtime.spawn(broker.shutdown());
    while late.recv() != Heard::Closed {}
    let reason = runtime.block_on(stopped).unwrap().unwrap_err().to_string();
    assert!(reason.contains("cannot sync"), "{reason}");

    disk.restart(Crash::PowerLoss);
    let broker = start(&runtime, &disk, 0);
    let mut reader = client(broker.address(), "");
    assert!((1..=2).contains(&ready(&mut reader, "q")));
    call(&mut reader, "basic.consume", "queue=q no-ack", "basic.consume-ok");
    assert_eq!(content(&mut reader).1, b"kept");
    runtime.block_on(broker.shutdown()).unwrap();
}

#[test]
fn who_waits_for_each_confirm_is_served_while_it_is_alone_and_when_the_disk_fails() {
    let runtime = Runtime::new().unwrap();
    let disk = SimulatedDisk::new(8, 100 * GB);
    let broker = start(&runtime, &disk, 0);
    let mut idle = client(broker.address(), "");
    let mut lone = publisher(broker.address());
    for n in 0..200_u8 {
        confirmed(&mut lone, &[n; 100]);
    }
    // Others come and go meanwhile; whoever has company is served as everybody is.
    let mut other = client(broker.address(), "");
    call(&mut other, "confirm.select", "", "confirm.select-ok");
    for n in 0..200_u8 {
        publish(&mut lone, &[n; 100]);
        publish(&mut other, &[n; 100]);
        [&mut lone, &mut other].into_iter().for_each(|peer| expect(&peer.recv(), "basic.ack"));
    }
    // What it says besides is heard at once.
    for n in 0..50_u8 {
        confirmed(&mut lone, &[n; 100]);
        call(&mut lone, "queue.declare", "queue=q durable passive", "queue.declare-ok");
    }
    assert_eq!(ready(&mut idle, "q"), 650);

    confirmed(&mut lone, b"kept");
    disk.fail_next_sync();
    publish(&mut lone, b"never confirmed");
    for peer in [&mut lone, &mut other, &mut idle] {
        let heard = peer.recv();
        expect(&heard, "connection.close");
        assert_eq!(number(&heard, "reply-code"), 541, "{heard}");
    }
    let reason = runtime.block_on(async { tokio::time::timeout(LONG, broker.failed()).await }).unwrap();
    assert!(reason.contains("cannot sync segment 1"), "{reason}");
    assert!(runtime.block_on(broker.shutdown()).is_err());
    disk.restart(Crash::PowerLoss);
    let broker = start(&runtime, &disk, 0);
    assert!((651..=652).contains(&ready(&mut client(broker.address(), ""), "q")));
    runtime.block_on(broker.shutdown()).unwrap();
}

/// A disk that takes its time to sync, once it is told to.
#[derive(Clone)]
struct Slow<T> {
    inner: T,
    takes: Arc<Mutex<Duration>>,
}

impl<T> Slow<T> {
    fn file(&self, file: std::io::Result<Arc<dyn DiskFile>>) -> std::io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Slow { inner: file?, takes: Arc::clone(&self.takes) }))
    }
}

impl Disk for Slow<SimulatedDisk> {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        self.file(self.inner.create(name))
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        self.file(self.inner.open(name))
    }
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.inner.list()
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.inner.remove(name)
    }
    fn sync_directory(&self) -> std::io::Result<()> {
        self.inner.sync_directory()
    }
    fn free_space(&self) -> std::io::Result<u64> {
        self.inner.free_space()
    }
}

impl DiskFile for Slow<Arc<dyn DiskFile>> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, octets: &[u8]) -> std::io::Result<()> {
        self.inner.write_at(offset, octets)
    }
    fn size(&self) -> std::io::Result<u64> {
        self.inner.size()
    }
    fn allocate(&self, size: u64) -> std::io::Result<()> {
        self.inner.allocate(size)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        std::thread::sleep(*self.takes.lock().unwrap());
        self.inner.sync_data()
    }
}

/// One thread runs all tasks: were it to wait for the disk, so would everybody.
#[test]
fn a_slow_disk_keeps_nobody_waiting_who_has_nothing_to_do_with_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let takes = Arc::new(Mutex::new(Duration::ZERO));
    let disk = Slow { inner: SimulatedDisk::new(9, 100 * GB), takes: Arc::clone(&takes) };
    let config = Config { bind: vec!["127.0.0.1:0".parse().unwrap()], disk_free_limit: 0, ..Config::default() };
    let broker = runtime.block_on(Broker::start_on(config, Arc::new(disk))).unwrap();
    let (mut lone, mut other) = (publisher(broker.address()), client(broker.address(), ""));
    call(&mut other, "queue.declare", "queue=passing", "queue.declare-ok");
    for n in 0..100_u8 {
        confirmed(&mut lone, &[n; 100]);
    }
    let slow = Duration::from_secs(3);
    *takes.lock().unwrap() = slow;
    let since = Instant::now();
    publish(&mut lone, b"takes its time");
    for _ in 0..20 {
        call(&mut other, "queue.declare", "queue=passing passive", "queue.declare-ok");
    }
    assert!(since.elapsed() < slow, "{:?}", since.elapsed());
    expect(&lone.recv(), "basic.ack");
    assert!(since.elapsed() >= slow, "nothing was slow");
    *takes.lock().unwrap() = Duration::ZERO;
    runtime.block_on(broker.shutdown()).unwrap();
}

#[test]
fn publishers_wait_while_the_disk_is_nearly_full_and_consumers_do_not() {
    let runtime = Runtime::new().unwrap();
    let disk = SimulatedDisk::new(6, 2 * GB);
    let broker = start(&runtime, &disk, 3 * GB / 2);
    let mut publisher = publisher(broker.address());
    confirmed(&mut publisher, b"0");

    disk.set_capacity(GB);
    let (mut sent, mut acked) = (1, 1);
    let blocked = loop {
        if acked == sent {
            publish(&mut publisher, sent.to_string().as_bytes());
            sent += 1;
        }
        match publisher.read(Instant::now() + Duration::from_millis(20)) {
            Heard::Timeout => {}
            heard if heard.method() == Some("basic.ack") => acked = number(&heard, "delivery-tag"),
            heard => break heard,
        }
    };
    assert_eq!(blocked.to_string(), "0 connection.blocked reason=\"low on disk\"");
    // The last one may have been read before: then it is confirmed all the same, for it is on the
    // disk.
    match publisher.read(Instant::now() + Duration::from_millis(500)) {
        Heard::Timeout => {}
        heard => acked = number(&heard, "delivery-tag"),
    }
    publish(&mut publisher, b"later");

    let mut consumer = client(broker.address(), "");
    call(&mut consumer, "basic.consume", "queue=q", "basic.consume-ok");
    for n in 0..acked {
        let (delivered, body) = content(&mut consumer);
        assert_eq!(body, n.to_string().as_bytes());
        let tag = format!("delivery-tag={}", number(&delivered, "delivery-tag"));
        consumer.send(1, "basic.ack", &tag).unwrap();
    }
    assert_eq!(ready(&mut consumer, "q"), 0);
    silence(&mut publisher, Duration::from_millis(300));

    disk.set_capacity(2 * GB);
    expect(&publisher.recv(), "connection.unblocked");
    while number(&publisher.recv(), "delivery-tag") <= sent {}
    for n in acked..sent {
        assert_eq!(content(&mut consumer).1, n.to_string().as_bytes());
    }
    assert_eq!(content(&mut consumer).1, b"later");
    runtime.block_on(broker.shutdown()).unwrap();
}

#[test]
fn a_write_that_finds_no_space_waits_for_some() {
    let runtime = Runtime::new().unwrap();
    // Segments of 1 MiB, and then somebody else takes the rest of the disk.
    let disk = SimulatedDisk::new(7, 9_000_000);
    let broker = start(&runtime, &disk, 0);
    let mut peer = client(broker.address(), "");
    call(&mut peer, "queue.declare", "queue=q durable", "queue.declare-ok");
    disk.set_capacity(disk.used());
    let note = "n".repeat(100_000);
    let mut answered = 0;
    loop {
        let declare = format!("queue=large-{answered} durable arguments={{x-note: \"{note}\"}}");
        peer.send(1, "queue.declare", &declare).unwrap();
        match peer.read(Instant::now() + Duration::from_secs(1)) {
            Heard::Timeout => break,
            heard => expect(&heard, "queue.declare-ok"),
        }
        answered += 1;
        assert!(answered < 100, "there is always space");
    }
    // What is not durable goes on meanwhile, and what is durable is refused.
    let mut other = client(broker.address(), "");
    call(&mut other, "queue.declare", "queue=passing", "queue.declare-ok");
    for declare in ["queue=another durable", "queue=q durable"] {
        other.send(1, "queue.declare", declare).unwrap();
        let heard = other.recv();
        if declare.starts_with("queue=q") {
            expect(&heard, "queue.declare-ok");
            continue;
        }
        let text = heard.to_string();
        assert!(text.contains("506") && text.contains("low on disk: cannot begin segment"), "{text}");
        other = client(broker.address(), "");
    }

    disk.set_capacity(GB);
    expect(&peer.recv(), "queue.declare-ok");
    call(&mut peer, "confirm.select", "", "confirm.select-ok");
    publish(&mut peer, b"x");
    // The alarm may last a moment longer.
    let before = ["connection.blocked", "connection.unblocked"].map(Some);
    let heard = std::iter::repeat_with(|| peer.recv()).find(|heard| !before.contains(&heard.method()));
    expect(&heard.unwrap(), "basic.ack");
    runtime.block_on(broker.shutdown()).unwrap();
}

/// Runs to the end; exit code and log.
fn refused(directory: &Directory) -> (Option<i32>, String) {
    let mut process = Process::start(leveret(directory, &["--bind", "127.0.0.1:0"]));
    let status = process.end();
    (status.code(), process.log.join("\n"))
}

/// Ten confirmed messages in `q`, each in a batch of its own, by a program that was killed or, with
/// `signal`, ended.
fn left_behind(directory: &Directory, signal: Option<&str>) -> PathBuf {
    let (mut process, address) = Process::serve(directory, &[]);
    let mut peer = publisher(address);
    for n in 0..10 {
        confirmed(&mut peer, &[n; 100]);
    }
    if let Some(signal) = signal {
        process.signal(signal);
        expect(&peer.recv(), "connection.close");
        peer.send(0, "connection.close-ok", "").unwrap();
        assert!(process.end().success());
    }
    directory.path().join("leveret-data/journal")
}

/// Changes the octets of a file.
fn mutate(path: &std::path::Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut octets = fs::read(path).unwrap();
    change(&mut octets);
    fs::write(path, octets).unwrap();
}

/// Where this body stands.
fn body_of(octets: &[u8], n: u8) -> usize {
    octets.windows(100).position(|window| window == [n; 100]).unwrap()
}

#[test]
fn a_torn_end_is_cut_and_told() {
    let directory = Directory::new();
    let segment = left_behind(&directory, None).join("0000000001.journal");
    mutate(&segment, |octets| {
        let at = body_of(octets, 9);
        octets[at + 50] ^= 1;
    });
    let (process, address) = Process::serve(&directory, &[]);
    let cut = process.log.iter().find(|line| line.contains("a torn end was cut")).unwrap();
    assert!(
        cut.contains("WARN") && cut.contains("file=\"0000000001.journal\" offset=") && cut.contains("records=1"),
        "{cut}"
    );
    assert_eq!(ready(&mut client(address, ""), "q"), 9);
}

#[test]
fn a_journal_of_a_later_version_is_refused() {
    let directory = Directory::new();
    let segment = left_behind(&directory, Some("TERM")).join("0000000001.journal");
    mutate(&segment, |octets| {
        octets[8] += 1;
        let crc = crc32c::crc32c(&octets[..40]);
        octets[40..44].copy_from_slice(&crc.to_le_bytes());
    });
    let (code, log) = refused(&directory);
    let expected = "leveret: data directory leveret-data: 0000000001.journal was written by a later version of Leveret (octet 8): start that version";
    assert_eq!((code, log.lines().last()), (Some(1), Some(expected)), "{log}");
}

#[test]
fn a_disk_smaller_than_the_limit_is_told_to_who_publishes() {
    let directory = Directory::new();
    directory.write("config.toml", "disk_free_limit = \"1000000000GB\"\n");
    let (process, address) = Process::serve(&directory, &[]);
    assert!(process.log.iter().any(|line| line.contains("disk alarm: publishers are held back")), "{:?}", process.log);
    let mut peer = publisher(address);
    publish(&mut peer, b"x");
    let blocked = peer.recv();
    assert_eq!(blocked.to_string(), "0 connection.blocked reason=\"low on disk\"");
    assert_eq!(ready(&mut client(address, ""), "q"), 0);
}

/// A file size limit stands in for a disk that refuses to write. There is no client that would need
/// it.
#[test]
fn a_broker_whose_disk_fails_ends_with_the_reason() {
    let directory = Directory::new();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_leveret")]);
    command.args(["--bind", "127.0.0.1:0"]).current_dir(directory.path()).stdin(Stdio::null());
    let mut process = Process::start(command);
    assert_eq!(process.end().code(), Some(1));
    let last = process.log.last().unwrap();
    assert!(last.starts_with("leveret: the store has failed: cannot make 0000000001.spare: "), "{last}");
}

#[test]
fn brokers_of_one_process_do_not_share_a_directory_and_one_that_is_dropped_leaves_it() {
    let runtime = Runtime::new().unwrap();
    let directory = Directory::new();
    let data_dir = directory.path().join("data");
    let start = || {
        let bind = vec!["127.0.0.1:0".parse().unwrap()];
        runtime.block_on(Broker::start(Config { bind, data_dir: data_dir.clone(), ..Config::default() }))
    };
    let first = start().unwrap();
    confirmed(&mut publisher(first.address()), b"kept");
    let error = start().unwrap_err().to_string();
    let expected = format!(
        "data directory {} is used by another broker (pid {}): stop it, or change `data_dir`",
        data_dir.display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    drop(first);
    let second = start().unwrap();
    assert_eq!(ready(&mut client(second.address(), ""), "q"), 1);
    runtime.block_on(second.shutdown()).unwrap();
}

#[test]
fn nothing_that_new_connections_publish_is_taken_while_the_disk_is_nearly_full() {
    const COUNT: usize = 300;
    let runtime = Runtime::new().unwrap();
    let disk = SimulatedDisk::new(9, 100 * GB);
    let broker = start(&runtime, &disk, 200 * GB);
    let mut other = client(broker.address(), "");
    call(&mut other, "queue.declare", "queue=q durable", "queue.declare-ok");
    let mut newcomers: Vec<_> = (0..COUNT).map(|_| client(broker.address(), "")).collect();
    for newcomer in &mut newcomers {
        call(newcomer, "confirm.select", "", "confirm.select-ok");
        publish(newcomer, b"one more");
        assert_eq!(newcomer.recv().to_string(), "0 connection.blocked reason=\"low on disk\"");
    }
    assert_eq!(ready(&mut other, "q"), 0);
    disk.set_capacity(1000 * GB);
    for newcomer in &mut newcomers {
        expect(&newcomer.recv(), "connection.unblocked");
        expect(&newcomer.recv(), "basic.ack");
    }
    assert_eq!(ready(&mut other, "q"), COUNT as u64);
    runtime.block_on(broker.shutdown()).unwrap();
}
