//! The rotation of a queue's consumers: highest priority first, round-robin among those with
//! credit. Names no message, connection or lock.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// The key of a consumer in its queue; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    index: u32,
    generation: NonZeroU32,
}

impl ConsumerKey {
    /// Returns the consumer's index in a table by consumer.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// The reason why a consumer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeError {
    /// The new consumer or an existing one is exclusive.
    ExclusiveUse,
    /// The queue was deleted in the meantime.
    Deleted,
}

/// The options of a consumer, from basic.consume and basic.qos.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsumerOptions {
    /// Deliveries are acknowledged at once (`no-ack`).
    pub no_ack: bool,
    /// No other consumer may be added.
    pub exclusive: bool,
    /// The argument `x-priority`; higher ones are served first.
    pub priority: i64,
    /// Most unacked deliveries at a time; 0 is no limit (basic.qos, per consumer).
    pub prefetch: u16,
}

/// The facts of a consumer.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerFacts {
    /// Its options.
    pub options: ConsumerOptions,
    /// Number of its unacked deliveries; 0 for one that does not acknowledge.
    pub unacked: u32,
    /// The consumer may get a delivery now.
    pub is_active: bool,
}

#[derive(Debug)]
struct Consumer {
    generation: NonZeroU32,
    options: ConsumerOptions,
    in_flight: u32,
    /// The consumer's connection takes no deliveries for now.
    is_stalled: bool,
    /// The neighbours in the rotation of its priority; none while it is not in it.
    place: Option<Place>,
}

/// The neighbours in a rotation, as indexes of consumers.
#[derive(Clone, Copy, Debug)]
struct Place {
    previous: u32,
    next: u32,
}

impl Consumer {
    fn has_credit(&self) -> bool {
        let ConsumerOptions { no_ack, prefetch, .. } = self.options;
        !self.is_stalled && (no_ack || prefetch == 0 || self.in_flight < u32::from(prefetch))
    }
}

/// The consumers of a queue, with their credit and rotation.
///
/// Adding, removing and finding the next one cost O(log n) in the number of priorities, whatever
/// the number of consumers: a rotation is a ring through the consumers themselves.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    /// Indexes of unused slots.
    free: Vec<u32>,
    last_generation: u32,
    count: usize,
    /// The next consumer of each priority. A consumer found without credit is in no rotation.
    rotations: BTreeMap<Reverse<i64>, u32>,
}

impl Consumers {
    /// Returns the number of consumers.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns true if there are no consumers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the facts of the consumer at an index.
    pub fn facts(&self, index: usize) -> Option<ConsumerFacts> {
        let consumer = self.slots.get(index)?.as_ref()?;
        let (options, unacked, is_active) = (consumer.options, consumer.in_flight, consumer.has_credit());
        Some(ConsumerFacts { options, unacked, is_active })
    }

