//! The decisions of one queue, as a state machine over commands: no lock, no clock, no IO, no randomness. Given the
//! same commands it ends in the same state.

use crate::message::Message;
use crate::queue::consumers::{ConsumerKey, Consumers, Terms};
use crate::queue::lanes::{Entry, Lanes};
use crate::window::Window;

/// Ready and handed-out messages, and the consumers.
#[derive(Debug, Default)]
pub struct Core {
    lanes: Lanes,
    unsettled: Window<Held>,
    consumers: Consumers,
    next_seq: u64,
    charge: u64,
    had_consumer: bool,
}

/// A message that somebody has and has not settled yet.
#[derive(Debug)]
struct Held {
    entry: Entry,
    /// None: fetched by basic.get.
    consumer: Option<ConsumerKey>,
}

impl Core {
    /// A message comes in.
    pub fn enqueue(&mut self, message: Message) {
        self.charge += message.charge();
        self.lanes.push(Entry { seq: self.next_seq, message, redelivered: false });
        self.next_seq += 1;
    }

    /// The next delivery that can be made: who gets which message.
    pub fn next_delivery(&mut self) -> Option<(ConsumerKey, &Entry)> {
        let entry = self.lanes.front()?;
        Some((self.consumers.whose_turn()?, entry))
    }

    /// The delivery that [`Core::next_delivery`] named was made.
    pub fn delivered(&mut self, key: ConsumerKey) {
        let Some(mut entry) = self.lanes.pop() else { return };
        if self.consumers.no_ack(key) {
            self.charge -= entry.message.charge();
        } else {
            entry.redelivered = true;
            self.unsettled.insert(entry.seq, Held { entry, consumer: Some(key) });
        }
        self.consumers.delivered(key);
    }

    /// The connection of this consumer takes no more for now.
    pub fn stall(&mut self, key: ConsumerKey) {
        self.consumers.stall(key);
    }

    /// The connection of this consumer takes more again.
    pub fn resume(&mut self, key: ConsumerKey) {
        self.consumers.resume(key);
    }

    /// Takes the next message for basic.get.
    pub fn get(&mut self, no_ack: bool) -> Option<Entry> {
        let entry = self.lanes.pop()?;
        if no_ack {
            self.charge -= entry.message.charge();
        } else {
            let held = Entry { redelivered: true, ..entry.clone() };
            self.unsettled.insert(entry.seq, Held { entry: held, consumer: None });
        }
        Some(entry)
    }

    /// The message at `seq` is done with. A position that nobody has is ignored: the queue was purged of it.
    pub fn settle(&mut self, seq: u64) {
        if let Some(held) = self.unsettled.remove(seq) {
            self.charge -= held.entry.message.charge();
            self.give_credit(held.consumer);
        }
    }

    /// The message at `seq` comes back to its old place.
    pub fn requeue(&mut self, seq: u64) {
        if let Some(held) = self.unsettled.remove(seq) {
            self.lanes.put_back(held.entry);
            self.give_credit(held.consumer);
        }
    }

    fn give_credit(&mut self, consumer: Option<ConsumerKey>) {
        if let Some(key) = consumer {
            self.consumers.settled(key);
        }
    }

    /// A consumer comes. `None`: refused, because it or another one is exclusive.
    pub fn consume(&mut self, terms: Terms) -> Option<ConsumerKey> {
        if self.consumers.has_exclusive() || (terms.exclusive && self.consumers.count() > 0) {
            return None;
        }
        self.had_consumer = true;
        Some(self.consumers.add(terms))
    }

    /// A consumer goes; what it has not settled stays handed out. False: it was gone already.
    pub fn cancel(&mut self, key: ConsumerKey) -> bool {
        self.consumers.remove(key)
    }

    /// Drops what is ready; says how many that were.
    pub fn purge(&mut self) -> usize {
        let count = self.lanes.len();
        while let Some(entry) = self.lanes.pop() {
            self.charge -= entry.message.charge();
        }
        count
    }

    /// Messages that are ready.
    pub fn ready(&self) -> usize {
        self.lanes.len()
    }

    /// Messages handed out and not settled.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Consumers that are here now.
    pub fn consumer_count(&self) -> usize {
        self.consumers.count()
    }

    /// It had consumers and has none any more: an auto-delete queue ends.
    pub fn is_deserted(&self) -> bool {
        self.had_consumer && self.consumers.count() == 0
    }

