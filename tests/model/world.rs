//! Two connections to one broker, driven by records, held against the model after each step. It
//! knows frames only through `client` and `decoder`.

use crate::model::broker_model::{BrokerModel, Consumer, Delivery, Mode, Pending, Place};
use crate::model::client::Client;
use crate::model::decoder::{self, Fields as Read, Received};
use crate::model::methods;
use crate::model::ops::{Op, Record, Step};
use leveret::broker::node::Node;
use leveret::clock::Tick;
use leveret::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod plan;

const FRAME_MAX: u32 = 4096;

/// Plays the records.
///
/// # Panics
/// Where the broker breaks a promise.
pub fn run(records: impl Iterator<Item = Record>) {
    let mut world = World::new();
    for record in records {
        world.step(Step::from(record));
    }
    world.finish();
}

/// An operation made concrete.
#[derive(Debug, Default)]
struct Plan {
    octets: Vec<u8>,
    queue: Vec<u8>,
    tag: u64,
    id: u64,
    charge: u64,
    routed: Vec<u64>,
    /// True if the channel must survive it, where that is known.
    survives: Option<bool>,
}

struct World {
    node: Arc<Node>,
    now: Tick,
    clients: [Client; 2],
    expected: BrokerModel,
    piece: usize,
    /// Nothing was mangled yet: the model are right.
    known: bool,
    /// Channels that the broker closed and that were not answered yet.
    unanswered: BTreeSet<(usize, u16)>,
    /// Octets to be sent in one go, by which connection, and the number of operations still to be
    /// added.
    gathered: Vec<u8>,
    gatherer: usize,
    gathering: u8,
    /// Publications that must come back.
    owed: Vec<u64>,
    names: BTreeSet<Vec<u8>>,
    /// Consumers of a connection that is dying.
    dying: BTreeMap<(usize, u16), BTreeMap<Vec<u8>, Consumer>>,
}

impl World {
    fn new() -> Self {
        let node = Arc::new(Node::new(Config::default()));
        let clients = [Client::new(&node, Tick(0)), Client::new(&node, Tick(0))];
        let mut world = Self {
            node,
            now: Tick(0),
            clients,
            expected: BrokerModel::default(),
            piece: 0,
            known: true,
            unanswered: BTreeSet::new(),
            gathered: Vec::new(),
            gatherer: 0,
            gathering: 0,
            owed: Vec::new(),
            names: BTreeSet::new(),
            dying: BTreeMap::new(),
        };
        world.connect(0);
        world.connect(1);
        world
    }

    fn connect(&mut self, end: usize) {
        self.clients[end] = Client::new(&self.node, self.now);
        let heartbeat = if end == 0 { 0 } else { 60 };
        self.clients[end].send(&methods::handshake(FRAME_MAX, heartbeat), self.piece, self.now);
        self.clients[end].decoder.frame_max = FRAME_MAX;
        assert!(!self.clients[end].over, "the handshake failed");
    }

    fn step(&mut self, mut step: Step) {
        let key = (step.end, step.channel);
        match step.op {
            Op::Tick => return self.let_pass(u64::from(step.number) * 200),
            Op::Piece => return self.piece = [0, 1, 3, 8, 20, 100, 1000, 5000][usize::from(step.number & 7)],
            Op::Gather => {
                self.flush();
                (self.gatherer, self.gathering) = (step.end, 1 + step.number % 8);
                return;
            }
            Op::Hangup => return self.hang_up(step),
            Op::Mangle => return self.mangle(step),
            _ => {}
        }
        if !self.known {
            return self.blindly(step);
        }
        if self.unanswered.contains(&key) && step.flag(5) {
            return self.ignored(step);
        }
        let is_open = self.expected.channels.contains_key(&key);
        if is_open == (step.op == Op::Open) {
            if is_open {
                return;
            }
            step.op = Op::Open;
        }
        let plan = self.plan(&step);
        if self.gathering > 0 {
            let harmless = matches!(step.op, Op::Publish | Op::Ack) && plan.survives == Some(true);
            if harmless && step.end == self.gatherer {
                self.gathered.extend_from_slice(&plan.octets);
                self.carry_out(&step, &plan);
                self.gathering -= 1;
                return if self.gathering == 0 {
                    self.flush()
                };
            }
            self.flush();
            return self.step(step);
        }
        self.perform(&step, &plan);
    }

