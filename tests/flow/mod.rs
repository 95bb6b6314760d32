//! A publisher, a broker and a consumer in one thread, without sockets: whole batches take the way
//! from `receive` to `take` under the eyes of a [`Meter`]. It knows neither what is metered nor
//! what is to come out.

#[path = "../model/methods.rs"]
#[expect(dead_code, reason = "the model needs the rest of it")]
mod methods;

use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::config::Config;
use leveret::limits;
use leveret::outbox::buffer::WriteBatch;
use leveret::outbox::{Drained, Outbox};
use leveret::session::Session;
use leveret_wire::frame::{self, FrameKind, FrameScan};
use methods::Fields;
use std::sync::Arc;

const FRAME_MAX: u32 = 131_072;

/// An observer of the broker's work. The clients' work is not shown to it.
pub trait Meter {
    /// Does a piece of the broker's work.
    fn meter<T>(&mut self, work: impl FnOnce() -> T) -> T;
}

/// Nobody looks on.
pub struct Blind;

impl Meter for Blind {
    fn meter<T>(&mut self, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// Where publications go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// The default exchange.
    Default,
    /// `amq.fanout`.
    Fanout,
    /// `amq.topic`, with so many keys that take turns; a pattern is bound that matches each.
    Topic(usize),
    /// `amq.headers`, bound without arguments: everything matches.
    Headers,
    /// `amq.headers`, to which `amq.fanout` is bound, to which the queue is bound.
    HeadersThenFanout,
}

/// Fate of the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They stay in their queue.
    Kept,
    /// Delivered, settled at once.
    AutoAck,
    /// Delivered; the consumer, with a prefetch of 1,000, acknowledges each by itself.
    AckEach,
    /// The same, but it acknowledges a whole batch by one ack.
    AckBatch,
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Plan {
    pub name: &'static str,
    pub exchange: Exchange,
    /// Queues bound, and consumed by one consumer each.
    pub queues: usize,
    /// Messages in one read of the publisher's socket.
    pub batch: usize,
    /// Octets of a body.
    pub size: usize,
    /// Flags and values.
    pub properties: &'static [u8],
    pub fate: Fate,
    /// The publisher has selected confirms.
    pub confirms: bool,
}

/// Messages of 16 octets to one queue and one consumer, settled at once.
pub const PLAIN: Plan = Plan {
    name: "auto-ack",
    exchange: Exchange::Default,
    queues: 1,
    batch: 500,
    size: 16,
    properties: b"\x10\0\x01",
    fate: Fate::AutoAck,
    confirms: false,
};

/// Two headers: `kind: "order"`, `n: 7`.
pub const HEADERS: &[u8] = b"\x20\0\0\0\0\x16\x04kindS\0\0\0\x05order\x01nI\0\0\0\x07";

/// The connections of a scenario, ready to run.
pub struct Flow {
    plan: Plan,
    publisher: Session,
    consumer: Session,
    /// Octets that the publisher sends.
    batch: Vec<u8>,
    /// Octets of a message that a queue keeps.
    pub octets: usize,
    /// Octets that the consumer sends: as many acks as there are deliveries, and the tag of the
    /// last one.
    acks: Vec<u8>,
    acked: u64,
    /// The writers' spare buffers.
    published: WriteBatch,
    delivered: WriteBatch,
}

impl Flow {
    /// Logs in, declares, binds and consumes.
    pub fn new(plan: Plan) -> Self {
        let node = Arc::new(Node::new(Config::default()));
        let mut publisher = log_in(&node);
        let mut consumer = log_in(&node);
        for queue in 0..plan.queues {
            let (name, tag) = (format!("q{queue}"), format!("c{queue}"));
            say(&mut consumer, &methods::declare(1, name.as_bytes(), &[false; 5]));
            if let Some((mut exchange, pattern)) = plan.binding() {
                if plan.exchange == Exchange::HeadersThenFanout {
                    let bind = Fields::new().short(0).name(b"amq.fanout").name(exchange).name(pattern);
                    say(&mut consumer, &bind.bits(&[false]).text(b"").method(1, 40, 30));
                    exchange = b"amq.fanout";
                }
                let bind = Fields::new().short(0).name(name.as_bytes()).name(exchange).name(pattern);
                say(&mut consumer, &bind.bits(&[false]).text(b"").method(1, 50, 20));
            }
            if plan.fate == Fate::Kept {
                continue;
            }
            let no_ack = plan.fate == Fate::AutoAck;
            say(&mut consumer, &Fields::new().long(0).short(1000).bits(&[false]).method(1, 60, 10));
            say(&mut consumer, &methods::consume(1, name.as_bytes(), tag.as_bytes(), &[false, no_ack, false, false]));
        }
        if plan.confirms {
            say(&mut publisher, &Fields::new().bits(&[false]).method(1, 85, 10));
        }
        let content = methods::content(1, plan.properties, &vec![b'x'; plan.size], FRAME_MAX as usize);
        let (exchange, _) = plan.binding().unwrap_or_default();
        let publish = |n: usize| methods::publish(1, exchange, plan.key(n).as_bytes(), false, &content);
        Self {
            batch: (0..plan.batch).flat_map(publish).collect(),
            octets: exchange.len() + plan.key(0).len() + 2 + plan.properties.len() + plan.size,
            acks: methods::ack(1, 0, plan.fate == Fate::AckBatch).repeat(plan.acks()),
            acked: 0,
            published: WriteBatch::new(publisher.outbox().memory()),
            delivered: WriteBatch::new(consumer.outbox().memory()),
            plan,
            publisher,
            consumer,
        }
    }

