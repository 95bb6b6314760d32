//! The delivery layer of one queue: its consumers' credit and the connections they deliver to.
//! Takes outboxes' locks, one at a time.

use crate::limits;
use crate::metrics::MessageCounts;
use crate::outbox::{DeliverOutcome, DeliveryTarget, FlushSet, Inner, Outbox};
use crate::queue::consumers::{ConsumerFacts, ConsumerKey, ConsumerOptions, Consumers};
use crate::queue::core::{Core, DeliveryMode};
use crate::queue::effects::Effects;
use crate::queue::ready::Front;
use parking_lot::MutexGuard;
use std::sync::Arc;

/// The destination of a consumer's deliveries.
#[derive(Debug)]
pub struct ConsumerSink {
    /// The outbox of the consumer's connection.
    pub outbox: Arc<Outbox>,
    /// The channel, slot and tag within the outbox.
    pub target: DeliveryTarget,
}

/// The consumers of a queue with their sinks.
#[derive(Debug, Default)]
pub struct Delivery {
    consumers: Consumers,
    /// Sinks by [`ConsumerKey::index`].
    sinks: Vec<Option<ConsumerSink>>,
    /// The number of callers that requeue messages in several steps: nothing is delivered
    /// meanwhile, or a later message could overtake an earlier one.
    pub suspended: u32,
    /// Bodies were requested from the journal and have not come.
    pub page_in_requested: bool,
    /// Deliveries to consumers that acknowledge, and to those that do not.
    delivered: [u64; 2],
    redelivered: u64,
}

impl Delivery {
    /// Adds a consumer that gets no deliveries until [`Delivery::resume`].
    pub fn add(&mut self, options: ConsumerOptions, sink: ConsumerSink) -> ConsumerKey {
        let key = self.consumers.add_stalled(options);
        if self.sinks.len() <= key.index() {
            self.sinks.resize_with(key.index() + 1, || None);
        }
        if let Some(place) = self.sinks.get_mut(key.index()) {
            *place = Some(sink);
        }
        key
    }

    /// Removes a consumer; returns true if it existed.
    pub fn remove(&mut self, key: ConsumerKey) -> bool {
        let was_there = self.consumers.remove(key);
        if was_there && let Some(place) = self.sinks.get_mut(key.index()) {
            *place = None;
        }
        was_there
    }

    /// Includes a consumer in the rotation: its connection takes deliveries.
    pub fn resume(&mut self, key: ConsumerKey) {
        self.consumers.resume(key);
    }

    /// Returns the credit of settled deliveries to their consumers.
    pub fn give_credits(&mut self, effects: &mut Effects) {
        for (key, count) in effects.credits.drain(..) {
            self.consumers.settled(key, count);
        }
    }

    /// Removes all consumers, and returns their sinks.
    pub fn take_sinks(&mut self) -> Vec<ConsumerSink> {
        self.consumers = Consumers::default();
        std::mem::take(&mut self.sinks).into_iter().flatten().collect()
    }

    /// Adds the deliveries made so far to `counts`.
    pub fn add_counts(&self, counts: &mut MessageCounts) {
        let [delivered, delivered_no_ack] = self.delivered;
        counts.delivered += delivered;
        counts.delivered_no_ack += delivered_no_ack;
        counts.redelivered += self.redelivered;
    }

    /// Returns the number of places for consumers.
    pub fn places(&self) -> usize {
        self.sinks.len()
    }

    /// Returns the consumers in `most` places from the one at an index on, each with its sink.
    pub fn consumers(&self, at: usize, most: usize) -> impl Iterator<Item = (ConsumerFacts, &ConsumerSink)> {
        let sinks = self.sinks.iter().enumerate().skip(at).take(most);
        sinks.filter_map(|(at, sink)| Some((self.consumers.facts(at)?, sink.as_ref()?)))
    }

    /// Makes at most [`limits::DELIVERIES_PER_HOLD`] deliveries; bodies of unacked messages stay in
    /// memory up to `unacked_octets`. Returns true if there may be more to deliver.
    pub fn run(&mut self, core: &mut Core, unacked_octets: u64, effects: &mut Effects, flush: &mut FlushSet) -> bool {
        if self.suspended > 0 {
            return false;
        }
        let mut open: Option<(&Arc<Outbox>, MutexGuard<'_, Inner>)> = None;
        for _ in 0..limits::DELIVERIES_PER_HOLD {
            let Front::Resident(entry) = core.front() else { return false };
            let Some(message) = &entry.body else { return false };
            let Some((key, no_ack)) = self.consumers.next_consumer() else { return false };
            let Some(Some(sink)) = self.sinks.get(key.index()) else {
                self.consumers.stall(key);
                continue;
            };
            if !open.as_ref().is_some_and(|(outbox, _)| Arc::ptr_eq(outbox, &sink.outbox)) {
                // One outbox at a time: its lock is a leaf of the lock order.
                drop(open.take());
                open = Some((&sink.outbox, sink.outbox.lock()));
            }
            let Some((outbox, inner)) = open.as_mut() else { return false };
            match inner.deliver(&sink.target, entry.id, entry.is_redelivered(), message) {
                DeliverOutcome::Delivered => {
                    flush.add(outbox, inner);
                    if let Some(count) = self.delivered.get_mut(usize::from(no_ack)) {
                        *count += 1;
                    }
                    self.redelivered += u64::from(entry.is_redelivered());
                    core.delivered(key, DeliveryMode { no_ack, unacked_octets }, effects);
                    self.consumers.delivered(key);
                }
                DeliverOutcome::Stalled => self.consumers.stall(key),
            }
        }
        true
    }
}
