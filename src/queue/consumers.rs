//! Who may get the next message of one queue: priority first, then fair turns among those that have credit. Knows no
//! message, no connection and no lock.

use std::collections::VecDeque;

/// Names one consumer of one queue; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    index: u32,
    generation: u32,
}

impl ConsumerKey {
    /// Its place in a table beside the core.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What a consumer asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Deliveries count as settled at once.
    pub no_ack: bool,
    /// No other consumer may come.
    pub exclusive: bool,
    /// `x-priority`; higher ones are served first.
    pub priority: i64,
    /// Most unsettled deliveries at a time; 0: no limit (basic.qos, per consumer).
    pub prefetch: u16,
}

#[derive(Debug)]
struct Consumer {
    generation: u32,
    terms: Terms,
    in_flight: u32,
    /// Its connection takes no more for now.
    stalled: bool,
    /// It stands in its priority's turn.
    in_turn: bool,
}

impl Consumer {
    fn may_have_more(&self) -> bool {
        !self.stalled
            && (self.terms.no_ack || self.terms.prefetch == 0 || self.in_flight < u32::from(self.terms.prefetch))
    }
}

/// The consumers of a queue.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    /// Places in `slots` that are empty.
    free: Vec<u32>,
    generation: u32,
    count: usize,
    has_exclusive: bool,
    /// Who is served next, by falling priority, without those that were found full or stalled; no priority is empty.
    turns: Vec<(i64, VecDeque<ConsumerKey>)>,
}

impl Consumers {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether one of them is exclusive.
    pub fn has_exclusive(&self) -> bool {
        self.has_exclusive
    }

    /// Adds one; it stands last in its priority's turn.
    pub fn add(&mut self, terms: Terms) -> ConsumerKey {
        self.generation = self.generation.wrapping_add(1);
        let consumer = Consumer { generation: self.generation, terms, in_flight: 0, stalled: false, in_turn: false };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let key = ConsumerKey { index, generation: self.generation };
        if let Some(slot) = self.slots.get_mut(key.index()) {
            *slot = Some(consumer);
        }
        self.count += 1;
        self.has_exclusive |= terms.exclusive;
        self.queue_up(key);
        key
    }

    /// Takes one away. False: it was gone already.
    pub fn remove(&mut self, key: ConsumerKey) -> bool {
        let Some(consumer) = self.find(key) else { return false };
        if consumer.terms.exclusive {
            self.has_exclusive = false;
        }
        self.leave_turn(key);
        if let Some(slot) = self.slots.get_mut(key.index()) {
            *slot = None;
        }
        self.free.push(key.index);
        self.count -= 1;
        true
    }

    /// Whose turn it is, when there is a message for it. As in RabbitMQ, whoever is found full when its turn comes loses it and
    /// queues up again when it has room; whoever made room before keeps it.
    pub fn whose_turn(&mut self) -> Option<ConsumerKey> {
        loop {
            let key = self.turns.first().and_then(|(_, turn)| turn.front()).copied()?;
            if self.find(key).is_some_and(Consumer::may_have_more) {
                return Some(key);
            }
            self.leave_turn(key);
        }
    }

    /// Whether the deliveries of this consumer count as settled at once.
    pub fn no_ack(&self, key: ConsumerKey) -> bool {
        self.find(key).is_some_and(|consumer| consumer.terms.no_ack)
    }

    /// The one whose turn it was got a message: it goes to the end of the turn.
    pub fn delivered(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.find_mut(key) else { return };
        if !consumer.terms.no_ack {
            consumer.in_flight += 1;
        }
        if let Some((_, turn)) = self.turns.first_mut()
            && turn.len() > 1
            && turn.front() == Some(&key)
        {
            turn.rotate_left(1);
        }
    }

