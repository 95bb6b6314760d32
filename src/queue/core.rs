//! The decisions of one queue, as a state machine over commands: no lock, no clock, no IO, no randomness. Given the
//! same commands it ends in the same state.

use crate::message::Message;
use crate::queue::consumers::{ConsumerKey, Consumers, Terms};
use crate::queue::lanes::{Deep, Entry, Lanes};
use crate::queue::leaving::{Kept, Leaving};
use crate::store::list::Run;
use crate::window::Window;

/// Ready and handed-out messages, and the consumers.
#[derive(Debug)]
pub struct Core {
    lanes: Lanes,
    unsettled: Window<Held>,
    consumers: Consumers,
    next_seq: u64,
    /// Messages up to this position may have been handed out.
    handed_out: u64,
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

impl Default for Core {
    fn default() -> Self {
        Self {
            lanes: Lanes::default(),
            unsettled: Window::default(),
            consumers: Consumers::default(),
            next_seq: FIRST_SEQ,
            handed_out: 0,
            charge: 0,
            had_consumer: false,
        }
    }
}

/// The position of a queue's first message.
const FIRST_SEQ: u64 = 1;

impl Core {
    /// A queue with messages that are in the journal: so many from `from` on and below `next_seq`; those up to `handed_out`
    /// may have been handed out.
    pub fn recovered(from: u64, count: usize, next_seq: u64, handed_out: u64) -> Self {
        let mut core = Self { next_seq: next_seq.max(FIRST_SEQ), handed_out, ..Self::default() };
        core.lanes.push_deep(from, count);
        core
    }

    /// The position of the next message that comes in.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// A message comes in. Nothing may be deep.
    pub fn enqueue(&mut self, message: Message, kept: Kept) {
        self.charge += message.charge();
        self.lanes.push(Entry { seq: self.next_seq, message, redelivered: false, kept });
        self.next_seq += 1;
    }

    /// A message comes in that is in the journal, and stays there only.
    pub fn enqueue_deep(&mut self) {
        self.lanes.push_deep(self.next_seq, 1);
        self.next_seq += 1;
    }

    /// What is in the journal only.
    pub fn deep(&self) -> Deep {
        self.lanes.deep()
    }

    /// Octets charged for ready messages in memory that were never handed out.
    pub fn fresh_charge(&self) -> u64 {
        self.lanes.charge()
    }

    /// What is deep was read from `from` on: messages with positions and where they are kept. False: it is not asked for any more.
    pub fn raise(&mut self, from: u64, messages: Vec<(u64, Message, Kept)>) -> bool {
        let deep = self.lanes.deep();
        let Some((last, _, _)) = messages.last().filter(|_| deep.count > 0 && deep.from == from) else { return false };
        let next = last + 1;
        self.charge += messages.iter().map(|(_, message, _)| message.charge()).sum::<u64>();
        let handed_out = self.handed_out;
        let entry = |(seq, message, kept)| Entry { seq, message, redelivered: seq <= handed_out, kept };
        self.lanes.raise(messages.into_iter().map(entry), next);
        true
    }

    /// The next delivery that can be made: who gets which message.
    pub fn next_delivery(&mut self) -> Option<(ConsumerKey, &Entry)> {
        let entry = self.lanes.front()?;
        Some((self.consumers.whose_turn()?, entry))
    }

    /// The delivery that [`Core::next_delivery`] named was made.
    pub fn delivered(&mut self, key: ConsumerKey, leaving: &mut Leaving) {
        let Some(mut entry) = self.lanes.pop() else { return };
        if self.consumers.no_ack(key) {
            self.charge -= entry.message.charge();
            leaving.add(entry.seq, entry.kept);
        } else {
            entry.redelivered = true;
            self.hand_out(entry, Some(key));
        }
        self.consumers.delivered(key);
    }

    fn hand_out(&mut self, entry: Entry, consumer: Option<ConsumerKey>) {
        if entry.kept == Kept::ForGood {
            self.handed_out = self.handed_out.max(entry.seq);
        }
        self.unsettled.insert(entry.seq, Held { entry, consumer });
    }

    /// The last position of a message kept for good that was handed out.
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// The connection of this consumer takes no more for now.
    pub fn stall(&mut self, key: ConsumerKey) {
        self.consumers.stall(key);
    }

    /// The connection of this consumer takes more again.
    pub fn resume(&mut self, key: ConsumerKey) {
        self.consumers.resume(key);
    }

    /// Takes the next message for basic.get; none as well if it is deep.
    pub fn get(&mut self, no_ack: bool, leaving: &mut Leaving) -> Option<Entry> {
        let entry = self.lanes.pop()?;
        if no_ack {
            self.charge -= entry.message.charge();
            leaving.add(entry.seq, entry.kept);
        } else {
            self.hand_out(Entry { redelivered: true, ..entry.clone() }, None);
        }
        Some(entry)
    }

