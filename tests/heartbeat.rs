//! Heartbeats both ways and the time limit of the handshake, through the socket. Waiting is reading: each wait ends with
//! what the broker does, or with the peer's patience.

use conformance::peer;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::ops::Range;
use std::time::{Duration, Instant};

use peer::{HEADER, Heard, Peer, frame};
use running::{call, client, expect, silence, start};

const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xce];

fn within(took: Duration, bounds: Range<f64>) {
    assert!(bounds.contains(&took.as_secs_f64()), "took {took:?}, expected {bounds:?} s");
}

/// Reads past heartbeats.
fn until_closed(peer: &mut Peer) {
    loop {
        match peer.recv() {
            Heard::Heartbeat(0) => {}
            Heard::Closed => return,
            other => panic!("heard {other}"),
        }
    }
}

#[test]
fn a_silent_peer_is_closed_after_two_intervals() {
    let mut peer = client(start(|_| ()), "heartbeat=1");
    let silent_since = Instant::now();
    until_closed(&mut peer);
    within(silent_since.elapsed(), 1.9..3.5);
}

#[test]
fn a_peer_that_stops_inside_a_frame_is_closed_too() {
    let mut peer = client(start(|_| ()), "heartbeat=1");
    peer.send_octets(&HEARTBEAT[..5]).unwrap();
    let silent_since = Instant::now();
    until_closed(&mut peer);
    within(silent_since.elapsed(), 1.9..3.5);
}

#[test]
fn what_a_closed_peer_had_comes_back() {
    let address = start(|_| ());
    let mut watcher = client(address, "");
    call(&mut watcher, "queue.declare", "queue=work", "queue.declare-ok");
    running::publish(&mut watcher, "work", b"to do");
    let mut silent = client(address, "heartbeat=1");
    call(&mut silent, "queue.declare", "queue=own exclusive", "queue.declare-ok");
    call(&mut silent, "basic.get", "queue=work", "basic.get-ok");
    silent.recv();
    silent.recv();
    call(&mut watcher, "basic.consume", "queue=work consumer-tag=w", "basic.consume-ok");
    let (delivered, body) = running::content(&mut watcher);
    assert!(delivered.to_string().contains("redelivered"), "{delivered}");
    assert_eq!(body, b"to do");
    call(&mut watcher, "queue.declare", "queue=own passive", "channel.close");
}

#[test]
fn a_peer_that_beats_stays_and_hears_beats_at_half_the_interval() {
    let mut peer = client(start(|_| ()), "heartbeat=1");
    let since = Instant::now();
    let beats = 8;
    for _ in 0..beats {
        let heard = peer.recv();
        assert_eq!(heard, Heard::Heartbeat(0), "heard {heard}");
        peer.send_octets(&HEARTBEAT).unwrap();
    }
    within(since.elapsed() / beats, 0.4..0.8);
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
}

#[test]
fn any_frame_counts_as_a_beat() {
    let mut peer = client(start(|_| ()), "heartbeat=1");
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(3600) {
        match peer.recv() {
            Heard::Heartbeat(0) => peer.send(1, "basic.recover", "requeue").unwrap(),
            other => expect(&other, "basic.recover-ok"),
        }
    }
}

#[test]
fn zero_turns_both_off() {
    let mut peer = client(start(|config| config.heartbeat = 1), "heartbeat=0");
    silence(&mut peer, Duration::from_millis(3500));
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
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
    let address = start(|config| config.handshake_timeout_ms = 600);
    let stages: [&[&str]; 4] = [&[], &["header"], &["header", "start-ok"], &["header", "start-ok", "tune-ok"]];
    std::thread::scope(|scope| {
        for stage in stages {
            scope.spawn(move || {
                let since = Instant::now();
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
                let heard = peer.recv();
                assert_eq!(heard, Heard::Closed, "{stage:?}: heard {heard}");
                within(since.elapsed(), 0.55..1.5);
            });
        }
    });
}

#[test]
fn octets_that_trickle_in_do_not_prolong_the_handshake() {
    let address = start(|config| config.handshake_timeout_ms = 600);
    let mut peer = Peer::connect(address).unwrap();
    let since = Instant::now();
    peer.send_octets(HEADER).unwrap();
    expect(&peer.recv(), "connection.start");
    let octets = frame(1, 0, &[0; 100]);
    for octet in octets {
        let _ = peer.send_octets(&[octet]);
        if peer.read(Instant::now() + Duration::from_millis(100)) == Heard::Closed {
            return within(since.elapsed(), 0.55..1.5);
        }
    }
    panic!("still open after {:?}", since.elapsed());
}

#[test]
fn an_open_connection_has_no_handshake_left() {
    let mut peer = client(start(|config| config.handshake_timeout_ms = 300), "");
    silence(&mut peer, Duration::from_millis(900));
    call(&mut peer, "queue.declare", "", "queue.declare-ok");
}