    /// Octets of memory charged for all messages held.
    pub fn charge(&self) -> u64 {
        self.charge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn message(n: u64) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &n.to_be_bytes() }.keep(1)
    }

    fn number(entry: &Entry) -> u64 {
        entry.message.body().try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX)
    }

    #[derive(Debug, Clone)]
    enum Command {
        Enqueue,
        Deliver,
        Get(bool),
        Settle(usize),
        Requeue(usize),
        Consume { no_ack: bool, prefetch: u16 },
        Cancel(usize),
        Purge,
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            6 => Just(Command::Enqueue),
            6 => Just(Command::Deliver),
            1 => any::<bool>().prop_map(Command::Get),
            4 => (0usize..8).prop_map(Command::Settle),
            3 => (0usize..8).prop_map(Command::Requeue),
            1 => (any::<bool>(), 0u16..4).prop_map(|(no_ack, prefetch)| Command::Consume { no_ack, prefetch }),
            1 => (0usize..4).prop_map(Command::Cancel),
            1 => Just(Command::Purge),
        ]
    }

    /// The model: two sets of numbers. What is published is its own number, so order is number order.
    #[derive(Default)]
    struct Model {
        ready: BTreeSet<u64>,
        held: BTreeSet<u64>,
        seen: BTreeSet<u64>,
        published: u64,
    }

    proptest! {
        #[test]
        fn agrees_with_two_sets(commands in proptest::collection::vec(command(), 0..200)) {
            let (mut core, mut model, mut keys) = (Core::default(), Model::default(), Vec::new());
            for command in commands {
                match command {
                    Command::Enqueue => {
                        core.enqueue(message(model.published));
                        model.ready.insert(model.published);
                        model.published += 1;
                    }
                    Command::Deliver => {
                        let next = core.next_delivery().map(|(key, entry)| (key, number(entry), entry.redelivered));
                        if let Some((key, n, redelivered)) = next {
                            prop_assert_eq!(Some(&n), model.ready.first());
                            prop_assert_eq!(redelivered, model.seen.contains(&n));
                            let settled_at_once = core.consumers.no_ack(key);
                            core.delivered(key);
                            model.ready.remove(&n);
                            model.seen.insert(n);
                            if !settled_at_once { model.held.insert(n); }
                        }
                    }
                    Command::Get(no_ack) => {
                        let got = core.get(no_ack).map(|entry| (number(&entry), entry.redelivered));
                        prop_assert_eq!(got.map(|(n, _)| n), model.ready.pop_first());
                        if let Some((n, redelivered)) = got {
                            prop_assert_eq!(redelivered, model.seen.contains(&n));
                            model.seen.insert(n);
                            if !no_ack { model.held.insert(n); }
                        }
                    }
                    Command::Settle(nth) => if let Some(&n) = model.held.iter().nth(nth) {
                        model.held.remove(&n);
                        core.settle(n);
                        core.settle(n);
                    },
                    Command::Requeue(nth) => if let Some(&n) = model.held.iter().nth(nth) {
                        model.held.remove(&n);
                        model.ready.insert(n);
                        core.requeue(n);
                        core.requeue(n);
                    },
                    Command::Consume { no_ack, prefetch } => {
                        let key = core.consume(Terms { no_ack, prefetch, ..Terms::default() });
                        prop_assert!(key.is_some());
                        keys.extend(key);
                    }
                    Command::Cancel(nth) => if nth < keys.len() { core.cancel(keys.remove(nth)); },
                    Command::Purge => {
                        prop_assert_eq!(core.purge(), model.ready.len());
                        model.ready.clear();
                    }
                }
                prop_assert_eq!(core.ready(), model.ready.len());
                prop_assert_eq!(core.unsettled(), model.held.len());
                prop_assert_eq!(core.consumer_count(), keys.len());
                let charged = (model.ready.len() + model.held.len()) as u64 * message(0).charge();
                prop_assert_eq!(core.charge(), charged);
            }
        }
    }

    #[test]
    fn an_exclusive_consumer_is_alone() {
        let mut core = Core::default();
        let exclusive = Terms { exclusive: true, ..Terms::default() };
        let first = core.consume(Terms::default()).unwrap();
        assert!(core.consume(exclusive).is_none());
        core.cancel(first);
        assert!(core.consume(exclusive).is_some());
        assert!(core.consume(Terms::default()).is_none());
    }

    #[test]
    fn prefetch_counts_what_a_consumer_has_not_settled() {
        let mut core = Core::default();
        for n in 0..5 {
            core.enqueue(message(n));
        }
        let key = core.consume(Terms { prefetch: 2, ..Terms::default() }).unwrap();
        for _ in 0..2 {
            core.delivered(key);
        }
        assert!(core.next_delivery().is_none());
        core.settle(0);
        assert_eq!(core.next_delivery().map(|(_, entry)| entry.seq), Some(2));
    }
}
