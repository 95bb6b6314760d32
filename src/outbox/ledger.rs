//! What one channel has been handed and has not settled: delivery tag -> (slot, position). Plain numbers; it knows no
//! queue. The channel knows which queue a slot stands for.

use crate::window::Window;
use crate::wire::fault::{Code, Fault};

/// One delivery that waits for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Which of the channel's slots (a consumer, or a queue that was read by basic.get).
    pub slot: u32,
    /// The message's position in that slot's queue.
    pub seq: u64,
    /// It was fetched by basic.get: it does not count against the channel's limit.
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

/// What is known of one slot.
#[derive(Clone, Copy, Debug, Default)]
struct SlotBook {
    outstanding: u32,
    /// It is on the list of those that were passed over.
    is_limited: bool,
}

/// Delivery tags and outstanding deliveries of one channel.
#[derive(Debug, Default)]
pub struct Ledger {
    last_tag: u64,
    unsettled: Window<Unsettled>,
    /// Outstanding ones that were not fetched.
    consumed: usize,
    slots: Vec<SlotBook>,
    /// Most outstanding deliveries to the channel's consumers together; 0: no limit (basic.qos with `global`).
    limit: u32,
    /// Slots that were passed over because of `limit`.
    limited: Vec<u32>,
}

impl Ledger {
    /// The tag of a delivery that counts as settled at once.
    pub fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// The tag of a delivery that waits for its acknowledgement.
    pub fn hand_out(&mut self, delivery: Unsettled) -> u64 {
        let tag = self.next_tag();
        self.put(tag, delivery);
        tag
    }

    /// Puts a delivery back that was settled in a transaction which is rolled back.
    pub fn put(&mut self, tag: u64, delivery: Unsettled) {
        self.unsettled.insert(tag, delivery);
        self.consumed += usize::from(!delivery.fetched);
        if let Some(book) = self.book(delivery.slot) {
            book.outstanding += 1;
        }
    }

    fn book(&mut self, slot: u32) -> Option<&mut SlotBook> {
        let at = slot as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, SlotBook::default());
        }
        self.slots.get_mut(at)
    }

    /// Moves what `tag` names (with `multiple`: and everything before it; 0: everything) into `settled`, by rising tag.
    ///
    /// # Errors
    /// The tag itself is not outstanding: then nothing is moved.
    pub fn settle(&mut self, tag: u64, multiple: bool, settled: &mut Vec<(u64, Unsettled)>) -> Result<(), UnknownTag> {
        let from = settled.len();
        if !multiple {
            settled.push((tag, self.unsettled.remove(tag).ok_or(UnknownTag(tag))?));
        } else {
            let limit = if tag == 0 { u64::MAX } else { tag };
            if tag != 0 && self.unsettled.get(tag).is_none() {
                return Err(UnknownTag(tag));
            }
            while let Some(entry) = self.unsettled.pop_through(limit) {
                settled.push(entry);
            }
        }
        for (_, delivery) in settled.get(from..).unwrap_or_default() {
            self.consumed -= usize::from(!delivery.fetched);
            if let Some(book) = self.slots.get_mut(delivery.slot as usize) {
                book.outstanding = book.outstanding.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Outstanding deliveries of one slot.
    pub fn outstanding(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |book| book.outstanding)
    }

    /// Sets the limit for all consumers together; 0: none.
    pub fn limit_all(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Whether the channel's consumers together have all they may have; if so the slot is remembered.
    pub fn refuses(&mut self, slot: u32) -> bool {
        let full = self.limit != 0 && self.consumed >= self.limit as usize;
        if full
            && let Some(book) = self.book(slot)
            && !std::mem::replace(&mut book.is_limited, true)
        {
            self.limited.push(slot);
        }
        full
    }

    /// The slots passed over because of the limit, if there is room again.
    pub fn take_limited(&mut self) -> Vec<u32> {
        if self.limit != 0 && self.consumed >= self.limit as usize {
            return Vec::new();
        }
        for slot in &self.limited {
            if let Some(book) = self.slots.get_mut(*slot as usize) {
                book.is_limited = false;
            }
        }
        std::mem::take(&mut self.limited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(slot: u32, seq: u64) -> Unsettled {
        Unsettled { slot, seq, fetched: false }
    }

    fn seqs(settled: &[(u64, Unsettled)]) -> Vec<u64> {
        settled.iter().map(|(_, delivery)| delivery.seq).collect()
    }

    #[test]
    fn multiple_takes_all_up_to_the_tag_and_zero_takes_all() {
        let (mut ledger, mut settled) = (Ledger::default(), Vec::new());
        for seq in 10..15 {
            ledger.hand_out(consumed(0, seq));
        }
        ledger.settle(2, true, &mut settled).unwrap();
        assert_eq!(seqs(&settled), [10, 11]);
        settled.clear();
        ledger.settle(0, true, &mut settled).unwrap();
        assert_eq!(seqs(&settled), [12, 13, 14]);
        assert_eq!(ledger.outstanding(0), 0);
        assert_eq!(ledger.settle(0, true, &mut settled), Ok(()));
    }

    #[test]
    fn a_tag_is_settled_once() {
        let (mut ledger, mut settled) = (Ledger::default(), Vec::new());
        ledger.hand_out(consumed(3, 7));
        assert_eq!(ledger.settle(1, false, &mut settled), Ok(()));
        assert_eq!(ledger.settle(1, false, &mut settled), Err(UnknownTag(1)));
        assert_eq!(ledger.settle(1, true, &mut settled), Err(UnknownTag(1)));
        assert_eq!(ledger.settle(0, false, &mut settled), Err(UnknownTag(0)));
    }

    #[test]
    fn a_limit_for_the_channel_remembers_who_was_passed_over() {
        let (mut ledger, mut settled) = (Ledger::default(), Vec::new());
        ledger.limit_all(1);
        assert!(!ledger.refuses(4));
        ledger.hand_out(consumed(4, 0));
        assert!(ledger.refuses(4) && ledger.refuses(4));
        assert!(ledger.take_limited().is_empty());
        ledger.settle(1, false, &mut settled).unwrap();
        assert_eq!(ledger.take_limited(), [4]);
        ledger.hand_out(consumed(4, 1));
        assert!(ledger.refuses(4));
        ledger.limit_all(0);
        assert_eq!(ledger.take_limited(), [4]);
    }
}
