//! Behaviour towards hostile or greedy clients that no script of a single well-behaved client
//! shows. Each test has a broker of its own.

use conformance::peer;

use std::net::SocketAddr;
use std::time::Duration;

use leveret::config::{StoreConfig, StoreKind};
use leveret::{Broker, Config};
use peer::text::fields;
use peer::{Heard, Peer};

/// A broker that lives as long as the test program.
fn start(config: Config) -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let bind = vec!["127.0.0.1:0".parse().expect("an address")];
            let store = StoreConfig { kind: StoreKind::Memory, ..config.store };
            let broker = Broker::start(Config { bind, store, ..config }).await.expect("a broker");
            told.send(broker.address()).expect("the address is waited for");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the broker starts")
}

/// A connection with channel 1 open.
fn client(address: SocketAddr) -> Peer {
    let mut peer = Peer::open(address).expect("open");
    peer.patience = Duration::from_secs(10);
    call(&mut peer, "channel.open", "", "channel.open-ok");
    peer
}

#[track_caller]
fn expect(heard: Heard, method: &str) -> Heard {
    assert_eq!(heard.method(), Some(method), "heard: {heard}");
    heard
}

/// Calls a method on channel 1.
#[track_caller]
fn call(peer: &mut Peer, method: &str, text: &str, answer: &str) -> Heard {
    let heard = peer.call(1, method, text).expect("a call");
    expect(heard, answer)
}

fn publish(peer: &mut Peer, key: &str, body: &[u8]) {
    let method = fields(&format!("exchange=\"\" routing-key={key}")).expect("fields");
    peer.publish(1, &method, &Vec::new(), body).expect("a publish");
}

/// Fetches the next message without settling it; its delivery tag.
#[track_caller]
fn get(peer: &mut Peer, queue: &str) -> String {
    let got = call(peer, "basic.get", &format!("queue={queue}"), "basic.get-ok");
    let _ = (peer.recv(), peer.recv());
    got.field("delivery-tag").expect("a tag").to_string()
}

/// How many messages of a queue are ready.
#[track_caller]
fn ready(peer: &mut Peer, queue: &str) -> String {
    let declared = call(peer, "queue.declare", &format!("queue={queue} passive"), "queue.declare-ok");
    declared.field("message-count").expect("a count").to_string()
}

#[test]
fn a_long_chain_of_auto_delete_exchanges_falls_without_the_broker() {
    const LENGTH: usize = 20_000;
    let mut peer = client(start(Config::default()));
    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    for i in 0..LENGTH {
        let declare = format!("exchange=x{i} type=fanout auto-delete nowait");
        peer.send(1, "exchange.declare", &declare).expect("declare");
        if i > 0 {
            peer.send(1, "exchange.bind", &format!("destination=x{} source=x{i} nowait", i - 1)).expect("bind");
        }
    }
    call(&mut peer, "queue.bind", "queue=q exchange=x0", "queue.bind-ok");
    call(&mut peer, "queue.delete", "queue=q", "queue.delete-ok");
    for i in [0, LENGTH - 1] {
        let gone = format!("exchange=x{i} type=fanout passive");
        call(&mut peer, "exchange.declare", &gone, "channel.close");
        peer.send(1, "channel.close-ok", "").expect("close-ok");
        call(&mut peer, "channel.open", "", "channel.open-ok");
    }
}

#[test]
fn a_transaction_settles_the_queue_that_it_read() {
    let address = start(Config::default());
    let mut peer = client(address);
    for queue in ["one", "other"] {
        call(&mut peer, "queue.declare", &format!("queue={queue}"), "queue.declare-ok");
        publish(&mut peer, queue, b"m");
    }
    call(&mut peer, "tx.select", "", "tx.select-ok");
    let tag = get(&mut peer, "one");
    peer.send(1, "basic.ack", &format!("delivery-tag={tag}")).expect("ack");
    get(&mut peer, "other");
    call(&mut peer, "tx.commit", "", "tx.commit-ok");
    call(&mut peer, "channel.close", "reply-code=200 reply-text=\"\"", "channel.close-ok");
    let mut peer = client(address);
    assert_eq!(ready(&mut peer, "one"), "0");
    assert_eq!(ready(&mut peer, "other"), "1");
}