    /// One batch: the publisher's read, the consumer's write, the read of its acknowledgements, the
    /// write of the confirms.
    ///
    /// # Panics
    /// If anything is not delivered or not confirmed.
    pub fn run(&mut self, meter: &mut impl Meter) {
        let Self { plan, publisher, consumer, batch, published, delivered, acks, .. } = self;
        assert_eq!(meter.meter(|| publisher.receive(batch, Tick(0))), Ok(batch.len()));
        meter.meter(|| write(consumer.outbox(), delivered));
        let bodies = count(delivered, FrameKind::Body);
        assert_eq!(bodies, if plan.fate == Fate::Kept { 0 } else { plan.batch * plan.queues }, "{}", plan.name);
        if !acks.is_empty() {
            let every = (bodies / plan.acks()) as u64;
            for ack in acks.chunks_mut(21) {
                self.acked += every;
                ack[11..19].copy_from_slice(&self.acked.to_be_bytes());
            }
            assert_eq!(meter.meter(|| consumer.receive(acks, Tick(0))), Ok(acks.len()));
            meter.meter(|| write(consumer.outbox(), delivered));
            assert!(delivered.is_empty(), "{}", plan.name);
        }
        meter.meter(|| write(publisher.outbox(), published));
        assert_eq!(count(published, FrameKind::Method), usize::from(plan.confirms), "{}", plan.name);
    }
}

impl Flow {
    /// A consumer comes to the one queue, and takes what is in it, as fast as its writer lets it:
    /// how many messages.
    pub fn drain(&mut self, meter: &mut impl Meter) -> usize {
        let Self { consumer, delivered, .. } = self;
        let consume = methods::consume(1, b"q0", b"c0", &[false, true, false, true]);
        assert_eq!(meter.meter(|| consumer.receive(&consume, Tick(0))), Ok(consume.len()));
        let mut bodies = 0;
        loop {
            meter.meter(|| write(consumer.outbox(), delivered));
            if delivered.is_empty() {
                return bodies;
            }
            bodies += count(delivered, FrameKind::Body);
            assert_eq!(meter.meter(|| consumer.notified(Tick(0))), Ok(()));
        }
    }
}

impl Plan {
    /// Acks that a batch takes.
    fn acks(&self) -> usize {
        match self.fate {
            Fate::Kept | Fate::AutoAck => 0,
            Fate::AckEach => self.batch * self.queues,
            Fate::AckBatch => 1,
        }
    }

    /// Exchange and binding key, unless it is the default exchange.
    fn binding(&self) -> Option<(&'static [u8], &'static [u8])> {
        match self.exchange {
            Exchange::Default => None,
            Exchange::Fanout => Some((b"amq.fanout", b"")),
            Exchange::Topic(_) => Some((b"amq.topic", b"orders.*.new")),
            Exchange::Headers | Exchange::HeadersThenFanout => Some((b"amq.headers", b"")),
        }
    }

    /// The routing key of the `n`th message.
    fn key(&self, n: usize) -> String {
        match self.exchange {
            Exchange::Default => "q0".to_owned(),
            Exchange::Fanout | Exchange::Headers | Exchange::HeadersThenFanout => String::new(),
            Exchange::Topic(keys) => format!("orders.{:02}.new", n % keys),
        }
    }
}

fn log_in(node: &Arc<Node>) -> Session {
    let mut session = Session::new(Arc::clone(node), ([127, 0, 0, 1], 50_000).into(), Tick(0));
    say(&mut session, &methods::handshake(FRAME_MAX, 0));
    assert!(session.is_open());
    say(&mut session, &methods::open(1));
    session
}

/// A request whose answer is not looked at.
fn say(session: &mut Session, octets: &[u8]) {
    assert_eq!(session.receive(octets, Tick(0)), Ok(octets.len()));
    write(session.outbox(), &mut WriteBatch::default());
}

/// Does a writer task's work, but for the socket.
fn write(outbox: &Outbox, spare: &mut WriteBatch) {
    spare.clear(limits::KEEP_BUFFER);
    assert_ne!(outbox.take(spare), Drained::Finished);
}

fn count(batch: &WriteBatch, kind: FrameKind) -> usize {
    let (mut found, mut all) = (0, Vec::new());
    batch.copy_to(&mut all);
    let mut octets = &all[..];
    while let Ok(FrameScan::Frame(frame, used)) = frame::scan(octets, FRAME_MAX) {
        found += usize::from(frame.kind == kind);
        octets = &octets[used..];
    }
    found
}
