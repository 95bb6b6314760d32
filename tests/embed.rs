//! The broker as a library: on any free port, several in one process, and nothing left behind when
//! it was shut down.

use conformance::peer;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use lapin::Confirmation;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use leveret::config::{StoreConfig, StoreKind};
use leveret::{Broker, Config, StartError};
use peer::{Heard, Peer};
use tokio::runtime::Runtime;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn any_port() -> Config {
    in_memory(vec![SocketAddr::from(([127, 0, 0, 1], 0))])
}

fn in_memory(bind: Vec<SocketAddr>) -> Config {
    Config { bind, store: StoreConfig { kind: StoreKind::Memory, ..Config::default().store }, ..Config::default() }
}

async fn connect(broker: &Broker) -> lapin::Result<(Connection, Channel)> {
    let url = format!("amqp://guest:guest@{}/%2f", broker.address());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<Confirmation> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await
}

#[tokio::test]
async fn lapin_publishes_and_consumes() -> Outcome {
    let broker = Broker::start(any_port()).await?;
    let (connection, channel) = connect(&broker).await?;
    channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for n in 0..100_u8 {
        assert!(publish(&channel, "q", &[n]).await?.is_ack());
    }
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume("q".into(), "c".into(), options, FieldTable::default()).await?;
    for n in 0..100_u8 {
        let delivery = consumer.next().await.ok_or("cancelled")??;
        assert_eq!(delivery.data, [n]);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    broker.shutdown().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn brokers_of_one_process_know_nothing_of_each_other() -> Outcome {
    let (one, other) = (Broker::start(any_port()).await?, Broker::start(any_port()).await?);
    assert_ne!(one.address(), other.address());
    let (in_one, channel_of_one) = connect(&one).await?;
    let (in_other, channel_of_other) = connect(&other).await?;
    for channel in [&channel_of_one, &channel_of_other] {
        channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await?;
    }
    publish(&channel_of_one, "q", b"for one").await?;
    let get = |channel: Channel| async move {
        let got = channel.basic_get("q".into(), BasicGetOptions { no_ack: true }).await;
        got.map(|message| message.map(|message| message.data.clone()))
    };
    assert_eq!(get(channel_of_other.clone()).await?, None);
    in_one.close(200, "done".into()).await?;
    one.shutdown().await.unwrap();
    // The other one goes on.
    publish(&channel_of_other, "q", b"for the other").await?;
    assert_eq!(get(channel_of_other.clone()).await?.as_deref(), Some(&b"for the other"[..]));
    in_other.close(200, "done".into()).await?;
    other.shutdown().await.unwrap();
    Ok(())
}

#[test]
fn all_addresses_are_known() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Runtime::new().unwrap().block_on(async {
        let broker = Broker::start(in_memory(vec![any, any])).await.unwrap();
        let [first, second] = broker.addresses() else { panic!("{:?}", broker.addresses()) };
        assert_eq!(broker.address(), *first);
        assert!(first.port() != 0 && second.port() != 0 && first != second);
        for address in [*first, *second] {
            tokio::task::spawn_blocking(move || Peer::open(address)).await.unwrap().unwrap();
        }
        broker.shutdown().await.unwrap();
    });
}

#[tokio::test]
async fn a_broker_that_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Broker::start(in_memory(vec![address])).await.unwrap_err();
    assert!(matches!(&error, StartError::Listen { address: named, .. } if *named == address), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {address}: the port is taken by another program: stop it, or change `bind`")
    );
    let error = Broker::start(in_memory(vec![])).await.unwrap_err();
    assert!(matches!(error, StartError::NoAddress), "{error:?}");
}

/// Tasks are counted until a moment after they have told their result: the runtime puts them away
/// then.
fn alive(runtime: &Runtime, tasks: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while runtime.metrics().num_alive_tasks() > tasks && Instant::now() < deadline {
        runtime.block_on(tokio::task::yield_now());
    }
    assert_eq!(runtime.metrics().num_alive_tasks(), tasks);
}

fn nothing_lives(runtime: &Runtime) {
    alive(runtime, 0);
}