    /// Sends what was gathered; its effects are in the model already.
    fn flush(&mut self) {
        self.gathering = 0;
        let octets = std::mem::take(&mut self.gathered);
        if octets.is_empty() {
            return;
        }
        let received = self.clients[self.gatherer].send(&octets, self.piece, self.now);
        assert!(
            !received.iter().any(|one| matches!(one.id, decoder::CHANNEL_CLOSE | decoder::CONNECTION_CLOSE)),
            "{received:?}"
        );
        self.hear(self.gatherer, received, None);
        self.settle_down();
    }

    fn perform(&mut self, step: &Step, plan: &Plan) {
        let key = (step.end, step.channel);
        let received = self.clients[step.end].send(&plan.octets, self.piece, self.now);
        let dead = self.clients[step.end].over || self.clients[step.end].decoder.closed;
        let closed = received.iter().filter(|one| one.id == decoder::CHANNEL_CLOSE).count();
        assert!(closed <= 1, "{closed} times channel.close");
        if let Some(survives) = plan.survives {
            assert_eq!(survives, closed == 0 && !dead, "{step:?} {plan:?} {received:?}");
        }
        if dead {
            self.bury(step.end);
        } else if closed > 0 {
            self.expected.end_channel(key);
            self.unanswered.insert(key);
        } else {
            let answer = self.carry_out(step, plan);
            self.check_answer(step, &received, answer);
        }
        self.hear(step.end, received, Some((&plan.queue, step.flag(0))));
        if dead {
            self.hear_last_words(step.end);
        }
        self.settle_down();
    }

    /// Does pending actions until there are none; then everything must be as the model say.
    fn settle_down(&mut self) {
        loop {
            let mut quiet = true;
            for end in [0, 1] {
                let now = self.now;
                let mut received = self.clients[end].ring(now);
                received.extend(self.clients[end].listen());
                quiet &= received.is_empty();
                self.hear(end, received, None);
            }
            if quiet {
                break;
            }
        }
        self.check();
    }

    /// Applies an operation that the broker took to the model. Returns a count that its answer must
    /// hold.
    fn carry_out(&mut self, step: &Step, plan: &Plan) -> Option<u64> {
        let key = (step.end, step.channel);
        let expected = &mut self.expected;
        let f = |bit| step.flag(bit);
        match step.op {
            Op::Open => drop(expected.channels.insert(key, Default::default())),
            Op::Close => drop(expected.end_channel(key)),
            Op::Bind => {
                expected.bindings.insert((step.exchange().to_vec(), plan.queue.clone(), step.key().to_vec()));
            }
            Op::Unbind => {
                expected.bindings.remove(&(step.exchange().to_vec(), plan.queue.clone(), step.key().to_vec()));
            }
            Op::Publish => self.published(step, plan),
            Op::Ack => self.settled(key, plan.tag, f(0), false),
            Op::Nack => self.settled(key, plan.tag, f(0), f(1)),
            Op::Reject => self.settled(key, plan.tag, false, f(1)),
            Op::TxCommit | Op::TxRollback => self.transacted(key, step.op == Op::TxCommit),
            Op::Purge => {
                let queue = expected.queues.get_mut(&plan.queue)?;
                let count = queue.ready();
                queue.kept.retain(|_, kept| kept.place == Place::Held);
                return Some(count as u64);
            }
            Op::Delete => {
                let count = expected.queues.get(&plan.queue).map_or(0, |queue| queue.ready());
                expected.delete(&plan.queue);
                return Some(count as u64);
            }
            Op::Cancel => {
                let gone = expected.channels.get_mut(&key)?.consumers.remove(step.tag())?;
                expected.end_if_deserted(gone.queue);
            }
            Op::Consume => {
                let (queue, number) = (expected.queues.get(&plan.queue)?.incarnation, expected.number());
                let channel = expected.channels.get_mut(&key)?;
                let consumer = Consumer { number, queue, no_ack: f(0), prefetch: channel.prefetch };
                channel.consumers.insert(step.tag().to_vec(), consumer);
            }
            // The name is in the answer, if there is one.
            Op::Declare if !step.queue().is_empty() => self.declared(step, step.queue()),
            _ => self.changed_channel(step),
        }
        None
    }

    fn changed_channel(&mut self, step: &Step) {
        let Some(channel) = self.expected.channels.get_mut(&(step.end, step.channel)) else { return };
        let count = u16::from(step.number & 3);
        match (step.op, &channel.mode) {
            (Op::Qos, _) if step.flag(0) => channel.limit = count,
            (Op::Qos, _) => (channel.prefetch, channel.limit) = (count, 0),
            (Op::Confirm, Mode::Plain) => channel.mode = Mode::Confirm { published: 0, confirmed: 0 },
            (Op::TxSelect, Mode::Plain) => {
                channel.mode = Mode::Transaction { publications: Vec::new(), settled: Vec::new() };
            }
            (Op::Recover, _) => {
                for delivery in std::mem::take(&mut channel.outstanding).into_values() {
                    self.expected.conclude(delivery, true);
                }
            }
            _ => {}
        }
    }

