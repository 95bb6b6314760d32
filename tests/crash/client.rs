//! A client of a crash test: one connection, one channel, and the history into which it writes what
//! it sends and hears. It takes the end of the connection for a crash, and everything else that is
//! not as it should be for a mistake of the broker.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::history::{Found, History, Id};
use crate::peer::text::{Fields, fields};
use crate::peer::value::Value;
use crate::peer::{Heard, Peer, method};

/// The connection is at its end: the broker was killed.
#[derive(Debug)]
pub struct Gone;

pub type Shared = Arc<Mutex<History>>;
pub type Worked = Result<(), Gone>;

/// Publishers from this number on have large messages.
pub const LARGE: u32 = 1 << 30;

/// The longest that an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Small numbers that a seed leads to.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The octets that bodies are cut from.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng(1);
    (0..1 << 18).map(|_| rng.below(256) as u8).collect()
});

fn rng_of(id: Id) -> Rng {
    let mut rng = Rng(u64::from(id.0) << 32 | u64::from(id.1));
    rng.below(2);
    rng
}

/// The body that a message has: it follows from its id.
pub fn body(id: Id) -> &'static [u8] {
    let mut rng = rng_of(id);
    let size = match rng.below(200) {
        _ if id.0 >= LARGE => 20_000 + rng.below(40_000),
        0 => rng.below(200_000),
        1..20 => rng.below(5_000),
        20..40 => 0,
        _ => rng.below(300),
    };
    let from = rng.below(1 << 15) as usize;
    &NOISE[from..from + size as usize]
}

/// The properties that a message has. None of them means anything to the broker but the delivery
/// mode.
pub fn properties(id: Id, persistent: bool) -> Fields {
    let mut rng = rng_of(id);
    let text = |name: &str, text: String| (name.to_owned(), Value::Str(text.into_bytes()));
    let number = |name: &str, n: u64| (name.to_owned(), Value::Number(n.into()));
    let mut all = Vec::new();
    if rng.one_in(3) {
        all.push(text("content-type", "application/x-hare".to_owned()));
    }
    if rng.one_in(2) {
        let inner = vec![(b"deep".to_vec(), Value::Array(vec![Value::Void, Value::I8(-1), Value::Bool(true)]))];
        let pairs = vec![
            (b"n".to_vec(), Value::U32(id.1)),
            (b"twice".to_vec(), Value::I64(-1)),
            (b"twice".to_vec(), Value::Bytes(vec![0xff; rng.below(40) as usize])),
            (b"table".to_vec(), Value::Table(inner)),
        ];
        all.push(("headers".to_owned(), Value::Table(pairs)));
    }
    all.push(number("delivery-mode", if persistent { 2 } else { 1 }));
    if rng.one_in(3) {
        all.push(number("priority", rng.below(10)));
        all.push(text("correlation-id", "c".repeat(rng.below(30) as usize)));
    }
    all.push(text("message-id", id.to_string()));
    if rng.one_in(3) {
        all.push(number("timestamp", rng.below(1 << 40)));
        all.push(text("type", String::new()));
    }
    all
}

