//! Transactions of a channel: publications and settlements that wait for tx.commit (AMQP 0-9-1,
//! 1.9). Names no exchange.

use crate::limits;
use crate::memory::{ConnectionCharge, Use};
use crate::message::Message;
use crate::outbox::deliveries::UnackedDelivery;
use crate::queue::Queue;
use crate::queue::atomic_publish::{QueueShare, atomic_publish};
use crate::queue::command::Disposition;
use crate::queue::journal_batch::Atomicity;
use crate::session::slots::Slots;
use crate::session::turn::Turn;
use hashbrown::{HashMap, HashSet};
use leveret_journal::index::Index;
use leveret_wire::fault::{Code, Fault};
use std::sync::Arc;
use std::vec;

/// Publications and settlements that take effect at tx.commit.
#[derive(Debug, Default)]
pub struct Transaction {
    publications: Vec<HeldPublication>,
    settlements: Vec<(Disposition, Vec<(u64, UnackedDelivery)>)>,
    /// Number of deliveries in the settlements.
    deliveries: usize,
    /// Slots that the settlements refer to.
    slots: HashSet<u32>,
    charges: Option<Charges>,
}

/// The charges of a transaction's publications.
#[derive(Debug)]
struct Charges {
    /// For the messages, which charge themselves to the broker's account.
    messages: ConnectionCharge,
    /// For their places.
    places: ConnectionCharge,
}

/// A publication that waits for tx.commit.
#[derive(Debug)]
struct HeldPublication {
    message: Message,
    /// The queues to which it was routed when it was published.
    queues: Vec<Arc<Queue>>,
    /// Mandatory: returned to the client if it is routed to no queue.
    mandatory: bool,
}

/// The part of a commit that is left after publications and acknowledgements were performed.
#[derive(Debug)]
pub(super) struct Committed {
    /// Deliveries to be requeued, in order.
    pub(super) requeued: Vec<Vec<(u64, UnackedDelivery)>>,
    /// The journal's index of the commit, if any of it is durable.
    pub(super) index: Option<Index>,
    /// A queue has rejected a publication; all else is done.
    pub(super) is_partial: bool,
}

impl Transaction {
    /// Adds a publication.
    ///
    /// # Errors
    /// 506 if the connection's messages that wait for tx.commit take more memory than they may: it
    /// would be held back by the alarm, and could not commit.
    pub(super) fn publish(
        &mut self,
        message: Message,
        queues: Vec<Arc<Queue>>,
        mandatory: bool,
        turn: &Turn<'_>,
    ) -> Result<(), Fault> {
        let (memory, max) = (turn.outbox.memory(), turn.unfinished_max());
        let Charges { messages, places } = self.charges.get_or_insert_with(|| Charges {
            messages: ConnectionCharge::new(memory, Use::Transaction),
            places: ConnectionCharge::new(memory, Use::Buffer),
        });
        messages.grow(message.charge());
        places.grow(limits::HELD_OCTETS + size_of_val(&queues[..]) as u64);
        self.publications.push(HeldPublication { message, queues, mandatory });
        if memory.transactions() > max {
            let text = format_args!("messages that wait for tx.commit take more than {max} octets of memory");
            return Err(Fault::new(Code::ResourceError, text));
        }
        Ok(())
    }

    /// Adds settlements.
    pub(super) fn settle(&mut self, disposition: Disposition, settled: Vec<(u64, UnackedDelivery)>) {
        self.deliveries += settled.len();
        self.slots.extend(settled.iter().map(|(_, delivery)| delivery.slot));
        self.settlements.push((disposition, settled));
    }

    /// Returns true if a settlement of the transaction refers to `slot`.
    pub(super) fn refers_to(&self, slot: u32) -> bool {
        self.slots.contains(&slot)
    }

