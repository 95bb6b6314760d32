//! The unsettled deliveries of one channel: delivery tag -> (slot, id in the queue). Plain
//! numbers; it knows no queue. The channel knows which queue a slot stands for.

use crate::memory::{ConnectionCharge, ConnectionMemory, Use};
use crate::sequence_map::SequenceMap;
use leveret_wire::fault::{Code, Fault};
use std::collections::VecDeque;
use std::sync::Arc;

/// One delivery that waits for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnackedDelivery {
    /// Which of the channel's slots (a consumer, or a queue that was read by basic.get).
    pub slot: u32,
    /// The message's position in that slot's queue.
    pub seq: u64,
    /// The message was fetched by basic.get: it does not count against the channel's limit.
    pub fetched: bool,
}

/// A tag that names no outstanding delivery (406 `unknown delivery tag`).
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownTag(pub u64);

impl From<UnknownTag> for Fault {
    fn from(UnknownTag(tag): UnknownTag) -> Fault {
        Fault::new(Code::PreconditionFailed, format_args!("unknown delivery tag {tag}"))
    }
}

/// The state of one slot.
#[derive(Clone, Copy, Debug, Default)]
struct ConsumerSlot {
    outstanding: u32,
    /// The slot is on the list of those that were passed over.
    is_limited: bool,
}

/// Delivery tags and outstanding deliveries of one channel.
#[derive(Debug, Default)]
pub struct UnackedDeliveries {
    last_tag: u64,
    unsettled: SequenceMap<UnackedDelivery>,
    /// Outstanding ones that were not fetched.
    consumed: usize,
    /// Number of deliveries that were settled in a transaction which is not committed: they count
    /// for `limit`.
    uncommitted: usize,
    slots: Vec<ConsumerSlot>,
    /// Most outstanding deliveries to the channel's consumers together; 0: no limit (basic.qos with
    /// `global`).
    limit: u32,
    /// Slots that were passed over because of `limit`, in that order.
    limited: VecDeque<u32>,
    /// For the places of `unsettled`.
    charge: Option<ConnectionCharge>,
    /// The number of places that the charge was last made for.
    places: usize,
    /// Messages fetched by basic.get.
    fetched: u64,
    /// Publications returned as unroutable.
    returned: u64,
}

impl UnackedDeliveries {
    /// Creates the deliveries of a channel, which are charged to its connection's `memory`.
    pub fn new(memory: &Arc<ConnectionMemory>) -> Self {
        Self { charge: Some(ConnectionCharge::new(memory, Use::Buffer)), ..Self::default() }
    }

    #[inline]
    fn charge_places(&mut self) {
        let places = self.unsettled.places();
        if places != self.places {
            self.places = places;
            let octets = (places * size_of::<Option<UnackedDelivery>>()) as u64;
            self.charge.iter_mut().for_each(|charge| charge.set(octets));
        }
    }

    /// Counts a message that was fetched by basic.get.
    pub fn count_fetched(&mut self) {
        self.fetched += 1;
    }

    /// Returns the number of messages fetched by basic.get.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Counts a publication that was returned as unroutable.
    pub fn count_returned(&mut self) {
        self.returned += 1;
    }

    /// Returns the number of publications returned as unroutable.
    pub fn returned(&self) -> u64 {
        self.returned
    }

    /// Returns the most outstanding deliveries to the channel's consumers together; 0: no limit.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns the tag of a delivery that counts as settled at once.
    pub fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Adds a delivery that waits for its acknowledgement, and returns its tag.
    #[inline(always)]
    pub fn add(&mut self, delivery: UnackedDelivery) -> u64 {
        let tag = self.next_tag();
        self.put(tag, delivery);
        tag
    }

    /// Counts settled deliveries as outstanding for the limit until
    /// [`UnackedDeliveries::end_transaction`].
    pub fn hold_for_commit(&mut self, settled: &[(u64, UnackedDelivery)]) {
        self.uncommitted += settled.iter().filter(|(_, delivery)| !delivery.fetched).count();
    }

    /// Ends the count of deliveries settled in a transaction: it is committed or rolled back.
    pub fn end_transaction(&mut self) {
        self.uncommitted = 0;
    }

    /// Puts a delivery back that was settled in a transaction which is rolled back.
    #[inline(always)]
    pub fn put(&mut self, tag: u64, delivery: UnackedDelivery) {
        self.unsettled.insert_with(tag, || delivery);
        self.charge_places();
        self.consumed += usize::from(!delivery.fetched);
        if let Some(slot_state) = self.slot_state(delivery.slot) {
            slot_state.outstanding += 1;
        }
    }

