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
use crate::wire::name::Name;
use hashbrown::{HashMap, HashSet};
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
    /// The slots that settlements refer to which wait for tx.commit.
    fn pledged_slots(&self) -> HashSet<u32> {
        match self {
            Self::Transaction(transaction) => {
                transaction.settlements.iter().flat_map(|(_, settled)| settled).map(|(_, of)| of.slot).collect()
            }
            _ => HashSet::new(),
        }
    }
}

/// Publications of a channel in confirm mode, numbered from 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Confirms {
    published: u64,
    confirmed: u64,
}

impl Confirms {
    /// One more was published.
    pub fn published(&mut self) {
        self.published += 1;
    }

    /// The tag up to which confirms are due, and whether it stands for several.
    pub fn take_due(&mut self) -> Option<(u64, bool)> {
        let due = self.published - self.confirmed;
        self.confirmed = self.published;
        (due > 0).then_some((self.published, due > 1))
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
        let pledged = self.mode.pledged_slots();
        let free = self.slots.iter().enumerate().position(|(at, slot)| {
            let idle = slot.as_ref().is_none_or(|slot| slot.consumer.is_none());
            idle && ledger.outstanding(at as u32) == 0 && !pledged.contains(&(at as u32))
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
