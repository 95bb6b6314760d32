//! Clients that work on a broker until it is killed: publishers with windows, consumers that
//! acknowledge or do not, transactions, definitions that come and go. Each is a loop over one
//! client, which records what it does.

use std::net::SocketAddr;

use crate::client::{Client, Event, Rng, Shared, Worked, number};
use crate::history::{Id, Sure};

/// Queues that publishers share, and consumers.
pub const SHARED: [&str; 4] = ["q0", "q1", "q2", "q3"];
/// Queues of transactions.
pub const TRANSACTED: [&str; 2] = ["t0", "t1"];
/// Queues that one client has for itself: it knows at each moment what is in them.
pub const OWN: [&str; 2] = ["s0", "s1"];
/// Where publications go that are there to be synced.
pub const MARKS: &str = "marks";
/// Queues that come and go.
pub const PASSING: [&str; 10] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"];
/// Those of which no one takes a message without noting it first.
pub const ALONE: &[&str] =
    &["t0", "t1", "s0", "s1", "marks", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"];
/// Exchanges that come and go.
pub const EXCHANGES: [&str; 4] = ["x0", "x1", "x2", "x3"];

/// Declares what is always there.
pub fn declare(client: &mut Client) -> Worked {
    for (exchange, kind) in [("all", "fanout"), ("some", "direct"), ("both", "fanout"), ("own", "direct")] {
        client.call("exchange.declare", &format!("exchange={exchange} type={kind} durable"))?;
    }
    for queue in SHARED.into_iter().chain(TRANSACTED).chain(OWN).chain([MARKS]) {
        client.call("queue.declare", &format!("queue={queue} durable"))?;
        client.history().known.insert(format!("queue {queue}"), Sure::Yes);
    }
    let all = ["q0", "q1", "q2"].map(|queue| (queue, "all", ""));
    let some = ["q1", "q3"].map(|queue| (queue, "some", "k"));
    let both = TRANSACTED.map(|queue| (queue, "both", ""));
    let own = OWN.map(|queue| (queue, "own", queue));
    for (queue, exchange, key) in all.into_iter().chain(some).chain(both).chain(own) {
        client.call("queue.bind", &format!("queue={queue} exchange={exchange} routing-key=\"{key}\""))?;
    }
    Ok(())
}

/// Publishes to the shared queues, so many at most without a confirm.
pub fn publish(address: SocketAddr, number: u32, rng: Rng, history: Shared) -> Worked {
    let mut client = Client::confirming(address, number, rng, &history)?;
    for n in 0.. {
        // A long round ends with less load: what piles up has to be read again.
        let burst = if n < 40 { client.rng.below(60) } else { 1 };
        for _ in 0..=burst {
            let persistent = client.rng.below(5) > 0;
            match client.rng.below(8) {
                0 => client.publish("exchange=all", &["q0", "q1", "q2"], persistent)?,
                1 => client.publish("exchange=some routing-key=k", &["q1", "q3"], persistent)?,
                n => {
                    let queue = SHARED[n as usize % 4];
                    client.publish(&format!("routing-key={queue}"), &[queue], persistent)?
                }
            };
        }
        let window = client.rng.below(150) as usize;
        client.await_confirms(window)?;
    }
    Ok(())
}

/// Consumes one of the shared queues.
pub fn consume(address: SocketAddr, number: u32, rng: Rng, history: Shared) -> Worked {
    let mut client = Client::confirming(address, number, rng, &history)?;
    let queue = SHARED[client.rng.below(3) as usize];
    let mut held: Vec<(u64, Id)> = Vec::new();
    client.queues.insert("c".to_owned(), queue);
    client.send("basic.qos", "prefetch-count=60")?;
    client.send("basic.consume", &format!("queue={queue} consumer-tag=c"))?;
    for n in 1_u64.. {
        let Event::Message { tag, found } = client.event()? else { continue };
        match client.rng.below(20) {
            0..10 => {
                client.gives_up(queue, found.id, "ack sent");
                client.send("basic.ack", &format!("delivery-tag={tag}"))?;
            }
            10 => {
                client.gives_up(queue, found.id, "reject sent");
                client.send("basic.reject", &format!("delivery-tag={tag}"))?;
            }
            11 => client.send("basic.nack", &format!("delivery-tag={tag} requeue"))?,
            _ => held.push((tag, found.id)),
        }
        if let Some((tag, _)) = held.last().copied()
            && (held.len() > 50 || client.rng.one_in(40))
        {
            match client.rng.below(6) {
                0 => client.recover()?,
                1 => client.send("basic.nack", &format!("delivery-tag={tag} multiple requeue"))?,
                _ => {
                    held.iter().for_each(|(_, id)| client.gives_up(queue, *id, "ack of all sent"));
                    // Not tag 0: that would take what is under way here as well.
                    client.send("basic.ack", &format!("delivery-tag={tag} multiple"))?;
                }
            }
            held.clear();
        }
        if n.is_multiple_of(25) {
            client.publish("routing-key=marks", &[MARKS], true)?;
        }
    }
    Ok(())
}

/// Publishes and acknowledges in transactions.
pub fn transact(address: SocketAddr, number: u32, rng: Rng, history: Shared) -> Worked {
    let mut client = Client::open(address, number, rng, &history)?;
    client.call("tx.select", "")?;
    // Got and not acknowledged: queue and tag.
    let mut held: Vec<(&'static str, Id, u64)> = Vec::new();
    for n in 0.. {
        let transaction = u64::from(number) << 32 | n;
        let mut published = Vec::new();
        for _ in 0..client.rng.below(6) {
            match client.rng.below(4) {
                0 => {
                    let id = client.publish_in("exchange=both", &TRANSACTED, true, Some(transaction))?;
                    published.extend(TRANSACTED.map(|queue| (queue, id)));
                }
                n => {
                    let queue = TRANSACTED[n as usize % 2];
                    let id = client.publish_in(&format!("routing-key={queue}"), &[queue], true, Some(transaction))?;
                    published.push((queue, id));
                }
            }
        }
        for _ in 0..client.rng.below(4) {
            let queue = TRANSACTED[client.rng.below(2) as usize];
            client.history().all_are_asked_for(queue);
            client.queues.insert(String::new(), queue);
            client.send("basic.get", &format!("queue={queue}"))?;
            if let Event::Message { tag, found } = client.event()? {
                held.push((queue, found.id, tag));
            }
        }
        let count = client.rng.below(held.len() as u64 + 1) as usize;
        let acked: Vec<_> = held.iter().take(count).copied().collect();
        for (_, _, tag) in &acked {
            client.send("basic.ack", &format!("delivery-tag={tag}"))?;
        }
        if client.rng.one_in(6) {
            client.call("tx.rollback", "")?;
            // What a rollback brings back may be acknowledged again.
            continue;
        }
        let acks: Vec<_> = acked.iter().map(|(queue, id, _)| (*queue, *id)).collect();
        held.drain(..count);
        client.history().commits(&published, &acks, transaction);
        client.call("tx.commit", "")?;
        client.history().committed(&published, &acks);
    }
    Ok(())
}

/// Declares and deletes durable queues, exchanges and bindings, with messages in the queues.
pub fn define(address: SocketAddr, number: u32, rng: Rng, history: Shared) -> Worked {
    let mut client = Client::confirming(address, number, rng, &history)?;
    // Not to come back: one that is not durable, one that is exclusive, and an exchange.
    client.call("queue.declare", "queue=passing")?;
    client.call("queue.bind", "queue=passing exchange=all")?;
    client.call("queue.declare", "queue=mine durable exclusive")?;
    client.call("queue.bind", "queue=mine exchange=all")?;
    client.call("exchange.declare", "exchange=fleeting type=topic")?;
    client.call("queue.bind", "queue=q0 exchange=fleeting routing-key=#")?;
    loop {
        let queue = PASSING[client.rng.below(10) as usize];
        let exchange = EXCHANGES[client.rng.below(4) as usize];
        let is = |client: &Client, name: &str| client.history().known.get(name).is_some_and(|sure| *sure == Sure::Yes);
        let (has_queue, has_exchange) =
            (is(&client, &format!("queue {queue}")), is(&client, &format!("exchange {exchange}")));
        let binding = format!("binding {exchange} {queue}");
        match client.rng.below(12) {
            0 if has_queue => {
                client.history().all_may_go(queue, "queue.delete sent");
                let all = client.history().bindings(queue);
                change(
                    &mut client,
                    &[format!("queue {queue}")],
                    all,
                    Sure::No,
                    &format!("queue.delete queue={queue}"),
                )?;
                client.history().all_are_gone(queue);
            }
            1 if has_exchange => {
                let all = client.history().bindings(exchange);
                let method = format!("exchange.delete exchange={exchange}");
                change(&mut client, &[format!("exchange {exchange}")], all, Sure::No, &method)?;
            }
            2..5 if !has_queue => {
                let method = format!("queue.declare queue={queue} durable");
                change(&mut client, &[format!("queue {queue}")], Vec::new(), Sure::Yes, &method)?;
            }
            5 if !has_exchange => {
                let method = format!("exchange.declare exchange={exchange} type=direct durable");
                change(&mut client, &[format!("exchange {exchange}")], Vec::new(), Sure::Yes, &method)?;
            }
            6..8 if has_queue && has_exchange => {
                let method = format!("queue.bind queue={queue} exchange={exchange} routing-key={queue}");
                change(&mut client, &[binding], Vec::new(), Sure::Yes, &method)?;
            }
            8 if has_queue && has_exchange => {
                let method = format!("queue.unbind queue={queue} exchange={exchange} routing-key={queue}");
                change(&mut client, &[binding], Vec::new(), Sure::No, &method)?;
            }
            _ if has_queue => {
                let to = if is(&client, &binding) { format!("exchange={exchange}") } else { String::new() };
                let persistent = client.rng.below(4) > 0;
                client.publish(&format!("{to} routing-key={queue}"), &[queue], persistent)?;
                client.await_confirms(0)?;
            }
            _ => {}
        }
    }
}

/// Calls what makes definitions be there, or not.
fn change(client: &mut Client, names: &[String], with_them: Vec<String>, then: Sure, call: &str) -> Worked {
    let names: Vec<String> = names.iter().cloned().chain(with_them).collect();
    let set = |client: &Client, sure: Sure| {
        let mut history = client.history();
        history.known.extend(names.iter().map(|name| (name.clone(), sure)));
    };
    set(client, Sure::Maybe);
    let (method, text) = call.split_once(' ').expect("a method with fields");
    client.call(method, text)?;
    set(client, then);
    Ok(())
}

/// How many messages a purge or a deletion took.
pub fn taken(client: &mut Client, method: &str, text: &str) -> Result<u64, crate::client::Gone> {
    Ok(number(&client.call(method, text)?, "message-count"))
}