    /// The message at `seq` is done with. A position that nobody has is ignored: the queue was purged of it.
    pub fn settle(&mut self, seq: u64, leaving: &mut Leaving) {
        if let Some(held) = self.unsettled.remove(seq) {
            self.charge -= held.entry.message.charge();
            leaving.add(seq, held.entry.kept);
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
    pub fn purge(&mut self, leaving: &mut Leaving) -> usize {
        let count = self.lanes.len();
        let deep = self.lanes.drop_deep();
        while let Some(entry) = self.lanes.pop() {
            self.charge -= entry.message.charge();
            leaving.add(entry.seq, entry.kept);
        }
        if deep.count > 0 {
            // Nobody has any of what lies there.
            leaving.for_good.push(Run { first: deep.from, last: self.next_seq - 1 });
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
        Publication { route: b"\0\0", properties: b"\0\0", body: &n.to_be_bytes(), persistent: false }.keep(1)
    }

    fn number(entry: &Entry) -> u64 {
        entry.message.body().try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX)
    }

    /// Every second message is kept for good, every fourth for now. (What is deep and purged leaves as one run.)
    fn kept(n: u64) -> Kept {
        [Kept::ForGood, Kept::Nowhere, Kept::ForGood, Kept::ForNow][n as usize % 4]
    }

    #[derive(Debug, Clone)]
    enum Command {
        Enqueue,
        EnqueueDeep,
        Raise(usize),
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
            2 => Just(Command::EnqueueDeep),
            3 => (1usize..4).prop_map(Command::Raise),
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
        /// Those of `ready` that are in the journal only.
        deep: BTreeSet<u64>,
        gone: BTreeSet<u64>,
        published: u64,
    }

    proptest! {
        #[test]
        fn agrees_with_two_sets(commands in proptest::collection::vec(command(), 0..200)) {
            let (mut core, mut model, mut keys) = (Core::default(), Model::default(), Vec::new());
            let mut leaving = Leaving::default();
            for command in commands {
                match command {
                    Command::Enqueue | Command::EnqueueDeep => {
                        if matches!(command, Command::EnqueueDeep) || !model.deep.is_empty() {
                            core.enqueue_deep();
                            model.deep.insert(model.published);
                        } else {
                            core.enqueue(message(model.published), kept(model.published));
                        }
                        model.ready.insert(model.published);
                        model.published += 1;
                    }
                    Command::Raise(count) => {
                        let Deep { from, .. } = core.deep();
                        let raised: Vec<_> = model.deep.iter().copied().take(count).collect();
                        let messages = raised.iter().map(|n| (n + FIRST_SEQ, message(*n), Kept::ForGood)).collect();
                        prop_assert!(!core.raise(from + 1, vec![(from, message(0), Kept::ForGood)]));
                        prop_assert_eq!(core.raise(from, messages), !raised.is_empty());
                        raised.iter().for_each(|n| { model.deep.remove(n); });
                    }
                    Command::Deliver => {
                        let next = core.next_delivery().map(|(key, entry)| (key, number(entry), entry.redelivered));
                        let first = model.ready.first().filter(|n| !model.deep.contains(n));
                        prop_assert_eq!(next.is_some(), first.is_some() && core.consumers.whose_turn().is_some());
                        if let Some((key, n, redelivered)) = next {
                            prop_assert_eq!(Some(&n), model.ready.first());
                            prop_assert_eq!(redelivered, model.seen.contains(&n));
                            let settled_at_once = core.consumers.no_ack(key);
                            core.delivered(key, &mut leaving);
                            model.gone.extend(settled_at_once.then_some(n));
                            model.ready.remove(&n);
                            model.seen.insert(n);
                            if !settled_at_once { model.held.insert(n); }
                        }
                    }
                    Command::Get(no_ack) => {
                        let got = core.get(no_ack, &mut leaving).map(|entry| (number(&entry), entry.redelivered));
                        let expected = model.ready.first().copied().filter(|n| !model.deep.contains(n));
                        prop_assert_eq!(got.map(|(n, _)| n), expected);
                        expected.iter().for_each(|n| { model.ready.remove(n); });
                        model.gone.extend(expected.filter(|_| no_ack));
                        if let Some((n, redelivered)) = got {
                            prop_assert_eq!(redelivered, model.seen.contains(&n));
                            model.seen.insert(n);
                            if !no_ack { model.held.insert(n); }
                        }
                    }
                    Command::Settle(nth) => if let Some(&n) = model.held.iter().nth(nth) {
                        model.held.remove(&n);
                        model.gone.insert(n);
                        core.settle(n + FIRST_SEQ, &mut leaving);
                        core.settle(n + FIRST_SEQ, &mut leaving);
                    },
                    Command::Requeue(nth) => if let Some(&n) = model.held.iter().nth(nth) {
                        model.held.remove(&n);
                        model.ready.insert(n);
                        core.requeue(n + FIRST_SEQ);
                        core.requeue(n + FIRST_SEQ);
                    },
                    Command::Consume { no_ack, prefetch } => {
                        let key = core.consume(Terms { no_ack, prefetch, ..Terms::default() });
                        prop_assert!(key.is_some());
                        keys.extend(key);
                    }
                    Command::Cancel(nth) => if nth < keys.len() { core.cancel(keys.remove(nth)); },
                    Command::Purge => {
                        prop_assert_eq!(core.purge(&mut leaving), model.ready.len());
                        model.gone.append(&mut model.ready);
                        model.deep.clear();
                    }
                }
                prop_assert_eq!(core.ready(), model.ready.len());
                prop_assert_eq!(core.unsettled(), model.held.len());
                prop_assert_eq!(core.consumer_count(), keys.len());
                let runs = leaving.for_good.iter().chain(&leaving.for_now);
                let left: BTreeSet<_> = runs.flat_map(|run| run.first..=run.last).map(|seq| seq - FIRST_SEQ).collect();
                prop_assert!(model.gone.iter().all(|n| kept(*n) == Kept::Nowhere || left.contains(n)));
                prop_assert!(left.is_subset(&model.gone));
                let charged = (model.ready.len() - model.deep.len() + model.held.len()) as u64 * message(0).charge();
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
            core.enqueue(message(n), Kept::Nowhere);
        }
        let key = core.consume(Terms { prefetch: 2, ..Terms::default() }).unwrap();
        for _ in 0..2 {
            core.delivered(key, &mut Leaving::default());
        }
        assert!(core.next_delivery().is_none());
        core.settle(FIRST_SEQ, &mut Leaving::default());
        assert_eq!(core.next_delivery().map(|(_, entry)| entry.seq), Some(FIRST_SEQ + 2));
    }
}
