//! Exchange and queue methods of a channel (AMQP 0-9-1, 1.6 and 1.7): resolves an empty queue name,
//! calls the virtual host, sends the answer when the change is durable.

use crate::broker::exchanges::{Bind, ExchangeDeclare};
use crate::broker::queues::QueueDeclare;
use crate::session::owned_queues::OwnedQueues;
use crate::session::turn::Turn;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use leveret_wire::reply::Reply;

/// The queue that a channel declared last; an empty queue name refers to it.
#[derive(Debug, Default)]
pub struct Declaring {
    last_queue: Option<Name>,
}

/// The channel of a request, and its `no-wait`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) channel: u16,
    pub(super) no_wait: bool,
}

impl Declaring {
    /// Returns the queue that a method names: `name`, or if empty the queue declared last.
    ///
    /// # Errors
    /// 404 for an empty name before a declaration.
    pub(super) fn queue_name(&self, name: &[u8]) -> Result<Name, Fault> {
        if !name.is_empty() {
            return Ok(Name::new(name).unwrap_or_default());
        }
        self.last_queue.clone().ok_or_else(|| Fault::new(Code::NotFound, "no previously declared queue"))
    }

    /// Returns the queue and the routing key of a binding; where both are empty, the key is the
    /// queue's name.
    ///
    /// # Errors
    /// 404 for an empty name before a declaration.
    fn queue_and_key(&self, queue: &[u8], key: &[u8]) -> Result<(Name, Name), Fault> {
        let name = self.queue_name(queue)?;
        let means_last = queue.is_empty() && key.is_empty();
        let key = if means_last { name.clone() } else { Name::new(key).unwrap_or_default() };
        Ok((name, key))
    }

    /// Performs queue.declare.
    ///
    /// # Errors
    /// 404, 405, 406 and 403, as the virtual host decides.
    pub(super) fn declare_queue(
        &mut self,
        declare: QueueDeclare<'_>,
        passive: bool,
        owned: &mut OwnedQueues,
        Asked { channel, no_wait }: Asked,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let declared = if passive {
            turn.vhost.check_queue(declare.name, turn.connection)?
        } else {
            turn.vhost.declare_queue(declare, turn.connection)?
        };
        if declared.is_new && declare.exclusive {
            owned.insert(declared.name.clone());
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let reply = Reply::QueueDeclareOk {
            queue: declared.name.as_octets(),
            message_count: count(declared.counts.messages),
            consumer_count: count(declared.counts.consumers),
        };
        turn.answer_change(channel, no_wait, declared.defined, &reply);
        self.last_queue = Some(declared.name);
        Ok(())
    }

    /// Performs queue.bind; `bind.destination` and `bind.key` are as the client wrote them.
    ///
    /// # Errors
    /// 404, 403 and 406, as the virtual host decides.
    pub(super) fn bind_queue(&self, bind: Bind<'_>, asked: Asked, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let (name, key) = self.queue_and_key(bind.destination, bind.key)?;
        let bind = Bind { destination: name.as_octets(), key: key.as_octets(), ..bind };
        let defined = turn.vhost.bind(bind, turn.connection)?;
        turn.answer_change(asked.channel, asked.no_wait, defined, &Reply::QueueBindOk);
        Ok(())
    }

    /// Performs queue.unbind, which has no `no-wait`.
    ///
    /// # Errors
    /// 404 and 403, as the virtual host decides.
    pub(super) fn unbind_queue(&self, bind: Bind<'_>, channel: u16, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let (name, key) = self.queue_and_key(bind.destination, bind.key)?;
        let bind = Bind { destination: name.as_octets(), key: key.as_octets(), ..bind };
        let defined = turn.vhost.unbind(bind, turn.connection)?;
        turn.answer_change(channel, false, defined, &Reply::QueueUnbindOk);
        Ok(())
    }

    /// Performs queue.purge.
    ///
    /// # Errors
    /// 404 for no such queue; 405 for another connection's queue.
    pub(super) fn purge_queue(&self, queue: &[u8], asked: Asked, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let name = self.queue_name(queue)?;
        let (purged, index) = turn.vhost.usable_queue(name.as_octets(), turn.connection)?.purge();
        let message_count = u32::try_from(purged).unwrap_or(u32::MAX);
        turn.answer_change(asked.channel, asked.no_wait, index, &Reply::QueuePurgeOk { message_count });
        Ok(())
    }

    /// Performs queue.delete.
    ///
    /// # Errors
    /// 405 for another connection's queue; 406 for a queue that is in use or not empty.
    pub(super) fn delete_queue(
        &self,
        queue: &[u8],
        (if_unused, if_empty): (bool, bool),
        owned: &mut OwnedQueues,
        Asked { channel, no_wait }: Asked,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let name = self.queue_name(queue)?;
        let deleted = turn.vhost.delete_queue(name.as_octets(), turn.connection, if_unused, if_empty)?;
        owned.remove(&name);
        let message_count = u32::try_from(deleted.messages).unwrap_or(u32::MAX);
        turn.answer_change(channel, no_wait, deleted.defined, &Reply::QueueDeleteOk { message_count });
        Ok(())
    }
}

/// Performs exchange.declare; `passive` checks only that the exchange exists.
///
/// # Errors
/// 404, 406, 403 and 503, as the virtual host decides.
pub(super) fn declare_exchange(
    declare: ExchangeDeclare<'_>,
    passive: bool,
    asked: Asked,
    turn: &mut Turn<'_>,
) -> Result<(), Fault> {
    let defined = if passive {
        turn.vhost.check_exchange(declare.name)?;
        None
    } else {
        turn.vhost.declare_exchange(declare)?
    };
    turn.answer_change(asked.channel, asked.no_wait, defined, &Reply::ExchangeDeclareOk);
    Ok(())
}

/// Performs exchange.delete.
///
/// # Errors
/// 403 for a predeclared exchange; 406 for an exchange that is in use.
pub(super) fn delete_exchange(
    exchange: &[u8],
    if_unused: bool,
    asked: Asked,
    turn: &mut Turn<'_>,
) -> Result<(), Fault> {
    let defined = turn.vhost.delete_exchange(exchange, if_unused)?;
    turn.answer_change(asked.channel, asked.no_wait, defined, &Reply::ExchangeDeleteOk);
    Ok(())
}

/// Performs exchange.bind.
///
/// # Errors
/// 404 and 403, as the virtual host decides.
pub(super) fn bind_exchange(bind: Bind<'_>, asked: Asked, turn: &mut Turn<'_>) -> Result<(), Fault> {
    let defined = turn.vhost.bind(bind, turn.connection)?;
    turn.answer_change(asked.channel, asked.no_wait, defined, &Reply::ExchangeBindOk);
    Ok(())
}

/// Performs exchange.unbind.
///
/// # Errors
/// 404 and 403, as the virtual host decides.
pub(super) fn unbind_exchange(bind: Bind<'_>, asked: Asked, turn: &mut Turn<'_>) -> Result<(), Fault> {
    let defined = turn.vhost.unbind(bind, turn.connection)?;
    turn.answer_change(asked.channel, asked.no_wait, defined, &Reply::ExchangeUnbindOk);
    Ok(())
}