    fn declared(&mut self, step: &Step, name: &[u8]) {
        let f = |bit| step.flag(bit);
        if !(f(0) && f(5)) {
            let owner = (f(1) && f(4)).then_some(step.end);
            self.expected.declare(name, owner, f(2) && f(4));
        }
        self.names.insert(name.to_vec());
        if let Some(channel) = self.expected.channels.get_mut(&(step.end, step.channel)) {
            channel.last_queue = Some(name.to_vec());
        }
    }

    fn published(&mut self, step: &Step, plan: &Plan) {
        let Some(channel) = self.expected.channels.get_mut(&(step.end, step.channel)) else { return };
        let mandatory = step.flag(0);
        match &mut channel.mode {
            Mode::Transaction { publications, .. } => {
                let queues = plan.routed.clone();
                publications.push(Pending { id: plan.id, queues, charge: plan.charge, mandatory });
                return;
            }
            Mode::Confirm { published, .. } => *published += 1,
            Mode::Plain => {}
        }
        if plan.routed.is_empty() && mandatory {
            self.owed.push(plan.id);
        }
        for queue in &plan.routed {
            self.expected.enqueue(*queue, plan.id, plan.charge);
        }
    }

    fn settled(&mut self, key: (usize, u16), tag: u64, multiple: bool, requeue: bool) {
        let Some(channel) = self.expected.channels.get_mut(&key) else { return };
        let mut settled = BTreeMap::new();
        if !multiple {
            settled.extend(channel.outstanding.remove_entry(&tag));
        } else {
            let behind = if tag == 0 { BTreeMap::new() } else { channel.outstanding.split_off(&(tag + 1)) };
            settled = std::mem::replace(&mut channel.outstanding, behind);
        }
        if let Mode::Transaction { settled: all, .. } = &mut channel.mode {
            all.push((requeue, settled));
            return;
        }
        for delivery in settled.into_values() {
            self.expected.conclude(delivery, requeue);
        }
    }

    fn transacted(&mut self, key: (usize, u16), commit: bool) {
        let Some(channel) = self.expected.channels.get_mut(&key) else { return };
        let Mode::Transaction { publications, settled } = &mut channel.mode else { return };
        let (publications, settled) = (std::mem::take(publications), std::mem::take(settled));
        if !commit {
            channel.outstanding.extend(settled.into_iter().flat_map(|(_, settled)| settled));
            return;
        }
        for pending in publications {
            let mut reached = false;
            for queue in pending.queues {
                reached |= self.expected.by_number(queue).is_some();
                self.expected.enqueue(queue, pending.id, pending.charge);
            }
            if !reached && pending.mandatory {
                self.owed.push(pending.id);
            }
        }
        for (requeue, settled) in settled {
            for delivery in settled.into_values() {
                self.expected.conclude(delivery, requeue);
            }
        }
    }

    fn check_answer(&mut self, step: &Step, received: &[Received], answer: Option<u64>) {
        for one in received.iter().filter(|one| one.channel == step.channel) {
            match (one.id, step.op) {
                (decoder::DECLARE_OK, _) => {
                    let mut fields = Read(&one.fields);
                    let name = fields.name().to_vec();
                    if step.queue().is_empty() {
                        self.declared(step, &name);
                    }
                    let ready = self.expected.queues.get(&name).map_or(0, |queue| queue.ready());
                    assert_eq!(fields.number(4), ready as u64, "message-count");
                }
                ((50, 31 | 41), _) => assert_eq!(Some(Read(&one.fields).number(4)), answer, "message-count"),
                _ => {}
            }
        }
    }

