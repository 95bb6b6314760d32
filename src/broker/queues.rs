//! The rules of queue.declare and queue.delete (AMQP 0-9-1, 1.7), with RabbitMQ's reply texts.
//! Names no channel.

use crate::broker::declared::Destination;
use crate::broker::names::{reserved, strip_cr_lf};
use crate::broker::replies::{REPLY_PREFIX, REPLY_TO};
use crate::broker::token;
use crate::broker::topology::Topology;
use crate::broker::vhost::Vhost;
use crate::escaped::Escaped;
use crate::limits;
use crate::queue::arguments::{self, QueueType, inequivalent};
use crate::queue::declared::{Declared, definition_octets};
use crate::queue::{Counts, Queue};
use leveret_journal::index::Index;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use leveret_wire::table::{OwnedTable, Table, Value};
use std::sync::Arc;

/// The arguments of queue.declare.
#[derive(Clone, Copy, Debug)]
pub struct QueueDeclare<'a> {
    /// The name, as the client wrote it; if empty, the broker generates one.
    pub name: &'a [u8],
    /// The bit `durable`.
    pub durable: bool,
    /// The bit `exclusive`.
    pub exclusive: bool,
    /// The bit `auto-delete`.
    pub auto_delete: bool,
    /// The arguments.
    pub arguments: Table<'a>,
}

/// The result of queue.declare.
#[derive(Clone, Debug)]
pub struct DeclareOk {
    /// The queue's name.
    pub name: Name,
    /// The numbers of ready messages and of consumers.
    pub counts: Counts,
    /// The declaration created the queue.
    pub is_new: bool,
    /// The index, if any, that has to be durable before declare-ok is sent.
    pub defined: Option<Index>,
}

/// The result of queue.delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deleted {
    /// The number of ready messages deleted.
    pub messages: usize,
    /// The index, if any, that has to be durable before delete-ok is sent.
    pub defined: Option<Index>,
}

impl Vhost {
    /// Performs queue.declare, not passive.
    ///
    /// # Errors
    /// 403 for reserved names; 405 for another connection's exclusive queue; 406 for a bad
    /// argument, flags that the queue type does not allow, or a declaration that differs from the
    /// existing queue.
    pub fn declare_queue(&self, declare: QueueDeclare<'_>, connection: u64) -> Result<DeclareOk, Fault> {
        if declare.name.starts_with(REPLY_TO) {
            return self.declare_reply(declare.name);
        }
        let name = self.new_name(declare)?;
        let check_same = |names: &Topology| {
            let queue = names.queue(name.as_octets())?;
            let same = self.check_same_queue(queue, declare, connection);
            Some(same.map(|()| {
                let defined = names.queue_defined(name.as_octets());
                DeclareOk { name: name.clone(), counts: queue.counts(), is_new: false, defined }
            }))
        };
        if let Some(same) = check_same(&self.names()) {
            return same;
        }
        let kind = self.check_new_queue(&name, declare)?;
        self.check_room(definition_octets(&name, declare.arguments))?;
        self.check_disk(declare.durable && !declare.exclusive)?;
        let declared = Declared {
            name: name.clone(),
            // An exclusive queue ends with its connection, so it is never durable.
            durable: declare.durable && !declare.exclusive,
            owner: declare.exclusive.then_some(connection),
            auto_delete: declare.auto_delete,
            kind,
            arguments: OwnedTable::from(declare.arguments),
        };
        let (same, defined) = self.update_free(&Destination::Queue(name.clone()), |names| {
            // Another connection may have declared it before the write lock was taken.
            let same = check_same(names);
            if same.is_none() {
                names.add_queue(Arc::new(Queue::new(declared, Arc::clone(self.context()))));
            }
            same
        });
        if let Some(same) = same {
            return same;
        }
        warn_without_effect(&name, kind, declare.arguments);
        Ok(DeclareOk { name, counts: Counts::default(), is_new: true, defined })
    }

    /// Performs a passive queue.declare.
    ///
    /// # Errors
    /// 404 for no such queue; 405 for another connection's exclusive queue.
    pub fn check_queue(&self, name: &[u8], connection: u64) -> Result<DeclareOk, Fault> {
        if name.starts_with(REPLY_TO) {
            return self.declare_reply(name);
        }
        let stripped = strip_cr_lf(name);
        let queue = self.usable_queue(&stripped, connection)?;
        Ok(DeclareOk { name: queue.name().clone(), counts: queue.counts(), is_new: false, defined: None })
    }

