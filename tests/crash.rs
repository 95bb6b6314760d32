//! The real program, killed again and again while clients work, on one data directory: what was
//! confirmed is there, once, in order and whole; what was settled for sure does not return; nothing
//! else is invented. And the same program on a disk that fills up.
//!
//! `LEVERET_TEST_CRASH_ROUNDS=1000` for a long run, `LEVERET_TEST_CRASH_SEED` for the same again
//! (as far as timing allows).

#[path = "crash/check.rs"]
mod check;
#[path = "crash/client.rs"]
mod client;
#[path = "crash/full.rs"]
mod full;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/own.rs"]
mod own;
use conformance::peer;
mod process;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use check::There;
use client::{Client, Rng, Shared, Worked};
use history::History;
use process::{Directory, Process};

/// Publishers of a round, all its clients together; so no number is used twice.
const NUMBERS: u32 = 32;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn new_ledger() -> Shared {
    Arc::new(Mutex::new(History::new(load::ALONE)))
}

/// All clients of a round at their work.
fn work(
    address: SocketAddr,
    number: u32,
    rng: &mut Rng,
    history: &Shared,
    mut there: There,
) -> Vec<JoinHandle<Worked>> {
    type Work = fn(SocketAddr, u32, Rng, Shared) -> Worked;
    let works: [Work; 9] = [
        load::publish,
        load::publish,
        load::publish,
        load::consume,
        load::consume,
        load::transact,
        load::define,
        load::consume,
        load::publish,
    ];
    let mut clients = Vec::new();
    for (number, work) in (number..).zip(works) {
        let (rng, history) = (Rng(rng.below(1 << 30)), Arc::clone(history));
        clients.push(spawn(move || work(address, number, rng, history)));
    }
    for (number, queue) in (number + works.len() as u32..).zip(load::OWN) {
        let (rng, history) = (Rng(rng.below(1 << 30)), Arc::clone(history));
        let there = there.remove(queue).unwrap_or_default();
        clients.push(spawn(move || own::own(address, number, rng, history, queue, there)));
    }
    clients
}

/// Ends it: mostly at once, sometimes with time for a few words, or for all of them.
fn end(process: &mut Process, rng: &mut Rng, history: &Shared) {
    let mercy = rng.below(8);
    if mercy < 2 {
        history.lock().unwrap().ends();
        process.signal("TERM");
    }
    if mercy == 1 {
        sleep(Duration::from_millis(rng.below(30)));
    }
    if mercy > 0 {
        process.signal("KILL");
    }
    process.end();
}

fn rounds(rounds: u64, seed: u64, config: &str) {
    let directory = Directory::new();
    directory.write("config.toml", config);
    let history = new_ledger();
    let mut rng = Rng(seed);
    let (mut check_took, began) = (Duration::ZERO, Instant::now());
    for round in 0..rounds {
        if rng.one_in(4) {
            // A start that comes to nothing.
            let arguments = ["--bind", "127.0.0.1:0", "--data-dir", "data"];
            let mut process = Process::start(process::leveret(&directory, &arguments));
            sleep(Duration::from_millis(rng.below(80)));
            process.signal("KILL");
            process.end();
        }
        let (mut process, address) = Process::serve(&directory, &["--data-dir", "data"]);
        let number = round as u32 * NUMBERS;
        let since = Instant::now();
        let there = check::check(address, number, Rng(rng.below(1 << 30)), &history).expect("the broker is there");
        check_took += since.elapsed();
        right(&history, &process, seed, round);
        let mut client = Client::open(address, number + 2, Rng(0), &history).expect("the broker is there");
        load::declare(&mut client).expect("the broker is there");
        drop(client);
        let clients = work(address, number + 3, &mut rng, &history, there);
        if std::env::var_os("LEVERET_TEST_KEEP").is_some() {
            println!("round {round} {:?}", began.elapsed());
        }
        // The moment of the crash is what is drawn here: there is nothing to wait for.
        sleep(Duration::from_millis(20 + rng.below(400)));
        end(&mut process, &mut rng, &history);
        let ended: Vec<_> = clients.into_iter().map(JoinHandle::join).collect();
        right(&history, &process, seed, round);
        let log = process.log.join("\n");
        assert!(
            ended.iter().all(Result::is_ok),
            "seed {seed}, round {round}: a client found what cannot be\nlog:\n{log}"
        );
    }
    let history = history.lock().unwrap();
    println!(
        "{rounds} rounds in {:?}, {check_took:?} of it checks: {} confirms, {} deliveries",
        began.elapsed(),
        history.confirms,
        history.deliveries
    );
    assert!(history.confirms > rounds * 100, "there was hardly any load");
}

fn right(history: &Shared, process: &Process, seed: u64, round: u64) {
    let history = history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let few: Vec<_> = history.wrong.iter().take(20).cloned().collect();
    let (wrong, all, log) = (few.join("\n"), history.wrong.len(), process.log.join("\n"));
    assert!(few.is_empty(), "seed {seed}, round {round}, {all} mistakes:\n{wrong}\nlog:\n{log}");
}

#[test]
fn what_was_confirmed_survives_kills() {
    rounds(variable("LEVERET_TEST_CRASH_ROUNDS", 50), variable("LEVERET_TEST_CRASH_SEED", 1), "");
}

#[test]
fn without_syncs_it_survives_kills_all_the_same() {
    rounds(8, variable("LEVERET_TEST_CRASH_SEED", 2), "[store]\nsync = \"os\"\n");
}

#[test]
fn with_rare_syncs_it_survives_kills_all_the_same() {
    rounds(8, variable("LEVERET_TEST_CRASH_SEED", 3), "[store]\nsync = \"interval\"\nsync_interval_ms = 60000\n");
}