    /// Takes what was heard into the model.
    fn hear(&mut self, end: usize, received: Vec<Received>, fetched: Option<(&[u8], bool)>) {
        for one in received {
            let mut fields = Read(&one.fields);
            match one.id {
                decoder::DECLARE_OK => drop(self.names.insert(fields.name().to_vec())),
                _ if !self.known => {}
                decoder::DELIVER => self.delivered(end, &one),
                decoder::GET_OK => self.fetched(end, &one, fetched.expect("an answer to basic.get")),
                decoder::RETURN => {
                    let owed = self.owed.iter().position(|id| *id == Read(&one.body).number(8));
                    self.owed.remove(owed.expect("a message came back that was not to"));
                }
                decoder::ACK => {
                    let Some(channel) = self.expected.channels.get_mut(&(end, one.channel)) else { continue };
                    let Mode::Confirm { published, confirmed } = &mut channel.mode else {
                        panic!("a confirm: {one:?}")
                    };
                    let tag = fields.number(8);
                    assert!(tag > *confirmed && tag <= *published, "confirm {tag} of {confirmed}..{published}");
                    assert!(fields.number(1) == 1 || tag == *confirmed + 1, "confirms were left out");
                    *confirmed = tag;
                }
                _ => {}
            }
        }
    }

    fn delivered(&mut self, end: usize, one: &Received) {
        let mut fields = Read(&one.fields);
        let (name, tag, redelivered) = (fields.name(), fields.number(8), fields.number(1) == 1);
        let id = Read(&one.body).number(8);
        let key = (end, one.channel);
        if let Some(consumer) = self.dying.get(&key).and_then(|consumers| consumers.get(name)).cloned() {
            // Nobody reads it any more; whoever has to settle it never will.
            if self.expected.by_number(consumer.queue).is_some() {
                let (at, _) = self.expected.deliver(consumer.queue, id, consumer.no_ack);
                if !consumer.no_ack {
                    self.expected.conclude(Delivery { queue: consumer.queue, at, consumer: None }, true);
                }
            }
            return;
        }
        let channel = self.expected.channels.get_mut(&key).expect("a delivery on an open channel");
        let consumer = channel.consumers.get(name).cloned().expect("a delivery to a consumer that exists");
        assert!(channel.has_room(&consumer), "more than the prefetch allows");
        channel.last_tag += 1;
        assert_eq!(tag, channel.last_tag);
        let (at, before) = self.expected.deliver(consumer.queue, id, consumer.no_ack);
        assert_eq!(redelivered, before, "redelivered of message {id}");
        if !consumer.no_ack {
            let delivery = Delivery { queue: consumer.queue, at, consumer: Some(consumer.number) };
            self.expected.channels.entry(key).or_default().outstanding.insert(tag, delivery);
        }
    }

    fn fetched(&mut self, end: usize, one: &Received, (from, no_ack): (&[u8], bool)) {
        let mut fields = Read(&one.fields);
        let (tag, redelivered) = (fields.number(8), fields.number(1) == 1);
        let (_exchange, _key) = (fields.name(), fields.name());
        let left = fields.number(4);
        let id = Read(&one.body).number(8);
        let queue = self.expected.queues.get(from).expect("fetched from a queue that exists");
        let first = queue.kept.values().find(|kept| kept.place == Place::Ready).map(|kept| kept.id);
        assert_eq!((first, left), (Some(id), queue.ready() as u64 - 1), "not the first, or a wrong count");
        let queue = queue.incarnation;
        let (at, before) = self.expected.deliver(queue, id, no_ack);
        assert_eq!(redelivered, before, "redelivered of message {id}");
        let channel = self.expected.channels.get_mut(&(end, one.channel)).expect("an open channel");
        channel.last_tag += 1;
        assert_eq!(tag, channel.last_tag);
        if !no_ack {
            channel.outstanding.insert(tag, Delivery { queue, at, consumer: None });
        }
    }