/// The id of a message, if all of it is as it was published.
pub fn id_of(found: &Fields, octets: &[u8]) -> Option<Id> {
    let (_, Value::Str(text)) = found.iter().find(|(name, _)| name == "message-id")? else { return None };
    let (publisher, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
    let id = Id(publisher.parse().ok()?, number.parse().ok()?);
    let encoded = method::encode_properties(found);
    let is_one_of = [true, false].iter().any(|mode| method::encode_properties(&properties(id, *mode)) == encoded);
    (is_one_of && octets == body(id)).then_some(id)
}

/// Effects that are certain once something published later is on the disk.
enum Effect {
    Delivered(&'static str, Id),
    Gone(&'static str, Id),
}

/// A publication without its confirm.
struct Pending {
    places: Vec<(&'static str, Id)>,
    persistent: bool,
}

/// Anything but a confirm that a client receives.
#[derive(Debug)]
pub enum Event {
    Answer(Heard),
    /// Consumed or got; it is in the history.
    Message {
        tag: u64,
        found: Found,
    },
    Returned,
}

/// A connection with channel 1 open.
pub struct Client {
    pub peer: Peer,
    pub history: Shared,
    pub rng: Rng,
    number: u32,
    next: u32,
    published: u64,
    pending: BTreeMap<u64, Pending>,
    /// How much was published before each.
    effects: VecDeque<(u64, Effect)>,
    /// Of each consumer tag, and of basic.get.
    pub queues: BTreeMap<String, &'static str>,
    /// basic.recover was sent, and not answered.
    recovers: bool,
    /// connection.blocked, until connection.unblocked.
    pub blocked: Option<String>,
}

fn gone<T>(_: T) -> Gone {
    Gone
}

impl Client {
    /// `number` is the publisher's, and nobody else's ever.
    pub fn open(address: SocketAddr, number: u32, rng: Rng, history: &Shared) -> Result<Client, Gone> {
        let mut peer = Peer::connect(address).map_err(gone)?;
        peer.patience = PATIENCE;
        peer.login("").map_err(gone)?;
        let (pending, effects, queues) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        let history = Arc::clone(history);
        let mut client = Client {
            peer,
            history,
            rng,
            number,
            next: 0,
            published: 0,
            pending,
            effects,
            queues,
            recovers: false,
            blocked: None,
        };
        client.call("channel.open", "")?;
        Ok(client)
    }

    /// The same with confirms.
    pub fn confirming(address: SocketAddr, number: u32, rng: Rng, history: &Shared) -> Result<Client, Gone> {
        let mut client = Client::open(address, number, rng, history)?;
        client.call("confirm.select", "")?;
        Ok(client)
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    /// Sends a method that has no answer.
    pub fn send(&mut self, method: &str, text: &str) -> Worked {
        self.peer.send(1, method, text).map_err(gone)
    }

    /// Sends a method and awaits its answer; messages that come before it are in the history and
    /// left to lie.
    pub fn call(&mut self, method: &str, text: &str) -> Result<Heard, Gone> {
        let heard = self.try_call(method, text)?;
        assert_ne!(heard.method(), Some("channel.close"), "{method} {text}: {heard}");
        Ok(heard)
    }

    /// Gives everything back.
    pub fn recover(&mut self) -> Worked {
        self.recovers = true;
        self.call("basic.recover", "requeue")?;
        self.recovers = false;
        Ok(())
    }

    /// The same where the broker may close the channel; it is open again then.
    pub fn try_call(&mut self, method: &str, text: &str) -> Result<Heard, Gone> {
        self.send(method, text)?;
        loop {
            let Event::Answer(heard) = self.event()? else { continue };
            if heard.method() == Some("channel.close") {
                self.send("channel.close-ok", "")?;
                self.published = 0;
                assert!(self.pending.is_empty(), "unconfirmed on a closed channel");
                self.call("channel.open", "")?;
            }
            return Ok(heard);
        }
    }

    /// The next that is not a confirm.
    pub fn event(&mut self) -> Result<Event, Gone> {
        loop {
            let deadline = Instant::now() + PATIENCE;
            if let Some(event) = self.event_until(deadline)? {
                return Ok(event);
            }
            assert!(Instant::now() < deadline, "the broker says nothing");
        }
    }

    /// The next that is not a confirm; `None`: a confirm or a notification, which is in the books
    /// now, or the time is over.
    pub fn event_until(&mut self, deadline: Instant) -> Result<Option<Event>, Gone> {
        let heard = self.peer.read(deadline);
        match heard.method() {
            Some("basic.ack") => self.confirm(&heard),
            Some("basic.deliver" | "basic.get-ok") => return self.message(&heard).map(Some),
            Some("basic.return") => {
                self.content()?;
                return Ok(Some(Event::Returned));
            }
            Some("connection.blocked") => self.blocked = heard.field("reason").map(ToString::to_string),
            Some("connection.unblocked") => self.blocked = None,
            Some("connection.close") => {
                assert!(heard.to_string().contains("reply-code=320"), "{heard}");
                return Err(Gone);
            }
            Some("basic.nack") => panic!("not confirmed: {heard}"),
            Some(_) => return Ok(Some(Event::Answer(heard))),
            None => match heard {
                Heard::Timeout => {}
                Heard::Closed => return Err(Gone),
                other => panic!("unexpected: {other}"),
            },
        }
        Ok(None)
    }

    fn content(&mut self) -> Result<(Fields, Vec<u8>), Gone> {
        let (size, properties) = match self.peer.recv() {
            Heard::Header(_, _, size, properties) => (size as usize, properties),
            Heard::Closed => return Err(Gone),
            other => panic!("a header expected, heard {other}"),
        };
        let mut octets = Vec::with_capacity(size);
        while octets.len() < size {
            match self.peer.recv() {
                Heard::Body(_, more) => octets.extend(more),
                Heard::Closed => return Err(Gone),
                other => panic!("a body expected, heard {other}"),
            }
        }
        Ok((properties, octets))
    }

    fn message(&mut self, method: &Heard) -> Result<Event, Gone> {
        let consumer = match method.field("consumer-tag") {
            Some(Value::Str(tag)) => String::from_utf8_lossy(tag).into_owned(),
            _ => String::new(),
        };
        let queue = self.queues[&consumer];
        let (properties, octets) = self.content()?;
        let id = id_of(&properties, &octets);
        let id = id.unwrap_or_else(|| {
            panic!("{queue}: not as published, {} octets:{}", octets.len(), method::render(&properties))
        });
        let redelivered = method.field("redelivered") == Some(&Value::Bool(true));
        let found = Found { id, redelivered };
        if self.recovers {
            // It is back in the queue already, and perhaps with somebody else.
            self.history().is_asked_for(queue, id);
        } else {
            self.history().delivered(queue, found);
        }
        self.effects.push_back((self.published, Effect::Delivered(queue, id)));
        Ok(Event::Message { tag: number(method, "delivery-tag"), found })
    }

    fn confirm(&mut self, heard: &Heard) {
        let tag = number(heard, "delivery-tag");
        let is_all = heard.field("multiple") == Some(&Value::Bool(true));
        let tags: Vec<u64> = if is_all { self.pending.range(..=tag).map(|(tag, _)| *tag).collect() } else { vec![tag] };
        let mut synced = 0;
        let mut history = self.history.lock().unwrap();
        for tag in tags {
            let Some(pending) = self.pending.remove(&tag) else {
                history.wrong.push(format!("{tag} was confirmed twice, or never published"));
                continue;
            };
            if pending.persistent {
                synced = synced.max(tag);
            }
            pending.places.iter().for_each(|(queue, id)| history.confirmed(queue, *id));
        }
        let sure = self.effects.partition_point(|(before, _)| *before < synced);
        for (_, effect) in self.effects.drain(..sure) {
            match effect {
                Effect::Delivered(queue, id) => history.surely_delivered(queue, id),
                Effect::Gone(queue, id) => history.surely_gone(queue, id),
            }
        }
    }

    /// Publishes one more message; `queues` are those that it goes to.
    pub fn publish(&mut self, to: &str, queues: &[&'static str], persistent: bool) -> Result<Id, Gone> {
        self.publish_in(to, queues, persistent, None)
    }

    pub fn publish_in(
        &mut self,
        to: &str,
        queues: &[&'static str],
        persistent: bool,
        transaction: Option<u64>,
    ) -> Result<Id, Gone> {
        let id = Id(self.number, self.next);
        self.next += 1;
        self.published += 1;
        let places: Vec<_> = queues.iter().map(|queue| (*queue, id)).collect();
        for queue in queues {
            self.history().publishes(queue, id, persistent, transaction);
        }
        if transaction.is_none() {
            // Where nobody waits for the disk nothing is sure.
            let persistent = persistent && !queues.is_empty();
            self.pending.insert(self.published, Pending { places, persistent });
        }
        let to = fields(to).expect("a target");
        self.peer.publish(1, &to, &properties(id, persistent), body(id)).map_err(gone)?;
        Ok(id)
    }

    /// Before an acknowledgement of it is sent.
    pub fn gives_up(&mut self, queue: &'static str, id: Id, how: &'static str) {
        self.history().gives_up(queue, id, how);
        self.effects.push_back((self.published, Effect::Gone(queue, id)));
    }

    /// How much waits for its confirm.
    pub fn unconfirmed(&self) -> usize {
        self.pending.len()
    }

    /// Reads until no more than so many wait for their confirm; no message may come meanwhile.
    pub fn await_confirms(&mut self, left: usize) -> Worked {
        let deadline = Instant::now() + PATIENCE;
        while self.pending.len() > left {
            assert!(Instant::now() < deadline, "{} are not confirmed", self.pending.len());
            if let Some(event) = self.event_until(deadline)? {
                panic!("unexpected: {event:?}");
            }
        }
        Ok(())
    }

    /// Publishes what makes everything sure that this client did so far, and waits for it.
    pub fn sync(&mut self) -> Worked {
        self.publish("routing-key=marks", &["marks"], true)?;
        self.await_confirms(0)
    }
}

/// A numeric field.
pub fn number(heard: &Heard, field: &str) -> u64 {
    match heard.field(field) {
        Some(Value::Number(n)) => *n as u64,
        other => panic!("no number {field} in {heard}: {other:?}"),
    }
}
