//! The rules of queue.declare and queue.delete (AMQP 0-9-1, 1.7), with RabbitMQ's words for what is refused. It knows
//! no channel.

use crate::broker::exchanges::{reserved, strip_cr_lf};
use crate::broker::replies::{REPLY_PREFIX, REPLY_TO};
use crate::broker::token;
use crate::broker::vhost::Vhost;
use crate::queue::arguments::{self, QueueType, inequivalent};
use crate::queue::core::Core;
use crate::queue::{Counts, Declared, Queue};
use crate::wire::fault::{Code, Fault};
use crate::wire::name::Name;
use crate::wire::table::{OwnedTable, Table, Value};
use std::sync::Arc;

/// What queue.declare asks for.
#[derive(Clone, Copy, Debug)]
pub struct QueueDeclare<'a> {
    /// Its name, as the client wrote it; empty: the server makes one up.
    pub name: &'a [u8],
    /// `durable`.
    pub durable: bool,
    /// `exclusive`.
    pub exclusive: bool,
    /// `auto-delete`.
    pub auto_delete: bool,
    /// `arguments`.
    pub arguments: Table<'a>,
}

/// What queue.declare-ok says.
#[derive(Clone, Debug)]
pub struct DeclareOk {
    /// The queue's name.
    pub name: Name,
    /// Ready messages and consumers.
    pub counts: Counts,
    /// It did not exist before.
    pub is_new: bool,
}

impl Vhost {
    /// queue.declare, not passive.
    ///
    /// # Errors
    /// 403 for reserved names; 405 for the exclusive queue of another connection; 406 for a bad argument, flags that the
    /// queue type does not allow, or a declaration that differs from the first.
    pub fn declare_queue(&self, declare: QueueDeclare<'_>, connection: u64) -> Result<DeclareOk, Fault> {
        if declare.name.starts_with(REPLY_TO) {
            return self.declare_reply(declare.name);
        }
        let name = self.new_name(declare)?;
        let mut names = self.change();
        if let Some(queue) = names.queue(name.as_octets()) {
            self.check_same_queue(queue, declare, connection)?;
            return Ok(DeclareOk { name, counts: queue.counts(), is_new: false });
        }
        let kind = self.check_new_queue(&name, declare)?;
        let declared = Declared {
            name: name.clone(),
            // An exclusive queue cannot outlive its connection, whatever its owner asks for.
            durable: declare.durable && !declare.exclusive,
            owner: declare.exclusive.then_some(connection),
            auto_delete: declare.auto_delete,
            kind,
            arguments: OwnedTable::from(declare.arguments),
        };
        names.add_queue(Arc::new(Queue::new(declared, Arc::clone(self.shared()))));
        // The log may be slow: nobody has to wait for it.
        drop(names);
        warn_of_what_has_no_effect(&name, kind, declare.arguments);
        Ok(DeclareOk { name, counts: Counts::default(), is_new: true })
    }

    /// queue.declare, passive.
    ///
    /// # Errors
    /// 404; 405 for the exclusive queue of another connection.
    pub fn check_queue(&self, name: &[u8], connection: u64) -> Result<DeclareOk, Fault> {
        if name.starts_with(REPLY_TO) {
            return self.declare_reply(name);
        }
        let stripped = strip_cr_lf(name);
        let queue = self.usable_queue(&stripped, connection)?;
        Ok(DeclareOk { name: queue.name().clone(), counts: queue.counts(), is_new: false })
    }

    /// queue.delete; how many messages were ready. A queue that does not exist is deleted too.
    ///
    /// # Errors
    /// 405 for the exclusive queue of another connection; 406 when it is in use or not empty and must not be.
    pub fn delete_queue(&self, name: &[u8], connection: u64, if_unused: bool, if_empty: bool) -> Result<usize, Fault> {
        let name = strip_cr_lf(name);
        let mut names = self.change();
        let Some(queue) = names.queue(&name) else { return Ok(0) };
        self.check_owner(queue, connection)?;
        let objection = |core: &Core| match () {
            () if if_empty && core.ready() > 0 => Some("not empty"),
            () if if_unused && core.consumer_count() > 0 => Some("in use"),
            () => None,
        };
        let remains = queue.end_unless(objection).map_err(|why| {
            let words = self.queue_words(&name);
            Fault::new(Code::PreconditionFailed, format_args!("{words} {why}"))
        })?;
        let name = queue.name().clone();
        names.remove_queue(&name);
        drop(names);
        Ok(remains.bury())
    }

