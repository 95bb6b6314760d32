//! The clients of a crash test: publishers with confirms, transactions, consumers that acknowledge, definitions that come and go. Each works
//! until its connection breaks, and writes down what it knows.

use crate::ledger::{Id, Ledger};
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// Queues that get single messages and those of a fanout, and are consumed.
pub const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
/// Queues that get transactions, and are not.
pub const TRANSACTED: [&str; 2] = ["t0", "t1"];

pub type Shared = Arc<Mutex<Ledger>>;

/// Small numbers that a seed leads to.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

pub async fn connect(address: SocketAddr) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(&format!("amqp://{address}/%2f"), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

/// What all rounds need.
pub async fn declare(channel: &Channel) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("all".into(), ExchangeKind::Fanout, options, FieldTable::default()).await?;
    for queue in QUEUES.into_iter().chain(TRANSACTED) {
        channel.queue_declare(queue.into(), durable(), FieldTable::default()).await?;
    }
    for queue in QUEUES {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), "all".into(), "".into(), options, FieldTable::default()).await?;
    }
    Ok(())
}

/// The body that a message has: its size and octets follow from its id.
pub fn body(id: Id) -> Vec<u8> {
    let mut dice = Dice(u64::from(id.0) << 32 | u64::from(id.1));
    dice.below(7);
    let size = match dice.below(200) {
        0 => 150_000 + dice.below(50_000),
        1..10 => dice.below(5_000),
        _ => dice.below(300),
    };
    let head = format!("{} {} ", id.0, id.1).into_bytes();
    head.into_iter().chain((0..size).map(|at| (at ^ u64::from(id.1)) as u8)).collect()
}

pub fn properties(id: Id, persistent: bool) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("n".into(), AMQPValue::LongUInt(id.1));
    let properties = BasicProperties::default().with_headers(headers).with_message_id(format!("{id:?}").into());
    properties.with_delivery_mode(if persistent { 2 } else { 1 })
}

/// The id that a body begins with, if all of the message is as it was published.
pub fn id_of(data: &[u8], found: &BasicProperties) -> Option<Id> {
    let text = String::from_utf8_lossy(data.get(..data.len().min(24))?).into_owned();
    let mut numbers = text.split(' ');
    let id = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    let is_whole = *found == properties(id, true) || *found == properties(id, false);
    (is_whole && data == body(id)).then_some(id)
}

async fn send(
    channel: &Channel,
    id: Id,
    to: &Target,
    persistent: bool,
) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + use<>> {
    let (exchange, key): (ShortString, ShortString) = match to {
        Target::All => ("all".into(), "".into()),
        Target::One(queue) => ("".into(), (*queue).into()),
    };
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), &body(id), properties(id, persistent)).await
}

enum Target {
    All,
    One(&'static str),
}

/// Publishes with confirms, a window at a time.
pub async fn publisher(address: SocketAddr, number: u32, seed: u64, ledger: Shared) -> lapin::Result<()> {
    let (_connection, channel) = connect(address).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut dice = Dice(seed);
    for n in 0.. {
        let mut window = Vec::new();
        for at in 0..=dice.below(40) as u32 {
            let id = (number, n * 64 + at);
            let persistent = dice.below(5) > 0;
            let to = match dice.below(4) {
                0 => Target::All,
                one => Target::One(QUEUES[one as usize - 1]),
            };
            let queues = match &to {
                Target::All => QUEUES.to_vec(),
                Target::One(queue) => vec![*queue],
            };
            ledger.lock().unwrap().publishes(id, &queues, persistent, None);
            window.push((id, send(&channel, id, &to, persistent).await?));
        }
        for (id, confirm) in window {
            if confirm.await?.is_ack() {
                ledger.lock().unwrap().confirmed(id);
            }
        }
    }
    Ok(())
}

/// Publishes in transactions.
pub async fn transactor(address: SocketAddr, number: u32, seed: u64, ledger: Shared) -> lapin::Result<()> {
    let (_connection, channel) = connect(address).await?;
    channel.tx_select().await?;
    let mut dice = Dice(seed);
    for n in 0.. {
        let transaction = number << 16 | n;
        for at in 0..2 + dice.below(5) as u32 {
            let (id, queue) = ((number, n * 64 + at), TRANSACTED[at as usize % 2]);
            ledger.lock().unwrap().publishes(id, &[queue], true, Some(transaction));
            drop(send(&channel, id, &Target::One(queue), true).await?);
        }
        channel.tx_commit().await?;
        ledger.lock().unwrap().committed(transaction);
    }
    Ok(())
}

/// Consumes, acknowledges most, gives some back; now and then a confirmed publish makes sure that what was before counts.
pub async fn consumer(address: SocketAddr, queue: &'static str, seed: u64, ledger: Shared) -> lapin::Result<()> {
    let (_connection, channel) = connect(address).await?;
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.queue_declare("marks".into(), durable(), FieldTable::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    let mut dice = Dice(seed);
    let mut seen: Vec<Id> = Vec::new();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let id = id_of(&delivery.data, &delivery.properties).expect("a message as it was published");
        seen.push(id);
        ledger.lock().unwrap().delivered(id, queue);
        match dice.below(10) {
            0 => {
                delivery.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?;
            }
            1 => {}
            _ => {
                ledger.lock().unwrap().acks(id, queue);
                delivery.ack(BasicAckOptions::default()).await?;
            }
        }
        if seen.len() >= 30 {
            let options = BasicPublishOptions::default();
            let mark = channel.basic_publish("".into(), "marks".into(), options, b"", properties((0, 0), true)).await?;
            if mark.await?.is_ack() {
                ledger.lock().unwrap().is_sure(queue, &seen);
            }
            seen.clear();
            channel.basic_recover(BasicRecoverOptions { requeue: true }).await?;
        }
    }
    Ok(())
}

/// Declares and deletes durable queues with bindings. What was answered is written down: there, or not.
pub async fn definer(address: SocketAddr, round: u32, known: Arc<Mutex<BTreeMap<String, bool>>>) -> lapin::Result<()> {
    let (_connection, channel) = connect(address).await?;
    for n in 0.. {
        let name = format!("d{round}-{n}");
        channel.queue_declare(name.as_str().into(), durable(), FieldTable::default()).await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name.as_str().into(), "amq.topic".into(), "a.#".into(), options, FieldTable::default())
            .await?;
        known.lock().unwrap().insert(name.clone(), true);
        if n % 2 == 0 {
            known.lock().unwrap().remove(&name);
            channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
            known.lock().unwrap().insert(name, false);
        }
        channel.queue_declare("passing".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    }
    Ok(())
}