    /// Adds a consumer that gets no deliveries until [`Consumers::resume`].
    pub fn add_stalled(&mut self, options: ConsumerOptions) -> ConsumerKey {
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = NonZeroU32::new(self.last_generation).unwrap_or_else(|| {
            self.last_generation = 1;
            NonZeroU32::MIN
        });
        let consumer = Consumer { generation, options, in_flight: 0, is_stalled: true, place: None };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = Some(consumer);
        }
        self.count += 1;
        ConsumerKey { index, generation }
    }

    /// Removes a consumer; returns true if it existed.
    pub fn remove(&mut self, key: ConsumerKey) -> bool {
        if self.find(key).is_none() {
            return false;
        }
        self.deactivate(key.index);
        if let Some(slot) = self.slots.get_mut(key.index as usize) {
            *slot = None;
        }
        self.free.push(key.index);
        self.count -= 1;
        true
    }

    /// Returns the next consumer, and its `no_ack`. As in RabbitMQ, a consumer without credit when
    /// it is next loses its place, and comes last when it has credit again; one that gets credit
    /// before that keeps its place.
    pub fn next_consumer(&mut self) -> Option<(ConsumerKey, bool)> {
        loop {
            let index = *self.rotations.first_key_value()?.1;
            if let Some(consumer) = self.at(index).filter(|consumer| consumer.has_credit()) {
                let key = ConsumerKey { index, generation: consumer.generation };
                return Some((key, consumer.options.no_ack));
            }
            self.deactivate(index);
        }
    }

    /// Counts a delivery to the next consumer, and moves on to the one behind it.
    pub fn delivered(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.find_mut(key) else { return };
        if !consumer.options.no_ack {
            consumer.in_flight += 1;
        }
        let (priority, place) = (consumer.options.priority, consumer.place);
        if let Some(place) = place
            && place.next != key.index
            && let Some(head) = self.rotations.get_mut(&Reverse(priority))
            && *head == key.index
        {
            *head = place.next;
        }
    }

    /// Skips a consumer until [`Consumers::resume`]: its connection takes no deliveries.
    pub fn stall(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.is_stalled = true;
            self.deactivate(key.index);
        }
    }

    /// Includes a consumer again: its connection takes deliveries.
    pub fn resume(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.is_stalled = false;
            self.activate(key.index);
        }
    }

    /// Returns credit for `count` deliveries.
    pub fn settled(&mut self, key: ConsumerKey, count: u32) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.in_flight = consumer.in_flight.saturating_sub(count);
            if consumer.place.is_none() {
                self.activate(key.index);
            }
        }
    }

    fn at(&self, index: u32) -> Option<&Consumer> {
        self.slots.get(index as usize)?.as_ref()
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut Consumer> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    fn find(&self, key: ConsumerKey) -> Option<&Consumer> {
        self.at(key.index).filter(|consumer| consumer.generation == key.generation)
    }

    fn find_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.at_mut(key.index).filter(|consumer| consumer.generation == key.generation)
    }

    /// Puts a consumer last in the rotation of its priority, if it has credit and is in none.
    fn activate(&mut self, index: u32) {
        let Some(consumer) = self.at(index) else { return };
        if consumer.place.is_some() || !consumer.has_credit() {
            return;
        }
        let head = *self.rotations.entry(Reverse(consumer.options.priority)).or_insert(index);
        let last = self.at(head).and_then(|head| head.place).map_or(index, |place| place.previous);
        self.link(last, index);
        self.link(index, head);
    }

    /// Takes a consumer out of its rotation; an empty rotation is removed.
    fn deactivate(&mut self, index: u32) {
        let Some(consumer) = self.at_mut(index) else { return };
        let priority = Reverse(consumer.options.priority);
        let Some(Place { previous, next }) = consumer.place.take() else { return };
        if next == index {
            self.rotations.remove(&priority);
            return;
        }
        self.link(previous, next);
        if let Some(head) = self.rotations.get_mut(&priority)
            && *head == index
        {
            *head = next;
        }
    }

    /// Makes `next` the successor of `previous` in their ring.
    fn link(&mut self, previous: u32, next: u32) {
        if let Some(consumer) = self.at_mut(previous) {
            consumer.place.get_or_insert(Place { previous, next }).next = next;
        }
        if let Some(consumer) = self.at_mut(next) {
            consumer.place.get_or_insert(Place { previous, next }).previous = previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(consumers: &mut Consumers, options: ConsumerOptions) -> ConsumerKey {
        let key = consumers.add_stalled(options);
        consumers.resume(key);
        key
    }

    fn serve(consumers: &mut Consumers, times: usize) -> Vec<u32> {
        (0..times)
            .map_while(|_| {
                let (key, _) = consumers.next_consumer()?;
                consumers.delivered(key);
                Some(key.index)
            })
            .collect()
    }

    #[test]
    fn equal_priorities_rotate() {
        let mut consumers = Consumers::default();
        for _ in 0..3 {
            add(&mut consumers, ConsumerOptions::default());
        }
        assert_eq!(serve(&mut consumers, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_higher_priority_is_served_until_its_credit_is_used_up() {
        let mut consumers = Consumers::default();
        add(&mut consumers, ConsumerOptions { prefetch: 10, ..ConsumerOptions::default() });
        let high = add(&mut consumers, ConsumerOptions { priority: 5, prefetch: 2, ..ConsumerOptions::default() });
        assert_eq!(serve(&mut consumers, 4), [1, 1, 0, 0]);
        consumers.settled(high, 1);
        assert_eq!(serve(&mut consumers, 2), [1, 0]);
    }

    #[test]
    fn a_stalled_one_is_passed_over_and_comes_back() {
        let mut consumers = Consumers::default();
        let first = add(&mut consumers, ConsumerOptions::default());
        add(&mut consumers, ConsumerOptions::default());
        consumers.stall(first);
        assert_eq!(serve(&mut consumers, 2), [1, 1]);
        consumers.resume(first);
        assert_eq!(serve(&mut consumers, 2), [1, 0]);
    }

    #[test]
    fn a_consumer_that_gets_credit_before_it_is_next_keeps_its_place() {
        let mut consumers = Consumers::default();
        let first = add(&mut consumers, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
        add(&mut consumers, ConsumerOptions::default());
        add(&mut consumers, ConsumerOptions::default());
        assert_eq!(serve(&mut consumers, 2), [0, 1]);
        consumers.settled(first, 1);
        assert_eq!(serve(&mut consumers, 4), [2, 0, 1, 2]);
        // Without credit at its turn: it comes behind the others when it has credit again.
        assert_eq!(serve(&mut consumers, 1), [1]);
        consumers.settled(first, 1);
        assert_eq!(serve(&mut consumers, 3), [2, 1, 0]);
    }

    #[test]
    fn one_in_the_middle_can_leave() {
        let mut consumers = Consumers::default();
        let keys: Vec<_> = (0..5).map(|_| add(&mut consumers, ConsumerOptions::default())).collect();
        assert_eq!(serve(&mut consumers, 1), [0]);
        assert!(consumers.remove(keys[2]) && consumers.remove(keys[1]));
        assert_eq!(serve(&mut consumers, 4), [3, 4, 0, 3]);
        for key in [keys[0], keys[3], keys[4]] {
            assert!(consumers.remove(key));
        }
        assert!(consumers.is_empty() && consumers.next_consumer().is_none() && consumers.rotations.is_empty());
    }

    #[test]
    fn a_key_of_the_past_changes_nothing() {
        let mut consumers = Consumers::default();
        let old = add(&mut consumers, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
        assert!(consumers.remove(old));
        let new = add(&mut consumers, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
        assert_eq!(old.index, new.index);
        consumers.delivered(new);
        consumers.settled(old, 1);
        assert!(consumers.next_consumer().is_none());
        assert!(!consumers.remove(old));
    }
}
