//! One channel of a connection: what it consumes, what it was told, in which mode it is. It knows no frame order and no
//! other channel.
//!
//! ```text
//!             channel.open                 fault: channel.close sent
//!  Starting ---------------> Running ------------------------------> Closing
//!  (a frame came on a           | channel.close received                | close-ok received
//!   number that was free)       v                                       v
//!                            Closed  ---- end of the read batch ---> (gone)
//! ```

use crate::message::Message;
use crate::outbox::ledger::{Ledger, Unsettled};
use crate::queue::Queue;
use crate::queue::consumers::ConsumerKey;
use crate::session::content::Assembly;
use crate::store::position::Position;
use crate::wire::name::Name;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its number was used, it was not opened yet.
    Starting,
    /// Open.
    Running,
    /// We closed it; everything but the end of the handshake is ignored.
    Closing,
    /// The client closed it in this read batch: what it had already sent behind that is ignored.
    Closed,
}

/// What publications and acknowledgements mean on a channel.
#[derive(Debug, Default)]
pub enum Mode {
    /// They count at once.
    #[default]
    Plain,
    /// Publications are confirmed (RabbitMQ's confirm.select).
    Confirm(Confirms),
    /// They count at tx.commit (AMQP 0-9-1, 1.9).
    Transaction(Transaction),
}

impl Mode {
    /// Whether a settlement that waits for tx.commit, or for being taken back, is one of `slot`.
    fn refers_to(&self, slot: u32) -> bool {
        let Self::Transaction(Transaction { settlements, .. }) = self else { return false };
        settlements.iter().flat_map(|(_, settled)| settled).any(|(_, delivery)| delivery.slot == slot)
    }
}

/// Publications of a channel in confirm mode, numbered from 1.
#[derive(Debug, Default)]
pub struct Confirms {
    published: u64,
    due: u64,
    confirmed: u64,
    /// Numbers up to which confirms are due when a position is durable; both rise.
    waiting: VecDeque<(u64, Position)>,
}

impl Confirms {
    /// One more was published.
    pub fn published(&mut self) {
        self.published += 1;
    }

    /// What was published so far is due when `position` is durable; none: as soon as everything before is.
    pub fn end_batch(&mut self, position: Option<Position>) {
        match (position, self.waiting.back_mut()) {
            (Some(position), _) => self.waiting.push_back((self.published, position)),
            (None, Some((upto, _))) => *upto = self.published,
            (None, None) => self.due = self.published,
        }
    }

    /// The number up to which confirms are due, and whether it stands for several.
    pub fn take_due(&mut self, durable: Position) -> Option<(u64, bool)> {
        while let Some((upto, _)) = self.waiting.front().copied().filter(|(_, position)| *position <= durable) {
            self.due = upto;
            self.waiting.pop_front();
        }
        let count = self.due - self.confirmed;
        self.confirmed = self.due;
        (count > 0).then_some((self.due, count > 1))
    }

    /// The position that has to be durable next.
    pub fn waits_for(&self) -> Option<Position> {
        self.waiting.front().map(|(_, position)| *position)
    }
}

/// What waits for tx.commit.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Publications in order.
    pub publications: Vec<Pending>,
    /// Settlements in order.
    pub settlements: Vec<(Verdict, Vec<(u64, Unsettled)>)>,
}

impl Transaction {
    /// Octets of the one record that it is in a journal, or a little more.
    pub fn octets(&self) -> u64 {
        const HEAD: usize = 128;
        const PLACE: usize = 16;
        let publication = |Pending { message, queues, .. }: &Pending| {
            let parts = message.route().len() + message.properties().len() + message.body().len();
            HEAD + parts + PLACE * queues.len()
        };
        let settlements = self.settlements.iter().map(|(_, settled)| HEAD + PLACE * settled.len());
        self.publications.iter().map(publication).chain(settlements).sum::<usize>() as u64
    }
}

/// A publication that waits for tx.commit.
#[derive(Debug)]
pub struct Pending {
    /// The message.
    pub message: Message,
    /// Where it goes; routed when it was published.
    pub queues: Vec<Arc<Queue>>,
    /// It is returned if it goes nowhere.
    pub mandatory: bool,
}

impl Pending {
    /// Octets of memory charged until tx.commit: the shares of all the queues it goes to.
    pub fn charge(&self) -> u64 {
        self.message.charge() * self.queues.len().max(1) as u64
    }
}

/// What a client says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done with.
    Settle,
    /// Back into the queue.
    Requeue,
    /// Refused for good.
    Discard,
}

/// What deliveries of this channel refer to: a consumer, or a queue that was read by basic.get.
#[derive(Debug)]
pub struct Slot {
    /// The queue.
    pub queue: Arc<Queue>,
    /// The consumer; `None` for basic.get, and once the consumer is cancelled.
    pub consumer: Option<ConsumerKey>,
    /// The consumer's tag.
    pub tag: Name,
}

