//! Scenarios of a lapin application against an AMQP 0-9-1 broker, of which only the URL is known.
//!
//! Usage: `cargo run -- URL`. One line a check; exit code 1 at the first that fails.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ErrorKind, Event, ExchangeKind, Queue};

/// For any single event.
const WAIT: Duration = Duration::from_secs(20);
/// Messages with a short body.
const SMALL: usize = 300;
const PREFETCH: usize = 10;

/// The names of one run: source --e2e--> target --> queue.
struct Names {
    run: String,
    source: String,
    target: String,
    queue: String,
}

impl Names {
    fn new() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let run = format!("conformance.lapin.{:x}.{now:x}", std::process::id());
        Ok(Self {
            source: format!("{run}.source"),
            target: format!("{run}.target"),
            queue: format!("{run}.queue"),
            run,
        })
    }
}

struct Message {
    body: Vec<u8>,
    properties: BasicProperties,
}

fn equal<T: Debug + PartialEq>(got: T, want: T) -> Result<()> {
    ensure!(got == want, "got {got:?}, want {want:?}");
    Ok(())
}

async fn soon<T>(what: &str, event: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(WAIT, event).await.with_context(|| format!("no {what} within {WAIT:?}"))
}

async fn check<T>(name: &str, body: impl Future<Output = Result<T>>) -> Result<T> {
    let result = tokio::time::timeout(3 * WAIT, body).await.unwrap_or_else(|_| bail!("not done within {:?}", 3 * WAIT));
    match &result {
        Ok(_) => println!("ok {name}"),
        Err(e) => println!("not ok {name}: {e:#}"),
    }
    result
}

async fn connect(url: &str, change: impl FnOnce(&mut AMQPUri)) -> Result<Connection> {
    let mut uri: AMQPUri = url.parse().map_err(anyhow::Error::msg)?;
    change(&mut uri);
    let options = ConnectionProperties::default().with_connection_name("conformance".into());
    Ok(soon("connection", Connection::connect_uri(uri, options)).await??)
}

fn tuned(connection: &Connection) -> Result<()> {
    let tune = connection.configuration();
    ensure!(tune.channel_max() > 0 && tune.frame_max() >= 8192 && tune.heartbeat() > 0, "tuned to {tune:?}");
    Ok(())
}

async fn declare(channel: &Channel, names: &Names) -> Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    for (name, kind) in [(&names.source, ExchangeKind::Topic), (&names.target, ExchangeKind::Direct)] {
        channel.exchange_declare(name.as_str().into(), kind, durable, FieldTable::default()).await?;
    }
    channel
        .exchange_bind(
            names.target.as_str().into(),
            names.source.as_str().into(),
            "work.#".into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let queue = channel
        .queue_declare(names.queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default())
        .await?;
    equal((queue.message_count(), queue.consumer_count()), (0, 0))?;
    for key in ["work.item", "work.other"] {
        channel
            .queue_bind(
                names.queue.as_str().into(),
                names.target.as_str().into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    channel
        .queue_unbind(
            names.queue.as_str().into(),
            names.target.as_str().into(),
            "work.other".into(),
            FieldTable::default(),
        )
        .await?;
    Ok(())
}

fn headers(seq: usize) -> FieldTable {
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::LongInt(1));
    let list = vec![AMQPValue::LongInt(1), AMQPValue::LongString("two".into())];
    let mut table = FieldTable::default();
    for (name, value) in [
        ("seq", AMQPValue::LongLongInt(seq as i64)),
        ("text", AMQPValue::LongString("grüße".into())),
        ("octets", AMQPValue::ByteArray(vec![0, 255].into())),
        ("int8", AMQPValue::ShortShortInt(-8)),
        ("int32", AMQPValue::LongInt(-7)),
        ("int64", AMQPValue::LongLongInt(1 << 40)),
        ("uint32", AMQPValue::LongUInt(u32::MAX)),
        ("float", AMQPValue::Float(1.5)),
        ("double", AMQPValue::Double(2.5)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1234 })),
        ("true", AMQPValue::Boolean(true)),
        ("nothing", AMQPValue::Void),
        ("time", AMQPValue::Timestamp(1_709_209_801)),
        ("list", AMQPValue::FieldArray(list.into())),
        ("table", AMQPValue::FieldTable(inner)),
    ] {
        table.insert(name.into(), value);
    }
    table
}