    /// The connection is over: what it had goes back. The model first, then what it said last.
    fn bury(&mut self, end: usize) {
        let keys: Vec<_> = self.expected.channels.keys().filter(|key| key.0 == end).copied().collect();
        for key in keys {
            if let Some(channel) = self.expected.end_channel(key) {
                self.dying.insert(key, channel.consumers);
            }
        }
        let owned = self.expected.queues.iter().filter(|(_, queue)| queue.owner == Some(end));
        for name in owned.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.expected.delete(&name);
        }
        self.unanswered.retain(|key| key.0 != end);
    }

    fn hear_last_words(&mut self, end: usize) {
        let received = self.clients[end].end();
        self.names.extend(self.clients[end].queues_named());
        self.hear(end, received, None);
        self.dying.clear();
        self.connect(end);
    }

    fn hang_up(&mut self, step: Step) {
        self.flush();
        let mut received = Vec::new();
        if step.flag(0) {
            received = self.clients[step.end].send(&methods::close_connection(), self.piece, self.now);
        }
        self.bury(step.end);
        self.hear(step.end, received, None);
        self.hear_last_words(step.end);
        self.settle_down();
    }

    fn let_pass(&mut self, ms: u64) {
        self.flush();
        self.now = self.now + ms;
        for end in [0, 1] {
            let now = self.now;
            let received = self.clients[end].tick(now);
            if self.clients[end].over {
                self.bury(end);
                self.hear(end, received, None);
                self.hear_last_words(end);
            }
        }
        self.settle_down();
    }

    /// An operation on a channel that the broker has closed comes to nothing.
    fn ignored(&mut self, step: Step) {
        self.flush();
        if step.op == Op::Open {
            return;
        }
        let plan = self.plan(&step);
        let received = self.clients[step.end].send(&plan.octets, self.piece, self.now);
        let only_ok = received.iter().all(|one| step.op == Op::Close && one.id == (20, 41));
        assert!(only_ok, "an answer on a closed channel: {received:?}");
        self.settle_down();
    }

    fn mangle(&mut self, mut step: Step) {
        self.flush();
        self.known = false;
        let op = Step::from([step.number, step.number, step.number >> 3, step.number << 2]).op;
        step.op = op;
        let mut octets = self.plan(&step).octets;
        let at = usize::from(step.number) % octets.len().max(1);
        if step.flag(0) {
            octets.truncate(at);
        } else if let Some(octet) = octets.get_mut(at) {
            *octet ^= 1 << (step.number & 7);
        }
        self.send_blindly(step.end, &octets);
    }

    fn blindly(&mut self, step: Step) {
        let mut octets = Vec::new();
        if !self.clients[step.end].decoder.open.contains(&step.channel) {
            octets = [methods::bare(step.channel, 20, 41), methods::open(step.channel)].concat();
        }
        octets.extend(self.plan(&step).octets);
        self.send_blindly(step.end, &octets);
    }

    fn send_blindly(&mut self, end: usize, octets: &[u8]) {
        let received = self.clients[end].send(octets, self.piece, self.now);
        self.hear(end, received, None);
        if self.clients[end].over || self.clients[end].decoder.closed {
            self.hear_last_words(end);
        }
        self.settle_down();
    }

    /// The broker against the model.
    fn check(&self) {
        if !self.known || self.gathering > 0 {
            return;
        }
        assert!(self.owed.is_empty(), "these were to come back: {:?}", self.owed);
        let vhost = self.node.vhost(b"/").expect("there is one");
        for name in self.names.iter().map(Vec::as_slice).chain([b"a", b"b", b"c", b"d"].map(|name| &name[..])) {
            let (found, owed) = (vhost.names().queue(name).cloned(), self.expected.queues.get(name));
            assert_eq!(found.is_some(), owed.is_some(), "whether {} exists", String::from_utf8_lossy(name));
            let (Some(found), Some(owed)) = (found, owed) else { continue };
            let consumers = self.expected.channels.values().flat_map(|channel| channel.consumers.values());
            let consumers = consumers.filter(|consumer| consumer.queue == owed.incarnation).count();
            let counts = found.counts();
            assert_eq!((counts.messages, counts.consumers), (owed.ready(), consumers), "ready, consumers");
        }
        assert_eq!(self.node.context().memory().used_by_messages(), self.expected.charge(), "memory");
        for channel in self.expected.channels.values() {
            match &channel.mode {
                Mode::Confirm { published, confirmed } => assert_eq!(published, confirmed, "confirms are missing"),
                // What counts against a limit before the commit is nobody's promise.
                Mode::Transaction { .. } => continue,
                Mode::Plain => {}
            }
            for consumer in channel.consumers.values().filter(|consumer| channel.has_room(consumer)) {
                let queue = self.expected.queues.values().find(|queue| queue.incarnation == consumer.queue);
                assert_eq!(queue.map(|queue| queue.ready()), Some(0), "a message waits beside an idle consumer");
            }
        }
    }

    /// Both connections end; nothing is left of them.
    fn finish(mut self) {
        self.flush();
        for end in [0, 1] {
            self.bury(end);
            let received = self.clients[end].end();
            self.names.extend(self.clients[end].queues_named());
            self.hear(end, received, None);
            self.dying.clear();
        }
        self.check();
        let unnamed = self.names.remove(&Vec::new());
        let vhost = self.node.vhost(b"/").expect("there is one");
        for name in &self.names {
            if let Some(queue) = vhost.names().queue(name) {
                assert_eq!((queue.declared().owner, queue.counts().consumers), (None, 0));
                queue.purge();
            }
        }
        if self.known || !unnamed {
            assert_eq!(self.node.context().memory().used_by_messages(), 0, "memory of messages that nobody holds");
        }
    }
}
