//! A model of a broker: queues, the holder of each message, and what is ready, in plain maps.

use leveret::queue::ready::ENTRY_OCTETS;
use std::collections::{BTreeMap, BTreeSet};

/// Holder of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Ready,
    Held,
}

/// A message in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub id: u64,
    pub place: Place,
    pub redelivered: bool,
    /// Octets it is charged with.
    pub charge: u64,
}

/// A queue, from its declaration to its end.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub incarnation: u64,
    /// The connection that owns it.
    pub owner: Option<usize>,
    pub auto_delete: bool,
    /// By position.
    pub kept: BTreeMap<u64, Kept>,
    next: u64,
}

impl Queue {
    pub fn ready(&self) -> usize {
        self.kept.values().filter(|kept| kept.place == Place::Ready).count()
    }

    fn position(&self, id: u64) -> Option<u64> {
        self.kept.iter().find(|(_, kept)| kept.id == id).map(|(at, _)| *at)
    }
}

/// A delivery that was delivered and not settled.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub queue: u64,
    pub at: u64,
    /// The consumer, unless it was fetched.
    pub consumer: Option<u64>,
}

/// A publication that waits for its commit.
#[derive(Clone, Debug)]
pub struct Pending {
    pub id: u64,
    pub queues: Vec<u64>,
    pub charge: u64,
    pub mandatory: bool,
}

#[derive(Clone, Debug, Default)]
pub enum Mode {
    #[default]
    Plain,
    Confirm {
        published: u64,
        confirmed: u64,
    },
    Transaction {
        publications: Vec<Pending>,
        settled: Vec<(bool, BTreeMap<u64, Delivery>)>,
    },
}

#[derive(Clone, Debug)]
pub struct Consumer {
    pub number: u64,
    pub queue: u64,
    pub no_ack: bool,
    pub prefetch: u16,
}

/// An open channel.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    pub mode: Mode,
    pub consumers: BTreeMap<Vec<u8>, Consumer>,
    pub outstanding: BTreeMap<u64, Delivery>,
    pub last_tag: u64,
    pub last_queue: Option<Vec<u8>>,
    pub prefetch: u16,
    pub limit: u16,
}

impl Channel {
    /// Returns true if the consumer may get another message.
    pub fn has_room(&self, consumer: &Consumer) -> bool {
        let consumed = self.outstanding.values().filter(|delivery| delivery.consumer.is_some()).count();
        let mine = self.outstanding.values().filter(|delivery| delivery.consumer == Some(consumer.number)).count();
        consumer.no_ack
            || (self.limit == 0 || consumed < self.limit.into())
                && (consumer.prefetch == 0 || mine < consumer.prefetch.into())
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct BrokerModel {
    pub queues: BTreeMap<Vec<u8>, Queue>,
    /// Exchange, queue, key.
    pub bindings: BTreeSet<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    /// By connection and number.
    pub channels: BTreeMap<(usize, u16), Channel>,
    counter: u64,
}

impl BrokerModel {
    /// A number that was never given.
    pub fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn declare(&mut self, name: &[u8], owner: Option<usize>, auto_delete: bool) {
        let incarnation = self.number();
        self.queues.entry(name.to_vec()).or_insert(Queue { incarnation, owner, auto_delete, ..Queue::default() });
    }

    pub fn by_number(&mut self, incarnation: u64) -> Option<&mut Queue> {
        self.queues.values_mut().find(|queue| queue.incarnation == incarnation)
    }

    /// The queues that a message goes to.
    pub fn route(&self, exchange: &[u8], key: &[u8]) -> Vec<u64> {
        let is_bound = |name: &Vec<u8>| match exchange {
            b"" => name == key,
            b"amq.fanout" => self.bindings.iter().any(|(from, to, _)| from == exchange && to == name),
            _ => self.bindings.iter().any(|(from, to, bound)| from == exchange && to == name && bound == key),
        };
        self.queues.iter().filter(|(name, _)| is_bound(name)).map(|(_, queue)| queue.incarnation).collect()
    }

    pub fn enqueue(&mut self, incarnation: u64, id: u64, charge: u64) {
        if let Some(queue) = self.by_number(incarnation) {
            queue.kept.insert(queue.next, Kept { id, place: Place::Ready, redelivered: false, charge });
            queue.next += 1;
        }
    }

    /// A message was delivered. Its position, and whether it was delivered before.
    ///
    /// # Panics
    /// If it is not ready.
    pub fn deliver(&mut self, incarnation: u64, id: u64, no_ack: bool) -> (u64, bool) {
        let queue = self.by_number(incarnation).expect("a delivery from a queue that exists");
        let at = queue.position(id).unwrap_or_else(|| panic!("message {id} is not in its queue any more"));
        let kept = queue.kept.get_mut(&at).expect("it has just been found");
        assert_eq!(kept.place, Place::Ready, "message {id} was delivered twice");
        let redelivered = std::mem::replace(&mut kept.redelivered, true);
        kept.place = Place::Held;
        if no_ack {
            queue.kept.remove(&at);
        }
        (at, redelivered)
    }

    /// Done with, or back to its place.
    pub fn conclude(&mut self, delivery: Delivery, requeue: bool) {
        let Some(queue) = self.by_number(delivery.queue) else { return };
        if !requeue {
            assert!(queue.kept.remove(&delivery.at).is_some(), "settled twice");
        } else if let Some(kept) = queue.kept.get_mut(&delivery.at) {
            kept.place = Place::Ready;
        }
    }

    pub fn delete(&mut self, name: &[u8]) {
        let Some(queue) = self.queues.remove(name) else { return };
        self.bindings.retain(|(_, to, _)| to != name);
        for channel in self.channels.values_mut() {
            channel.consumers.retain(|_, consumer| consumer.queue != queue.incarnation);
        }
    }

    /// An auto-delete queue ends with its last consumer.
    pub fn end_if_deserted(&mut self, incarnation: u64) {
        let is_used = |channel: &Channel| channel.consumers.values().any(|consumer| consumer.queue == incarnation);
        if self.channels.values().any(is_used) {
            return;
        }
        let deserted = |queue: &Queue| queue.incarnation == incarnation && queue.auto_delete;
        if let Some(name) = self.queues.iter().find(|(_, queue)| deserted(queue)).map(|(name, _)| name.clone()) {
            self.delete(&name);
        }
    }

    /// A channel ends: what it had goes back. Returns what it was.
    pub fn end_channel(&mut self, key: (usize, u16)) -> Option<Channel> {
        let channel = self.channels.remove(&key)?;
        if let Mode::Transaction { settled, .. } = &channel.mode {
            for delivery in settled.iter().flat_map(|(_, settled)| settled.values()) {
                self.conclude(*delivery, true);
            }
        }
        for delivery in channel.outstanding.values() {
            self.conclude(*delivery, true);
        }
        for consumer in channel.consumers.values() {
            self.end_if_deserted(consumer.queue);
        }
        Some(channel)
    }

    /// Octets charged for all messages, each once, and their places in queues.
    pub fn charge(&self) -> u64 {
        let kept = self.queues.values().flat_map(|queue| queue.kept.values());
        let (mut messages, mut entries) = (BTreeMap::new(), 0);
        for kept in kept {
            entries += ENTRY_OCTETS;
            messages.insert(kept.id, kept.charge);
        }
        for channel in self.channels.values() {
            if let Mode::Transaction { publications, .. } = &channel.mode {
                messages.extend(publications.iter().map(|pending| (pending.id, pending.charge)));
            }
        }
        entries + messages.values().sum::<u64>()
    }
}