    /// Its connection takes no more until [`Consumers::resume`].
    pub fn stall(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.stalled = true;
            self.leave_turn(key);
        }
    }

    /// Its connection takes more again.
    pub fn resume(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.stalled = false;
            self.queue_up(key);
        }
    }

    /// One of its deliveries was settled.
    pub fn settled(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.find_mut(key) {
            consumer.in_flight = consumer.in_flight.saturating_sub(1);
            self.queue_up(key);
        }
    }

    fn find(&self, key: ConsumerKey) -> Option<&Consumer> {
        self.slots.get(key.index())?.as_ref().filter(|consumer| consumer.generation == key.generation)
    }

    fn find_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.slots.get_mut(key.index())?.as_mut().filter(|consumer| consumer.generation == key.generation)
    }

    fn queue_up(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.find_mut(key) else { return };
        if consumer.in_turn || !consumer.may_have_more() {
            return;
        }
        consumer.in_turn = true;
        let priority = consumer.terms.priority;
        let at = self.turns.partition_point(|(other, _)| *other > priority);
        match self.turns.get_mut(at) {
            Some((other, turn)) if *other == priority => turn.push_back(key),
            _ => self.turns.insert(at, (priority, VecDeque::from([key]))),
        }
    }

    fn leave_turn(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.find_mut(key) else { return };
        if !std::mem::take(&mut consumer.in_turn) {
            return;
        }
        let priority = consumer.terms.priority;
        let at = self.turns.partition_point(|(other, _)| *other > priority);
        if let Some((_, turn)) = self.turns.get_mut(at) {
            if turn.front() == Some(&key) {
                turn.pop_front();
            } else {
                turn.retain(|other| *other != key);
            }
            if turn.is_empty() {
                self.turns.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(consumers: &mut Consumers, times: usize) -> Vec<usize> {
        (0..times)
            .map_while(|_| {
                let key = consumers.whose_turn()?;
                consumers.delivered(key);
                Some(key.index())
            })
            .collect()
    }

    #[test]
    fn equal_priorities_take_turns() {
        let mut consumers = Consumers::default();
        for _ in 0..3 {
            consumers.add(Terms::default());
        }
        assert_eq!(serve(&mut consumers, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_higher_priority_is_served_until_its_credit_is_used_up() {
        let mut consumers = Consumers::default();
        consumers.add(Terms { prefetch: 10, ..Terms::default() });
        let high = consumers.add(Terms { priority: 5, prefetch: 2, ..Terms::default() });
        assert_eq!(serve(&mut consumers, 4), [1, 1, 0, 0]);
        consumers.settled(high);
        assert_eq!(serve(&mut consumers, 2), [1, 0]);
    }

    #[test]
    fn a_stalled_one_is_passed_over_and_comes_back() {
        let mut consumers = Consumers::default();
        let first = consumers.add(Terms::default());
        consumers.add(Terms::default());
        consumers.stall(first);
        assert_eq!(serve(&mut consumers, 2), [1, 1]);
        consumers.resume(first);
        assert_eq!(serve(&mut consumers, 2), [1, 0]);
    }

    #[test]
    fn one_that_makes_room_before_its_turn_keeps_it() {
        let mut consumers = Consumers::default();
        let first = consumers.add(Terms { prefetch: 1, ..Terms::default() });
        consumers.add(Terms::default());
        consumers.add(Terms::default());
        assert_eq!(serve(&mut consumers, 2), [0, 1]);
        consumers.settled(first);
        assert_eq!(serve(&mut consumers, 4), [2, 0, 1, 2]);
        // Found full now: it stands behind the others when it has room again.
        assert_eq!(serve(&mut consumers, 1), [1]);
        consumers.settled(first);
        assert_eq!(serve(&mut consumers, 3), [2, 1, 0]);
    }

    #[test]
    fn a_key_of_the_past_changes_nothing() {
        let mut consumers = Consumers::default();
        let old = consumers.add(Terms { prefetch: 1, ..Terms::default() });
        assert!(consumers.remove(old));
        let new = consumers.add(Terms { prefetch: 1, ..Terms::default() });
        assert_eq!(old.index(), new.index());
        consumers.delivered(new);
        consumers.settled(old);
        assert_eq!(consumers.whose_turn(), None);
        assert!(!consumers.remove(old));
    }
}
