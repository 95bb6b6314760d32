//! The rules of exchange.declare, delete, bind and unbind and of queue.bind and unbind (AMQP 0-9-1,
//! 1.3 and 1.4), with RabbitMQ's reply texts. Names no channel.

use crate::broker::declared::{Binding, DeclaredExchange, Destination, exchange_octets};
use crate::broker::exchange::Exchange;
use crate::broker::names::{refuse_default, reserved, strip_cr_lf};
use crate::broker::replies::REPLY_PREFIX;
use crate::broker::resource::Text;
use crate::broker::topology::Topology;
use crate::broker::vhost::Vhost;
use crate::limits;
use crate::queue::arguments::{compare, inequivalent};
use crate::routing::Kind;
use leveret_journal::index::Index;
use leveret_wire::canonical::CanonicalTable;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::name::Name;
use leveret_wire::table::{OwnedTable, Table, Value};

/// The arguments of exchange.declare.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeDeclare<'a> {
    /// The name, as the client wrote it.
    pub name: &'a [u8],
    /// The exchange type, as the client wrote it.
    pub kind: &'a [u8],
    /// The bit `durable`.
    pub durable: bool,
    /// The bit `auto-delete`.
    pub auto_delete: bool,
    /// The bit `internal`.
    pub internal: bool,
    /// The arguments.
    pub arguments: Table<'a>,
}

/// The arguments of a bind or unbind.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The source exchange.
    pub source: &'a [u8],
    /// The destination: a queue or an exchange.
    pub destination: &'a [u8],
    /// The destination is a queue, not an exchange.
    pub to_queue: bool,
    /// The binding key.
    pub key: &'a [u8],
    /// The arguments.
    pub arguments: Table<'a>,
}

impl Vhost {
    /// Performs exchange.declare, not passive. Returns the index, if any, that has to be durable
    /// before declare-ok is sent.
    ///
    /// # Errors
    /// 403 for reserved names; 406 for an unknown type, a bad argument, or a declaration that
    /// differs from the existing exchange.
    pub fn declare_exchange(&self, declare: ExchangeDeclare<'_>) -> Result<Option<Index>, Fault> {
        let kind = Kind::parse(declare.kind).ok_or_else(|| {
            let (text, why) = (Text(declare.kind), if declare.kind.is_empty() { "invalid" } else { "unknown" });
            Fault::new(Code::PreconditionFailed, format_args!("{why} exchange type '{text}'"))
        })?;
        let name = strip_cr_lf(declare.name);
        refuse_default(&name)?;
        let check_same = |names: &Topology| {
            let exchange = names.exchange(&name)?;
            let same = self.check_same_exchange(&name, exchange.declared(), kind, declare);
            Some(same.map(|()| exchange.defined()))
        };
        if let Some(same) = check_same(&self.names()) {
            return same;
        }
        if name.starts_with(b"amq.") {
            return Err(reserved("exchange", &name));
        }
        let alternate = self.alternate(&name, declare.arguments)?;
        let declared = DeclaredExchange {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: OwnedTable::from(declare.arguments),
            alternate,
        };
        let new_name = Name::new(&name).ok_or_else(|| self.no_exchange(&name))?;
        self.check_room(exchange_octets(&new_name, declare.arguments))?;
        self.check_disk(declare.durable)?;
        let (same, index) = self.update_free(&Destination::Exchange(new_name.clone()), |names| {
            // Another connection may have declared it before the write lock was taken.
            let same = check_same(names);
            if same.is_none() {
                names.add_exchange(new_name, declared);
            }
            same
        });
        same.unwrap_or(Ok(index))
    }

