//! Consuming: qos, consume, cancel, get; and the end of a channel, which gives back what it has (AMQP 0-9-1, 1.8).

use crate::broker::replies::REPLY_TO;
use crate::broker::token;
use crate::outbox::ledger::Unsettled;
use crate::outbox::{Address, Got, Touched};
use crate::queue::consumers::Terms;
use crate::queue::{Queue, Refused, arguments};
use crate::session::channel::{Channel, Mode, ReplyConsumer, Verdict};
use crate::session::running::Running;
use crate::wire::encode_reply::Reply;
use crate::wire::fault::{Code, Fault};
use crate::wire::name::Name;
use crate::wire::table::Table;
use std::sync::Arc;

/// basic.consume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consume<'a> {
    pub(super) queue: &'a [u8],
    pub(super) tag: &'a [u8],
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    pub(super) no_wait: bool,
    pub(super) arguments: Table<'a>,
}

impl Running {
    /// basic.qos: of consumers to come, or (`global`) of all consumers of the channel together.
    ///
    /// # Errors
    /// 540 for a limit in octets.
    pub(super) fn qos(
        &mut self,
        number: u16,
        size: u32,
        count: u16,
        global: bool,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        if size != 0 {
            return Err(Fault::new(Code::NotImplemented, format_args!("prefetch_size!=0 ({size})")));
        }
        let mut limited = Vec::new();
        if let Some(ledger) = self.outbox.lock().ledger(number) {
            // RabbitMQ: per-consumer prefetch lifts the channel's limit.
            ledger.limit_all(if global { u32::from(count) } else { 0 });
            limited.extend(ledger.take_limited().into_iter().map(|slot| (number, slot)));
        }
        if !global && let Some(channel) = self.channel(number) {
            channel.prefetch = count;
        }
        self.say(number, &Reply::QosOk, touched);
        self.resume_slots(&limited, touched);
        Ok(())
    }

