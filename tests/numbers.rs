//! The numbers that management reads, compared with what clients have done.

use conformance::peer;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use leveret::broker::overview::{ChannelTotals, ConnectionStats, ExchangeTotals, NodeTotals, VhostTotals};
use leveret::broker::vhost::Vhost;
use leveret::config::{StoreConfig, StoreKind};
use leveret::metrics::{MessageCounts, Mode};
use leveret::queue::QueueStats;
use leveret::{Broker, Config};
use peer::Peer;
use running::{call, client, content, expect, number, publish, publish_to};
use std::sync::Arc;
use tokio::runtime::Runtime;

struct Fixture {
    runtime: Runtime,
    broker: Option<Broker>,
}

impl Fixture {
    fn new() -> Fixture {
        let runtime = Runtime::new().unwrap();
        let store = StoreConfig { kind: StoreKind::Memory, ..Config::default().store };
        let config = Config { bind: vec!["127.0.0.1:0".parse().unwrap()], store, ..Config::default() };
        let broker = Some(runtime.block_on(Broker::start(config)).unwrap());
        Fixture { runtime, broker }
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    fn client(&self) -> Peer {
        client(self.broker().address(), "")
    }

    fn vhost(&self) -> Arc<Vhost> {
        self.broker().node().vhost(b"/").unwrap()
    }

    fn queue(&self, name: &str) -> QueueStats {
        let queues = self.vhost().queue_stats(0, 100);
        queues.into_iter().find(|(queue, _)| queue.name().as_octets() == name.as_bytes()).unwrap().1
    }

    fn channel(&self, connection: u64) -> ChannelTotals {
        self.broker().node().channel_totals(connection).remove(0)
    }

    fn exchange(&self, name: &str) -> ExchangeTotals {
        let mut exchanges = self.vhost().exchange_totals(0, 100).into_iter();
        exchanges.find(|exchange| exchange.name.as_octets() == name.as_bytes()).unwrap()
    }

    fn connections(&self) -> Vec<ConnectionStats> {
        self.broker().node().connection_stats(0, 100)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let stopped = self.broker.take().map(|broker| self.runtime.block_on(broker.shutdown()));
        assert!(stopped.is_none_or(|stopped| stopped.is_ok()) || std::thread::panicking());
    }
}

/// A call whose answer shows that everything before it has taken effect.
fn settle(peer: &mut Peer) {
    call(peer, "basic.qos", "prefetch-count=7", "basic.qos-ok");
}

fn ack(peer: &mut Peer, method: &str, tag: u64, more: &str) {
    peer.send(1, method, &format!("delivery-tag={tag} {more}")).unwrap();
}

#[test]
fn a_queue_counts_what_goes_through_it() {
    let fixture = Fixture::new();
    let mut peer = fixture.client();
    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    (0..10).for_each(|_| publish(&mut peer, "q", &[7; 100]));
    settle(&mut peer);
    let stats = fixture.queue("q");
    assert_eq!((stats.ready, stats.unacked, stats.consumers, stats.stored), (10, 0, 0, 0));
    assert_eq!(stats.counts, MessageCounts { published: 10, ..MessageCounts::default() });
    assert!((1_000..3_000).contains(&stats.resident_octets), "{stats:?}");
    assert!(stats.last_used_ms > 1_600_000_000_000, "{stats:?}");

    call(&mut peer, "basic.get", "queue=q", "basic.get-ok");
    let _ = (peer.recv(), peer.recv());
    call(&mut peer, "basic.get", "queue=q no-ack", "basic.get-ok");
    let _ = (peer.recv(), peer.recv());
    call(&mut peer, "basic.consume", "queue=q consumer-tag=mine", "basic.consume-ok");
    let tags: Vec<u64> = (0..7).map(|_| number(&content(&mut peer).0, "delivery-tag")).collect();
    ack(&mut peer, "basic.ack", tags[2], "multiple");
    ack(&mut peer, "basic.nack", tags[3], "");
    ack(&mut peer, "basic.reject", tags[4], "requeue");
    // The fetched one and the first three are acknowledged: more come, one of them again.
    let more: Vec<_> = (0..2).map(|_| content(&mut peer).0).collect();
    settle(&mut peer);
    let stats = fixture.queue("q");
    let expected = MessageCounts {
        published: 10,
        delivered: 9,
        got: 1,
        got_no_ack: 1,
        redelivered: 1,
        acked: 4,
        refused: 1,
        requeued: 1,
        ..MessageCounts::default()
    };
    assert_eq!((stats.counts, more.len()), (expected, 2));
    assert_eq!((stats.ready, stats.unacked, stats.consumers), (0, 4, 1));
    let queue = fixture.vhost().names().queue(b"q").cloned().unwrap();
    let (consumers, next) = queue.consumers_from(0, 100);
    let [consumer] = &consumers[..] else { panic!("{consumers:?}") };
    assert_eq!(next, None);
    assert_eq!((consumer.tag.as_octets(), consumer.channel), (&b"mine"[..], 1));
    assert_eq!(consumer.connection, fixture.connections()[0].info.number);
    let (options, unacked) = (consumer.facts.options, consumer.facts.unacked);
    assert_eq!((options.prefetch, options.no_ack, unacked, consumer.facts.is_active), (7, false, 4, true));

    let channel = fixture.channel(consumer.connection);
    assert_eq!((channel.published, channel.delivered, channel.fetched), (10, 9, 2));
    assert_eq!((channel.acked, channel.requeued, channel.refused), (4, 1, 1));
    assert_eq!((channel.unacked, channel.prefetch, channel.mode), (4, 7, Mode::Plain));
    drop(peer);
    let gone = |fixture: &Fixture| fixture.queue("q").ready == 4 && fixture.connections().is_empty();
    while !gone(&fixture) {
        std::thread::yield_now();
    }
    assert_eq!((fixture.queue("q").unacked, fixture.queue("q").consumers), (0, 0));
}

#[test]
fn a_channel_counts_what_is_confirmed_and_returned() {
    let fixture = Fixture::new();
    let (mut peer, mut other) = (fixture.client(), fixture.client());
    call(&mut other, "queue.declare", "queue=q", "queue.declare-ok");
    publish(&mut peer, "q", b"before");
    call(&mut peer, "confirm.select", "", "confirm.select-ok");
    for _ in 0..3 {
        publish(&mut peer, "q", b"m");
        expect(&peer.recv(), "basic.ack");
    }
    publish_to(&mut peer, "routing-key=nowhere mandatory", b"m").unwrap();
    expect(&peer.recv(), "basic.return");
    while peer.recv().method() != Some("basic.ack") {}
    let connections = fixture.connections();
    let [first, _] = &connections[..] else { panic!("{connections:?}") };
    let channel = fixture.channel(first.info.number);
    assert_eq!(channel.mode, Mode::Confirm);
    assert_eq!((channel.published, channel.confirmed, channel.unconfirmed, channel.returned), (5, 4, 0, 1));
    call(&mut other, "tx.select", "", "tx.select-ok");
    publish(&mut other, "q", b"m");
    publish_to(&mut other, "routing-key=nowhere mandatory", b"m").unwrap();
    other.send(1, "tx.commit", "").unwrap();
    expect(&other.recv(), "basic.return");
    while other.recv().method() != Some("tx.commit-ok") {}
    let channel = fixture.channel(connections[1].info.number);
    assert_eq!((channel.mode, channel.published, channel.returned), (Mode::Transaction, 2, 1));
    assert_eq!(fixture.queue("q").counts.published, 5);
}

#[test]
fn an_exchange_counts_messages_and_the_queues_they_go_to() {
    let fixture = Fixture::new();
    let mut peer = fixture.client();
    for queue in ["a", "b", "c"] {
        call(&mut peer, "queue.declare", &format!("queue={queue}"), "queue.declare-ok");
        call(&mut peer, "queue.bind", &format!("queue={queue} exchange=amq.fanout"), "queue.bind-ok");
    }
    call(&mut peer, "queue.bind", "queue=a exchange=amq.headers arguments={k: \"v\"}", "queue.bind-ok");
    for _ in 0..5 {
        publish_to(&mut peer, "exchange=amq.fanout routing-key=x", b"m").unwrap();
        publish_to(&mut peer, "exchange=amq.topic routing-key=nowhere", b"m").unwrap();
        publish_to(&mut peer, "exchange=amq.headers routing-key=x", b"m").unwrap();
        publish(&mut peer, "b", b"m");
    }
    settle(&mut peer);
    let counted = |name: &str| {
        let ExchangeTotals { bindings, published, routed, .. } = fixture.exchange(name);
        (bindings, published, routed)
    };
    assert_eq!(counted("amq.fanout"), (3, 5, 15));
    assert_eq!(counted("amq.topic"), (0, 5, 0));
    assert_eq!(counted("amq.headers"), (1, 5, 0));
    assert_eq!(counted(""), (0, 5, 5));
    assert_eq!(counted("amq.direct"), (0, 0, 0));
}

#[test]
fn connections_are_known_by_what_they_said_and_did() {
    let fixture = Fixture::new();
    assert_eq!(fixture.connections().len(), 0);
    let mut peer = fixture.client();
    let before = fixture.connections().remove(0);
    let info = &before.info;
    assert_eq!((info.user.as_str(), info.vhost.as_octets()), ("guest", &b"/"[..]));
    assert!(info.peer.ip().is_loopback() && info.frame_max >= 4096 && info.connected_at_ms > 1_600_000_000_000);
    assert_eq!((before.channels, before.is_blocked), (1, false));
    call(&mut peer, "queue.declare", "queue=q", "queue.declare-ok");
    publish(&mut peer, "q", &[7; 1000]);
    settle(&mut peer);
    let after = fixture.connections().remove(0);
    assert!((1_000..1_200).contains(&(after.octets_in - before.octets_in)), "{before:?} {after:?}");
    assert!((20..100).contains(&(after.octets_out - before.octets_out)), "{before:?} {after:?}");
    let NodeTotals { connections, channels, queues, consumers, ready, unacked, memory, .. } =
        fixture.broker().node().totals();
    assert_eq!((connections, channels, queues, consumers, ready, unacked), (1, 1, 1, 0, 1, 0));
    assert!(memory >= 1_000);
    let exchanges = fixture.vhost().exchange_totals(0, 100).len();
    let expected = VhostTotals { queues: 1, exchanges, ready: 1, ..VhostTotals::default() };
    assert_eq!(fixture.vhost().totals(), expected);
    call(&mut peer, "channel.close", "reply-code=200 reply-text=\"\"", "channel.close-ok");
    assert_eq!(fixture.connections()[0].channels, 0);
    assert_eq!(fixture.broker().node().channel_totals(after.info.number), []);
}

/// Pages of connections, consumers and queues, each with another after it.
#[test]
fn what_does_not_fit_a_page_comes_in_the_next() {
    let fixture = Fixture::new();
    let mut peers: Vec<Peer> = (0..5).map(|_| fixture.client()).collect();
    for number in 0..5 {
        call(&mut peers[0], "queue.declare", &format!("queue=q{number}"), "queue.declare-ok");
        call(&mut peers[number], "basic.consume", "queue=q0 consumer-tag=t", "basic.consume-ok");
    }
    let numbers = |page: Vec<ConnectionStats>| page.iter().map(|one| one.info.number).collect::<Vec<_>>();
    let node = fixture.broker().node();
    let first = numbers(node.connection_stats(0, 3));
    let second = numbers(node.connection_stats(first[2], 3));
    assert_eq!((first.len(), second.len()), (3, 2));
    assert!(first.iter().chain(&second).is_sorted());
    let vhost = fixture.vhost();
    let sizes = [0, 2, 4, 5].map(|at| vhost.queue_stats(at, 2).len());
    assert_eq!(sizes, [2, 2, 1, 0]);
    let queue = vhost.names().queue(b"q0").cloned().unwrap();
    let (mut found, mut at) = (Vec::new(), Some(0));
    while let Some(from) = at {
        let (page, next) = queue.consumers_from(from, 2);
        found.extend(page.into_iter().map(|consumer| consumer.connection));
        at = next;
    }
    assert_eq!(found, [first, second].concat());
}