    fn check_same_exchange(
        &self,
        name: &[u8],
        current: &DeclaredExchange,
        kind: Kind,
        received: ExchangeDeclare<'_>,
    ) -> Result<(), Fault> {
        let exchange = self.describe_exchange(name);
        let flag = |key: &str, received: bool, current: bool| {
            if received == current {
                return Ok(());
            }
            Err(inequivalent(key, &exchange, &format!("'{received}'"), &format!("'{current}'")))
        };
        if kind != current.kind {
            return Err(inequivalent(
                "type",
                &exchange,
                &format!("'{}'", kind.name()),
                &format!("'{}'", current.kind.name()),
            ));
        }
        flag("durable", received.durable, current.durable)?;
        flag("auto_delete", received.auto_delete, current.auto_delete)?;
        flag("internal", received.internal, current.internal)?;
        let key = "alternate-exchange";
        compare(
            key,
            &exchange,
            current.arguments.as_table().get(key.as_bytes()),
            received.arguments.get(key.as_bytes()),
        )
    }

    fn alternate(&self, name: &[u8], arguments: Table<'_>) -> Result<Option<Name>, Fault> {
        match arguments.get(b"alternate-exchange") {
            None => Ok(None),
            Some(Value::LongStr(alternate)) => Ok(Name::new(alternate)),
            Some(other) => Err(Fault::new(
                Code::PreconditionFailed,
                format_args!(
                    "invalid type '{}' for arg 'alternate-exchange' in {}",
                    other.type_name(),
                    self.describe_exchange(name)
                ),
            )),
        }
    }

    /// Performs a passive exchange.declare.
    ///
    /// # Errors
    /// 404 for no such exchange; 403 for the default exchange.
    pub fn check_exchange(&self, name: &[u8]) -> Result<(), Fault> {
        let name = strip_cr_lf(name);
        refuse_default(&name)?;
        self.names().exchange(&name).map(drop).ok_or_else(|| self.no_exchange(&name))
    }

    /// Performs exchange.delete; deleting an exchange that does not exist succeeds. Returns the
    /// index, if any, that has to be durable before delete-ok is sent.
    ///
    /// # Errors
    /// 403 for the default and the predeclared exchanges; 406 if it has bindings and `if_unused` is
    /// set.
    pub fn delete_exchange(&self, name: &[u8], if_unused: bool) -> Result<Option<Index>, Fault> {
        let name = strip_cr_lf(name);
        refuse_default(&name)?;
        if name.starts_with(b"amq.") {
            let exchange = self.describe_exchange(&name);
            return Err(Fault::new(Code::AccessRefused, format_args!("deletion of system {exchange} not allowed")));
        }
        let Some(name) = Name::new(&name) else { return Ok(None) };
        if if_unused {
            // Bindings to deleted queues and exchanges do not count as use.
            self.finish_removals();
        }
        let (deleted, index) = self.update(|names| {
            if if_unused && names.exchange(name.as_octets()).is_some_and(Exchange::is_used) {
                return None;
            }
            names.remove_exchange(&name);
            Some(names.sweep(limits::UNBINDS_PER_HOLD))
        });
        if deleted.is_none() {
            let exchange = self.describe_exchange(name.as_octets());
            return Err(Fault::new(Code::PreconditionFailed, format_args!("{exchange} in use")));
        }
        drop(deleted);
        Ok(self.finish_removals().or(index))
    }

    /// Performs queue.bind and exchange.bind. Returns the index, if any, that has to be durable
    /// before bind-ok is sent.
    ///
    /// # Errors
    /// 403 for the default exchange and direct reply-to names; 404 if an end does not exist; 405
    /// for another connection's exclusive queue; 406 for arguments that the exchange cannot use.
    pub fn bind(&self, bind: Bind<'_>, connection: u64) -> Result<Option<Index>, Fault> {
        let binding = self.binding(bind)?;
        {
            let names = self.names();
            self.check_ends(&names, &binding, connection)?;
            if let Some(bound) = names.binding(&binding) {
                return Ok(bound.defined());
            }
        }
        self.check_room(binding.octets())?;
        let (bound, index) = self.update(|names| {
            self.check_ends(names, &binding, connection)?;
            names.bind(binding).map_err(|invalid| Fault::new(Code::PreconditionFailed, format_args!("{invalid}")))
        });
        // Another connection may have made the same binding before the write lock was taken.
        Ok(index.or(bound?.and_then(|bound| bound.defined())))
    }