    fn slot_state(&mut self, slot: u32) -> Option<&mut ConsumerSlot> {
        let at = slot as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, ConsumerSlot::default());
        }
        self.slots.get_mut(at)
    }

    /// Moves the delivery that `tag` names (with `multiple`: and everything before it; 0:
    /// everything) into `settled`, by rising tag.
    ///
    /// # Errors
    /// The tag itself is not outstanding: then nothing is moved.
    pub fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        settled: &mut Vec<(u64, UnackedDelivery)>,
    ) -> Result<(), UnknownTag> {
        if multiple {
            if tag != 0 && !self.is_outstanding(tag) {
                return Err(UnknownTag(tag));
            }
            self.settle_through(if tag == 0 { u64::MAX } else { tag }, usize::MAX, settled);
        } else {
            settled.push((tag, self.take(tag)?));
        }
        Ok(())
    }

    /// Removes and returns the delivery with this tag.
    ///
    /// # Errors
    /// The tag is not outstanding.
    #[inline(always)]
    pub fn take(&mut self, tag: u64) -> Result<UnackedDelivery, UnknownTag> {
        let delivery = self.unsettled.remove(tag).ok_or(UnknownTag(tag))?;
        self.charge_places();
        self.settled(delivery);
        Ok(delivery)
    }

    /// Moves outstanding deliveries up to the tag `last` into `settled`, by rising tag, at most
    /// `most` of them. Returns whether that was all.
    pub fn settle_through(&mut self, last: u64, most: usize, settled: &mut Vec<(u64, UnackedDelivery)>) -> bool {
        let mut is_all = false;
        for _ in 0..most {
            let Some((tag, delivery)) = self.unsettled.pop_through(last) else {
                is_all = true;
                break;
            };
            self.settled(delivery);
            settled.push((tag, delivery));
        }
        self.charge_places();
        is_all
    }

    fn settled(&mut self, delivery: UnackedDelivery) {
        self.consumed -= usize::from(!delivery.fetched);
        if let Some(slot_state) = self.slots.get_mut(delivery.slot as usize) {
            slot_state.outstanding = slot_state.outstanding.saturating_sub(1);
        }
    }

    /// Returns the number of outstanding deliveries.
    pub fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// Returns whether nothing is outstanding.
    pub fn is_empty(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Returns the tag of the last delivery.
    pub fn last_tag(&self) -> u64 {
        self.last_tag
    }

    /// Returns whether `tag` names an outstanding delivery.
    pub fn is_outstanding(&self, tag: u64) -> bool {
        self.unsettled.get(tag).is_some()
    }

    /// Outstanding deliveries of one slot.
    pub fn outstanding(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |slot_state| slot_state.outstanding)
    }

    /// Sets the limit for all consumers together; 0: none.
    pub fn limit_all(&mut self, limit: u32) {
        self.limit = limit;
    }

    fn is_full(&self) -> bool {
        self.limit != 0 && self.consumed + self.uncommitted >= self.limit as usize
    }

    /// Returns whether the channel's consumers together have all they may have; if so the slot is
    /// remembered.
    pub fn refuses(&mut self, slot: u32) -> bool {
        let is_full = self.is_full();
        if is_full
            && let Some(slot_state) = self.slot_state(slot)
            && !std::mem::replace(&mut slot_state.is_limited, true)
        {
            self.limited.push_back(slot);
        }
        is_full
    }

    /// Returns whether there is room again for slots that were passed over because of the limit.
    pub fn has_limited(&self) -> bool {
        !self.limited.is_empty() && !self.is_full()
    }

    /// Takes the slot that was passed over first because of the limit, if there is room again.
    pub fn next_limited(&mut self) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let slot = self.limited.pop_front()?;
        if let Some(slot_state) = self.slots.get_mut(slot as usize) {
            slot_state.is_limited = false;
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(slot: u32, seq: u64) -> UnackedDelivery {
        UnackedDelivery { slot, seq, fetched: false }
    }

    fn seqs(settled: &[(u64, UnackedDelivery)]) -> Vec<u64> {
        settled.iter().map(|(_, delivery)| delivery.seq).collect()
    }

    #[test]
    fn multiple_takes_all_up_to_the_tag_and_zero_takes_all() {
        let (mut unacked, mut settled) = (UnackedDeliveries::default(), Vec::new());
        for seq in 10..15 {
            unacked.add(consumed(0, seq));
        }
        unacked.settle(2, true, &mut settled).unwrap();
        assert_eq!(seqs(&settled), [10, 11]);
        settled.clear();
        unacked.settle(0, true, &mut settled).unwrap();
        assert_eq!(seqs(&settled), [12, 13, 14]);
        assert_eq!(unacked.outstanding(0), 0);
        assert_eq!(unacked.settle(0, true, &mut settled), Ok(()));
    }

    #[test]
    fn a_tag_is_settled_once() {
        let (mut unacked, mut settled) = (UnackedDeliveries::default(), Vec::new());
        unacked.add(consumed(3, 7));
        assert_eq!(unacked.settle(1, false, &mut settled), Ok(()));
        assert_eq!(unacked.settle(1, false, &mut settled), Err(UnknownTag(1)));
        assert_eq!(unacked.settle(1, true, &mut settled), Err(UnknownTag(1)));
        assert_eq!(unacked.settle(0, false, &mut settled), Err(UnknownTag(0)));
    }

    #[test]
    fn slots_passed_over_because_of_the_channels_limit_come_in_turn() {
        let (mut unacked, mut settled) = (UnackedDeliveries::default(), Vec::new());
        unacked.limit_all(1);
        assert!(!unacked.refuses(4));
        unacked.add(consumed(4, 0));
        assert!(unacked.refuses(4) && unacked.refuses(7) && unacked.refuses(4));
        assert!(!unacked.has_limited() && unacked.next_limited().is_none());
        for (tag, slot) in (1..).zip([4, 7, 4, 7]) {
            unacked.settle(tag, false, &mut settled).unwrap();
            assert!(unacked.has_limited());
            assert_eq!(unacked.next_limited(), Some(slot));
            unacked.add(consumed(slot, tag));
            assert!(unacked.refuses(slot));
        }
        unacked.limit_all(0);
        assert_eq!([0; 3].map(|_| unacked.next_limited()), [Some(4), Some(7), None]);
    }

    #[test]
    fn what_basic_get_has_fetched_does_not_count_for_the_limit() {
        let mut unacked = UnackedDeliveries::default();
        unacked.limit_all(1);
        unacked.add(UnackedDelivery { fetched: true, ..consumed(0, 0) });
        assert!(!unacked.refuses(1));
    }
}