    /// Checks that the transaction fits a record of the journal.
    ///
    /// # Errors
    /// 406 for a transaction of more than [`limits::TRANSACTION_OCTETS`], where there is a journal.
    pub(super) fn check_size(&self, turn: &Turn<'_>) -> Result<(), Fault> {
        let (octets, max) = (self.octets(), limits::TRANSACTION_OCTETS);
        if octets > max && turn.journal().is_some() {
            let text = format!("transaction of {octets} octets is larger than the maximum of {max}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        Ok(())
    }

    /// Performs the publications in order, then the acknowledgements. A crash leaves all of it or
    /// nothing.
    pub(super) fn commit(self, channel: u16, slots: &Slots, turn: &mut Turn<'_>) -> Committed {
        let mut commit = Commit::default();
        for HeldPublication { message, mut queues, mandatory } in self.publications {
            queues.retain(|queue| !queue.is_deleted());
            if queues.is_empty() && mandatory {
                turn.return_unroutable(channel, message.publication());
            }
            commit.publish(&queues, &message);
        }
        let mut requeued = Vec::new();
        for (disposition, settled) in self.settlements {
            match disposition {
                Disposition::Requeue => requeued.push(settled),
                Disposition::Ack | Disposition::Reject => {
                    for (_, UnackedDelivery { slot, seq, .. }) in settled {
                        if let Some(slot) = slots.get(slot) {
                            let share = commit.share(&slot.queue);
                            let ids =
                                if disposition == Disposition::Ack { &mut share.acked } else { &mut share.refused };
                            ids.push(seq);
                        }
                    }
                }
            }
        }
        let mut shares: Vec<_> = commit.shares.into_values().collect();
        let index = atomic_publish(&mut shares, &commit.several, Atomicity::Whole, turn.flush);
        let is_partial = shares.iter().any(|share| !share.rejected.is_empty());
        Committed { requeued, index, is_partial }
    }

    /// Returns the number of publications and settled deliveries.
    pub(super) fn len(&self) -> usize {
        self.publications.len() + self.deliveries
    }

    /// Begins the end of a transaction that is not committed.
    pub(super) fn roll_back(self) -> RollBack {
        RollBack {
            publications: self.publications.into_iter(),
            settlements: self.settlements.into_iter(),
            settled: Vec::new().into_iter(),
        }
    }

    /// Returns the octets of the journal's record, or a little more.
    fn octets(&self) -> u64 {
        const HEAD: usize = 128;
        const PLACE: usize = 16;
        let publication = |HeldPublication { message, queues, .. }: &HeldPublication| {
            let parts = message.route().len() + message.properties().len() + message.body().len();
            HEAD + parts + PLACE * queues.len()
        };
        let settlements = self.settlements.iter().map(|(_, settled)| HEAD + PLACE * settled.len());
        self.publications.iter().map(publication).chain(settlements).sum::<usize>() as u64
    }
}

/// The end of a transaction that is not committed, under way.
#[derive(Debug)]
pub(super) struct RollBack {
    publications: vec::IntoIter<HeldPublication>,
    settlements: vec::IntoIter<(Disposition, Vec<(u64, UnackedDelivery)>)>,
    settled: vec::IntoIter<(u64, UnackedDelivery)>,
}

impl RollBack {
    /// Drops at most `most` publications, and moves at most as many settled deliveries, which are
    /// unacked again, into `unacked`. Returns whether that was all.
    pub(super) fn take(&mut self, most: usize, unacked: &mut Vec<(u64, UnackedDelivery)>) -> bool {
        self.publications.by_ref().take(most).for_each(drop);
        for _ in 0..most {
            if let Some(delivery) = self.settled.next() {
                unacked.push(delivery);
            } else if let Some((_, settled)) = self.settlements.next() {
                self.settled = settled.into_iter();
            } else {
                return self.publications.len() == 0;
            }
        }
        false
    }
}

/// The publications and settlements of a transaction, queue by queue.
#[derive(Default)]
struct Commit {
    shares: HashMap<u64, QueueShare>,
    /// Messages that more than one queue stores in the journal.
    several: Vec<Message>,
}

impl Commit {
    fn share(&mut self, queue: &Arc<Queue>) -> &mut QueueShare {
        self.shares.entry(queue.number()).or_insert_with(|| QueueShare::new(queue))
    }

    fn publish(&mut self, queues: &[Arc<Queue>], message: &Message) {
        if message.is_persistent() && queues.iter().filter(|queue| queue.is_journaled()).count() > 1 {
            self.several.push(message.clone());
        }
        for queue in queues {
            self.share(queue).messages.push(message.clone());
        }
    }
}