    /// Performs queue.unbind and exchange.unbind; removing a binding that does not exist succeeds,
    /// whoever owns the queue. Returns the index, if any, that has to be durable before unbind-ok
    /// is sent.
    /// # Errors
    /// 403 for the default exchange and direct reply-to names; 405 for a binding of another
    /// connection's exclusive queue.
    pub fn unbind(&self, bind: Bind<'_>, connection: u64) -> Result<Option<Index>, Fault> {
        let binding = self.binding(bind)?;
        if self.names().binding(&binding).is_none() {
            return Ok(None);
        }
        let (unbound, index) = self.update(|names| {
            if names.binding(&binding).is_some() {
                self.check_destination(names, &binding.destination, connection)?;
                names.unbind(&binding);
            }
            Ok::<_, Fault>(names.sweep(limits::UNBINDS_PER_HOLD))
        });
        drop(unbound?);
        Ok(self.finish_removals().or(index))
    }

    fn binding(&self, bind: Bind<'_>) -> Result<Binding, Fault> {
        let (source, destination) = (strip_cr_lf(bind.source), strip_cr_lf(bind.destination));
        if bind.to_queue && destination.starts_with(REPLY_PREFIX) {
            let text = "cannot bind or unbind to a volatile (direct reply-to) queue";
            return Err(Fault::new(Code::AccessRefused, text));
        }
        if !bind.to_queue {
            refuse_default(&destination)?;
        }
        refuse_default(&source)?;
        let name = |octets: &[u8]| Name::new(octets).ok_or_else(|| self.no_exchange(octets));
        let destination = name(&destination)?;
        Ok(Binding {
            source: name(&source)?,
            destination: if bind.to_queue {
                Destination::Queue(destination)
            } else {
                Destination::Exchange(destination)
            },
            key: name(bind.key)?,
            arguments: CanonicalTable::from(bind.arguments),
        })
    }

    /// Checks that both ends of a binding exist and that `connection` may use them.
    fn check_ends(&self, names: &Topology, binding: &Binding, connection: u64) -> Result<(), Fault> {
        let source = binding.source.as_octets();
        if names.exchange(source).is_none() {
            return Err(self.no_exchange(source));
        }
        self.check_destination(names, &binding.destination, connection)
    }

