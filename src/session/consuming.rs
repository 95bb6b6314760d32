//! Consumers of one channel: basic.qos, consume, cancel and get (AMQP 0-9-1, 1.8.3).

use crate::broker::token;
use crate::outbox::{DeliveryTarget, GetOkMessage};
use crate::queue::consumers::{ConsumeError, ConsumerOptions};
use crate::queue::{Queue, arguments};
use crate::session::slots::Slots;
use crate::session::transaction::Transaction;
use crate::session::turn::Turn;
use hashbrown::HashMap;
use hashbrown::hash_map::IntoIter;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use leveret_wire::reply::Reply;
use leveret_wire::table::Table;
use std::sync::Arc;

/// The arguments of basic.consume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consume<'a> {
    pub(super) tag: &'a [u8],
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    pub(super) no_wait: bool,
    pub(super) arguments: Table<'a>,
}

/// The channel's consumer of `amq.rabbitmq.reply-to`.
#[derive(Clone, Debug)]
struct ReplyConsumer {
    tag: Name,
    /// The channel's reply name, to which others publish.
    name: Name,
}

/// Consumers of a channel, and the slots of its deliveries.
#[derive(Debug, Default)]
pub struct Consuming {
    /// Slots of consumers by tag.
    consumers: HashMap<Name, u32>,
    slots: Slots,
    /// Prefetch limit of the next consumer; 0 is no limit.
    prefetch: u16,
    reply: Option<ReplyConsumer>,
}

impl Consuming {
    /// Returns the slots that the channel's deliveries refer to.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Returns the prefetch limit of the next consumer; 0 is no limit.
    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// Returns the channel's reply name, if it consumes `amq.rabbitmq.reply-to`.
    pub(super) fn reply_name(&self) -> Option<&Name> {
        self.reply.as_ref().map(|reply| &reply.name)
    }

    /// Performs basic.qos: limits later consumers, or (`global`) all consumers of the channel
    /// together.
    ///
    /// # Errors
    /// 540 for a limit in octets (`prefetch-size`).
    pub(super) fn qos(
        &mut self,
        channel: u16,
        (size, count): (u32, u16),
        global: bool,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        if size != 0 {
            return Err(Fault::new(Code::NotImplemented, format_args!("prefetch_size!=0 ({size})")));
        }
        if let Some(unacked) = turn.outbox.lock().unacked(channel) {
            // RabbitMQ: per-consumer prefetch lifts the channel's limit.
            unacked.limit_all(if global { u32::from(count) } else { 0 });
        }
        if !global {
            self.prefetch = count;
        }
        turn.send(channel, &Reply::QosOk);
        self.slots.resume_limited(channel, turn.outbox, turn.flush);
        Ok(())
    }

    /// Performs basic.consume on the queue `name`.
    ///
    /// # Errors
    /// 530 for a tag in use; 404 for no such queue; 405 for another connection's queue; 403 for a
    /// queue in exclusive use; 406 for bad arguments.
    pub(super) fn consume(
        &mut self,
        channel: u16,
        name: &Name,
        consume: Consume<'_>,
        transaction: Option<&Transaction>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let tag = self.new_tag(consume.tag)?;
        let queue = turn.vhost.usable_queue(name.as_octets(), turn.connection)?;
        let words = turn.vhost.describe_queue(name.as_octets());
        let priority = arguments::check_consume(&words, queue.declared().kind, consume.arguments)?;
        let slot = {
            let mut inner = turn.outbox.lock();
            let Some(unacked) = inner.unacked(channel) else { return Ok(()) };
            self.slots.allot(&queue, tag.clone(), unacked, is_pinned(transaction))
        };
        let Consume { no_ack, exclusive, no_wait, .. } = consume;
        let options = ConsumerOptions { no_ack, exclusive, priority, prefetch: self.prefetch };
        let target = DeliveryTarget { channel, slot, tag: tag.clone(), no_ack };
        let key = match queue.consume(options, turn.outbox, target) {
            Ok(key) => key,
            Err(refusal) => {
                self.slots.give_back(slot);
                return Err(match refusal {
                    ConsumeError::Deleted => turn.vhost.no_queue(name.as_octets()),
                    ConsumeError::ExclusiveUse => {
                        Fault::new(Code::AccessRefused, format_args!("{words} in exclusive use"))
                    }
                });
            }
        };
        self.slots.set_consumer(slot, key);
        self.consumers.insert(tag.clone(), slot);
        turn.answer(channel, no_wait, &Reply::ConsumeOk { tag: tag.as_octets() });
        queue.resume(key, turn.flush);
        Ok(())
    }

