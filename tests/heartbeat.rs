//! Heartbeats both ways and the time limit of the handshake, through the socket, by a clock that is
//! moved by hand.

use conformance::peer;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use leveret::clock::Tick;
use peer::{HEADER, Heard, Peer, frame};
use running::{Hand, call, client, expect, nothing, start, start_by_hand};

const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xce];
/// Two intervals of a second, and the time that a deadline waits for others.
const TWO_INTERVALS: RangeInclusive<u64> = 2_000..=2_128;

fn within(hand: &Hand, since: Tick, bounds: RangeInclusive<u64>) {
    let took = hand.now().since(since);
    assert!(bounds.contains(&took), "took {took} ms, expected {bounds:?}");
}

/// Reads past heartbeats while time passes.
fn until_closed(peer: &mut Peer, hand: &Hand) {
    hand.passes(|| {
        loop {
            match peer.recv() {
                Heard::Heartbeat(0) => {}
                Heard::Closed => return,
                other => panic!("heard {other}"),
            }
        }
    });
}

#[test]
fn a_silent_peer_is_closed_after_two_intervals() {
    let (address, hand) = start_by_hand(|_| ());
    let mut peer = client(address, "heartbeat=1");
    let silent_since = hand.now();
    until_closed(&mut peer, &hand);
    within(&hand, silent_since, TWO_INTERVALS);
}

#[test]
fn a_peer_that_stops_inside_a_frame_is_closed_too() {
    let (address, hand) = start_by_hand(|_| ());
    let mut peer = client(address, "heartbeat=1");
    peer.send_octets(&HEARTBEAT[..5]).unwrap();
    let silent_since = hand.now();
    until_closed(&mut peer, &hand);
    within(&hand, silent_since, TWO_INTERVALS);
}

#[test]
fn what_a_closed_peer_had_comes_back() {
    let (address, hand) = start_by_hand(|_| ());
    let mut watcher = client(address, "");
    call(&mut watcher, "queue.declare", "queue=work", "queue.declare-ok");
    running::publish(&mut watcher, "work", b"to do");
    let mut silent = client(address, "heartbeat=1");
    call(&mut silent, "queue.declare", "queue=own exclusive", "queue.declare-ok");
    call(&mut silent, "basic.get", "queue=work", "basic.get-ok");
    silent.recv();
    silent.recv();
    call(&mut watcher, "basic.consume", "queue=work consumer-tag=w", "basic.consume-ok");
    let (delivered, body) = hand.passes(|| running::content(&mut watcher));
    assert!(delivered.to_string().contains("redelivered"), "{delivered}");
    assert_eq!(body, b"to do");
    call(&mut watcher, "queue.declare", "queue=own passive", "channel.close");
}

#[test]
fn a_peer_that_beats_stays_and_hears_beats_at_half_the_interval() {
    let (address, hand) = start_by_hand(|_| ());
    let mut peer = client(address, "heartbeat=1");
    let since = hand.now();
    let beats = 8;
    for _ in 0..beats {
        let heard = hand.passes(|| peer.recv());
        assert_eq!(heard, Heard::Heartbeat(0), "heard {heard}");
        peer.send_octets(&HEARTBEAT).unwrap();
    }
    within(&hand, since, beats * 400..=beats * 800);
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
}

#[test]
fn any_frame_counts_as_a_beat() {
    let (address, hand) = start_by_hand(|_| ());
    let mut peer = client(address, "heartbeat=1");
    let since = hand.now();
    while hand.now().since(since) < 3_600 {
        match hand.passes(|| peer.recv()) {
            Heard::Heartbeat(0) => peer.send(1, "basic.recover", "requeue").unwrap(),
            other => expect(&other, "basic.recover-ok"),
        }
    }
}

#[test]
fn zero_turns_both_off() {
    let (address, hand) = start_by_hand(|config| config.heartbeat = 1);
    let mut peer = client(address, "heartbeat=0");
    hand.advance(3_500);
    nothing(&mut peer, "without heartbeats");
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
    assert!(!hand.is_awaited());
}

#[test]
fn the_configured_interval_is_offered() {
    for seconds in [0, 7] {
        let mut peer = Peer::connect(start(move |config| config.heartbeat = seconds)).unwrap();
        peer.send_octets(HEADER).unwrap();
        expect(&peer.recv(), "connection.start");
        let plain = r#"mechanism=PLAIN response="\x00guest\x00guest" locale=en_US"#;
        let tune = peer.call(0, "connection.start-ok", plain).unwrap();
        expect(&tune, "connection.tune");
        assert_eq!(running::number(&tune, "heartbeat"), u64::from(seconds));
    }
}