    fn check_destination(&self, names: &Topology, destination: &Destination, connection: u64) -> Result<(), Fault> {
        match destination {
            Destination::Queue(name) => {
                let queue = names.queue(name.as_octets()).ok_or_else(|| self.no_queue(name.as_octets()))?;
                self.check_owner(queue, connection)
            }
            Destination::Exchange(name) => {
                names.exchange(name.as_octets()).map(drop).ok_or_else(|| self.no_exchange(name.as_octets()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::queues::QueueDeclare;
    use crate::queue::context::QueueContext;
    use leveret_wire::table_builder::TableBuilder;
    use std::sync::Arc;

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()))
    }

    fn text<T>(outcome: Result<T, Fault>) -> String {
        outcome.map_or_else(|fault| fault.to_string(), |_| "ok".to_owned())
    }

    fn declare<'a>(name: &'a [u8], kind: &'a [u8]) -> ExchangeDeclare<'a> {
        let arguments = Table::empty();
        ExchangeDeclare { name, kind, durable: false, auto_delete: false, internal: false, arguments }
    }

    fn queue(vhost: &Vhost, name: &[u8], exclusive: bool) {
        let arguments = Table::empty();
        vhost
            .declare_queue(QueueDeclare { name, durable: false, exclusive, auto_delete: false, arguments }, 1)
            .unwrap();
    }

    fn bind<'a>(source: &'a [u8], destination: &'a [u8], to_queue: bool) -> Bind<'a> {
        Bind { source, destination, to_queue, key: b"", arguments: Table::empty() }
    }

    #[test]
    fn names_and_types_are_checked_before_anything_is_made() {
        let vhost = vhost();
        for (name, kind, expected) in [
            (&b"x"[..], &b"direct"[..], "ok"),
            (b"\r\nx", b"direct", "ok"),
            (b"x", b"no", "406 PRECONDITION_FAILED - unknown exchange type 'no'"),
            (b"", b"direct", "403 ACCESS_REFUSED - operation not permitted on the default exchange"),
            (b"amq.x", b"direct", "403 ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'"),
        ] {
            assert_eq!(text(vhost.declare_exchange(declare(name, kind))), expected);
        }
        assert!(vhost.check_exchange(b"x").is_ok());
        assert_eq!(text(vhost.check_exchange(b"y")), "404 NOT_FOUND - no exchange 'y' in vhost '/'");
    }

    #[test]
    fn a_second_declaration_means_the_same_or_is_refused() {
        let vhost = vhost();
        vhost.declare_exchange(declare(b"x", b"topic")).unwrap();
        assert!(vhost.declare_exchange(declare(b"x", b"topic")).is_ok());
        let refused = "406 PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' \
                       but current is 'false'";
        assert_eq!(text(vhost.declare_exchange(ExchangeDeclare { durable: true, ..declare(b"x", b"topic") })), refused);
        let mut arguments = TableBuilder::new();
        arguments.put_long_str(b"alternate-exchange", b"y");
        let with_alternate = ExchangeDeclare { arguments: arguments.as_table(), ..declare(b"x", b"topic") };
        assert!(text(vhost.declare_exchange(with_alternate)).contains("inequivalent arg 'alternate-exchange'"));
    }

    #[test]
    fn bindings_need_both_ends_and_the_right_to_the_queue() {
        let vhost = vhost();
        queue(&vhost, b"mine", true);
        assert_eq!(text(vhost.bind(bind(b"amq.fanout", b"mine", true), 1)), "ok");
        assert!(text(vhost.bind(bind(b"amq.fanout", b"mine", true), 2)).starts_with("405"));
        assert!(
            text(vhost.bind(bind(b"absent", b"mine", true), 1)).starts_with("404 NOT_FOUND - no exchange 'absent'")
        );
        assert!(text(vhost.bind(bind(b"amq.fanout", b"q", true), 1)).starts_with("404 NOT_FOUND - no queue 'q'"));
        assert!(text(vhost.bind(bind(b"", b"mine", true), 1)).starts_with("403"));
        assert!(vhost.names().exchange(b"amq.fanout").unwrap().is_used());
        assert!(text(vhost.unbind(bind(b"amq.fanout", b"mine", true), 2)).starts_with("405"));
        assert_eq!(text(vhost.unbind(bind(b"amq.direct", b"mine", true), 2)), "ok");
        vhost.unbind(bind(b"amq.fanout", b"mine", true), 1).unwrap();
        vhost.unbind(bind(b"amq.fanout", b"mine", true), 1).unwrap();
        assert!(!vhost.names().exchange(b"amq.fanout").unwrap().is_used());
    }

    #[test]
    fn an_exchange_in_use_is_deleted_unless_asked_not_to() {
        let vhost = vhost();
        vhost.declare_exchange(declare(b"x", b"fanout")).unwrap();
        vhost.bind(bind(b"x", b"amq.direct", false), 1).unwrap();
        assert_eq!(
            text(vhost.delete_exchange(b"x", true)),
            "406 PRECONDITION_FAILED - exchange 'x' in vhost '/' in use"
        );
        assert_eq!(text(vhost.delete_exchange(b"x", false)), "ok");
        assert_eq!(text(vhost.delete_exchange(b"x", false)), "ok");
        assert!(vhost.check_exchange(b"x").is_err());
        assert!(text(vhost.delete_exchange(b"amq.direct", false)).starts_with("403"));
    }
}