    /// Performs basic.consume on `amq.rabbitmq.reply-to`: gives the channel a reply name.
    ///
    /// # Errors
    /// 530 for a tag in use; 406 for a second such consumer, or one that acknowledges.
    pub(super) fn consume_replies(
        &mut self,
        channel: u16,
        consume: Consume<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let tag = self.new_tag(consume.tag)?;
        if !consume.no_ack {
            return Err(Fault::new(Code::PreconditionFailed, "reply consumer cannot acknowledge"));
        }
        if self.reply.is_some() {
            return Err(Fault::new(Code::PreconditionFailed, "reply consumer already set"));
        }
        let name = token::reply_name();
        self.reply = Some(ReplyConsumer { tag: tag.clone(), name: name.clone() });
        turn.answer(channel, consume.no_wait, &Reply::ConsumeOk { tag: tag.as_octets() });
        let target = DeliveryTarget { channel, slot: u32::MAX, tag, no_ack: true };
        turn.vhost.replies().add(name, turn.outbox, target);
        Ok(())
    }

    fn new_tag(&self, tag: &[u8]) -> Result<Name, Fault> {
        if tag.is_empty() {
            return Ok(token::generated("amq.ctag-"));
        }
        if self.consumers.contains_key(tag) {
            let tag = String::from_utf8_lossy(tag);
            return Err(Fault::new(Code::NotAllowed, format_args!("attempt to reuse consumer tag '{tag}'")));
        }
        Ok(Name::new(tag).unwrap_or_default())
    }

    /// Cancels a consumer; returns its queue if that is unused now (auto-delete, no consumer left).
    pub(super) fn cancel(&mut self, tag: &[u8], turn: &Turn<'_>) -> Option<Arc<Queue>> {
        if let Some(reply) = self.reply.take_if(|reply| reply.tag.as_octets() == tag) {
            turn.vhost.replies().remove(&reply.name);
            return None;
        }
        let slot = self.consumers.remove(tag)?;
        self.cancel_slot(slot)
    }

    /// Takes all consumers out, each with its slot, for [`Consuming::cancel_slot`]: the channel
    /// ends.
    pub(super) fn take_consumers(&mut self, turn: &Turn<'_>) -> IntoIter<Name, u32> {
        if let Some(reply) = self.reply.take() {
            turn.vhost.replies().remove(&reply.name);
        }
        std::mem::take(&mut self.consumers).into_iter()
    }

    /// Cancels the consumer of a slot; returns its queue if that is unused now.
    pub(super) fn cancel_slot(&mut self, slot: u32) -> Option<Arc<Queue>> {
        let (slot, key) = self.slots.release(slot)?;
        slot.queue.cancel(key).then(|| Arc::clone(&slot.queue))
    }

    /// Removes a consumer whose queue was deleted, and sends basic.cancel if the client has that
    /// capability (RabbitMQ's consumer cancel notification).
    pub(super) fn queue_deleted(&mut self, channel: u16, slot: u32, turn: &mut Turn<'_>) {
        // The slot may have been allotted again, for another consumer.
        if !self.slots.get(slot).is_some_and(|slot| slot.queue.is_deleted()) {
            return;
        }
        let Some((slot, _)) = self.slots.release(slot) else { return };
        let tag = slot.tag.clone();
        self.consumers.remove(&tag);
        if turn.client.consumer_cancel_notify {
            turn.send(channel, &Reply::Cancel { tag: tag.as_octets(), no_wait: true });
        }
    }

    /// Performs basic.get on the queue `name`.
    ///
    /// # Errors
    /// 404 for no such queue; 405 for another connection's queue.
    pub(super) fn get(
        &mut self,
        channel: u16,
        name: &Name,
        no_ack: bool,
        transaction: Option<&Transaction>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let queue = turn.vhost.usable_queue(name.as_octets(), turn.connection)?;
        let Some(fetched) = queue.get(no_ack) else {
            turn.send(channel, &Reply::GetEmpty);
            return Ok(());
        };
        let mut inner = turn.outbox.lock();
        let slot = match inner.unacked(channel) {
            Some(unacked) if !no_ack => Some(self.slots.getter(&queue, unacked, is_pinned(transaction))),
            _ => None,
        };
        let got = GetOkMessage { seq: fetched.id, redelivered: fetched.redelivered, message: &fetched.message };
        inner.get_ok(channel, slot, got, u32::try_from(fetched.remaining).unwrap_or(u32::MAX));
        turn.flush.add(turn.outbox, &mut inner);
        // 20 octets of request can ask for many MiB of message: once the outbox is full, frames
        // that were read behind the request wait, too.
        turn.pause = inner.holds_reader();
        Ok(())
    }
}

/// Returns a predicate: does a settlement that waits for tx.commit or tx.rollback refer to the
/// slot?
fn is_pinned(transaction: Option<&Transaction>) -> impl Fn(u32) -> bool {
    move |slot| transaction.is_some_and(|transaction| transaction.refers_to(slot))
}
