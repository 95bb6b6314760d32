//! `leveret perf` as its user runs it, against brokers of this crate: what it counts, prints and
//! returns.

use conformance::peer;
#[expect(dead_code, reason = "one process for all tests, of which each needs a part")]
mod process;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::net::SocketAddr;
use std::process::Stdio;

use process::{Directory, Process, leveret};
use running::{call, client, start};
use serde_json::Value;

/// Result of a run.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.stdout, self.stderr))
    }
}

fn perf(address: SocketAddr, arguments: &str) -> Ran {
    let directory = Directory::new();
    let url = format!("amqp://guest:guest@{address}/%2F");
    let mut command = leveret(&directory, &["perf", "--url", &url]);
    let output = command.args(arguments.split_whitespace()).stdout(Stdio::piped()).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A run without faults.
fn good(address: SocketAddr, arguments: &str) -> Value {
    let ran = perf(address, &format!("{arguments} --json --quiet"));
    let json = ran.json();
    assert_eq!((ran.code, ran.stderr.as_str(), &json["ok"]), (Some(0), "", &Value::Bool(true)), "{arguments}: {json}");
    json
}

fn number(json: &Value, path: &str) -> f64 {
    json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {path} in {json}"))
}

fn queues(address: SocketAddr, name: &str) -> bool {
    let mut peer = client(address, "");
    peer.call(1, "queue.declare", &format!("queue={name}-00000 passive")).unwrap().method() == Some("queue.declare-ok")
}

#[test]
fn publishes_and_consumes_in_every_way() {
    let address = start(|_| {});
    for (arguments, copies) in [
        ("", 1),
        ("--ack each --prefetch 10", 1),
        ("--ack batch=7 --prefetch 100 --persistent", 1),
        ("--confirm 50 --mandatory", 1),
        ("--size 1024 --producers 2 --consumers 3 --queues 2", 1),
        ("--size 300000 --count 20", 1),
        ("--queues 5 --channels 2 --consumers 2 --confirm 10", 1),
        ("--exchange fanout --bindings 3", 3),
        ("--exchange topic --queues 20 --bindings 100", 10),
        ("--exchange topic", 1),
        ("--exchange topic --queues 10 --bindings 105 --keys 40 --producers 2", 10),
        ("--exchange direct --queues 3 --keys 20 --producers 2", 1),
        ("--exchange headers --queues 2 --keys 5", 1),
        ("--exchange fanout --queues 2 --keys 5 --confirm 20", 2),
        ("--exchange direct --queues 3 --bindings 50", 1),
        ("--exchange headers --queues 3 --producers 3", 1),
        ("--size 10", 1),
        ("--size 0", 1),
        ("--consume-after", 1),
        ("--consume-after --confirm 1 --persistent --mandatory", 1),
        ("--consumers 0 --queues 3", 0),
        ("--consumers 0 --confirm 1 --producers 2 --queues 2", 0),
    ] {
        let count = if arguments.contains("--count") { "" } else { "--count 1000" };
        let json = good(address, &format!("{arguments} {count}"));
        let published = number(&json, "/published/messages");
        assert_eq!(published, if count.is_empty() { 20.0 } else { 1000.0 }, "{arguments}");
        assert_eq!(number(&json, "/consumed/messages"), published * f64::from(copies), "{arguments}");
        let stamped = copies > 0 && !["--size 10", "--size 0"].contains(&arguments);
        let due = if stamped { published * f64::from(copies) } else { 0.0 };
        assert_eq!(number(&json, "/latency_us/count"), due, "{arguments}");
        let confirmed = if arguments.contains("--confirm") { published } else { 0.0 };
        assert_eq!(number(&json, "/confirmed"), confirmed, "{arguments}");
        assert_eq!(number(&json, "/confirm_latency_us/count"), confirmed, "{arguments}");
    }
}

#[test]
fn keeps_a_rate_and_a_time() {
    let address = start(|_| {});
    let json = good(address, "--rate 1000 --seconds 0.6 --warmup 0.1 --producers 2 --name paced");
    let published = number(&json, "/published/messages");
    assert!((400.0..=1300.0).contains(&published), "{json}");
    assert_eq!((&json["mode"], &json["seconds"].is_f64()), (&"load".into(), &true), "{json}");
    assert!(json["broker"].as_str().is_some_and(|broker| broker.starts_with("Leveret ")), "{json}");
    assert!(number(&json, "/latency_us/p50") <= number(&json, "/latency_us/p99"), "{json}");
    assert!(
        json["cpu_us_per_message"].is_null() && json["cpu_cores"].is_null() && json["resident_kib"].is_null(),
        "{json}"
    );
    assert!(!queues(address, "paced"), "its queue is still there");
}

#[test]
fn tells_people_what_it_does() {
    let address = start(|_| {});
    let ran = perf(address, "--seconds 1.3 --rate 500 --confirm 100");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for part in ["broker", "published", "consumed", "confirmed", "latency", "p99.9"] {
        assert!(ran.stdout.contains(part), "no {part} in {}", ran.stdout);
    }
    let line = ran.stderr.lines().next().unwrap_or_default();
    assert!(line.starts_with("   1 s  published ") && line.contains("backlog"), "{line}");
}

#[test]
fn a_message_that_is_lost_fails_the_run() {
    let address = start(|_| {});
    let mut thief = client(address, "");
    call(&mut thief, "queue.declare", "queue=shared-00000 durable auto-delete", "queue.declare-ok");
    call(&mut thief, "basic.consume", "queue=shared-00000 no-ack", "basic.consume-ok");
    let ran = perf(address, "--count 1000 --name shared --drain 0.3 --json --quiet");
    let json = ran.json();
    assert_eq!((ran.code, &json["ok"]), (Some(1), &Value::Bool(false)), "{json}");
    let lost = number(&json, "/lost");
    assert!(lost > 0.0 && lost + number(&json, "/consumed/messages") == 1000.0, "{json}");
    assert_eq!(json["faults"][0], format!("{lost} messages lost"), "{json}");
}

#[test]
fn a_message_of_somebody_else_fails_the_run() {
    let address = start(|_| {});
    let mut other = client(address, "");
    call(&mut other, "queue.declare", "queue=strange-00000 durable auto-delete", "queue.declare-ok");
    running::publish(&mut other, "strange-00000", &[0xff; 16]);
    assert_eq!(running::ready(&mut other, "strange-00000"), 1);
    let ran = perf(address, "--count 10 --name strange --drain 0.3 --json --quiet");
    assert_eq!((ran.code, number(&ran.json(), "/foreign")), (Some(1), 1.0));
}

#[test]
fn a_queue_that_is_deleted_fails_the_run() {
    let address = start(|_| {});
    let url = format!("amqp://{address}");
    let directory = Directory::new();
    let arguments = ["perf", "--url", &url, "--name", "gone", "--rate", "200", "--seconds", "60"];
    let mut running = Process::start(leveret(&directory, &arguments));
    running.line("1 s  published");
    let mut other = client(address, "");
    call(&mut other, "queue.delete", "queue=gone-00000", "queue.delete-ok");
    assert_eq!(running.end().code(), Some(1));
}

#[test]
fn a_broker_that_ends_is_told() {
    let directory = Directory::new();
    let (mut broker, address) = Process::serve(&directory, &[]);
    let url = format!("amqp://{address}");
    let mut running = Process::start(leveret(&directory, &["perf", "--url", &url, "--rate", "200", "--seconds", "60"]));
    running.line("1 s  published");
    broker.signal("TERM");
    assert_eq!(running.end().code(), Some(1));
    let log = running.log.join("\n");
    assert!(log.contains("leveret perf: "), "{log}");
    broker.end();
}

#[test]
fn waits_while_it_is_blocked() {
    held("--rate 500");
    // Here it is the publisher that listens.
    held("--confirm 1 --consume-after");
}

fn held(options: &str) {
    let address = start(|config| config.memory_high_watermark = 1 << 20);
    let mut other = client(address, "");
    call(&mut other, "queue.declare", "queue=full", "queue.declare-ok");
    // Whoever has published is not read any more, so somebody else purges.
    running::publish(&mut client(address, ""), "full", &vec![0; 2 << 20]);
    while call(&mut other, "queue.declare", "queue=full passive", "queue.declare-ok").field("message-count")
        != Some(&peer::value::Value::Number(1))
    {}
    let directory = Directory::new();
    let (url, out) = (format!("amqp://{address}"), directory.path().join("out"));
    let mut command = leveret(&directory, &["perf", "--url", &url, "--count", "600", "--json"]);
    let mut running = Process::start({
        command.args(options.split(' ')).stdout(std::fs::File::create(&out).unwrap());
        command
    });
    running.line("1 s  published");
    call(&mut other, "queue.purge", "queue=full", "queue.purge-ok");
    assert_eq!(running.end().code(), Some(0));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(number(&json, "/consumed/messages"), 600.0, "{options}");
    assert!(number(&json, "/held_seconds") > 0.5, "{options}: {json}");
}

#[test]
fn watches_the_broker_s_process() {
    // Each time a new one: a broker that has worked before may have room left, which hides what
    // things take.
    let watched = |options: &str| {
        let directory = Directory::new();
        let (broker, address) = Process::serve(&directory, &[]);
        good(address, &format!("{options} --pid {}", broker.id()))
    };
    let json = watched("--count 20000 --size 1024 --consume-after");
    assert!((1.0..3.0).contains(&number(&json, "/backlog_kib_each")), "{json}");
    assert!(number(&json, "/backlog_kib") <= number(&json, "/resident_kib/peak"), "{json}");
    let json = watched("--seconds 0.3");
    assert!(number(&json, "/cpu_us_per_message") > 0.0 && number(&json, "/resident_kib/peak") > 1000.0, "{json}");
    assert!(number(&json, "/cpu_cores") > 0.0, "{json}");
    let json = watched("--idle-queues 500 --seconds 0.1");
    assert_eq!((number(&json, "/queues"), &json["mode"]), (500.0, &"idle-queues".into()));
    assert!(number(&json, "/resident_kib_each") > 0.0, "{json}");
}

#[test]
fn finds_the_highest_rate() {
    let address = start(|_| {});
    let json = good(address, "--ramp 500 --rate 2000 --seconds 0.1 --size 1000");
    assert!(number(&json, "/rate") >= 2000.0 && number(&json, "/bound_ms") == 500.0, "{json}");
    let trials = json["trials"].as_array().map_or(0, Vec::len);
    assert!(trials > 1 && json["trials"][0]["held"] == true, "{json}");
}

#[test]
fn makes_and_unmakes() {
    let address = start(|_| {});
    for what in ["connections", "channels", "queues", "bindings"] {
        let json = good(address, &format!("--churn {what} --producers 2 --count 30"));
        assert_eq!((number(&json, "/operations"), &json["what"]), (30.0, &what.into()), "{json}");
        assert_eq!(number(&json, "/latency_us/count"), 30.0, "{json}");
    }
    let json = good(address, "--churn queues --persistent --seconds 0.2");
    assert!(number(&json, "/per_second") > 0.0, "{json}");
}

#[test]
fn holds_connections_with_their_heartbeats() {
    let address = start(|_| {});
    let json = good(address, "--idle-connections 20 --heartbeat 1 --seconds 2.5");
    assert_eq!((number(&json, "/connections"), number(&json, "/closed_by_broker")), (20.0, 0.0), "{json}");
    assert!(number(&json, "/heartbeats_heard") >= 20.0 && number(&json, "/heartbeats_sent") >= 20.0, "{json}");
}

#[test]
fn refuses_what_it_cannot_do() {
    let address = start(|_| {});
    for (arguments, code, text) in [
        ("--producers 0", 2, "--producers: expected at least 1"),
        ("--bindings 3", 2, "--bindings: only with --exchange"),
        ("--keys 3", 2, "--keys: only with --exchange"),
        ("--ack some", 2, "expected auto, each or batch=N"),
        ("--churn queues --ramp 5", 2, "cannot be used with"),
        ("--count 1 --queue-args x-max-length=many", 1, "PRECONDITION_FAILED"),
    ] {
        let ran = perf(address, arguments);
        assert_eq!(ran.code, Some(code), "{arguments}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{arguments}: {}", ran.stderr);
    }
    let directory = Directory::new();
    for (url, text) in [
        ("amqps://h".to_owned(), "expected amqp://"),
        (format!("amqp://guest:wrong@{address}"), "ACCESS_REFUSED"),
        (format!("amqp://{address}/nowhere"), "vhost nowhere not found"),
        ("amqp://127.0.0.1:1".to_owned(), "cannot connect to 127.0.0.1:1"),
    ] {
        let mut command = leveret(&directory, &["perf", "--count", "1", "--url", &url]);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(text), "{url}: {stderr}");
    }
}