    /// Every declaration of a direct reply-to name is a question whether somebody waits there.
    fn declare_reply(&self, name: &[u8]) -> Result<DeclareOk, Fault> {
        let stripped = strip_cr_lf(name);
        let known = stripped == REPLY_TO || stripped.starts_with(REPLY_PREFIX) && self.replies().contains(&stripped);
        match Name::new(&stripped) {
            Some(name) if known => Ok(DeclareOk { name, counts: Counts { messages: 0, consumers: 1 }, is_new: false }),
            _ => Err(self.no_queue(&stripped)),
        }
    }

    fn new_name(&self, declare: QueueDeclare<'_>) -> Result<Name, Fault> {
        let name = strip_cr_lf(declare.name);
        if name.starts_with(b"amq.") {
            return Err(reserved("queue", &name));
        }
        if !name.is_empty() {
            return Name::new(&name).ok_or_else(|| self.no_queue(&name));
        }
        match QueueType::of(declare.arguments) {
            Some(kind @ (QueueType::Quorum | QueueType::Stream)) => Err(Fault::new(
                Code::PreconditionFailed,
                format_args!("Cannot declare a server-named queue for type rabbit_{}_queue", kind.name()),
            )),
            _ => Ok(token::generated("amq.gen-")),
        }
    }

    fn check_new_queue(&self, name: &Name, declare: QueueDeclare<'_>) -> Result<QueueType, Fault> {
        let words = self.queue_words(name.as_octets());
        if let Some(value) = declare.arguments.get(b"x-dead-letter-exchange")
            && !matches!(value, Value::LongStr(_))
        {
            let kind = value.type_name();
            let text = format_args!("invalid type '{kind}' for arg 'x-dead-letter-exchange' in {words}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let kind = arguments::check_declare(&words, declare.arguments)?;
        let refuse = |property: &str| {
            Err(Fault::new(Code::PreconditionFailed, format_args!("invalid property '{property}' for {words}")))
        };
        match kind {
            QueueType::Classic => {}
            QueueType::Quorum | QueueType::Stream if declare.exclusive => return refuse("exclusive-owner"),
            QueueType::Quorum | QueueType::Stream if !declare.durable => return refuse("non-durable"),
            QueueType::Quorum | QueueType::Stream if declare.auto_delete => return refuse("auto-delete"),
            QueueType::Quorum | QueueType::Stream => {}
        }
        Ok(kind)
    }

    fn check_same_queue(&self, queue: &Queue, received: QueueDeclare<'_>, connection: u64) -> Result<(), Fault> {
        let current = queue.declared();
        let words = self.queue_words(current.name.as_octets());
        if current.owner != received.exclusive.then_some(connection) {
            return Err(self.locked(current.name.as_octets()));
        }
        let flag = |key: &str, received: bool, current: bool| {
            if received == current {
                return Ok(());
            }
            Err(inequivalent(key, &words, &format!("'{received}'"), &format!("'{current}'")))
        };
        flag("durable", received.durable && !received.exclusive, current.durable)?;
        flag("auto_delete", received.auto_delete, current.auto_delete)?;
        arguments::check_equivalent(&words, current.kind, current.arguments.as_table(), received.arguments)
    }
}

fn warn_of_what_has_no_effect(queue: &Name, kind: QueueType, arguments: Table<'_>) {
    if kind != QueueType::Classic {
        tracing::warn!(%queue, kind = kind.name(), "queue type has no effect yet: it is a classic queue");
    }
    for argument in arguments::without_effect(arguments) {
        tracing::warn!(%queue, argument, "queue argument is stored, it has no effect yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;
    use crate::outbox::Touched;
    use crate::queue::shared::Shared;
    use crate::store::journal::Haste;
    use crate::wire::table_builder::TableBuilder;

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(Shared::default()))
    }

    fn text<T>(outcome: Result<T, Fault>) -> String {
        outcome.map_or_else(|fault| fault.to_string(), |_| "ok".to_owned())
    }

    fn declare(name: &[u8]) -> QueueDeclare<'_> {
        QueueDeclare { name, durable: false, exclusive: false, auto_delete: false, arguments: Table::empty() }
    }

    #[test]
    fn the_server_names_a_queue_that_has_no_name() {
        let vhost = vhost();
        let declared = vhost.declare_queue(declare(b""), 1).unwrap();
        assert!(declared.is_new && declared.name.as_octets().starts_with(b"amq.gen-"));
        assert!(vhost.check_queue(declared.name.as_octets(), 2).is_ok());
        assert!(text(vhost.declare_queue(declare(b"amq.mine"), 1)).starts_with("403"));
    }

    #[test]
    fn an_exclusive_queue_is_its_connections_own_and_dies_with_it() {
        let vhost = vhost();
        let exclusive = QueueDeclare { exclusive: true, ..declare(b"mine") };
        assert!(vhost.declare_queue(exclusive, 1).is_ok_and(|declared| declared.is_new));
        assert!(vhost.declare_queue(exclusive, 1).is_ok_and(|declared| !declared.is_new));
        for refused in [
            text(vhost.declare_queue(exclusive, 2)),
            text(vhost.declare_queue(declare(b"mine"), 1)),
            text(vhost.check_queue(b"mine", 2)),
            text(vhost.delete_queue(b"mine", 2, false, false)),
        ] {
            assert!(refused.starts_with("405 RESOURCE_LOCKED"), "{refused}");
        }
        vhost.end_owned(2, [Name::from_static("mine")]);
        assert!(vhost.check_queue(b"mine", 1).is_ok());
        vhost.end_owned(1, [Name::from_static("mine")]);
        assert_eq!(text(vhost.check_queue(b"mine", 1)), "404 NOT_FOUND - no queue 'mine' in vhost '/'");
    }

    #[test]
    fn all_the_queues_of_a_connection_end_with_it() {
        let vhost = vhost();
        let names: Vec<_> = (0..200).map(|n| Name::new(format!("q{n}").as_bytes()).unwrap()).collect();
        for name in &names {
            vhost.declare_queue(QueueDeclare { exclusive: true, ..declare(name.as_octets()) }, 1).unwrap();
        }
        vhost.end_owned(1, names.clone());
        assert!(names.iter().all(|name| vhost.names().queue(name.as_octets()).is_none()));
    }

    #[test]
    fn a_second_declaration_means_the_same_or_is_refused() {
        let vhost = vhost();
        let mut arguments = TableBuilder::new();
        arguments.put_i64(b"x-max-length", 5).put_i64(b"x-unknown", 1);
        let first = QueueDeclare { arguments: arguments.as_table(), ..declare(b"q") };
        vhost.declare_queue(first, 1).unwrap();
        assert!(vhost.declare_queue(first, 2).is_ok());
        assert!(text(vhost.declare_queue(declare(b"q"), 1)).contains("inequivalent arg 'x-max-length'"));
        let durable = QueueDeclare { durable: true, ..first };
        assert!(text(vhost.declare_queue(durable, 1)).contains("inequivalent arg 'durable'"));
    }

    #[test]
    fn a_queue_that_is_not_empty_is_deleted_unless_asked_not_to() {
        let vhost = vhost();
        vhost.declare_queue(declare(b"q"), 1).unwrap();
        let queue = vhost.usable_queue(b"q", 1).unwrap();
        let message = Publication { route: b"\0\0", properties: b"\0\0", body: b"", persistent: false }.keep(1);
        queue.publish(&mut vec![message.clone(), message.clone()], Haste::Now, &mut Touched::default());
        assert!(vhost.shared().counters().memory() > 0);
        let refused = "406 PRECONDITION_FAILED - queue 'q' in vhost '/' not empty";
        assert_eq!(text(vhost.delete_queue(b"q", 1, false, true)), refused);
        assert_eq!(vhost.delete_queue(b"q", 1, true, false).ok(), Some(2));
        assert_eq!(vhost.delete_queue(b"q", 1, true, true).ok(), Some(0));
        assert!(queue.is_ended() && vhost.shared().counters().memory() == 0);
        queue.publish(&mut vec![message], Haste::Now, &mut Touched::default());
        assert_eq!((queue.counts().messages, vhost.shared().counters().memory()), (0, 0));
    }
}