/// The messages of the run, in order.
fn batch() -> Vec<Message> {
    let mut bodies: Vec<Vec<u8>> = (0..SMALL).map(|i| format!("message {i}").into_bytes()).collect();
    bodies.push(Vec::new());
    bodies.push((0..1 << 20).map(|i: u32| i as u8).collect());
    bodies.push(b"last".to_vec());
    bodies
        .into_iter()
        .enumerate()
        .map(|(i, body)| Message {
            body,
            properties: BasicProperties::default()
                .with_content_type("application/octet-stream".into())
                .with_content_encoding("identity".into())
                .with_headers(headers(i))
                .with_delivery_mode(1 + (i % 2) as u8)
                .with_priority((i % 5) as u8)
                .with_correlation_id(format!("c{i}").into())
                .with_reply_to("nobody".into())
                .with_expiration("600000".into())
                .with_message_id(format!("m{i}").into())
                .with_timestamp(1_709_209_801)
                .with_type("test".into())
                .with_app_id("conformance".into()),
        })
        .collect()
}

async fn publish(channel: &Channel, exchange: &str, messages: &[Message]) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut confirms = Vec::new();
    for message in messages {
        confirms.push(
            channel
                .basic_publish(
                    exchange.into(),
                    "work.item".into(),
                    BasicPublishOptions::default(),
                    &message.body,
                    message.properties.clone(),
                )
                .await?,
        );
    }
    for confirm in confirms {
        ensure!(soon("confirm", confirm).await??.is_ack());
    }
    Ok(())
}

async fn start(channel: &Channel, queue: &str, no_ack: bool) -> Result<Consumer> {
    let options = BasicConsumeOptions { no_ack, ..Default::default() };
    Ok(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let delivery = soon("delivery", consumer.next()).await?;
    Ok(delivery.context("the consumer was cancelled")??)
}

async fn stop(channel: &Channel, consumer: &Consumer) -> Result<()> {
    Ok(channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?)
}

async fn consume(channel: &Channel, names: &Names, messages: &[Message]) -> Result<()> {
    channel.basic_qos(PREFETCH as u16, BasicQosOptions::default()).await?;
    let mut consumer = start(channel, &names.queue, false).await?;
    for (i, want) in messages.iter().enumerate() {
        let got = next(&mut consumer).await?;
        equal((got.delivery_tag, got.redelivered), (i as u64 + 1, false))?;
        equal((got.exchange.as_str(), got.routing_key.as_str()), (names.source.as_str(), "work.item"))?;
        equal(&got.properties, &want.properties)?;
        ensure!(got.data == want.body, "body of message {i} differs");
        if i + 1 == PREFETCH {
            equal(ready(channel, names).await?, messages.len() - PREFETCH)?;
            got.ack(BasicAckOptions { multiple: true }).await?;
        } else if i >= PREFETCH {
            got.ack(BasicAckOptions::default()).await?;
        }
    }
    stop(channel, &consumer).await?;
    equal(ready(channel, names).await?, 0)
}

async fn passive(channel: &Channel, queue: &str) -> Result<Queue, lapin::Error> {
    let options = QueueDeclareOptions::durable().passive();
    channel.queue_declare(queue.into(), options, FieldTable::default()).await
}

/// Messages that wait in the queue, asked of the broker.
async fn ready(channel: &Channel, names: &Names) -> Result<usize> {
    Ok(passive(channel, &names.queue).await?.message_count() as usize)
}

async fn send(channel: &Channel, queue: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish("".into(), queue.into(), options, body, properties).await?;
    soon("confirm", confirm).await??;
    Ok(())
}

async fn redelivery(channel: &Channel, names: &Names) -> Result<()> {
    for body in [b"a", b"b"] {
        send(channel, &names.queue, body, BasicProperties::default()).await?;
    }
    let mut consumer = start(channel, &names.queue, false).await?;
    let (a, b) = (next(&mut consumer).await?, next(&mut consumer).await?);
    let requeue = BasicNackOptions { requeue: true, multiple: false };
    a.nack(requeue).await?;
    let again = next(&mut consumer).await?;
    b.reject(BasicRejectOptions { requeue: false }).await?;
    again.ack(BasicAckOptions::default()).await?;
    let seen = [&a, &b, &again].map(|d| (d.redelivered, d.data.as_slice()));
    let want: [(bool, &[u8]); 3] = [(false, b"a"), (false, b"b"), (true, b"a")];
    equal(seen, want)?;
    stop(channel, &consumer).await?;
    equal(ready(channel, names).await?, 0)
}

/// Direct reply-to: the reply queue is a name that the broker makes up.
async fn request_reply(connection: &Connection, names: &Names) -> Result<()> {
    let (client, server) = (connection.create_channel().await?, connection.create_channel().await?);
    let mut requests = start(&server, &names.queue, false).await?;
    let mut replies = start(&client, "amq.rabbitmq.reply-to", true).await?;
    for i in 0..5 {
        let ask = BasicProperties::default()
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_correlation_id(format!("{i}").into());
        send(&client, &names.queue, format!("ask {i}").as_bytes(), ask).await?;
        let request = next(&mut requests).await?;
        let to = request.properties.reply_to().clone().unwrap_or_default();
        ensure!(to.as_str().starts_with("amq.rabbitmq.reply-to."), "reply to {to}");
        let id = request.properties.correlation_id().clone();
        let properties = BasicProperties::default().with_correlation_id(id.context("correlation id")?);
        send(&server, to.as_str(), &request.data.to_ascii_uppercase(), properties).await?;
        request.ack(BasicAckOptions::default()).await?;
        let reply = next(&mut replies).await?;
        equal(reply.data, format!("ASK {i}").into_bytes())?;
        equal(reply.properties.correlation_id().clone(), Some(format!("{i}").into()))?;
    }
    server.close(200, "done".into()).await?;
    client.close(200, "done".into()).await?;
    Ok(())
}

/// A returned message is part of the confirm, so it has to come first.
async fn mandatory(channel: &Channel, names: &Names) -> Result<()> {
    let source = names.source.as_str();
    let properties = BasicProperties::default().with_message_id("r".into());
    for mandatory in [true, false] {
        let options = BasicPublishOptions { mandatory, immediate: false };
        let confirm =
            channel.basic_publish(source.into(), "nowhere".into(), options, b"back", properties.clone()).await?;
        let confirm = soon("confirm", confirm).await??;
        ensure!(confirm.is_ack(), "got {confirm:?}");
        match confirm.take_message() {
            Some(back) if mandatory => {
                equal((back.reply_code, back.reply_text.as_str()), (312, "NO_ROUTE"))?;
                equal(back.delivery.exchange.as_str(), source)?;
                equal(back.delivery.routing_key.as_str(), "nowhere")?;
                equal(&back.delivery.properties, &properties)?;
                equal(back.delivery.data.as_slice(), b"back")?;
            }
            None if !mandatory => {}
            other => bail!("mandatory {mandatory}, but returned {other:?}"),
        }
    }
    Ok(())
}

/// The error is the broker's, with this code and text.
fn refused<T: Debug>(result: Result<T, lapin::Error>, code: u16, text: &str) -> Result<()> {
    let error = match result {
        Ok(_) => bail!("expected error {code}"),
        Err(error) => error,
    };
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        bail!("expected error {code}, got {error:?}");
    };
    equal(amqp.get_id(), code)?;
    let message = amqp.get_message().as_str();
    ensure!(message.contains(text), "{message:?} lacks {text:?}");
    Ok(())
}

