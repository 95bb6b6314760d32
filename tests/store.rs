//! The store of the real program: what lies in a data directory, what is refused, and what
//! `leveret store` says and mends. And a broker whose disk fails.

use conformance::peer;
#[expect(dead_code, reason = "one module for all tests, of which each needs a part")]
mod process;

use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use leveret::{Broker, Config};
use leveret_journal::simulated::SimulatedDisk;
use peer::Peer;
use peer::text::fields;
use process::{Directory, Process, leveret};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

async fn connect(address: SocketAddr) -> (Connection, Channel) {
    let url = format!("amqp://{address}/%2f");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("kept".into(), options, FieldTable::default()).await.unwrap();
    (connection, channel)
}

async fn publish(channel: &Channel, body: &[u8]) -> lapin::Result<bool> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
    Ok(channel.basic_publish("".into(), "kept".into(), options, body, properties).await?.await?.is_ack())
}

/// A directory with a queue of 20 messages, left by a broker that was ended this way.
async fn filled(signal: &str) -> Directory {
    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &[]);
    let (_connection, channel) = connect(address).await;
    for n in 0..20_u8 {
        assert!(publish(&channel, &[n; 1000]).await.unwrap());
    }
    process.signal(signal);
    process.end();
    directory
}

fn run(directory: &Directory, arguments: &[&str]) -> (i32, String) {
    let output = leveret(directory, arguments).stdout(std::process::Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

fn segment(directory: &Directory) -> PathBuf {
    let journal = directory.path().join("leveret-data/journal");
    let files = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

/// Changes the octet at this offset of the segment.
fn damage(directory: &Directory, offset: usize, change: impl Fn(u8) -> u8) {
    let path = segment(directory);
    let mut octets = std::fs::read(&path).unwrap();
    octets[offset] = change(octets[offset]);
    std::fs::write(path, octets).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_tells_what_is_there_and_changes_nothing() {
    let directory = filled("KILL").await;
    let (code, text) = run(&directory, &["store", "check", "--dir", "leveret-data"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("20 messages in 1 queues, 1 definitions") && text.contains("checkpoint: no"), "{text}");
    assert!(text.lines().any(|line| line.ends_with("  kept") && line.contains(" 20 ")), "{text}");
    let (code, text) = run(&directory, &["store", "check", "--dir", "leveret-data", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"], &json["queues"][0]["messages"]), (0, &true.into(), &20.into()));
    assert_eq!((&json["queues"][0]["name"], &json["queues"][0]["vhost"]), (&"kept".into(), &"/".into()));
    let (_process, _) = Process::serve(&directory, &[]);
    let (code, text) = run(&directory, &["store", "check", "--dir", "leveret-data"]);
    assert!(code == 1 && text.contains("is used by another broker (pid "), "{text}");
    let (code, text) = run(&directory, &["store", "check", "--dir", "nowhere"]);
    assert_eq!((code, text.as_str()), (1, "leveret: nowhere holds no store\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_stops_the_start_until_it_is_repaired() {
    let directory = filled("KILL").await;
    // In the middle of what was synced: about the fifth message.
    damage(&directory, 6_000, |octet| octet ^ 1);
    let (code, log) = run(&directory, &["--bind", "127.0.0.1:0"]);
    let last = log.lines().last().unwrap_or_default();
    assert!(code == 1 && last.contains("is damaged at octet") && last.contains("leveret store check"), "{log}");
    let (code, text) = run(&directory, &["store", "check", "--dir", "leveret-data"]);
    assert!(code == 1 && text.starts_with("DAMAGED: "), "{text}");
    let before = std::fs::read(segment(&directory)).unwrap();
    let (code, text) = run(&directory, &["store", "repair", "--dir", "leveret-data"]);
    assert!(code == 1 && text.contains("Nothing was changed") && text.contains("octets from octet"), "{text}");
    assert!(before == std::fs::read(segment(&directory)).unwrap());
    let (code, text) = run(&directory, &["store", "repair", "--dir", "leveret-data", "--yes"]);
    assert!(code == 0 && text.contains("19 messages in 1 queues"), "{text}");
    let (code, text) = run(&directory, &["store", "repair", "--dir", "leveret-data"]);
    assert_eq!((code, text.as_str()), (0, "nothing is damaged\n"));
    let (_process, address) = Process::serve(&directory, &[]);
    let (_connection, channel) = connect(address).await;
    for n in (0..20_u8).filter(|n| *n != 5) {
        let found = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert!(found.is_some_and(|found| found.data == vec![n; 1000] || n > 3 && n < 7), "{n}");
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_reads_the_messages_and_no_second_broker_gets_in() {
    let directory = filled("TERM").await;
    let data = directory.path().join("leveret-data");
    let files = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    };
    let check = || {
        assert_eq!((mode(&data), mode(&data.join("journal"))), (0o700, 0o700));
        for path in files(&data).into_iter().chain(files(&data.join("journal"))) {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    };
    check();
    // As an earlier version has left it.
    for path in [data.clone(), data.join("journal"), segment(&directory)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (process, _) = Process::serve(&directory, &[]);
    check();
    let said = process.log.iter().filter(|line| line.contains("WARN") && line.contains("other users could read these"));
    assert_eq!(said.count(), 2, "{:?}", process.log);
    // The lock is the directory's.
    std::fs::remove_file(data.join("leveret.lock")).unwrap();
    let (code, log) = run(&directory, &["--bind", "127.0.0.1:0"]);
    assert!(code == 1 && log.contains("is used by another broker"), "{log}");
}

/// The octets of the messages lie one behind the other, each in a batch of its own: where the body
/// of the nth begins.
fn body_of(directory: &Directory, n: u8) -> usize {
    let octets = std::fs::read(segment(directory)).unwrap();
    octets.windows(1000).position(|window| window == [n; 1000]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_back_costs_itself_only() {
    let directory = filled("TERM").await;
    for n in [3, 4, 19] {
        damage(&directory, body_of(&directory, n) + 500, |octet| octet ^ 1);
    }
    let (mut process, address) = Process::serve(&directory, &[]);
    let (_connection, channel) = connect(address).await;
    for n in (0..19_u8).filter(|n| !(3..5).contains(n)) {
        let found = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert_eq!(found.unwrap_or_else(|| panic!("{n}: {:?}", process.log)).data, vec![n; 1000], "{n}");
    }
    assert!(channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap().is_none());
    assert!(publish(&channel, b"later").await.unwrap());
    process.signal("TERM");
    assert!(process.end().success());
    let lost: Vec<&String> = process
        .log
        .iter()
        .filter(|line| line.contains("message lost: it cannot be read from the journal queue=kept id="))
        .collect();
    assert_eq!(lost.len(), 3, "{:?}", process.log);
    assert!(
        lost.iter().all(|line| line.contains("queue=kept") && line.contains("file=\"0000000001.journal\" offset="))
    );
    // They are settled: nobody hears of them again.
    let (process, address) = Process::serve(&directory, &[]);
    let (_connection, channel) = connect(address).await;
    let found = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert_eq!(found.unwrap().data, b"later");
    assert!(!process.log.iter().any(|line| line.contains("lost")), "{:?}", process.log);
}

/// Awaits a line that has this in it, unless it was read already.
fn logged(process: &mut Process, part: &str) {
    if !process.log.iter().any(|line| line.contains(part)) {
        process.line(part);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_behind_a_checkpoint_is_logged_before_anybody_consumes() {
    let directory = filled("TERM").await;
    let (mut process, _) = Process::serve(&directory, &[]);
    logged(&mut process, "store: checked in the background: sound messages=20");
    process.signal("TERM");
    assert!(process.end().success());
    for n in [3, 4] {
        damage(&directory, body_of(&directory, n) + 500, |octet| octet ^ 1);
    }
    let (mut process, address) = Process::serve(&directory, &[]);
    for message in [4, 5] {
        logged(
            &mut process,
            &format!("a message is damaged: it cannot be delivered queue=1 id={message} file=\"0000000001.journal\""),
        );
    }
    logged(&mut process, "store: checked in the background: damaged messages=20 damaged=2");
    let (_connection, channel) = connect(address).await;
    assert!(publish(&channel, b"later").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_may_repair_gives_up_what_is_damaged_and_serves() {
    let directory = filled("KILL").await;
    damage(&directory, body_of(&directory, 5) + 500, |octet| octet ^ 1);
    let (code, log) = run(&directory, &["--bind", "127.0.0.1:0"]);
    assert!(code == 1 && log.contains("is damaged at octet"), "{log}");
    let (process, address) = Process::serve(&directory, &["--repair"]);
    let given_up: Vec<&String> = process.log.iter().filter(|line| line.contains("given up: ")).collect();
    assert!(given_up.len() == 1 && given_up[0].contains("file=\"0000000001.journal\" offset="), "{:?}", process.log);
    let (_connection, channel) = connect(address).await;
    for n in (0..20_u8).filter(|n| *n != 5) {
        let found = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert_eq!(found.unwrap_or_else(|| panic!("{n}: {:?}", process.log)).data, vec![n; 1000], "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_missing_is_missed() {
    for signal in ["TERM", "KILL"] {
        let directory = filled(signal).await;
        std::fs::remove_file(segment(&directory)).unwrap();
        let (code, log) = run(&directory, &["--bind", "127.0.0.1:0"]);
        assert!(code == 1 && log.contains("0000000001.journal is missing"), "{signal}: {log}");
        let (code, text) = run(&directory, &["store", "repair", "--dir", "leveret-data", "--yes"]);
        assert!(code == 0 && text.contains("0000000001.journal: 0 octets from octet 0: it is missing"), "{text}");
        let _ = Process::serve(&directory, &[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_a_checkpoint_and_an_ephemeral_broker_nothing() {
    let directory = filled("TERM").await;
    let (_, text) = run(&directory, &["store", "check", "--dir", "leveret-data"]);
    assert!(text.contains("20 messages") && text.contains("checkpoint: yes"), "{text}");
    let (mut process, _) = Process::serve(&directory, &[]);
    assert!(process.log.iter().any(|line| line.contains("from_checkpoint=true")), "{:?}", process.log);
    process.signal("TERM");
    process.end();

    let directory = Directory::new();
    let (mut process, address) = Process::serve(&directory, &["--ephemeral"]);
    let (_connection, channel) = connect(address).await;
    assert!(publish(&channel, b"x").await.unwrap());
    process.signal("TERM");
    process.end();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_nearly_full_disk_holds_publishers_and_nobody_else() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let disk = SimulatedDisk::new(3, 1 << 30);
    let config = Config { bind: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let broker = runtime.block_on(Broker::start_on(config, Arc::new(disk.clone()))).unwrap();
    let client = || {
        let mut peer = Peer::open(broker.address()).unwrap();
        peer.patience = Duration::from_secs(20);
        assert_eq!(peer.call(1, "channel.open", "").unwrap().method(), Some("channel.open-ok"));
        peer
    };
    let (mut publisher, mut other) = (client(), client());
    publisher.call(1, "confirm.select", "").unwrap();
    publisher.call(1, "queue.declare", "queue=kept durable").unwrap();
    let publish = |peer: &mut Peer| {
        let method = fields("exchange=\"\" routing-key=kept").unwrap();
        peer.publish(1, &method, &fields("delivery-mode=2").unwrap(), b"m").unwrap();
    };
    publish(&mut publisher);
    assert_eq!(publisher.recv().method(), Some("basic.ack"));
    // Room for the next segment, but with that less than `disk_free_limit` is left.
    disk.set_capacity(disk.used() + 100_000_000);
    let blocked = loop {
        publish(&mut publisher);
        let heard = publisher.recv();
        if heard.method() != Some("basic.ack") {
            break heard;
        }
    };
    assert_eq!(blocked.to_string(), "0 connection.blocked reason=\"low on disk\"");
    // Who does not publish is served.
    let got = other.call(1, "basic.get", "queue=kept").unwrap();
    assert_eq!(got.method(), Some("basic.get-ok"));
    disk.set_capacity(1 << 30);
    loop {
        match publisher.recv().method() {
            Some("basic.ack") => {}
            other => break assert_eq!(other, Some("connection.unblocked")),
        }
    }
    publish(&mut publisher);
    assert_eq!(publisher.recv().method(), Some("basic.ack"));
    runtime.block_on(broker.shutdown()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_confirms_nothing_and_ends_the_broker() {
    let disk = SimulatedDisk::new(3, 1 << 40);
    let config = || Config { bind: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let broker = Broker::start_on(config(), Arc::new(disk.clone())).await.unwrap();
    let (connection, channel) = connect(broker.address()).await;
    let (idle, _) = connect(broker.address()).await;
    assert!(publish(&channel, b"safe").await.unwrap());
    disk.fail_at(disk.calls() + 1, io::ErrorKind::Other);
    let refused = tokio::time::timeout(Duration::from_secs(10), publish(&channel, b"not safe")).await.unwrap();
    assert!(!refused.unwrap_or(false), "it was confirmed");
    let reason = tokio::time::timeout(Duration::from_secs(10), broker.failed()).await.unwrap();
    assert!(reason.contains("cannot"), "{reason}");
    assert!(broker.shutdown().await.is_err());
    assert!(!connection.status().connected() && !idle.status().connected());

    disk.restart(leveret_journal::simulated::Crash::PowerLoss);
    let broker = Broker::start_on(config(), Arc::new(disk)).await.unwrap();
    let (_connection, channel) = connect(broker.address()).await;
    let found = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert!(found.is_some_and(|found| found.data == b"safe"));
    broker.shutdown().await.unwrap();
}
