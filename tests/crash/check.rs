//! After a start: everything is read, and held against the history.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::client::{Client, Event, Gone, Rng, Shared, Worked, number};
use crate::history::{Found, Sure};
use crate::load::{EXCHANGES, MARKS, OWN, PASSING, SHARED, TRANSACTED};
use crate::peer::text::{Fields, fields};

/// Messages of each queue when the work begins.
pub type There = BTreeMap<&'static str, Vec<Found>>;

/// Reads all queues and looks for all definitions. What is found stays, or is acknowledged for
/// good.
pub fn check(address: SocketAddr, number: u32, rng: Rng, history: &Shared) -> Result<There, Gone> {
    let mut look = Client::open(address, number, Rng(0), history)?;
    let mut client = Client::confirming(address, number + 1, rng, history)?;
    client.history().begins();
    let mut there = There::new();
    let mut tags = BTreeMap::new();
    for queue in SHARED.into_iter().chain(TRANSACTED).chain(OWN).chain(PASSING).chain([MARKS]) {
        let count = find(&mut look, &format!("queue {queue}"), "queue.declare", &format!("queue={queue}"))?;
        let messages = if let Some(count) = count { read(&mut client, queue, count)? } else { Vec::new() };
        let found: Vec<Found> = messages.iter().map(|(_, found)| *found).collect();
        client.history().check(queue, &found);
        tags.insert(queue, messages.iter().map(|(tag, _)| *tag).collect::<Vec<_>>());
        there.insert(queue, found);
    }
    for exchange in EXCHANGES {
        find(
            &mut look,
            &format!("exchange {exchange}"),
            "exchange.declare",
            &format!("exchange={exchange} type=direct"),
        )?;
    }
    for name in ["queue passing", "queue mine"] {
        find(&mut look, name, "queue.declare", &name.replace("queue ", "queue="))?;
    }
    find(&mut look, "exchange fleeting", "exchange.declare", "exchange=fleeting type=topic")?;
    check_bindings(&mut look)?;
    client.history().check_transactions(&there);
    client.history().settle(&there);
    drain(&mut client, &mut there, &tags)?;
    for client in [&mut look, &mut client] {
        client.peer.call(0, "connection.close", "reply-code=200").map_err(|_| Gone)?;
    }
    Ok(there)
}

/// Looks for a definition; of a queue, returns the number of ready messages. Compares with the
/// model.
fn find(look: &mut Client, name: &str, method: &str, text: &str) -> Result<Option<u64>, Gone> {
    let heard = look.try_call(method, &format!("{text} passive"))?;
    let is_there = heard.method() != Some("channel.close");
    assert!(is_there || number(&heard, "reply-code") == 404, "{name}: {heard}");
    told(look, name, is_there);
    Ok(is_there.then(|| if method == "queue.declare" { number(&heard, "message-count") } else { 0 }))
}

fn told(look: &Client, name: &str, is_there: bool) {
    let mut history = look.history();
    let now = if is_there { Sure::Yes } else { Sure::No };
    let was = history.known.insert(name.to_owned(), now).unwrap_or(Sure::No);
    if was != Sure::Maybe && was != now {
        history.wrong.push(format!("{name}: there: {is_there}, as it was answered: {was:?}"));
    }
}

/// Everything that is ready, without an acknowledgement: tags and messages.
fn read(client: &mut Client, queue: &'static str, count: u64) -> Result<Vec<(u64, Found)>, Gone> {
    client.queues.insert(queue.to_owned(), queue);
    client.call("basic.consume", &format!("queue={queue} consumer-tag={queue}"))?;
    let mut messages = Vec::new();
    while (messages.len() as u64) < count {
        match client.event()? {
            Event::Message { tag, found } => messages.push((tag, found)),
            other => panic!("{queue}: {other:?}"),
        }
    }
    client.send("basic.cancel", &format!("consumer-tag={queue}"))?;
    while let Event::Message { found, .. } = client.event()? {
        client.history().wrong.push(format!("{queue}: {} is there beyond the {count} that are counted", found.id));
    }
    Ok(messages)
}

/// A binding that is there leads to its queue.
fn check_bindings(look: &mut Client) -> Worked {
    for exchange in EXCHANGES {
        for queue in PASSING {
            let is = |name: String| look.history().known.get(&name).is_some_and(|sure| *sure == Sure::Yes);
            if !is(format!("queue {queue}")) || !is(format!("exchange {exchange}")) {
                continue;
            }
            let to = fields(&format!("exchange={exchange} routing-key={queue} mandatory")).expect("a target");
            look.peer.publish(1, &to, &Fields::new(), b"probe").map_err(|_| Gone)?;
            look.send("basic.qos", "")?;
            let is_there = matches!(look.event()?, Event::Answer(_));
            if !is_there {
                look.event()?;
            }
            told(look, &format!("binding {exchange} {queue}"), is_there);
        }
    }
    Ok(())
}

/// Empties some of the queues for good.
fn drain(client: &mut Client, there: &mut There, tags: &BTreeMap<&'static str, Vec<u64>>) -> Worked {
    for (queue, tags) in tags {
        let found = there.get_mut(queue).expect("it was read");
        if *queue != MARKS && found.len() < 1500 && client.rng.one_in(2) {
            continue;
        }
        for (tag, found) in tags.iter().zip(found.drain(..)) {
            client.gives_up(queue, found.id, "drained");
            client.send("basic.ack", &format!("delivery-tag={tag}"))?;
        }
    }
    if client.history().known.get("queue marks") == Some(&Sure::Yes) { client.sync() } else { Ok(()) }
}