#[test]
fn a_channel_is_closed_once() {
    let mut peer = client(start(Config::default()));
    // One read: the acknowledgement is gathered, and what follows has faults of its own.
    let mut octets = peer::frame(1, 1, &peer::method::encode("basic.ack", &fields("delivery-tag=7").unwrap()).unwrap());
    for text in ["exchange=none routing-key=k", "exchange=\"\" routing-key=k immediate"] {
        let publish = peer::method::encode("basic.publish", &fields(text).unwrap()).unwrap();
        octets.extend(peer::frame(1, 1, &publish));
        octets.extend(peer::header(1, 60, 0, 0, &Vec::new()).unwrap());
    }
    octets.extend(peer::frame(1, 2, &peer::method::encode("channel.open", &Vec::new()).unwrap()));
    peer.send_octets(&octets).expect("send");
    let close = expect(peer.recv(), "channel.close");
    assert_eq!(close.field("reply-code").map(ToString::to_string).as_deref(), Some("406"), "{close}");
    expect(peer.recv(), "channel.open-ok");
}

#[test]
fn what_is_recovered_comes_after_the_answer() {
    let mut peer = client(start(Config::default()));
    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut peer, "basic.consume", "queue=q consumer-tag=t", "basic.consume-ok");
    publish(&mut peer, "q", b"m");
    expect(peer.recv(), "basic.deliver");
    let _ = (peer.recv(), peer.recv());
    call(&mut peer, "basic.recover", "requeue", "basic.recover-ok");
    expect(peer.recv(), "basic.deliver");
}

#[test]
fn an_alarm_ends_with_the_connection_that_caused_it() {
    let address = start(Config { memory_high_watermark: 1_000_000, ..Config::default() });
    let (mut owner, mut filler, mut other) = (client(address), client(address), client(address));
    call(&mut owner, "queue.declare", "queue=q exclusive", "queue.declare-ok");
    // In several messages: a body of which a part has come stays in memory as long as its sender.
    let mut heard = None;
    for _ in 0..100 {
        publish(&mut filler, "q", &vec![0; 50_000]);
        heard = Some(filler.call(1, "basic.qos", "prefetch-count=0").expect("a call"));
        if heard.as_ref().and_then(Heard::method) != Some("basic.qos-ok") {
            break;
        }
    }
    expect(heard.expect("a message"), "connection.blocked");
    publish(&mut other, "none", b"m");
    expect(other.recv(), "connection.blocked");
    drop(owner);
    expect(other.recv(), "connection.unblocked");
    expect(filler.recv(), "connection.unblocked");
}

/// Held back within the body that raises the alarm, its sender would never finish it, and nobody
/// could clear the alarm.
#[test]
fn a_body_that_raises_the_alarm_by_itself_is_finished() {
    let address = start(Config { memory_high_watermark: 1_000_000, ..Config::default() });
    let (mut owner, mut filler) = (client(address), client(address));
    call(&mut owner, "queue.declare", "queue=q", "queue.declare-ok");
    publish(&mut filler, "q", &vec![0; 1_500_000]);
    publish(&mut filler, "q", b"m");
    expect(filler.recv(), "connection.blocked");
    while ready(&mut owner, "q") != "1" {
        std::thread::yield_now();
    }
    call(&mut owner, "queue.purge", "queue=q", "queue.purge-ok");
    expect(filler.recv(), "connection.unblocked");
    while ready(&mut owner, "q") != "1" {
        std::thread::yield_now();
    }
}

#[test]
fn a_publisher_that_dies_while_it_is_blocked_is_noticed() {
    let address = start(Config { memory_high_watermark: 1_000_000, ..Config::default() });
    let (mut owner, mut other) = (client(address), client(address));
    call(&mut owner, "queue.declare", "queue=q exclusive", "queue.declare-ok");
    publish(&mut owner, "q", &vec![0; 1_500_000]);
    publish(&mut owner, "none", b"m");
    expect(owner.recv(), "connection.blocked");
    publish(&mut other, "none", b"m");
    expect(other.recv(), "connection.blocked");
    drop(owner);
    expect(other.recv(), "connection.unblocked");
}

#[test]
fn a_few_octets_of_requests_do_not_make_a_flood_of_answers() {
    const ROUNDS: usize = 1_000;
    let mut peer = client(start(Config::default()));
    call(&mut peer, "queue.declare", "queue=q exclusive", "queue.declare-ok");
    publish(&mut peer, "q", &vec![0; 4_000_000]);
    let mut octets = Vec::new();
    for tag in 1..=ROUNDS {
        for (method, text) in
            [("basic.get", "queue=q".to_owned()), ("basic.reject", format!("delivery-tag={tag} requeue"))]
        {
            octets.extend(peer::frame(1, 1, &peer::method::encode(method, &fields(&text).unwrap()).unwrap()));
        }
    }
    peer.send_octets(&octets).expect("send");
    for _ in 0..20 {
        expect(peer.recv(), "basic.get-ok");
        while !matches!(peer.recv(), Heard::Body(_, octets) if octets.len() < 131_064) {}
    }
    assert!(memory_kib() < 1_000_000, "{} KiB", memory_kib());
}

/// The most memory that this process, broker and clients together, has had resident.
fn memory_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
