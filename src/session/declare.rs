//! From methods to what they do: exchange, queue, basic, confirm and tx (AMQP 0-9-1, 1.2 to 1.9). The doing stands
//! elsewhere; here are answers, no-wait, and the queue that was declared last.

use crate::broker::exchanges::{Bind, ExchangeDeclare};
use crate::broker::queues::QueueDeclare;
use crate::outbox::Touched;
use crate::session::basic::Consume;
use crate::session::channel::Verdict;
use crate::session::running::Running;
use crate::wire::encode_reply::Reply;
use crate::wire::fault::{Code, Fault};
use crate::wire::method::Method;
use crate::wire::name::Name;

impl Running {
    /// A method on an open channel, apart from publish and those that open and close.
    ///
    /// # Errors
    /// The fault that ends the channel or the connection.
    pub(super) fn perform(&mut self, number: u16, method: Method<'_>, touched: &mut Touched) -> Result<(), Fault> {
        match method {
            Method::Ack { tag, multiple } => self.settle(number, Verdict::Settle, tag, multiple, touched),
            Method::Nack { tag, multiple, requeue } => self.settle(number, verdict(requeue), tag, multiple, touched),
            Method::Reject { tag, requeue } => self.settle(number, verdict(requeue), tag, false, touched),
            Method::Recover { requeue } => self.recover(number, requeue, true, touched),
            Method::RecoverAsync { requeue } => self.recover(number, requeue, false, touched),
            Method::Get { queue, no_ack } => self.get(number, queue, no_ack, touched),
            Method::Qos { prefetch_size, prefetch_count, global } => {
                self.qos(number, prefetch_size, prefetch_count, global, touched)
            }
            Method::Consume { queue, tag, no_ack, exclusive, no_wait, arguments, .. } => {
                self.consume(number, Consume { queue, tag, no_ack, exclusive, no_wait, arguments }, touched)
            }
            Method::Cancel { tag, no_wait } => {
                self.cancel(number, tag, !no_wait, touched);
                Ok(())
            }
            Method::CancelOk { tag } => {
                self.cancel(number, tag, false, touched);
                Ok(())
            }
            Method::ConfirmSelect { no_wait } => {
                self.confirm_select(number)?;
                self.answer(number, no_wait, &Reply::ConfirmSelectOk, touched);
                Ok(())
            }
            Method::TxSelect => self.tx_select(number, touched),
            Method::TxCommit => self.tx_commit(number, touched),
            Method::TxRollback => self.tx_rollback(number, touched),
            Method::Flow { active: true } => {
                self.say(number, &Reply::FlowOk { active: true }, touched);
                Ok(())
            }
            Method::Flow { active: false } => Err(Fault::new(Code::NotImplemented, "active=false")),
            Method::AccessRequest => {
                self.say(number, &Reply::AccessRequestOk { ticket: 1 }, touched);
                Ok(())
            }
            other => self.declare(number, other, touched),
        }
    }

    fn declare(&mut self, number: u16, method: Method<'_>, touched: &mut Touched) -> Result<(), Fault> {
        match method {
            Method::ExchangeDeclare { exchange, passive: true, no_wait, .. } => {
                self.vhost.check_exchange(exchange)?;
                self.answer(number, no_wait, &Reply::ExchangeDeclareOk, touched);
            }
            Method::ExchangeDeclare { exchange, kind, durable, auto_delete, internal, no_wait, arguments, .. } => {
                let declare = ExchangeDeclare { name: exchange, kind, durable, auto_delete, internal, arguments };
                self.vhost.declare_exchange(declare)?;
                self.answer_if_kept(durable, number, no_wait, &Reply::ExchangeDeclareOk, touched);
            }
            Method::ExchangeDelete { exchange, if_unused, no_wait } => {
                self.vhost.delete_exchange(exchange, if_unused)?;
                self.answer_kept(number, no_wait, &Reply::ExchangeDeleteOk, touched);
            }
            Method::ExchangeBind { destination, source, routing_key: key, no_wait, arguments } => {
                let bind = Bind { source, destination, to_queue: false, key, arguments };
                let durable = self.vhost.bind(bind, self.number)?;
                self.answer_if_kept(durable, number, no_wait, &Reply::ExchangeBindOk, touched);
            }
            Method::ExchangeUnbind { destination, source, routing_key: key, no_wait, arguments } => {
                let bind = Bind { source, destination, to_queue: false, key, arguments };
                self.vhost.unbind(bind)?;
                self.answer_kept(number, no_wait, &Reply::ExchangeUnbindOk, touched);
            }
            other => return self.queue_method(number, other, touched),
        }
        Ok(())
    }