/// The broker closes the channel only; the connection goes on with another.
async fn not_found(connection: &Connection, names: &Names) -> Result<()> {
    let channel = connection.create_channel().await?;
    let missing = format!("{}.missing", names.run);
    let text = format!("NOT_FOUND - no queue '{missing}' in vhost ");
    refused(passive(&channel, &missing).await, 404, &text)?;
    ensure!(!channel.status().connected(), "the channel is still open");
    Ok(connection.create_channel().await?.close(200, "done".into()).await?)
}

async fn inequivalent(connection: &Connection, names: &Names) -> Result<()> {
    let channel = connection.create_channel().await?;
    let text = format!("PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{}' in vhost ", names.queue);
    let transient = QueueDeclareOptions::default();
    let result = channel.queue_declare(names.queue.as_str().into(), transient, FieldTable::default()).await;
    refused(result, 406, &text)?;
    Ok(connection.create_channel().await?.close(200, "done".into()).await?)
}

async fn consumer_cancelled(connection: &Connection) -> Result<()> {
    let (channel, other) = (connection.create_channel().await?, connection.create_channel().await?);
    let queue = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default()).await?;
    ensure!(queue.name().as_str().starts_with("amq.gen-"), "{queue:?}");
    let mut consumer = start(&channel, queue.name().as_str(), false).await?;
    other.queue_delete(queue.name().clone(), QueueDeleteOptions::default()).await?;
    let end = soon("end of the consumer", consumer.next()).await?;
    ensure!(end.is_none(), "got {end:?}");
    channel.close(200, "done".into()).await?;
    other.close(200, "done".into()).await?;
    Ok(())
}

async fn get(channel: &Channel, names: &Names) -> Result<()> {
    let queue = names.queue.as_str();
    let fetch = async |no_ack| channel.basic_get(queue.into(), BasicGetOptions { no_ack }).await;
    ensure!(fetch(false).await?.is_none());
    for body in [b"one", b"two"] {
        send(channel, queue, body, BasicProperties::default()).await?;
    }
    let first = fetch(false).await?.context("no first message")?;
    let second = fetch(true).await?.context("no second message")?;
    first.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
    let again = fetch(false).await?.context("no requeued message")?;
    again.ack(BasicAckOptions::default()).await?;
    let seen = [&first, &second, &again].map(|m| (m.message_count, m.redelivered, m.data.as_slice()));
    let want: [(u32, bool, &[u8]); 3] = [(1, false, b"one"), (0, false, b"two"), (0, true, b"one")];
    equal(seen, want)
}

