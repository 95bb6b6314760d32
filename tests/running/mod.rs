//! A broker in this process for the tests of one program, and short forms of what they do with a
//! peer.

use std::net::SocketAddr;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use leveret::clock::{Clock, ManualHand, Tick};
use leveret::config::StoreKind;
use leveret::{Broker, Config};

use crate::peer::text::{Fields, fields};
use crate::peer::{Heard, Peer};

/// The longest that anything may take that is bound to happen.
pub const LONG: Duration = Duration::from_secs(60);

/// A broker of its own for one test. It ends with the process.
pub fn start(change: impl FnOnce(&mut Config) + Send + 'static) -> SocketAddr {
    start_with(Clock::system(), change)
}

/// The same by a clock that stands still until the hand moves it.
pub fn start_by_hand(change: impl FnOnce(&mut Config) + Send + 'static) -> (SocketAddr, Hand) {
    let (clock, hand) = Clock::manual();
    (start_with(clock.clone(), change), Hand { clock, hand })
}

fn start_with(clock: Clock, change: impl FnOnce(&mut Config) + Send + 'static) -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut config = Config { bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Config::default() };
            config.store.kind = StoreKind::Memory;
            change(&mut config);
            let broker = Broker::start_with_clock(config, clock).await.expect("a broker");
            told.send(broker.address()).expect("the address is waited for");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the broker starts")
}

/// The hand of a broker's clock.
#[derive(Clone)]
pub struct Hand {
    clock: Clock,
    hand: ManualHand,
}

impl Hand {
    /// Milliseconds by which a far deadline may be put off, to be met together with others.
    const TOGETHER_MS: u64 = 128;

    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Moves the clock. What was due by then is done soon, but not yet.
    pub fn advance(&self, ms: u64) {
        self.hand.advance(ms);
    }

    /// Awaits that the next that the broker sleeps until is `ms` away.
    pub fn awaits(&self, ms: u64) -> Tick {
        let due = self.now() + ms;
        let limit = Instant::now() + LONG;
        loop {
            match self.hand.next_deadline() {
                Some(next) if next >= due && next < due + Self::TOGETHER_MS => return next,
                next => assert!(Instant::now() < limit, "the broker sleeps until {next:?}, expected {due:?}"),
            }
            std::thread::yield_now();
        }
    }

    /// Returns true if the broker sleeps until some time.
    pub fn is_awaited(&self) -> bool {
        self.hand.next_deadline().is_some()
    }

    /// Lets time pass until `wait` returns: from one deadline of the broker to the next, at most
    /// half a second at a time.
    pub fn passes<T>(&self, wait: impl FnOnce() -> T) -> T {
        let (waits, over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while over.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
                    let next = self.hand.next_deadline().unwrap_or_default();
                    self.advance(next.since(self.now()).min(500));
                }
            });
            let outcome = wait();
            drop(waits);
            outcome
        })
    }

    /// Moves the clock to one millisecond before the broker's next deadline, which is `ms` away.
    pub fn advance_before(&self, ms: u64) {
        let next = self.awaits(ms);
        self.advance(next.since(self.now()) - 1);
    }
}

/// A patient connection with channel 1 open.
pub fn client(address: SocketAddr, options: &str) -> Peer {
    let mut peer = Peer::connect(address).expect("a connection");
    peer.patience = LONG;
    peer.login(options).expect("a login");
    expect(&peer.call(1, "channel.open", "").expect("a call"), "channel.open-ok");
    peer
}

/// Calls on channel 1 and takes no other answer than `answer`.
pub fn call(peer: &mut Peer, method: &str, text: &str, answer: &str) -> Heard {
    let heard = peer.call(1, method, text).expect("a call");
    expect(&heard, answer);
    heard
}

/// Panics unless this is that method.
pub fn expect(heard: &Heard, method: &str) {
    assert_eq!(heard.method(), Some(method), "heard {heard}");
}

/// Publishes on channel 1 to the default exchange.
pub fn publish(peer: &mut Peer, queue: &str, body: &[u8]) {
    publish_to(peer, &format!("routing-key={queue}"), body).expect("published");
}

/// Publishes on channel 1.
pub fn publish_to(peer: &mut Peer, text: &str, body: &[u8]) -> Result<(), String> {
    peer.publish(1, &fields(text)?, &Fields::new(), body)
}

/// A numeric field.
pub fn number(heard: &Heard, field: &str) -> u64 {
    let text = heard.field(field).map(ToString::to_string).unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("no number {field} in {heard}"))
}

/// How many messages are ready in a queue.
pub fn ready(peer: &mut Peer, queue: &str) -> u64 {
    let declared = call(peer, "queue.declare", &format!("queue={queue} passive"), "queue.declare-ok");
    number(&declared, "message-count")
}

/// The next content: the method in front of it, and its whole body.
pub fn content(peer: &mut Peer) -> (Heard, Vec<u8>) {
    let method = peer.recv();
    let header = peer.recv();
    let Heard::Header(_, _, size, _) = header else { panic!("a header expected after {method}, heard {header}") };
    let mut body = Vec::new();
    while (body.len() as u64) < size {
        match peer.recv() {
            Heard::Body(_, octets) => body.extend(octets),
            other => panic!("a body expected, heard {other}"),
        }
    }
    (method, body)
}

/// Nothing has come, and nothing comes soon.
pub fn nothing(peer: &mut Peer, what: &str) {
    let heard = peer.read(Instant::now() + Duration::from_millis(20));
    assert_eq!(heard, Heard::Timeout, "{what}: heard {heard}");
}

/// Nothing comes for as long as that.
pub fn silence(peer: &mut Peer, how_long: Duration) {
    let heard = peer.read(Instant::now() + how_long);
    assert_eq!(heard, Heard::Timeout, "heard {heard}");
}