    /// basic.consume.
    ///
    /// # Errors
    /// 530 for a tag in use; 404; 405; 403 for a queue in exclusive use; 406 for bad arguments.
    pub(super) fn consume(&mut self, number: u16, consume: Consume<'_>, touched: &mut Touched) -> Result<(), Fault> {
        if consume.queue == REPLY_TO {
            return self.consume_replies(number, consume, touched);
        }
        let name = self.queue_name(number, consume.queue)?;
        let tag = self.new_tag(number, consume.tag)?;
        let queue = self.vhost.usable_queue(name.as_octets(), self.number)?;
        let words = self.vhost.queue_words(name.as_octets());
        let priority = arguments::check_consume(&words, queue.declared().kind, consume.arguments)?;
        let outbox = Arc::clone(&self.outbox);
        let connection = Arc::clone(&outbox);
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut) else {
            return Ok(());
        };
        let slot = {
            let mut inner = outbox.lock();
            let Some(ledger) = inner.ledger(number) else { return Ok(()) };
            channel.take_slot(&queue, tag.clone(), ledger)
        };
        let Consume { no_ack, exclusive, no_wait, .. } = consume;
        let terms = Terms { no_ack, exclusive, priority, prefetch: channel.prefetch };
        let address = Address { channel: number, slot, tag: tag.clone(), no_ack };
        let key = match queue.consume(terms, &connection, address) {
            Ok(key) => key,
            Err(Refused::Deleted) => return Err(self.vhost.no_queue(name.as_octets())),
            Err(Refused::ExclusiveUse) => {
                let words = self.vhost.queue_words(name.as_octets());
                return Err(Fault::new(Code::AccessRefused, format_args!("{words} in exclusive use")));
            }
        };
        if let Some(slot) = channel.slot_mut(slot) {
            slot.consumer = Some(key);
        }
        channel.consumers.insert(tag.clone(), slot);
        if !no_wait {
            self.say(number, &Reply::ConsumeOk { tag: tag.as_octets() }, touched);
        }
        queue.resume(key, touched);
        Ok(())
    }

    /// basic.consume of `amq.rabbitmq.reply-to`: no queue, a name for this channel.
    fn consume_replies(&mut self, number: u16, consume: Consume<'_>, touched: &mut Touched) -> Result<(), Fault> {
        let tag = self.new_tag(number, consume.tag)?;
        let outbox = Arc::clone(&self.outbox);
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if !consume.no_ack {
            return Err(Fault::new(Code::PreconditionFailed, "reply consumer cannot acknowledge"));
        }
        if channel.reply.is_some() {
            return Err(Fault::new(Code::PreconditionFailed, "reply consumer already set"));
        }
        let name = token::reply_name();
        channel.reply = Some(ReplyConsumer { tag: tag.clone(), name: name.clone() });
        if !consume.no_wait {
            self.say(number, &Reply::ConsumeOk { tag: tag.as_octets() }, touched);
        }
        let address = Address { channel: number, slot: u32::MAX, tag, no_ack: true };
        self.vhost.replies().add(name, &outbox, address);
        Ok(())
    }

    fn new_tag(&mut self, number: u16, tag: &[u8]) -> Result<Name, Fault> {
        if tag.is_empty() {
            return Ok(token::generated("amq.ctag-"));
        }
        let in_use = self.channel(number).is_some_and(|channel| channel.consumers.contains_key(tag));
        if in_use {
            let tag = String::from_utf8_lossy(tag);
            return Err(Fault::new(Code::NotAllowed, format_args!("attempt to reuse consumer tag '{tag}'")));
        }
        Ok(Name::new(tag).unwrap_or_default())
    }

    /// basic.cancel; a tag that names no consumer is cancelled too.
    pub(super) fn cancel(&mut self, number: u16, tag: &[u8], answer: bool, touched: &mut Touched) {
        if let Some(queue) = self.drop_consumer(number, tag) {
            self.end_if_deserted(&queue);
        }
        if answer {
            self.say(number, &Reply::CancelOk { tag }, touched);
        }
    }

    /// Ends an auto-delete queue that lost its last consumer.
    pub(super) fn end_if_deserted(&mut self, queue: &Arc<Queue>) {
        self.vhost.end_if_deserted(queue);
        if queue.is_ended() {
            self.owned.remove(queue.name());
        }
    }

    /// Takes a consumer away; returns its queue if that is now deserted.
    fn drop_consumer(&mut self, number: u16, tag: &[u8]) -> Option<Arc<Queue>> {
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut()?;
        if channel.reply.as_ref().is_some_and(|reply| reply.tag.as_octets() == tag)
            && let Some(reply) = channel.reply.take()
        {
            self.vhost.replies().remove(&reply.name);
            return None;
        }
        let slot = channel.consumers.remove(tag)?;
        let slot = channel.slot_mut(slot)?;
        let key = slot.consumer.take()?;
        let queue = Arc::clone(&slot.queue);
        queue.cancel(key).then_some(queue)
    }

    /// The queue of a consumer is gone: the client is told, if it wants to know (RabbitMQ's consumer cancel notification).
    pub(super) fn consumer_lost(&mut self, number: u16, slot: u32, touched: &mut Touched) {
        let tells = self.client.consumer_cancel_notify;
        let Some(channel) = self.channel(number) else { return };
        let Some(slot) = channel.slot_mut(slot) else { return };
        // The slot may meanwhile stand for another consumer.
        if !slot.queue.is_ended() || slot.consumer.take().is_none() {
            return;
        }
        let tag = slot.tag.clone();
        channel.consumers.remove(&tag);
        if tells {
            self.say(number, &Reply::Cancel { tag: tag.as_octets(), no_wait: true }, touched);
        }
    }

    /// basic.get.
    ///
    /// # Errors
    /// 404; 405.
    pub(super) fn get(&mut self, number: u16, queue: &[u8], no_ack: bool, touched: &mut Touched) -> Result<(), Fault> {
        let name = self.queue_name(number, queue)?;
        let queue = self.vhost.usable_queue(name.as_octets(), self.number)?;
        let Some((entry, remaining)) = queue.get(no_ack) else {
            self.say(number, &Reply::GetEmpty, touched);
            return Ok(());
        };
        let outbox = Arc::clone(&self.outbox);
        let mut inner = outbox.lock();
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let slot = match inner.ledger(number) {
            Some(ledger) if !no_ack => Some(channel.getter_slot(&queue, ledger)),
            _ => None,
        };
        let got = Got { seq: entry.seq, redelivered: entry.redelivered, message: &entry.message };
        inner.get_ok(number, slot, got, u32::try_from(remaining).unwrap_or(u32::MAX));
        touched.add(&outbox, &mut inner);
        // A request of 20 octets can ask for a message of many MiB: what was read behind it waits like what was not read yet.
        self.paused = inner.holds_reader();
        Ok(())
    }

    /// Takes all consumers of a channel away; returns the queues that are now deserted.
    pub(super) fn drop_consumers(&mut self, number: u16) -> Vec<Arc<Queue>> {
        let Some(channel) = self.channel(number) else { return Vec::new() };
        let replies = channel.reply.iter().map(|reply| reply.tag.clone());
        let tags: Vec<Name> = channel.consumers.keys().cloned().chain(replies).collect();
        tags.iter().filter_map(|tag| self.drop_consumer(number, tag.as_octets())).collect()
    }

    /// Ends everything that a channel has: consumers first, so that nothing is delivered to the dead; then what it had not
    /// settled goes back to its place.
    pub(super) fn close_channel(&mut self, number: u16, touched: &mut Touched) {
        let deserted = self.drop_consumers(number);
        let mut outstanding: Vec<(u64, Unsettled)> = Vec::new();
        if let Some(Channel { mode: Mode::Transaction(transaction), .. }) = self.channel(number) {
            let transaction = std::mem::take(transaction);
            self.forget_publications(&transaction);
            outstanding.extend(transaction.settlements.into_iter().flat_map(|(_, settled)| settled));
        }
        outstanding.extend(self.outbox.lock().close_channel(number));
        let mut outstanding: Vec<_> = outstanding.into_iter().map(|(tag, delivery)| (number, tag, delivery)).collect();
        self.conclude(Verdict::Requeue, &mut outstanding, touched);
        for queue in deserted {
            self.end_if_deserted(&queue);
        }
        if let Some(channel) = self.channel(number) {
            let assembly = std::mem::take(&mut channel.assembly);
            let stage = channel.stage;
            *channel = Channel { assembly, stage, ..Channel::default() };
        }
    }
}