async fn tx(connection: &Connection, names: &Names) -> Result<()> {
    let channel = connection.create_channel().await?;
    let queue = names.queue.as_str();
    channel.tx_select().await?;
    send(&channel, queue, b"undone", BasicProperties::default()).await?;
    equal(ready(&channel, names).await?, 0)?;
    channel.tx_rollback().await?;
    send(&channel, queue, b"done", BasicProperties::default()).await?;
    channel.tx_commit().await?;
    equal(ready(&channel, names).await?, 1)?;
    let message = channel.basic_get(queue.into(), BasicGetOptions::default()).await?.context("no message")?;
    equal(message.data.as_slice(), b"done")?;
    message.ack(BasicAckOptions::default()).await?;
    channel.tx_commit().await?;
    Ok(channel.close(200, "done".into()).await?)
}

async fn purge_and_delete(channel: &Channel, names: &Names) -> Result<()> {
    let queue = names.queue.as_str();
    equal(ready(channel, names).await?, 0)?;
    for _ in 0..3 {
        send(channel, queue, b"", BasicProperties::default()).await?;
    }
    equal(channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?, 3)?;
    send(channel, queue, b"", BasicProperties::default()).await?;
    channel
        .exchange_unbind(
            names.target.as_str().into(),
            names.source.as_str().into(),
            "work.#".into(),
            ExchangeUnbindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    for count in [1, 0] {
        let options = QueueDeleteOptions::default();
        equal(channel.queue_delete(queue.into(), options).await?, count)?;
    }
    for name in [&names.target, &names.source, &names.source] {
        channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}

async fn not_connected(url: &str, code: u16, text: &str, change: impl FnOnce(&mut AMQPUri)) -> Result<()> {
    match connect(url, change).await {
        Ok(_) => bail!("expected error {code}"),
        Err(error) => refused(Err::<(), _>(error.downcast()?), code, text),
    }
}

async fn heartbeat(url: &str) -> Result<()> {
    let connection = connect(url, |uri| uri.query.heartbeat = Some(1)).await?;
    equal(connection.configuration().heartbeat(), 1)?;
    let mut events = connection.events_listener();
    // The client gives up after two silent seconds, and so does a broker; neither may.
    let quiet = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match events.next().await {
                Some(Event::Connected) => {}
                other => break other,
            }
        }
    });
    if let Ok(event) = quiet.await {
        bail!("lost: {event:?}");
    }
    let channel = connection.create_channel().await?;
    channel.close(200, "done".into()).await?;
    Ok(connection.close(200, "done".into()).await?)
}

async fn run(url: &str) -> Result<()> {
    let names = Names::new()?;
    let messages = batch();
    let (connection, channel) = check("connect", async {
        let connection = connect(url, |_| {}).await?;
        tuned(&connection)?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    })
    .await?;
    check("declare and bind", declare(&channel, &names)).await?;
    check("publish with confirms", publish(&channel, &names.source, &messages)).await?;
    check("consume with prefetch and acks", consume(&channel, &names, &messages)).await?;
    check("requeue is redelivered", redelivery(&channel, &names)).await?;
    check("direct reply-to", request_reply(&connection, &names)).await?;
    check("mandatory return", mandatory(&channel, &names)).await?;
    check("404 closes the channel only", not_found(&connection, &names)).await?;
    check("406 closes the channel only", inequivalent(&connection, &names)).await?;
    check("consumer cancel notification", consumer_cancelled(&connection)).await?;
    check("basic.get", get(&channel, &names)).await?;
    check("tx", tx(&connection, &names)).await?;
    check("purge and delete", purge_and_delete(&channel, &names)).await?;
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN";
    let wrong = |uri: &mut AMQPUri| uri.authority.userinfo.password = names.run.clone();
    check("wrong password", not_connected(url, 403, text, wrong)).await?;
    let text = format!("vhost {} not found", names.run);
    let missing = |uri: &mut AMQPUri| uri.vhost = names.run.clone();
    check("unknown vhost", not_connected(url, 530, &text, missing)).await?;
    check("heartbeat", heartbeat(url)).await?;
    check("close", async {
        channel.close(200, "done".into()).await?;
        Ok(connection.close(200, "done".into()).await?)
    })
    .await
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).context("usage: URL")?;
    run(&url).await
}
