//! Differential steps: the scripts of `tests/steps/` are played against a broker, and what it answers is compared
//! with what RabbitMQ 4.3 answered, apart from the listed differences. It knows nothing of how the broker is made.
//!
//! `LEVERET_STEPS_URL=127.0.0.1:5672` plays them against another broker; with `LEVERET_STEPS_RECORD=<directory>` the
//! answers are recorded there instead of compared. `LEVERET_STEPS_CASE=<part of an id>` plays those cases alone and
//! prints what was heard. `LEVERET_STEPS_AGAINST=rabbitmq-3.10` compares with that
//! recording and allows no difference.

#[expect(dead_code, reason = "one peer for all tests, of which each needs a part")]
mod peer;
mod script;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use leveret::store::simulated::SimulatedDisk;
use leveret::{Broker, Config};

use script::{Recording, cases, differences, read_recording, write_recording};

/// Cases of one area that run at once.
const THREADS: usize = 16;
const LATEST: &str = "rabbitmq-4.3";

/// The broker of this test program: one for all cases, which use names of their own.
static LEVERET: OnceLock<SocketAddr> = OnceLock::new();

fn start_leveret() -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let bind = vec!["127.0.0.1:0".parse().expect("an address")];
            // What is persistent goes the whole way, to files that need no directory.
            let disk = Arc::new(SimulatedDisk::new(1, 1 << 40));
            let broker = Broker::start_on(Config { bind, ..Config::default() }, disk).await.expect("a broker");
            told.send(broker.address()).expect("the address is waited for");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the broker starts")
}

/// Where the broker under test listens.
fn broker_address() -> SocketAddr {
    match variable("LEVERET_STEPS_URL").map(|url| url.parse()) {
        Some(Ok(address)) => address,
        Some(Err(error)) => panic!("LEVERET_STEPS_URL is not an address and port: {error}"),
        None => *LEVERET.get_or_init(start_leveret),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steps")
}

fn recording(broker: &str, area: &str) -> Recording {
    read_recording(&directory().join(format!("recorded/{broker}/{area}.txt")))
}

/// Plays every case of an area, in the order of the file, a few at once.
fn play(area: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let address = broker_address();
    let wanted = variable("LEVERET_STEPS_CASE").unwrap_or_default();
    let mut cases = cases(&directory(), area)?;
    cases.retain(|case| case.id.contains(&wanted));
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((i, case)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(i).map(|case| (i, case))
                } {
                    let heard = script::run::run(case, address);
                    let heard = heard.map(|lines| (i, case.id.clone(), lines));
                    if let Ok(mut results) = results.lock() {
                        results.push(heard);
                    }
                }
            });
        }
    });
    let results = results.into_inner().map_err(|error| error.to_string())?;
    let mut results = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    results.sort();
    Ok(results.into_iter().map(|(_, id, lines)| (id, lines)).collect())
}

/// Where a broker does not answer as recorded and is not meant to differ, or is meant to and does not.
fn compare(
    broker: &str,
    area: &str,
    results: &[(String, Vec<String>)],
    recorded: &Recording,
) -> Result<Vec<String>, String> {
    let mut meant = differences(&directory().join("differences.toml"))?;
    if variable("LEVERET_STEPS_AGAINST").is_some() {
        meant.clear();
    }
    let mut faults = Vec::new();
    for (id, heard) in results {
        let Some(expected) = recorded.get(id) else {
            faults.push(format!("{id}: not recorded"));
            continue;
        };
        let difference = meant.iter().find(|difference| difference.covers(id, broker));
        let mut other = None;
        if let Some(difference) = difference {
            if heard == expected {
                faults.push(format!("{id}: not different, but listed: {}", difference.reason));
                continue;
            }
            other = match (&difference.follows, &difference.instead) {
                (Some(followed), _) => recording(followed, area).get(id).cloned(),
                (None, Some(instead)) => Some(instead.clone()),
                (None, None) => continue,
            };
        }
        let expected = other.as_ref().unwrap_or(expected);
        if heard != expected {
            let (expected, heard) = (expected.join("\n    "), heard.join("\n    "));
            faults.push(format!("{id}\n  expected\n    {expected}\n  heard\n    {heard}"));
        }
    }
    Ok(faults)
}

fn check(area: &str) -> Result<(), String> {
    let results = play(area)?;
    if variable("LEVERET_STEPS_CASE").is_some() {
        for (id, lines) in &results {
            println!("case {id}\n  {}", lines.join("\n  "));
        }
    }
    if let Some(target) = variable("LEVERET_STEPS_RECORD") {
        if variable("LEVERET_STEPS_CASE").is_some() {
            return Ok(());
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(target);
        let path = path.join(format!("{area}.txt"));
        return write_recording(&path, &results).map_err(|error| error.to_string());
    }
    let faults = match variable("LEVERET_STEPS_AGAINST") {
        Some(other) => compare(&other, area, &results, &recording(&other, area))?,
        None => compare("leveret", area, &results, &recording(LATEST, area))?,
    };
    match faults.as_slice() {
        [] => Ok(()),
        faults => Err(format!("{} of {} cases of {area}:\n{}", faults.len(), results.len(), faults.join("\n"))),
    }
}

macro_rules! areas {
    ($($name:ident $file:literal)*) => {
        const AREAS: &[&str] = &[$($file),*];
        $(
            #[test]
            fn $name() {
                if let Err(faults) = check($file) {
                    panic!("{faults}");
                }
            }
        )*
    };
}

areas! {
    ack_nack_reject "ack-nack-reject"
    alternate "alternate"
    basic_consume "basic-consume"
    basic_get "basic-get"
    binding "binding"
    cc_bcc "cc-bcc"
    channel "channel"
    confirm "confirm"
    connection_close "connection-close"
    e2e "e2e"
    exchange "exchange"
    expiration "expiration"
    framing "framing"
    handshake "handshake"
    headers_exchange "headers-exchange"
    names "names"
    publish_return "publish-return"
    qos "qos"
    queue "queue"
    queue_arguments "queue-arguments"
    queue_kinds "queue-kinds"
    recover "recover"
    redelivery "redelivery"
    reply_to "reply-to"
    server_only "server-only"
    tables "tables"
    topic "topic"
    tune "tune"
    tx "tx"
    user_id "user-id"
}

#[test]
fn every_script_is_listed() {
    let mut files: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".steps").map(str::to_owned)
        })
        .collect();
    files.sort();
    let mut listed = AREAS.to_vec();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

#[test]
fn the_two_rabbitmqs_differ_only_where_listed() {
    let mut all = Vec::new();
    if variable("LEVERET_STEPS_URL").is_some() {
        return;
    }
    for area in AREAS {
        let older: Vec<_> = recording("rabbitmq-3.10", area).into_iter().collect();
        all.extend(compare("rabbitmq-3.10", area, &older, &recording(LATEST, area)).unwrap());
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
