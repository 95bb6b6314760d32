//! The real program, killed again and again while clients work, on one data directory: what was confirmed is there, once, in order and
//! whole; what was settled for sure does not return; nothing else is invented.
//!
//! `LEVERET_TEST_CRASH_ROUNDS=1000` for a long run, `LEVERET_TEST_CRASH_SEED` for the same again (as far as timing allows).

#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/load.rs"]
mod load;
mod process;

use lapin::options::*;
use lapin::types::FieldTable;
use ledger::Found;
use load::{Dice, QUEUES, Shared, TRANSACTED};
use process::{Directory, Process};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Reads a queue empty without acknowledging: the messages are there again when the connection is closed.
async fn read(channel: &lapin::Channel, queue: &str) -> Vec<Found> {
    let mut found = Vec::new();
    while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
        let id = load::id_of(&message.data, &message.properties);
        let id = id.unwrap_or_else(|| panic!("{queue}: not as published: {:?}", message.properties));
        found.push(Found { id, redelivered: message.redelivered });
    }
    found
}

/// After a start: everything is as the ledger says. True: all queues are empty now.
async fn check(address: SocketAddr, ledger: &Shared, known: &BTreeMap<String, bool>, dice: &mut Dice) -> Vec<String> {
    let (connection, channel) = load::connect(address).await.unwrap();
    let mut wrong = Vec::new();
    let mut ids = BTreeMap::new();
    for queue in QUEUES.into_iter().chain(TRANSACTED) {
        let found = read(&channel, queue).await;
        wrong.extend(ledger.lock().unwrap().check(queue, &found));
        ids.insert(queue.to_owned(), found.iter().map(|found| found.id).collect::<Vec<_>>());
    }
    wrong.extend(ledger.lock().unwrap().check_transactions(&ids));
    for (name, exists) in known {
        let look = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let is_there = look.queue_declare(name.as_str().into(), options, FieldTable::default()).await.is_ok();
        if is_there != *exists {
            wrong.push(format!("queue {name}: there: {is_there}, answered: {exists}"));
        }
    }
    let look = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    if look.queue_declare("passing".into(), options, FieldTable::default()).await.is_ok() {
        wrong.push("a queue that is not durable came back".to_owned());
    }
    if dice.below(3) == 0 {
        let all = BasicAckOptions { multiple: true };
        channel.basic_ack(0, all).await.unwrap();
        ledger.lock().unwrap().clear();
    } else {
        ledger.lock().unwrap().settle(&ids);
    }
    connection.close(200, "".into()).await.unwrap();
    wrong
}

async fn rounds(rounds: u64, seed: u64, config: &str) {
    let directory = Directory::new();
    directory.write("config.toml", config);
    let (ledger, known) = (Shared::default(), Arc::new(Mutex::new(BTreeMap::new())));
    let mut dice = Dice(seed);
    let mut confirmed = 0;
    for round in 0..rounds {
        let (mut process, address) = Process::serve(&directory, &["--data-dir", "data"]);
        let (connection, channel) = load::connect(address).await.unwrap();
        load::declare(&channel).await.unwrap();
        connection.close(200, "".into()).await.unwrap();
        let so_far = known.lock().unwrap().clone();
        let wrong = check(address, &ledger, &so_far, &mut dice).await;
        assert!(
            wrong.is_empty(),
            "seed {seed}, round {round}:\n{}\nlog:\n{}",
            wrong.join("\n"),
            process.log.join("\n")
        );
        let mut clients = JoinSet::new();
        let number = round as u32 * 8;
        for client in 0..3 {
            clients.spawn(load::publisher(address, number + client, dice.below(1 << 30), Arc::clone(&ledger)));
        }
        clients.spawn(load::transactor(address, number + 3, dice.below(1 << 30), Arc::clone(&ledger)));
        for queue in &QUEUES[..2] {
            clients.spawn(load::consumer(address, queue, dice.below(1 << 30), Arc::clone(&ledger)));
        }
        clients.spawn(load::definer(address, round as u32, Arc::clone(&known)));
        // The moment of the crash is what is drawn here: there is nothing to wait for.
        tokio::time::sleep(Duration::from_millis(20 + dice.below(400))).await;
        process.signal("KILL");
        process.end();
        // Not all of them notice that the broker is gone.
        clients.abort_all();
        while let Some(ended) = clients.join_next().await {
            assert!(!ended.is_err_and(|error| error.is_panic()), "a client panicked");
        }
        confirmed += ledger.lock().unwrap().confirmed_count();
    }
    assert!(confirmed as u64 > rounds * 20, "there was hardly any load: {confirmed} confirmed in {rounds} rounds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kills() {
    let seed = variable("LEVERET_TEST_CRASH_SEED", 1);
    rounds(variable("LEVERET_TEST_CRASH_ROUNDS", 50), seed, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_syncs_it_survives_kills_all_the_same() {
    rounds(5, variable("LEVERET_TEST_CRASH_SEED", 2), "[store]\nsync = \"os\"\n").await;
}
