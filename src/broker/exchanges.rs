//! The rules of exchange.declare, delete, bind and unbind and of queue.bind and unbind (AMQP 0-9-1, 1.3 and 1.4), with
//! RabbitMQ's words for what is refused. It knows no channel.

use crate::broker::declared::{Binding, DeclaredExchange, Destination};
use crate::broker::headers;
use crate::broker::replies::REPLY_PREFIX;
use crate::broker::resource::Text;
use crate::broker::topology::Topology;
use crate::broker::vhost::Vhost;
use crate::queue::arguments::{compare, inequivalent};
use crate::routing::Kind;
use crate::wire::fault::{Code, Fault};
use crate::wire::name::Name;
use crate::wire::table::{OwnedTable, Table, Value};

/// What exchange.declare asks for.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeDeclare<'a> {
    /// Its name, as the client wrote it.
    pub name: &'a [u8],
    /// Its type, as the client wrote it.
    pub kind: &'a [u8],
    /// `durable`.
    pub durable: bool,
    /// `auto-delete`.
    pub auto_delete: bool,
    /// `internal`.
    pub internal: bool,
    /// `arguments`.
    pub arguments: Table<'a>,
}

/// What a bind or unbind names.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The exchange.
    pub source: &'a [u8],
    /// The queue or exchange.
    pub destination: &'a [u8],
    /// Whether the destination is a queue.
    pub to_queue: bool,
    /// The binding key.
    pub key: &'a [u8],
    /// The arguments.
    pub arguments: Table<'a>,
}

impl Vhost {
    /// exchange.declare, not passive.
    ///
    /// # Errors
    /// 403 for reserved names; 406 for an unknown type, a bad argument, or a declaration that differs from the first.
    pub fn declare_exchange(&self, declare: ExchangeDeclare<'_>) -> Result<(), Fault> {
        let kind = Kind::parse(declare.kind).ok_or_else(|| {
            let (text, why) = (Text(declare.kind), if declare.kind.is_empty() { "invalid" } else { "unknown" });
            Fault::new(Code::PreconditionFailed, format_args!("{why} exchange type '{text}'"))
        })?;
        let name = strip_cr_lf(declare.name);
        refuse_default(&name)?;
        let mut names = self.change();
        if names.exchange(&name).is_none() {
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
            let name = Name::new(&name).ok_or_else(|| self.no_exchange(&name))?;
            names.add_exchange(name, declared);
            return Ok(());
        }
        let Some(current) = names.exchange(&name) else { return Ok(()) };
        self.check_same_exchange(&name, current.declared(), kind, declare)
    }