    /// Performs queue.delete; deleting a queue that does not exist succeeds.
    ///
    /// # Errors
    /// 405 for another connection's exclusive queue; 406 for `if-unused` with consumers or
    /// `if-empty` with ready messages.
    pub fn delete_queue(
        &self,
        name: &[u8],
        connection: u64,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<Deleted, Fault> {
        let name = strip_cr_lf(name);
        let precondition = |counts: Counts| match () {
            () if if_empty && counts.messages > 0 => Some("not empty"),
            () if if_unused && counts.consumers > 0 => Some("in use"),
            () => None,
        };
        if self.names().queue(&name).is_none() {
            return Ok(Deleted::default());
        }
        let (outcome, index) = self.update(|names| {
            let Some(queue) = names.queue(&name) else { return Ok::<_, Fault>(None) };
            self.check_owner(queue, connection)?;
            let deleted = queue.delete_unless(precondition).map_err(|why| {
                let queue = self.describe_queue(&name);
                Fault::new(Code::PreconditionFailed, format_args!("{queue} {why}"))
            })?;
            let name = queue.name().clone();
            names.remove_queue(&name);
            Ok(Some((deleted, names.sweep(limits::UNBINDS_PER_HOLD))))
        });
        let Some((deleted, _)) = outcome? else { return Ok(Deleted::default()) };
        let messages = deleted.finish();
        Ok(Deleted { messages, defined: self.finish_removals().or(index) })
    }

    /// Performs queue.declare of a direct reply-to name, which asks whether a channel consumes
    /// replies under it.
    fn declare_reply(&self, name: &[u8]) -> Result<DeclareOk, Fault> {
        let stripped = strip_cr_lf(name);
        let known = stripped == REPLY_TO || stripped.starts_with(REPLY_PREFIX) && self.replies().contains(&stripped);
        match Name::new(&stripped) {
            Some(name) if known => {
                Ok(DeclareOk { name, counts: Counts { messages: 0, consumers: 1 }, is_new: false, defined: None })
            }
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
        let queue = self.describe_queue(name.as_octets());
        if let Some(value) = declare.arguments.get(b"x-dead-letter-exchange")
            && !matches!(value, Value::LongStr(_))
        {
            let kind = value.type_name();
            let text = format_args!("invalid type '{kind}' for arg 'x-dead-letter-exchange' in {queue}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let kind = arguments::check_declare(&queue, declare.arguments)?;
        let refuse = |property: &str| {
            Err(Fault::new(Code::PreconditionFailed, format_args!("invalid property '{property}' for {queue}")))
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
        let described = self.describe_queue(current.name.as_octets());
        if current.owner != received.exclusive.then_some(connection) {
            return Err(self.locked(current.name.as_octets()));
        }
        let flag = |key: &str, received: bool, current: bool| {
            if received == current {
                return Ok(());
            }
            Err(inequivalent(key, &described, &format!("'{received}'"), &format!("'{current}'")))
        };
        flag("durable", received.durable && !received.exclusive, current.durable)?;
        flag("auto_delete", received.auto_delete, current.auto_delete)?;
        arguments::check_equivalent(&described, current.kind, current.arguments.as_table(), received.arguments)
    }
}

fn warn_without_effect(queue: &Name, kind: QueueType, arguments: Table<'_>) {
    let queue = Escaped::name(queue.as_octets());
    if kind != QueueType::Classic {
        tracing::warn!(%queue, queue_type = kind.name(), "queue type is not supported yet: declared as a classic queue");
    }
    for argument in arguments::without_effect(arguments) {
        tracing::warn!(%queue, argument, "queue argument has no effect yet: only stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAccount;
    use crate::message::Publication;
    use crate::outbox::FlushSet;
    use crate::queue::context::QueueContext;
    use leveret_journal::journal::CommitMode;
    use leveret_wire::table_builder::TableBuilder;

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()))
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
        vhost.delete_owned(2, [Name::from_static("mine")]);
        assert!(vhost.check_queue(b"mine", 1).is_ok());
        vhost.delete_owned(1, [Name::from_static("mine")]);
        assert_eq!(text(vhost.check_queue(b"mine", 1)), "404 NOT_FOUND - no queue 'mine' in vhost '/'");
    }

    #[test]
    fn all_the_queues_of_a_connection_end_with_it() {
        let vhost = vhost();
        let names: Vec<_> = (0..200).map(|n| Name::new(format!("q{n}").as_bytes()).unwrap()).collect();
        for name in &names {
            vhost.declare_queue(QueueDeclare { exclusive: true, ..declare(name.as_octets()) }, 1).unwrap();
        }
        vhost.delete_owned(1, names.clone());
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
        let message = Publication { route: b"\0\0", properties: b"\0\0", body: b"", persistent: false }
            .keep(MemoryAccount::default());
        queue.publish(&mut vec![message.clone(), message.clone()], CommitMode::Now, &mut FlushSet::default());
        assert!(vhost.context().memory().used_by_messages() > 0);
        let refused = "406 PRECONDITION_FAILED - queue 'q' in vhost '/' not empty";
        assert_eq!(text(vhost.delete_queue(b"q", 1, false, true)), refused);
        assert_eq!(vhost.delete_queue(b"q", 1, true, false).ok().map(|deleted| deleted.messages), Some(2));
        assert_eq!(vhost.delete_queue(b"q", 1, true, true).ok().map(|deleted| deleted.messages), Some(0));
        assert!(queue.is_deleted() && vhost.context().memory().used_by_messages() == 0);
        queue.publish(&mut vec![message], CommitMode::Now, &mut FlushSet::default());
        assert_eq!((queue.counts().messages, vhost.context().memory().used_by_messages()), (0, 0));
    }
}