/// The channel's consumer of `amq.rabbitmq.reply-to`.
#[derive(Clone, Debug)]
pub struct ReplyConsumer {
    /// Its tag.
    pub tag: Name,
    /// The name under which others reach it.
    pub name: Name,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    /// Where it stands.
    pub stage: Stage,
    /// Content that is being received.
    pub assembly: Assembly,
    /// Consumers by tag.
    pub consumers: HashMap<Name, u32>,
    /// What deliveries refer to.
    pub slots: Vec<Option<Slot>>,
    /// Prefetch of the next consumer; 0: no limit.
    pub prefetch: u16,
    /// The queue that was declared last; an empty queue name means it.
    pub last_queue: Option<Name>,
    /// Plain, confirm or transaction.
    pub mode: Mode,
    /// Consumer of direct replies.
    pub reply: Option<ReplyConsumer>,
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            stage: Stage::Starting,
            assembly: Assembly::default(),
            consumers: HashMap::new(),
            slots: Vec::new(),
            prefetch: 0,
            last_queue: None,
            mode: Mode::Plain,
            reply: None,
        }
    }
}

impl Channel {
    /// Whether acknowledgements may wait for the end of the read batch; those in a transaction wait for its end.
    pub fn may_gather_acks(&self) -> bool {
        !matches!(self.mode, Mode::Transaction(_))
    }

    /// A slot for `queue`: an old one that nothing refers to any more, or a new one.
    pub fn take_slot(&mut self, queue: &Arc<Queue>, tag: Name, ledger: &Ledger) -> u32 {
        let slot = Slot { queue: Arc::clone(queue), consumer: None, tag };
        let free = self.slots.iter().enumerate().position(|(at, slot)| {
            let idle = slot.as_ref().is_none_or(|slot| slot.consumer.is_none());
            idle && ledger.outstanding(at as u32) == 0 && !self.mode.refers_to(at as u32)
        });
        let at = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(at) {
            *place = Some(slot);
        }
        at as u32
    }

    /// The slot through which `queue` is read by basic.get.
    pub fn getter_slot(&mut self, queue: &Arc<Queue>, ledger: &Ledger) -> u32 {
        let same = |slot: &Slot| slot.consumer.is_none() && slot.tag.is_empty() && Arc::ptr_eq(&slot.queue, queue);
        match self.slots.iter().position(|slot| slot.as_ref().is_some_and(same)) {
            Some(at) => at as u32,
            None => self.take_slot(queue, Name::default(), ledger),
        }
    }

    /// What a delivery refers to.
    pub fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The same, to be changed.
    pub fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Declared;
    use crate::queue::arguments::QueueType;
    use crate::queue::shared::Shared;
    use crate::wire::table::OwnedTable;

    fn queue(name: &'static str) -> Arc<Queue> {
        let name = Name::from_static(name);
        let (kind, arguments) = (QueueType::Classic, OwnedTable::default());
        let declared = Declared { name, durable: false, owner: None, auto_delete: false, kind, arguments };
        Arc::new(Queue::new(declared, Arc::new(Shared::default())))
    }

    fn fetched(slot: u32) -> Unsettled {
        Unsettled { slot, seq: 0, fetched: true }
    }

    #[test]
    fn confirms_are_due_once_in_order_and_when_their_position_is_durable() {
        let (mut confirms, at) = (Confirms::default(), Position::from_number);
        assert_eq!(confirms.take_due(at(9)), None);
        let mut publish = |count: usize, position: Option<u64>| {
            (0..count).for_each(|_| confirms.published());
            confirms.end_batch(position.map(at));
            confirms.take_due(at(9))
        };
        assert_eq!(publish(1, None), Some((1, false)));
        assert_eq!(publish(2, Some(9)), Some((3, true)));
        assert_eq!(publish(1, Some(10)), None);
        // What need not wait itself does not overtake what does.
        assert_eq!(publish(1, None), None);
        assert_eq!(publish(1, Some(12)), None);
        assert_eq!(confirms.waits_for(), Some(at(10)));
        assert_eq!(confirms.take_due(at(11)), Some((5, true)));
        assert_eq!(confirms.waits_for(), Some(at(12)));
        assert_eq!(confirms.take_due(at(12)), Some((6, false)));
        assert_eq!((confirms.take_due(at(12)), confirms.waits_for()), (None, None));
    }

    #[test]
    fn a_slot_is_used_again_when_nothing_refers_to_it() {
        let (one, two, mut channel, mut ledger) = (queue("1"), queue("2"), Channel::default(), Ledger::default());
        let (mut settled, tag) = (Vec::new(), Name::from_static("t"));
        assert_eq!(channel.take_slot(&one, tag.clone(), &ledger), 0);
        ledger.hand_out(fetched(0));
        assert_eq!(channel.take_slot(&two, tag.clone(), &ledger), 1);
        ledger.settle(1, false, &mut settled).unwrap();
        channel.mode =
            Mode::Transaction(Transaction { settlements: vec![(Verdict::Settle, settled)], ..Default::default() });
        assert_eq!(channel.take_slot(&two, tag.clone(), &ledger), 1, "tx.commit still needs 0");
        channel.mode = Mode::Plain;
        assert_eq!(channel.take_slot(&two, tag, &ledger), 0);
        assert!(channel.slot(0).is_some_and(|slot| Arc::ptr_eq(&slot.queue, &two)));
    }

    #[test]
    fn one_slot_serves_all_gets_of_a_queue() {
        let (one, two, mut channel, mut ledger) = (queue("1"), queue("2"), Channel::default(), Ledger::default());
        for queue in [&one, &two, &one, &two] {
            let slot = channel.getter_slot(queue, &ledger);
            ledger.hand_out(fetched(slot));
            assert!(channel.slot(slot).is_some_and(|slot| Arc::ptr_eq(&slot.queue, queue)));
        }
        assert_eq!(channel.slots.len(), 2);
    }
}