#[test]
fn a_handshake_that_takes_too_long_is_ended_in_every_stage() {
    let (address, hand) = start_by_hand(|config| config.handshake_timeout_ms = 600);
    let stages: [&[&str]; 4] = [&[], &["header"], &["header", "start-ok"], &["header", "start-ok", "tune-ok"]];
    for stage in stages {
        let mut peer = Peer::connect(address).unwrap();
        peer.patience = running::LONG;
        for step in stage {
            match *step {
                "header" => {
                    peer.send_octets(HEADER).unwrap();
                    expect(&peer.recv(), "connection.start");
                }
                "start-ok" => {
                    let plain = r#"mechanism=PLAIN response="\x00guest\x00guest" locale=en_US"#;
                    expect(&peer.call(0, "connection.start-ok", plain).unwrap(), "connection.tune");
                }
                _ => peer.send(0, "connection.tune-ok", "channel-max=9 frame-max=131072").unwrap(),
            }
        }
        hand.advance_before(600);
        nothing(&mut peer, &format!("{stage:?}"));
        hand.advance(1);
        let heard = peer.recv();
        assert_eq!(heard, Heard::Closed, "{stage:?}: heard {heard}");
    }
}

#[test]
fn octets_that_trickle_in_do_not_prolong_the_handshake() {
    let (address, hand) = start_by_hand(|config| config.handshake_timeout_ms = 600);
    let mut peer = Peer::connect(address).unwrap();
    peer.patience = running::LONG;
    peer.send_octets(HEADER).unwrap();
    expect(&peer.recv(), "connection.start");
    for octet in frame(1, 0, &[0; 100]).into_iter().take(11) {
        peer.send_octets(&[octet]).unwrap();
        hand.advance(50);
        nothing(&mut peer, "before the limit");
    }
    hand.advance(50);
    assert_eq!(peer.recv(), Heard::Closed);
}

#[test]
fn an_open_connection_has_no_handshake_left() {
    let (address, hand) = start_by_hand(|config| config.handshake_timeout_ms = 300);
    let mut peer = client(address, "");
    hand.advance(900);
    nothing(&mut peer, "an open connection");
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
}

/// A client that has read nothing of `count` messages of 1 MiB that it consumes, and another that
/// watches the queue.
fn consumer_that_does_not_read(address: SocketAddr, heartbeat: &str, count: usize) -> (Peer, Peer) {
    let (mut deaf, mut watcher) = (client(address, heartbeat), client(address, ""));
    call(&mut deaf, "queue.declare", "queue=q", "queue.declare-ok");
    call(&mut deaf, "basic.consume", "queue=q consumer-tag=t", "basic.consume-ok");
    for _ in 0..count {
        running::publish(&mut watcher, "q", &[7; 1 << 20]);
    }
    (deaf, watcher)
}

fn consumers(watcher: &mut Peer) -> u64 {
    let declared = call(watcher, "queue.declare", "queue=q passive", "queue.declare-ok");
    running::number(&declared, "consumer-count")
}

#[test]
fn a_consumer_that_beats_but_reads_nothing_is_ended_and_loses_its_messages() {
    const COUNT: usize = 40;
    let (address, hand) = start_by_hand(|_| ());
    let (mut deaf, mut watcher) = consumer_that_does_not_read(address, "heartbeat=10", COUNT);
    let since = hand.awaits(5_000) - 5_000;
    hand.passes(|| {
        while consumers(&mut watcher) == 1 {
            // Once it is ended, the socket may fail.
            let _ = deaf.send_octets(&HEARTBEAT);
        }
    });
    within(&hand, since, 30_000..=36_000);
    assert_eq!(running::ready(&mut watcher, "q"), COUNT as u64);
}

#[test]
fn a_consumer_that_reads_slowly_stays() {
    let (address, hand) = start_by_hand(|_| ());
    let (mut slow, mut watcher) = consumer_that_does_not_read(address, "heartbeat=0", 60);
    for _ in 0..8 {
        for _ in 0..4 {
            hand.awaits(5_000);
            hand.advance(5_000);
        }
        for _ in 0..40 {
            assert_ne!(slow.recv(), Heard::Closed);
        }
        assert_eq!(consumers(&mut watcher), 1);
    }
}
