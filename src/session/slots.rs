//! Consumer slots of a channel: small numbers for what its deliveries refer to, so that an outbox
//! need not know queues. Decides no delivery.

use crate::outbox::deliveries::UnackedDeliveries;
use crate::outbox::{FlushSet, Outbox};
use crate::queue::Queue;
use crate::queue::consumers::ConsumerKey;
use hashbrown::HashMap;
use leveret_wire::name::Name;
use std::collections::VecDeque;
use std::sync::Arc;

/// The target of deliveries: a consumer, or a queue that was read by basic.get.
#[derive(Debug)]
pub struct Slot {
    /// The queue.
    pub queue: Arc<Queue>,
    /// The consumer; `None` for basic.get, and once the consumer is cancelled.
    pub consumer: Option<ConsumerKey>,
    /// The consumer's tag.
    pub tag: Name,
}

/// Slots that one call of [`Slots::allot`] looks at before it makes another.
const LOOKED_AT: usize = 4;

/// The slots of one channel, by number.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Option<Slot>>,
    /// Slots without a consumer; unacked deliveries may still refer to them. Each stands here once.
    released: VecDeque<u32>,
    /// By number of a queue, the slot through which basic.get read it last.
    getters: HashMap<u64, u32>,
}

impl Slots {
    /// Allots a slot for `queue`: a released one to which no unacked delivery refers and that is
    /// not `pinned`, or a new one. Takes the same time however many slots there are.
    pub fn allot(
        &mut self,
        queue: &Arc<Queue>,
        tag: Name,
        unacked: &UnackedDeliveries,
        pinned: impl Fn(u32) -> bool,
    ) -> u32 {
        let at = self.take_unused(unacked, pinned).unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        if let Some(place) = self.slots.get_mut(at as usize)
            && let Some(old) = place.replace(Slot { queue: Arc::clone(queue), consumer: None, tag })
            && self.getters.get(&old.queue.number()) == Some(&at)
        {
            self.getters.remove(&old.queue.number());
        }
        at
    }

    /// Takes a slot to which nothing refers, if one of those that were released first is such.
    fn take_unused(&mut self, unacked: &UnackedDeliveries, pinned: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..self.released.len().min(LOOKED_AT) {
            let at = self.released.pop_front()?;
            if unacked.outstanding(at) == 0 && !pinned(at) {
                return Some(at);
            }
            self.released.push_back(at);
        }
        None
    }

