//! Peers that have not logged in: how long they may take, what they are told, and that they cannot
//! try passwords fast. The clock is moved by hand.

use conformance::peer;
#[expect(dead_code, reason = "one set of short forms for all tests, of which each needs a part")]
mod running;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use peer::{HEADER, Heard, Peer, frame};
use running::{Hand, expect, start_by_hand};

const WRONG: &str = r#"mechanism=PLAIN response="\x00guest\x00wrong" locale=en_US"#;
const RIGHT: &str = r#"mechanism=PLAIN response="\x00guest\x00guest" locale=en_US"#;
/// RabbitMQ's SILENT_CLOSE_DELAY.
const SILENCE_MS: u64 = 3_000;

/// A peer that has been sent connection.start.
fn started(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).unwrap();
    peer.patience = running::LONG;
    peer.send_octets(HEADER).unwrap();
    expect(&peer.recv(), "connection.start");
    peer
}

fn start_ok(login: &str) -> Vec<u8> {
    let fields = peer::text::fields(login).unwrap();
    frame(1, 0, &peer::method::encode("connection.start-ok", &fields).unwrap())
}

/// Panics unless the peer is told nothing for as long as RabbitMQ, and then sees the end.
fn silent_to_the_end(peer: &mut Peer, hand: &Hand, what: &str) {
    hand.advance_before(SILENCE_MS);
    running::nothing(peer, what);
    hand.advance(1);
    let heard = peer.recv();
    assert_eq!(heard, Heard::Closed, "{what}: heard {heard}");
}

#[test]
fn a_failed_login_and_every_fault_before_login_is_met_with_silence() {
    let (address, hand) = start_by_hand(|_| ());
    let kinds: [(&str, Vec<u8>); 5] = [
        ("a wrong password", start_ok(WRONG)),
        ("no method", frame(1, 0, &[0; 100])),
        ("a frame without its end", b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0b\x00".to_vec()),
        ("a frame that is too large", b"\x01\x00\x00\x7f\x00\x00\x00".to_vec()),
        ("channel.open", frame(1, 1, &[0, 20, 0, 10, 0])),
    ];
    for (what, octets) in kinds {
        let mut peer = started(address);
        peer.send_octets(&octets).unwrap();
        silent_to_the_end(&mut peer, &hand, what);
    }
}

#[test]
fn a_peer_that_has_sent_its_last_learns_no_sooner_that_its_login_failed() {
    let (address, hand) = start_by_hand(|_| ());
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(HEADER).unwrap();
    socket.write_all(&start_ok(WRONG)).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    hand.advance_before(SILENCE_MS);
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut heard = Vec::new();
    let early = socket.read_to_end(&mut heard).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock, "more than connection.start: {heard:?}");
    hand.advance(1);
    socket.set_read_timeout(Some(running::LONG)).unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
}

/// Client properties of a client that is told of a failed login.
const TOLD: &str = "client-properties={capabilities: {authentication_failure_close: true}} ";

/// Fails to log in so often that each further login waits as long as any.
fn fail(address: SocketAddr, hand: &Hand) {
    let mut peers: Vec<_> = (0..60).map(|_| started(address)).collect();
    peers.iter_mut().for_each(|peer| peer.send(0, "connection.start-ok", &format!("{TOLD}{WRONG}")).unwrap());
    for peer in &mut peers {
        let mut heard = Heard::Timeout;
        while heard == Heard::Timeout {
            heard = peer.read(Instant::now() + Duration::from_millis(10));
            if heard == Heard::Timeout {
                hand.advance(100);
            }
        }
        expect(&heard, "connection.close");
    }
    drop(peers);
}

#[test]
fn logins_from_an_address_that_goes_on_failing_wait() {
    let (address, hand) = start_by_hand(|config| config.handshake_timeout_ms = 10_000);
    fail(address, &hand);
    for (answer, login) in [("connection.close", format!("{TOLD}{WRONG}")), ("connection.tune", RIGHT.to_owned())] {
        let mut peer = started(address);
        peer.send(0, "connection.start-ok", &login).unwrap();
        let since = hand.now();
        expect(&hand.passes(|| peer.recv()), answer);
        let took = hand.now().since(since);
        assert!((SILENCE_MS..SILENCE_MS + 1_000).contains(&took), "it took {took} ms");
    }
    // A minute later the address is like any other.
    hand.advance(200_000);
    expect(&started(address).call(0, "connection.start-ok", RIGHT).unwrap(), "connection.tune");
}

#[test]
fn who_gives_up_a_login_that_waits_keeps_no_place() {
    let (address, hand) = start_by_hand(|config| config.handshake_timeout_ms = 10_000);
    fail(address, &hand);
    let mut peer = started(address);
    peer.send(0, "connection.start-ok", RIGHT).unwrap();
    let looks = hand.awaits(100);
    drop(peer);
    hand.advance(looks.since(hand.now()));
    let limit = Instant::now() + running::LONG;
    while hand.is_awaited() {
        assert!(Instant::now() < limit, "it is waited for until its time has come");
        std::thread::yield_now();
    }
}