    fn queue_method(&mut self, number: u16, method: Method<'_>, touched: &mut Touched) -> Result<(), Fault> {
        match method {
            Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, no_wait, arguments } => {
                let declare = QueueDeclare { name: queue, durable, exclusive, auto_delete, arguments };
                self.declare_queue(number, declare, passive, no_wait, touched)?;
            }
            Method::QueueBind { queue, exchange: source, routing_key, no_wait, arguments } => {
                let (name, key) = self.queue_and_key(number, queue, routing_key)?;
                let (destination, key) = (name.as_octets(), key.as_octets());
                let bind = Bind { source, destination, to_queue: true, key, arguments };
                let durable = self.vhost.bind(bind, self.number)?;
                self.answer_if_kept(durable, number, no_wait, &Reply::QueueBindOk, touched);
            }
            Method::QueueUnbind { queue, exchange: source, routing_key, arguments } => {
                let (name, key) = self.queue_and_key(number, queue, routing_key)?;
                let (destination, key) = (name.as_octets(), key.as_octets());
                self.vhost.unbind(Bind { source, destination, to_queue: true, key, arguments })?;
                self.answer_kept(number, false, &Reply::QueueUnbindOk, touched);
            }
            Method::QueuePurge { queue, no_wait } => {
                let name = self.queue_name(number, queue)?;
                let purged = self.vhost.usable_queue(name.as_octets(), self.number)?.purge();
                let message_count = u32::try_from(purged).unwrap_or(u32::MAX);
                self.answer(number, no_wait, &Reply::QueuePurgeOk { message_count }, touched);
            }
            Method::QueueDelete { queue, if_unused, if_empty, no_wait } => {
                let name = self.queue_name(number, queue)?;
                let deleted = self.vhost.delete_queue(name.as_octets(), self.number, if_unused, if_empty)?;
                self.owned.remove(&name);
                let message_count = u32::try_from(deleted).unwrap_or(u32::MAX);
                self.answer_kept(number, no_wait, &Reply::QueueDeleteOk { message_count }, touched);
            }
            _ => return Err(Fault::new(Code::CommandInvalid, "unimplemented method")),
        }
        Ok(())
    }

    fn declare_queue(
        &mut self,
        number: u16,
        declare: QueueDeclare<'_>,
        passive: bool,
        no_wait: bool,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        let declared = if passive {
            self.vhost.check_queue(declare.name, self.number)?
        } else {
            self.vhost.declare_queue(declare, self.number)?
        };
        if declared.is_new && declare.exclusive {
            self.owned.insert(declared.name.clone());
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let reply = Reply::QueueDeclareOk {
            queue: declared.name.as_octets(),
            message_count: count(declared.counts.messages),
            consumer_count: count(declared.counts.consumers),
        };
        let durable = declare.durable && !declare.exclusive && !passive;
        self.answer_if_kept(durable, number, no_wait, &reply, touched);
        if let Some(channel) = self.channel(number) {
            channel.last_queue = Some(declared.name);
        }
        Ok(())
    }

    /// The queue that a method names; the empty name is the queue declared last on the channel.
    pub(super) fn queue_name(&mut self, number: u16, name: &[u8]) -> Result<Name, Fault> {
        if !name.is_empty() {
            return Ok(Name::new(name).unwrap_or_default());
        }
        let last = self.channel(number).and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(|| Fault::new(Code::NotFound, "no previously declared queue"))
    }

    /// The same for a binding, whose empty key then is the queue's name.
    fn queue_and_key(&mut self, number: u16, queue: &[u8], key: &[u8]) -> Result<(Name, Name), Fault> {
        let name = self.queue_name(number, queue)?;
        let means_last = queue.is_empty() && key.is_empty();
        let key = if means_last { name.clone() } else { Name::new(key).unwrap_or_default() };
        Ok((name, key))
    }

    /// Answers when what is defined by now is durable.
    fn answer_kept(&mut self, number: u16, no_wait: bool, reply: &Reply<'_>, touched: &mut Touched) {
        if !no_wait {
            self.say_when_durable(number, reply, Some(self.vhost.defined()), touched);
        }
    }

    /// The same, if what was asked for is durable: what is not does not wait for what others define.
    fn answer_if_kept(&mut self, durable: bool, number: u16, no_wait: bool, reply: &Reply<'_>, touched: &mut Touched) {
        if durable {
            self.answer_kept(number, no_wait, reply, touched);
        } else {
            self.answer(number, no_wait, reply, touched);
        }
    }

    fn answer(&mut self, number: u16, no_wait: bool, reply: &Reply<'_>, touched: &mut Touched) {
        if !no_wait {
            self.say(number, reply, touched);
        }
    }
}

fn verdict(requeue: bool) -> Verdict {
    if requeue { Verdict::Requeue } else { Verdict::Discard }
}