fn peer(address: SocketAddr) -> Peer {
    let mut peer = Peer::open(address).unwrap();
    peer.patience = Duration::from_secs(30);
    assert_eq!(peer.call(1, "channel.open", "").unwrap().method(), Some("channel.open-ok"));
    peer
}

/// Shuts a broker down after clients came; returns the time it took and the tasks left on the
/// runtime.
fn shut_down_with(clients: impl FnOnce(SocketAddr) -> Vec<Peer>, answer: bool) -> (Duration, Vec<Peer>) {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::start(any_port())).unwrap();
    let address = broker.address();
    let mut peers = clients(address);
    assert!(runtime.metrics().num_alive_tasks() >= peers.len());
    let since = Instant::now();
    let shutdown = runtime.spawn(broker.shutdown());
    if answer {
        for peer in &mut peers {
            let heard = peer.recv();
            assert_eq!(heard.method(), Some("connection.close"), "heard {heard}");
            peer.send(0, "connection.close-ok", "").unwrap();
        }
    }
    runtime.block_on(shutdown).unwrap().unwrap();
    let took = since.elapsed();
    nothing_lives(&runtime);
    // At once, on the same port.
    let config = in_memory(vec![address]);
    let again = runtime.block_on(Broker::start(config)).unwrap();
    runtime.block_on(again.shutdown()).unwrap();
    nothing_lives(&runtime);
    (took, peers)
}

#[test]
fn a_shutdown_without_clients_is_over_at_once() {
    let (took, _) = shut_down_with(|_| Vec::new(), false);
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn clients_that_say_good_bye_leave_nothing() {
    let (took, peers) = shut_down_with(|address| (0..20).map(|_| peer(address)).collect(), true);
    assert!(took < Duration::from_millis(600), "{took:?}");
    for mut peer in peers {
        assert_eq!(peer.recv(), Heard::Closed);
    }
}

#[test]
fn clients_that_stay_silent_leave_nothing() {
    let clients = |address| {
        let mut deaf = peer(address);
        deaf.call(1, "queue.declare", "queue=q").unwrap();
        deaf.call(1, "basic.consume", "queue=q no-ack").unwrap();
        let mut other = peer(address);
        let fields = peer::text::fields("routing-key=q").unwrap();
        for _ in 0..60 {
            other.publish(1, &fields, &Vec::new(), &[0; 1 << 20]).unwrap();
        }
        other.call(1, "queue.declare", "queue=q passive").unwrap();
        let mut half = Peer::connect(address).unwrap();
        half.send_octets(peer::HEADER).unwrap();
        half.recv();
        vec![deaf, other, half]
    };
    let (took, _) = shut_down_with(clients, false);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn clients_that_left_before_leave_nothing() {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::start(any_port())).unwrap();
    let before = runtime.metrics().num_alive_tasks();
    let mut watcher = peer(broker.address());
    let with_watcher = runtime.metrics().num_alive_tasks();
    for n in 0..20 {
        let mut leaver = peer(broker.address());
        leaver.call(1, "queue.declare", "queue=own exclusive").unwrap();
        match n % 2 {
            0 => drop(leaver),
            _ => {
                leaver.call(0, "connection.close", "reply-code=200").unwrap();
                drop(leaver);
            }
        }
        // The queue goes with its owner: then the next one may have the name.
        loop {
            let heard = watcher.call(1, "queue.declare", "queue=own passive").unwrap();
            watcher.send(1, "channel.close-ok", "").unwrap();
            watcher.call(1, "channel.open", "").unwrap();
            if heard.to_string().contains("reply-code=404") {
                break;
            }
        }
    }
    assert!(with_watcher > before);
    alive(&runtime, with_watcher);
    runtime.block_on(broker.shutdown()).unwrap();
    nothing_lives(&runtime);
}

#[test]
fn a_dropped_broker_leaves_nothing_either() {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::start(any_port())).unwrap();
    let mut peer = peer(broker.address());
    drop(broker);
    while peer.recv() != Heard::Closed {}
    nothing_lives(&runtime);
}