    fn check_same_exchange(
        &self,
        name: &[u8],
        current: &DeclaredExchange,
        kind: Kind,
        received: ExchangeDeclare<'_>,
    ) -> Result<(), Fault> {
        let words = self.exchange_words(name);
        let flag = |key: &str, received: bool, current: bool| {
            if received == current {
                return Ok(());
            }
            Err(inequivalent(key, &words, &format!("'{received}'"), &format!("'{current}'")))
        };
        if kind != current.kind {
            return Err(inequivalent(
                "type",
                &words,
                &format!("'{}'", kind.name()),
                &format!("'{}'", current.kind.name()),
            ));
        }
        flag("durable", received.durable, current.durable)?;
        flag("auto_delete", received.auto_delete, current.auto_delete)?;
        flag("internal", received.internal, current.internal)?;
        let key = "alternate-exchange";
        compare(key, &words, current.arguments.as_table().get(key.as_bytes()), received.arguments.get(key.as_bytes()))
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
                    self.exchange_words(name)
                ),
            )),
        }
    }

    /// exchange.declare, passive.
    ///
    /// # Errors
    /// 404; 403 for the default exchange.
    pub fn check_exchange(&self, name: &[u8]) -> Result<(), Fault> {
        let name = strip_cr_lf(name);
        refuse_default(&name)?;
        self.names().exchange(&name).map(drop).ok_or_else(|| self.no_exchange(&name))
    }

    /// exchange.delete. An exchange that does not exist is deleted too.
    ///
    /// # Errors
    /// 403 for the default and the predeclared exchanges; 406 when it has bindings and `if_unused` is set.
    pub fn delete_exchange(&self, name: &[u8], if_unused: bool) -> Result<(), Fault> {
        let name = strip_cr_lf(name);
        refuse_default(&name)?;
        if name.starts_with(b"amq.") {
            let words = self.exchange_words(&name);
            return Err(Fault::new(Code::AccessRefused, format_args!("deletion of system {words} not allowed")));
        }
        let mut names = self.change();
        match names.exchange(&name) {
            Some(exchange) if if_unused && exchange.is_used() => {
                let words = self.exchange_words(&name);
                Err(Fault::new(Code::PreconditionFailed, format_args!("{words} in use")))
            }
            Some(_) => {
                if let Some(name) = Name::new(&name) {
                    names.remove_exchange(&name);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// queue.bind and exchange.bind. Says whether the binding is durable.
    ///
    /// # Errors
    /// 403 for the default exchange and direct reply-to names; 404; 405; 406 for arguments that the exchange cannot use.
    pub fn bind(&self, bind: Bind<'_>, connection: u64) -> Result<bool, Fault> {
        let binding = self.binding(bind)?;
        let mut names = self.change();
        let kind = self.check_ends(&names, &binding, bind.to_queue, connection)?;
        let criteria = match kind {
            Kind::Headers => Some(
                headers::criteria(bind.arguments)
                    .map_err(|invalid| Fault::new(Code::PreconditionFailed, format_args!("{invalid}")))?,
            ),
            _ => None,
        };
        let is_durable = names.keeps(&binding);
        names.bind(binding, criteria.as_ref());
        Ok(is_durable)
    }

    /// queue.unbind and exchange.unbind. A binding that does not exist is unbound too, whoever owns the queue.
    ///
    /// # Errors
    /// 403 for the default exchange and direct reply-to names.
    pub fn unbind(&self, bind: Bind<'_>) -> Result<(), Fault> {
        let binding = self.binding(bind)?;
        self.change().unbind(&binding);
        Ok(())
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
            arguments: OwnedTable::from(bind.arguments),
        })
    }

    /// Both ends exist and may be used; the type of the source.
    fn check_ends(&self, names: &Topology, binding: &Binding, to_queue: bool, connection: u64) -> Result<Kind, Fault> {
        let source = binding.source.as_octets();
        let kind =
            names.exchange(source).map(|exchange| exchange.declared().kind).ok_or_else(|| self.no_exchange(source));
        let end = match &binding.destination {
            Destination::Queue(name) => {
                let queue = names.queue(name.as_octets()).ok_or_else(|| self.no_queue(name.as_octets()));
                queue.map(Some)
            }
            Destination::Exchange(name) => {
                names.exchange(name.as_octets()).map(|_| None).ok_or_else(|| self.no_exchange(name.as_octets()))
            }
        };
        let kind = kind?;
        if let Some(queue) = end?
            && to_queue
        {
            self.check_owner(queue, connection)?;
        }
        Ok(kind)
    }
}

/// Names are taken without carriage returns and line feeds, as RabbitMQ does.
pub fn strip_cr_lf(name: &[u8]) -> Vec<u8> {
    name.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect()
}

/// The 403 of a new name that begins with `amq.`.
pub fn reserved(kind: &str, name: &[u8]) -> Fault {
    let name = Text(name);
    Fault::new(Code::AccessRefused, format_args!("{kind} name '{name}' contains reserved prefix 'amq.*'"))
}

fn refuse_default(name: &[u8]) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::new(Code::AccessRefused, "operation not permitted on the default exchange"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::queues::QueueDeclare;
    use crate::queue::shared::Shared;
    use crate::wire::table_builder::TableBuilder;
    use std::sync::Arc;

    fn vhost() -> Vhost {
        Vhost::new(Name::from_static("/"), Arc::new(Shared::default()))
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
        vhost.unbind(bind(b"amq.fanout", b"mine", true)).unwrap();
        vhost.unbind(bind(b"amq.fanout", b"mine", true)).unwrap();
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
