//! Any octets on one connection, and what must hold whatever they are.

use crate::model::client::Client;
use crate::model::methods;
use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::config::Config;
use std::sync::Arc;

/// The first octet chooses whether a handshake comes first and how large pieces are; in what
/// follows, each piece is led by an octet that lets time pass.
///
/// # Panics
/// Where the session breaks a promise.
pub fn run(octets: &[u8]) {
    let Some((&choice, octets)) = octets.split_first() else { return };
    let config = Config { memory_high_watermark: 4096, max_message_size: 2048, ..Config::default() };
    let node = Arc::new(Node::new(config));
    let mut now = Tick(1);
    let mut client = Client::new(&node, now);
    if choice & 1 != 0 {
        client.send(&methods::handshake(4096, 10), 0, now);
        client.decoder.frame_max = 4096;
    }
    if choice & 2 != 0 {
        client.send(&methods::open(1), 0, now);
    }
    let piece = [usize::MAX, 1, 2, 3, 5, 7, 8, 11, 16, 23, 32, 64, 100, 200, 400, 1000][usize::from(choice >> 4)];
    let mut rest = octets;
    while let Some((&pause, behind)) = rest.split_first()
        && !client.over
    {
        let (piece, behind) = behind.split_at(piece.min(behind.len()));
        rest = behind;
        now = now + if pause > 250 { u64::from(pause) * 100 } else { 0 };
        client.tick(now);
        client.send(piece, 0, now);
        if pause & 1 == 0 {
            client.ring(now);
        }
    }
    let mut names = client.queues_named();
    client.end();
    let vhost = node.vhost(b"/").expect("there is one");
    let is_known = names.remove(&Vec::new());
    for name in &names {
        if let Some(queue) = vhost.names().queue(name) {
            assert_eq!((queue.declared().owner, queue.counts().consumers), (None, 0));
            queue.purge();
        }
    }
    // Queues that the broker named are not found here.
    if !is_known {
        assert_eq!(node.context().memory().used_by_messages(), 0, "memory of messages that nobody holds");
    }
}