    /// Notes the consumer of a slot that was allotted for it.
    pub fn set_consumer(&mut self, slot: u32, consumer: ConsumerKey) {
        if let Some(slot) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            slot.consumer = Some(consumer);
        }
    }

    /// Takes a slot's consumer off; the slot is allotted again once no unacked delivery refers to
    /// it. Returns the slot and the consumer; `None` if it has none.
    pub fn release(&mut self, at: u32) -> Option<(&Slot, ConsumerKey)> {
        let slot = self.slots.get_mut(at as usize)?.as_mut()?;
        let consumer = slot.consumer.take()?;
        self.released.push_back(at);
        Some((slot, consumer))
    }

    /// Gives back a slot that was allotted for a consumer that the queue refused.
    pub fn give_back(&mut self, slot: u32) {
        self.released.push_back(slot);
    }

    /// Returns the slot for basic.get on `queue`, allotting one if there is none.
    pub fn getter(&mut self, queue: &Arc<Queue>, unacked: &UnackedDeliveries, pinned: impl Fn(u32) -> bool) -> u32 {
        if let Some(at) = self.getters.get(&queue.number()) {
            return *at;
        }
        let at = self.allot(queue, Name::default(), unacked, pinned);
        self.getters.insert(queue.number(), at);
        self.released.push_back(at);
        at
    }

    /// Returns a slot.
    pub fn get(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Resumes consumers that the prefetch limit of their channel had stopped, in turn, until it
    /// stops one again.
    pub fn resume_limited(&self, channel: u16, outbox: &Outbox, flush: &mut FlushSet) {
        loop {
            let next = outbox.lock().unacked(channel).and_then(UnackedDeliveries::next_limited);
            let Some(slot) = next else { return };
            self.resume(slot, flush);
        }
    }

    /// Lets a consumer go on that a limit of its channel or a full buffer had stopped.
    pub fn resume(&self, slot: u32, flush: &mut FlushSet) {
        if let Some(slot) = self.get(slot)
            && let Some(consumer) = slot.consumer
        {
            slot.queue.resume(consumer, flush);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::deliveries::UnackedDelivery;
    use crate::outbox::{DeliveryTarget, Outbox};
    use crate::queue::arguments::QueueType;
    use crate::queue::consumers::ConsumerOptions;
    use crate::queue::context::QueueContext;
    use crate::queue::declared::Declared;
    use leveret_wire::table::OwnedTable;

    fn queue_of(context: &Arc<QueueContext>, name: &'static str) -> Arc<Queue> {
        let name = Name::from_static(name);
        let (kind, arguments) = (QueueType::Classic, OwnedTable::default());
        let declared = Declared { name, durable: false, owner: None, auto_delete: false, kind, arguments };
        Arc::new(Queue::new(declared, Arc::clone(context)))
    }

    fn queues() -> (Arc<Queue>, Arc<Queue>) {
        let context = Arc::new(QueueContext::default());
        (queue_of(&context, "1"), queue_of(&context, "2"))
    }

    fn fetched(slot: u32) -> UnackedDelivery {
        UnackedDelivery { slot, seq: 0, fetched: true }
    }

    #[test]
    fn a_slot_is_used_again_when_nothing_refers_to_it() {
        let ((one, two), mut slots, mut unacked) = (queues(), Slots::default(), UnackedDeliveries::default());
        let (mut settled, tag) = (Vec::new(), Name::from_static("t"));
        for (slot, queue) in [(0, &one), (1, &two)] {
            assert_eq!(slots.allot(queue, tag.clone(), &unacked, |_| false), slot);
            slots.give_back(slot);
            unacked.add(fetched(slot));
        }
        assert_eq!(slots.allot(&two, tag.clone(), &unacked, |_| false), 2, "deliveries of 0 and 1 are out");
        unacked.settle(1, false, &mut settled).unwrap();
        assert_eq!(slots.allot(&two, tag.clone(), &unacked, |slot| slot == 0), 3, "tx.commit still needs 0");
        assert_eq!(slots.allot(&two, tag, &unacked, |_| false), 0);
        assert!(slots.get(0).is_some_and(|slot| Arc::ptr_eq(&slot.queue, &two)));
    }

    #[test]
    fn one_slot_serves_all_gets_of_a_queue() {
        let ((one, two), mut slots, mut unacked) = (queues(), Slots::default(), UnackedDeliveries::default());
        for queue in [&one, &two, &one, &two] {
            let slot = slots.getter(queue, &unacked, |_| false);
            unacked.add(fetched(slot));
            assert!(slots.get(slot).is_some_and(|slot| Arc::ptr_eq(&slot.queue, queue)));
        }
        assert_eq!(slots.slots.len(), 2);
    }

    #[test]
    fn slots_of_consumers_that_come_and_go_are_used_again_beside_many_that_stay() {
        let ((queue, _), mut slots, unacked) = (queues(), Slots::default(), UnackedDeliveries::default());
        let tag = Name::from_static("t");
        let options = ConsumerOptions { no_ack: true, exclusive: false, priority: 0, prefetch: 0 };
        let target = DeliveryTarget { channel: 1, slot: 0, tag: tag.clone(), no_ack: true };
        let key = queue.consume(options, &Arc::new(Outbox::default()), target).unwrap();
        let consume = |slots: &mut Slots| {
            let at = slots.allot(&queue, tag.clone(), &unacked, |_| false);
            slots.set_consumer(at, key);
            at
        };
        for _ in 0..20_000 {
            consume(&mut slots);
        }
        assert_eq!(slots.slots.len(), 20_000);
        for _ in 0..200_000 {
            let at = consume(&mut slots);
            assert!(slots.release(at).is_some() && slots.release(at).is_none());
        }
        assert!(slots.slots.len() < 20_010, "{}", slots.slots.len());
    }
}
