//! What a client may ask: every method from client to server, borrowed. It knows no state in which one is allowed.
//!
//! Three ways to parse: the hot ones by hand over slices; those with names, texts or tables by combinators that leave
//! them raw octets; the rest through the types of `amq_protocol`. Class and method are read first, so that no octets
//! reach a parser that is not theirs.

use amq_protocol::protocol::{self, AMQPClass};
use nom::Parser;
use nom::combinator::{all_consuming, map};
use nom::number::complete::{be_u16, be_u32};

use crate::wire::arguments::{Flaw, Parsed, bits, name, table, ticket};
use crate::wire::erlang::Numbers;
use crate::wire::fault::{Code, Fault};
use crate::wire::frame::{self, Kind};
use crate::wire::grammar::long_string;
use crate::wire::method_id::*;
use crate::wire::table::Table;

/// basic.publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// The exchange; empty is the default one.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// Exchange and routing key, each with its length octet, as on the wire.
    pub route: &'a [u8],
    /// Return it if it reaches no queue.
    pub mandatory: bool,
    /// Return it if it reaches no consumer; RabbitMQ refuses it.
    pub immediate: bool,
}

/// A method that a client sends. Names that RabbitMQ wants in UTF-8 are; those of a publish are any octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "methods and arguments are those of AMQP 0-9-1 section 1.4 and RabbitMQ's extensions")]
pub enum Method<'a> {
    Publish(Publish<'a>),
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        tag: u64,
        requeue: bool,
    },

    StartOk {
        client_properties: Table<'a>,
        mechanism: &'a [u8],
        response: &'a [u8],
        locale: &'a [u8],
    },
    SecureOk {
        response: &'a [u8],
    },
    TuneOk {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    ConnectionOpen {
        vhost: &'a [u8],
    },
    ConnectionClose {
        code: u16,
        text: &'a [u8],
        class: u16,
        method: u16,
    },
    ConnectionCloseOk,
    UpdateSecret {
        secret: &'a [u8],
        reason: &'a [u8],
    },
    Blocked {
        reason: &'a [u8],
    },
    Unblocked,

    ChannelOpen,
    Flow {
        active: bool,
    },
    FlowOk {
        active: bool,
    },
    ChannelClose {
        code: u16,
        text: &'a [u8],
        class: u16,
        method: u16,
    },
    ChannelCloseOk,
    AccessRequest,

    ExchangeDeclare {
        exchange: &'a [u8],
        kind: &'a [u8],
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        no_wait: bool,
        arguments: Table<'a>,
    },
    ExchangeDelete {
        exchange: &'a [u8],
        if_unused: bool,
        no_wait: bool,
    },
    ExchangeBind {
        destination: &'a [u8],
        source: &'a [u8],
        routing_key: &'a [u8],
        no_wait: bool,
        arguments: Table<'a>,
    },
    ExchangeUnbind {
        destination: &'a [u8],
        source: &'a [u8],
        routing_key: &'a [u8],
        no_wait: bool,
        arguments: Table<'a>,
    },

    QueueDeclare {
        queue: &'a [u8],
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        no_wait: bool,
        arguments: Table<'a>,
    },
    QueueBind {
        queue: &'a [u8],
        exchange: &'a [u8],
        routing_key: &'a [u8],
        no_wait: bool,
        arguments: Table<'a>,
    },
    QueueUnbind {
        queue: &'a [u8],
        exchange: &'a [u8],
        routing_key: &'a [u8],
        arguments: Table<'a>,
    },
    QueuePurge {
        queue: &'a [u8],
        no_wait: bool,
    },
    QueueDelete {
        queue: &'a [u8],
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    },

    Qos {
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    },
    Consume {
        queue: &'a [u8],
        tag: &'a [u8],
        no_local: bool,
        no_ack: bool,
        exclusive: bool,
        no_wait: bool,
        arguments: Table<'a>,
    },
    Cancel {
        tag: &'a [u8],
        no_wait: bool,
    },
    CancelOk {
        tag: &'a [u8],
    },
    Get {
        queue: &'a [u8],
        no_ack: bool,
    },
    Recover {
        requeue: bool,
    },
    RecoverAsync {
        requeue: bool,
    },

    ConfirmSelect {
        no_wait: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,

    /// A known method that only a server sends; its arguments are not looked at. RabbitMQ answers 504 on channel 0 and
    /// 503 `unimplemented method` elsewhere, the latter after the content if there is one.
    NotForServer {
        class: u16,
        method: u16,
    },
}

impl Method<'_> {
    /// Class and method id.
    pub fn id(&self) -> (u16, u16) {
        match self {
            Method::Publish(_) => BASIC_PUBLISH,
            Method::Ack { .. } => BASIC_ACK,
            Method::Nack { .. } => BASIC_NACK,
            Method::Reject { .. } => BASIC_REJECT,
            Method::StartOk { .. } => CONNECTION_START_OK,
            Method::SecureOk { .. } => CONNECTION_SECURE_OK,
            Method::TuneOk { .. } => CONNECTION_TUNE_OK,
            Method::ConnectionOpen { .. } => CONNECTION_OPEN,
            Method::ConnectionClose { .. } => CONNECTION_CLOSE,
            Method::ConnectionCloseOk => CONNECTION_CLOSE_OK,
            Method::UpdateSecret { .. } => CONNECTION_UPDATE_SECRET,
            Method::Blocked { .. } => CONNECTION_BLOCKED,
            Method::Unblocked => CONNECTION_UNBLOCKED,
            Method::ChannelOpen => CHANNEL_OPEN,
            Method::Flow { .. } => CHANNEL_FLOW,
            Method::FlowOk { .. } => CHANNEL_FLOW_OK,
            Method::ChannelClose { .. } => CHANNEL_CLOSE,
            Method::ChannelCloseOk => CHANNEL_CLOSE_OK,
            Method::AccessRequest => ACCESS_REQUEST,
            Method::ExchangeDeclare { .. } => EXCHANGE_DECLARE,
            Method::ExchangeDelete { .. } => EXCHANGE_DELETE,
            Method::ExchangeBind { .. } => EXCHANGE_BIND,
            Method::ExchangeUnbind { .. } => EXCHANGE_UNBIND,
            Method::QueueDeclare { .. } => QUEUE_DECLARE,
            Method::QueueBind { .. } => QUEUE_BIND,
            Method::QueueUnbind { .. } => QUEUE_UNBIND,
            Method::QueuePurge { .. } => QUEUE_PURGE,
            Method::QueueDelete { .. } => QUEUE_DELETE,
            Method::Qos { .. } => BASIC_QOS,
            Method::Consume { .. } => BASIC_CONSUME,
            Method::Cancel { .. } => BASIC_CANCEL,
            Method::CancelOk { .. } => BASIC_CANCEL_OK,
            Method::Get { .. } => BASIC_GET,
            Method::Recover { .. } => BASIC_RECOVER,
            Method::RecoverAsync { .. } => BASIC_RECOVER_ASYNC,
            Method::ConfirmSelect { .. } => CONFIRM_SELECT,
            Method::TxSelect => TX_SELECT,
            Method::TxCommit => TX_COMMIT,
            Method::TxRollback => TX_ROLLBACK,
            Method::NotForServer { class, method } => (*class, *method),
        }
    }

    /// Whether a content header follows.
    pub fn has_content(&self) -> bool {
        matches!(self.id(), BASIC_PUBLISH | BASIC_RETURN | BASIC_DELIVER | BASIC_GET_OK)
    }
}

/// Class and method id of a method frame's payload; zeros if even they are missing.
pub fn id_of(payload: &[u8]) -> (u16, u16) {
    match payload {
        [c1, c2, m1, m2, ..] => (u16::from_be_bytes([*c1, *c2]), u16::from_be_bytes([*m1, *m2])),
        _ => (0, 0),
    }
}

/// Parses the payload of a method frame.
///
/// # Errors
/// As RabbitMQ words them: 501 for a payload without ids, truncated or left-over arguments, and names that are not
/// UTF-8. Where RabbitMQ drops the connection without a word: 540 for an unknown method, 502 for a bad table.
pub fn parse(payload: &[u8]) -> Result<Method<'_>, Fault> {
    let Some((&[c1, c2, m1, m2], fields)) = payload.split_first_chunk() else {
        return Err(frame::unknown_frame(Kind::Method, payload));
    };
    let id = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([m1, m2]));
    let hot = match id {
        BASIC_PUBLISH => publish(fields),
        BASIC_ACK => settle(fields).map(|(tag, bits)| Method::Ack { tag, multiple: bits & 1 != 0 }),
        BASIC_NACK => {
            settle(fields).map(|(tag, bits)| Method::Nack { tag, multiple: bits & 1 != 0, requeue: bits & 2 != 0 })
        }
        BASIC_REJECT => settle(fields).map(|(tag, bits)| Method::Reject { tag, requeue: bits & 1 != 0 }),
        _ => return cold(id, payload, fields),
    };
    hot.ok_or_else(|| fault(id, fields, Flaw::Shape))
}

fn publish(fields: &[u8]) -> Option<Method<'_>> {
    let (_ticket, names_and_bits) = fields.split_first_chunk::<2>()?;
    let (&bits, route) = names_and_bits.split_last()?;
    let (&size, rest) = route.split_first()?;
    let (exchange, rest) = rest.split_at_checked(size.into())?;
    let (&size, routing_key) = rest.split_first()?;
    if routing_key.len() != usize::from(size) {
        return None;
    }
    let (mandatory, immediate) = (bits & 1 != 0, bits & 2 != 0);
    Some(Method::Publish(Publish { exchange, routing_key, route, mandatory, immediate }))
}

fn settle(fields: &[u8]) -> Option<(u64, u8)> {
    match fields.split_first_chunk()? {
        (tag, &[bits]) => Some((u64::from_be_bytes(*tag), bits)),
        _ => None,
    }
}

fn cold<'a>(id: Id, payload: &'a [u8], fields: &'a [u8]) -> Result<Method<'a>, Fault> {
    if is_for_clients(id) {
        return Ok(Method::NotForServer { class: id.0, method: id.1 });
    }
    if is_plain(id) {
        return plain(payload).ok_or_else(|| fault(id, fields, Flaw::Shape));
    }
    match all_consuming(|fields| arguments(id, fields)).parse(fields) {
        Ok((_, method)) => Ok(method),
        Err(nom::Err::Error(flaw) | nom::Err::Failure(flaw)) => Err(fault(id, fields, flaw)),
        Err(nom::Err::Incomplete(_)) => Err(fault(id, fields, Flaw::Shape)),
    }
}

#[cold]
fn fault(id: Id, fields: &[u8], flaw: Flaw) -> Fault {
    let fault = match flaw {
        Flaw::Shape => Fault::new(Code::FrameError, format_args!("cannot decode {}", Numbers(fields))),
        // RabbitMQ blames no method for this one.
        Flaw::NotUtf8 => return Fault::new(Code::FrameError, "Malformed UTF-8 in shortstr"),
        Flaw::Table(error) => Fault::new(Code::SyntaxError, error),
        Flaw::Unknown => Fault::new(Code::NotImplemented, format_args!("unknown method {}.{}", id.0, id.1)),
    };
    fault.at(id.0, id.1)
}

/// Methods whose arguments are neither names nor texts nor tables. basic.qos would be one, but the crate's type drops
/// its prefetch size.
fn is_plain(id: Id) -> bool {
    matches!(
        id,
        CONNECTION_TUNE_OK
            | CONNECTION_CLOSE_OK
            | CONNECTION_UNBLOCKED
            | CHANNEL_FLOW
            | CHANNEL_FLOW_OK
            | CHANNEL_CLOSE_OK
            | BASIC_RECOVER
            | BASIC_RECOVER_ASYNC
            | CONFIRM_SELECT
            | TX_SELECT
            | TX_COMMIT
            | TX_ROLLBACK
    )
}

fn plain(payload: &[u8]) -> Option<Method<'static>> {
    use protocol::{basic, channel, confirm, connection, tx};
    let (_, class) = all_consuming(protocol::parse_class).parse(payload).ok()?;
    Some(match class {
        AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune)) => {
            Method::TuneOk { channel_max: tune.channel_max, frame_max: tune.frame_max, heartbeat: tune.heartbeat }
        }
        AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => Method::ConnectionCloseOk,
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => Method::Unblocked,
        AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => Method::Flow { active: flow.active },
        AMQPClass::Channel(channel::AMQPMethod::FlowOk(flow)) => Method::FlowOk { active: flow.active },
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => Method::ChannelCloseOk,
        AMQPClass::Basic(basic::AMQPMethod::Recover(recover)) => Method::Recover { requeue: recover.requeue },
        AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(recover)) => Method::RecoverAsync { requeue: recover.requeue },
        AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => Method::ConfirmSelect { no_wait: select.nowait },
        AMQPClass::Tx(tx::AMQPMethod::Select(_)) => Method::TxSelect,
        AMQPClass::Tx(tx::AMQPMethod::Commit(_)) => Method::TxCommit,
        AMQPClass::Tx(tx::AMQPMethod::Rollback(_)) => Method::TxRollback,
        _ => return None,
    })
}

/// Methods with names, texts or tables.
fn arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id.0 {
        10 => connection_arguments(id, fields),
        20 | 30 => channel_arguments(id, fields),
        40 => exchange_arguments(id, fields),
        50 => queue_arguments(id, fields),
        _ => basic_arguments(id, fields),
    }
}

fn connection_arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id {
        CONNECTION_START_OK => {
            map((table, name, long_string, name), |(client_properties, mechanism, response, locale)| Method::StartOk {
                client_properties,
                mechanism,
                response,
                locale,
            })
            .parse(fields)
        }
        CONNECTION_SECURE_OK => map(long_string, |response| Method::SecureOk { response }).parse(fields),
        CONNECTION_OPEN => map((name, name, bits), |(vhost, _, _)| Method::ConnectionOpen { vhost }).parse(fields),
        CONNECTION_CLOSE => map((be_u16, name, be_u16, be_u16), |(code, text, class, method)| {
            Method::ConnectionClose { code, text, class, method }
        })
        .parse(fields),
        CONNECTION_BLOCKED => map(name, |reason| Method::Blocked { reason }).parse(fields),
        CONNECTION_UPDATE_SECRET => {
            map((long_string, name), |(secret, reason)| Method::UpdateSecret { secret, reason }).parse(fields)
        }
        _ => unknown(),
    }
}

fn channel_arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id {
        CHANNEL_OPEN => map(name, |_| Method::ChannelOpen).parse(fields),
        CHANNEL_CLOSE => map((be_u16, name, be_u16, be_u16), |(code, text, class, method)| Method::ChannelClose {
            code,
            text,
            class,
            method,
        })
        .parse(fields),
        ACCESS_REQUEST => map((name, bits), |_| Method::AccessRequest).parse(fields),
        _ => unknown(),
    }
}

fn exchange_arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id {
        EXCHANGE_DECLARE => {
            map((ticket, name, name, bits, table), |(_, exchange, kind, bits, arguments)| Method::ExchangeDeclare {
                exchange,
                kind,
                passive: bits.has(0),
                durable: bits.has(1),
                auto_delete: bits.has(2),
                internal: bits.has(3),
                no_wait: bits.has(4),
                arguments,
            })
            .parse(fields)
        }
        EXCHANGE_DELETE => map((ticket, name, bits), |(_, exchange, bits)| Method::ExchangeDelete {
            exchange,
            if_unused: bits.has(0),
            no_wait: bits.has(1),
        })
        .parse(fields),
        EXCHANGE_BIND => map(binding, |binding| Method::ExchangeBind {
            destination: binding.target,
            source: binding.source,
            routing_key: binding.routing_key,
            no_wait: binding.no_wait,
            arguments: binding.arguments,
        })
        .parse(fields),
        EXCHANGE_UNBIND => map(binding, |binding| Method::ExchangeUnbind {
            destination: binding.target,
            source: binding.source,
            routing_key: binding.routing_key,
            no_wait: binding.no_wait,
            arguments: binding.arguments,
        })
        .parse(fields),
        _ => unknown(),
    }
}

fn queue_arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id {
        QUEUE_DECLARE => map((ticket, name, bits, table), |(_, queue, bits, arguments)| Method::QueueDeclare {
            queue,
            passive: bits.has(0),
            durable: bits.has(1),
            exclusive: bits.has(2),
            auto_delete: bits.has(3),
            no_wait: bits.has(4),
            arguments,
        })
        .parse(fields),
        QUEUE_BIND => map(binding, |binding| Method::QueueBind {
            queue: binding.target,
            exchange: binding.source,
            routing_key: binding.routing_key,
            no_wait: binding.no_wait,
            arguments: binding.arguments,
        })
        .parse(fields),
        QUEUE_UNBIND => map((ticket, name, name, name, table), |(_, queue, exchange, routing_key, arguments)| {
            Method::QueueUnbind { queue, exchange, routing_key, arguments }
        })
        .parse(fields),
        QUEUE_PURGE => map((ticket, name, bits), |(_, queue, bits)| Method::QueuePurge { queue, no_wait: bits.has(0) })
            .parse(fields),
        QUEUE_DELETE => map((ticket, name, bits), |(_, queue, bits)| Method::QueueDelete {
            queue,
            if_unused: bits.has(0),
            if_empty: bits.has(1),
            no_wait: bits.has(2),
        })
        .parse(fields),
        _ => unknown(),
    }
}

fn basic_arguments<'a>(id: Id, fields: &'a [u8]) -> Parsed<'a, Method<'a>> {
    match id {
        BASIC_QOS => map((be_u32, be_u16, bits), |(prefetch_size, prefetch_count, bits)| Method::Qos {
            prefetch_size,
            prefetch_count,
            global: bits.has(0),
        })
        .parse(fields),
        BASIC_CONSUME => map((ticket, name, name, bits, table), |(_, queue, tag, bits, arguments)| Method::Consume {
            queue,
            tag,
            no_local: bits.has(0),
            no_ack: bits.has(1),
            exclusive: bits.has(2),
            no_wait: bits.has(3),
            arguments,
        })
        .parse(fields),
        BASIC_CANCEL => map((name, bits), |(tag, bits)| Method::Cancel { tag, no_wait: bits.has(0) }).parse(fields),
        BASIC_CANCEL_OK => map(name, |tag| Method::CancelOk { tag }).parse(fields),
        BASIC_GET => {
            map((ticket, name, bits), |(_, queue, bits)| Method::Get { queue, no_ack: bits.has(0) }).parse(fields)
        }
        _ => unknown(),
    }
}

/// What the methods that bind share, and exchange.unbind; queue.unbind has no bits.
struct Binding<'a> {
    target: &'a [u8],
    source: &'a [u8],
    routing_key: &'a [u8],
    no_wait: bool,
    arguments: Table<'a>,
}

fn binding(octets: &[u8]) -> Parsed<'_, Binding<'_>> {
    map((ticket, name, name, name, bits, table), |(_, target, source, routing_key, bits, arguments)| Binding {
        target,
        source,
        routing_key,
        no_wait: bits.has(0),
        arguments,
    })
    .parse(octets)
}

fn unknown<'a>() -> Parsed<'a, Method<'a>> {
    Err(nom::Err::Failure(Flaw::Unknown))
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::{basic, channel, confirm, connection, exchange, gen_class, queue, tx};
    use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
    use proptest::prelude::*;

    use super::*;
    use crate::limits::TABLE_DEPTH_MAX;
    use crate::wire::table::Value;

    fn encoded(class: &AMQPClass) -> Vec<u8> {
        gen_class(class)(WriteContext::from(Vec::new())).unwrap().into_inner().0
    }

    fn text(payload: &[u8]) -> (String, (u16, u16)) {
        let fault = parse(payload).unwrap_err();
        (fault.to_string(), (fault.class, fault.method))
    }

    fn arguments() -> FieldTable {
        let mut table = FieldTable::default();
        table.insert("x-max-length".into(), AMQPValue::LongInt(10));
        table
    }

    /// Table and flags of what clients send, as `amq_protocol` writes it.
    #[test]
    fn reads_what_clients_write() {
        let declare = queue::Declare {
            queue: "q".into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: true,
            nowait: false,
            arguments: arguments(),
        };
        let payload = encoded(&AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        let Ok(Method::QueueDeclare { queue, passive, durable, exclusive, auto_delete, no_wait, arguments }) =
            parse(&payload)
        else {
            panic!()
        };
        assert_eq!(
            (queue, passive, durable, exclusive, auto_delete, no_wait),
            (&b"q"[..], false, true, false, true, false)
        );
        assert_eq!(arguments.get(b"x-max-length"), Some(Value::I32(10)));
    }

    #[test]
    fn reads_methods_without_arguments() {
        for (class, method) in [
            (AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})), Method::ConnectionCloseOk),
            (AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {})), Method::Unblocked),
            (AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})), Method::ChannelOpen),
            (AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})), Method::ChannelCloseOk),
            (
                AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: true })),
                Method::Flow { active: true },
            ),
            (
                AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active: false })),
                Method::FlowOk { active: false },
            ),
            (
                AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: true })),
                Method::ConfirmSelect { no_wait: true },
            ),
            (
                AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover { requeue: true })),
                Method::Recover { requeue: true },
            ),
            (
                AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(basic::RecoverAsync { requeue: false })),
                Method::RecoverAsync { requeue: false },
            ),
            (AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})), Method::TxSelect),
            (AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})), Method::TxCommit),
            (AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {})), Method::TxRollback),
            (
                AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
                    delivery_tag: 9,
                    multiple: true,
                    requeue: false,
                })),
                Method::Nack { tag: 9, multiple: true, requeue: false },
            ),
            (
                AMQPClass::Basic(basic::AMQPMethod::Reject(basic::Reject { delivery_tag: 9, requeue: true })),
                Method::Reject { tag: 9, requeue: true },
            ),
        ] {
            let payload = encoded(&class);
            assert_eq!(parse(&payload), Ok(method));
            assert_eq!(method.id(), (class.get_amqp_class_id(), class.get_amqp_method_id()));
        }
    }

    #[test]
    fn reads_the_handshake() {
        let payload =
            [&[0, 10, 0, 11, 0, 0, 0, 4, 1, b'k', b't', 1, 5][..], b"PLAIN\0\0\0\x04\0u\0p\x05en_US"].concat();
        let Ok(Method::StartOk { client_properties, mechanism, response, locale }) = parse(&payload) else { panic!() };
        assert_eq!(client_properties.get(b"k"), Some(Value::Bool(true)));
        assert_eq!((mechanism, response, locale), (&b"PLAIN"[..], &b"\0u\0p"[..], &b"en_US"[..]));
        assert_eq!(parse(&[0, 10, 0, 21, 0, 0, 0, 1, b'x']), Ok(Method::SecureOk { response: b"x" }));
        assert_eq!(
            parse(&[0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 60]),
            Ok(Method::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 })
        );
        assert_eq!(parse(b"\0\x0a\0\x28\x01/\0\x01"), Ok(Method::ConnectionOpen { vhost: b"/" }));
        assert_eq!(parse(b"\0\x0a\0\x46\0\0\0\x01s\x01r"), Ok(Method::UpdateSecret { secret: b"s", reason: b"r" }));
        assert_eq!(
            parse(b"\0\x0a\0\x32\0\xc8\x02ok\0\0\0\0"),
            Ok(Method::ConnectionClose { code: 200, text: b"ok", class: 0, method: 0 })
        );
        assert_eq!(parse(b"\0\x0a\0\x3c\x03low"), Ok(Method::Blocked { reason: b"low" }));
    }

    #[test]
    fn reads_exchanges_and_bindings() {
        assert_eq!(
            parse(b"\0\x28\0\x0a\0\0\x01x\x05topic\x1a\0\0\0\0"),
            Ok(Method::ExchangeDeclare {
                exchange: b"x",
                kind: b"topic",
                passive: false,
                durable: true,
                auto_delete: false,
                internal: true,
                no_wait: true,
                arguments: Table::empty(),
            })
        );
        assert_eq!(
            parse(b"\0\x28\0\x14\0\0\x01x\x02"),
            Ok(Method::ExchangeDelete { exchange: b"x", if_unused: false, no_wait: true })
        );
        let (destination, source, routing_key) = (&b"d"[..], &b"s"[..], &b"k"[..]);
        let (no_wait, arguments) = (true, Table::empty());
        assert_eq!(
            parse(b"\0\x28\0\x1e\0\0\x01d\x01s\x01k\x01\0\0\0\0"),
            Ok(Method::ExchangeBind { destination, source, routing_key, no_wait, arguments })
        );
        assert_eq!(
            parse(b"\0\x28\0\x28\0\0\x01d\x01s\x01k\x01\0\0\0\0"),
            Ok(Method::ExchangeUnbind { destination, source, routing_key, no_wait, arguments })
        );
    }

    #[test]
    fn reads_queues_and_consumers() {
        let (queue, exchange, routing_key, arguments) = (&b"q"[..], &b"x"[..], &b"k"[..], Table::empty());
        assert_eq!(
            parse(b"\0\x32\0\x14\0\0\x01q\x01x\x01k\0\0\0\0\0"),
            Ok(Method::QueueBind { queue, exchange, routing_key, no_wait: false, arguments })
        );
        assert_eq!(
            parse(b"\0\x32\0\x32\0\0\x01q\x01x\x01k\0\0\0\0"),
            Ok(Method::QueueUnbind { queue, exchange, routing_key, arguments })
        );
        assert_eq!(parse(b"\0\x32\0\x1e\0\0\x01q\x01"), Ok(Method::QueuePurge { queue, no_wait: true }));
        assert_eq!(
            parse(b"\0\x32\0\x28\0\0\x01q\x05"),
            Ok(Method::QueueDelete { queue, if_unused: true, if_empty: false, no_wait: true })
        );
        assert_eq!(
            parse(b"\0\x3c\0\x0a\0\0\0\x09\0\x64\x01"),
            Ok(Method::Qos { prefetch_size: 9, prefetch_count: 100, global: true })
        );
        assert_eq!(
            parse(b"\0\x3c\0\x14\0\0\x01q\x01t\x0a\0\0\0\0"),
            Ok(Method::Consume {
                queue,
                tag: b"t",
                no_local: false,
                no_ack: true,
                exclusive: false,
                no_wait: true,
                arguments,
            })
        );
        assert_eq!(parse(b"\0\x3c\0\x1e\x01t\x01"), Ok(Method::Cancel { tag: b"t", no_wait: true }));
        assert_eq!(parse(b"\0\x3c\0\x1f\x01t"), Ok(Method::CancelOk { tag: b"t" }));
        assert_eq!(parse(b"\0\x3c\0\x46\0\0\x01q\x01"), Ok(Method::Get { queue, no_ack: true }));
        assert_eq!(parse(b"\0\x1e\0\x0a\x05/data\x1f"), Ok(Method::AccessRequest));
        assert_eq!(
            parse(b"\0\x14\0\x28\0\xc8\0\0\0\0\0"),
            Ok(Method::ChannelClose { code: 200, text: b"", class: 0, method: 0 })
        );
    }

    #[test]
    fn reads_a_publish_in_place() {
        let payload = b"\0\x3c\0\x28\0\0\x02ex\x03k\xffy\x01";
        let Ok(method @ Method::Publish(publish)) = parse(payload) else { panic!() };
        assert_eq!((publish.exchange, publish.routing_key), (&b"ex"[..], &b"k\xffy"[..]));
        assert_eq!(publish.route, b"\x02ex\x03k\xffy");
        assert_eq!((publish.mandatory, publish.immediate), (true, false));
        assert!(method.has_content());
        assert_eq!(parse(b"\0\x3c\0\x50\0\0\0\0\0\0\0\x07\x01"), Ok(Method::Ack { tag: 7, multiple: true }));
    }

    #[test]
    fn faults_are_worded_as_by_rabbitmq() {
        assert_eq!(text(b"\0\x3c"), ("501 FRAME_ERROR - type 1, all octets = <<0,60>>: unknown_frame".into(), (0, 0)));
        assert_eq!(text(b"\0\x32\0\x0a\0\0\x05q"), ("501 FRAME_ERROR - cannot decode <<0,0,5,113>>".into(), (50, 10)));
        assert_eq!(text(b"\0\x5a\0\x0a\x01"), ("501 FRAME_ERROR - cannot decode <<1>>".into(), (90, 10)));
        assert_eq!(text(b"\0\x3c\0\x28\0\0\0\0"), ("501 FRAME_ERROR - cannot decode <<0,0,0,0>>".into(), (60, 40)));
        assert_eq!(
            text(b"\0\x32\0\x1e\0\0\x01\xff\0"),
            ("501 FRAME_ERROR - Malformed UTF-8 in shortstr".into(), (0, 0))
        );
        for unknown in [&b"\0\x0a\0\x63"[..], b"\0\x14\0\x63", b"\0\x28\0\x29", b"\0\x32\0\x63", b"\0\x55\0\x63"] {
            assert!(text(unknown).0.starts_with("540 NOT_IMPLEMENTED - unknown method "));
        }
        assert_eq!(text(b"\0\x3c\0\x63"), ("540 NOT_IMPLEMENTED - unknown method 60.99".into(), (60, 99)));
        assert_eq!(text(b"\0\x63\0\x0a"), ("540 NOT_IMPLEMENTED - unknown method 99.10".into(), (99, 10)));
        assert_eq!(
            text(b"\0\x32\0\x0a\0\0\0\0\0\0\0\x03\x01kZ"),
            ("502 SYNTAX_ERROR - malformed field table".into(), (50, 10))
        );
    }

    #[test]
    fn what_only_servers_send_is_told_apart() {
        let deliver = parse(b"\0\x3c\0\x3c whatever");
        assert_eq!(deliver, Ok(Method::NotForServer { class: 60, method: 60 }));
        assert!(deliver.is_ok_and(|method| method.has_content()));
        let declare_ok = parse(b"\0\x32\0\x0b");
        assert!(declare_ok.is_ok_and(|method| method.id() == (50, 11) && !method.has_content()));
    }

    #[test]
    fn deep_tables_before_login_are_refused_on_a_small_stack() {
        let deep = |levels: usize| {
            let mut table = Vec::new();
            for _ in 1..levels {
                table = [b"\x01kF", &(table.len() as u32).to_be_bytes()[..], &table].concat();
            }
            [b"\0\x0a\0\x0b", &(table.len() as u32).to_be_bytes()[..], &table, b"\x05PLAIN\0\0\0\0\x05en_US"].concat()
        };
        let (allowed, refused) = (deep(TABLE_DEPTH_MAX), deep(TABLE_DEPTH_MAX + 1));
        let parsed = std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || (parse(&allowed).is_ok(), parse(&refused).map(|_| ()).unwrap_err().to_string()))
            .unwrap();
        let (allowed, refused) = parsed.join().unwrap();
        assert!(allowed);
        assert_eq!(refused, "502 SYNTAX_ERROR - field table nested deeper than 256 levels");
    }

    fn short() -> impl Strategy<Value = String> {
        "\\PC{0,60}"
    }

    proptest! {
        #[test]
        fn any_octets_are_parsed(octets in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&octets);
        }

        #[test]
        fn any_arguments_are_parsed(
            class in prop::sample::select(vec![10u8, 20, 30, 40, 50, 60, 85, 90]),
            method in prop::sample::select(vec![10u8, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 70, 71, 72, 80, 90, 100, 110, 120]),
            fields in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..60),
        ) {
            let payload = [&[0, class, 0, method], &fields[..]].concat();
            if let Ok(parsed) = parse(&payload) {
                prop_assert_eq!(parsed.id(), (class.into(), method.into()));
            }
        }

        #[test]
        fn publish_survives_the_way(exchange in short(), key in short(), mandatory: bool, immediate: bool) {
            let sent = basic::Publish {
                exchange: ShortString::try_new(exchange.clone()).unwrap(),
                routing_key: ShortString::try_new(key.clone()).unwrap(),
                mandatory,
                immediate,
            };
            let payload = encoded(&AMQPClass::Basic(basic::AMQPMethod::Publish(sent)));
            let Ok(Method::Publish(publish)) = parse(&payload) else { panic!() };
            prop_assert_eq!((publish.exchange, publish.routing_key), (exchange.as_bytes(), key.as_bytes()));
            prop_assert_eq!((publish.mandatory, publish.immediate), (mandatory, immediate));
        }

        #[test]
        fn consume_and_bind_survive_the_way(
            queue in short(), other in short(), key in short(),
            no_local: bool, no_ack: bool, exclusive: bool, nowait: bool,
        ) {
            let of = |text: &String| ShortString::try_new(text.clone()).unwrap();
            let payload = encoded(&AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: of(&queue), consumer_tag: of(&other), no_local, no_ack, exclusive, nowait,
                arguments: arguments(),
            })));
            let expected = Table::from_checked(b"\x0cx-max-lengthI\0\0\0\x0a");
            prop_assert_eq!(parse(&payload), Ok(Method::Consume {
                queue: queue.as_bytes(), tag: other.as_bytes(), no_local, no_ack, exclusive, no_wait: nowait,
                arguments: expected,
            }));
            let payload = encoded(&AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                destination: of(&queue), source: of(&other), routing_key: of(&key), nowait, arguments: arguments(),
            })));
            prop_assert_eq!(parse(&payload), Ok(Method::ExchangeBind {
                destination: queue.as_bytes(), source: other.as_bytes(), routing_key: key.as_bytes(),
                no_wait: nowait, arguments: expected,
            }));
        }

        #[test]
        fn start_ok_survives_the_way(mechanism in "[A-Z-]{0,20}", response: Vec<u8>, locale in short()) {
            let payload = encoded(&AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
                client_properties: arguments(),
                mechanism: ShortString::try_new(mechanism.clone()).unwrap(),
                response: LongString::from(response.clone()),
                locale: ShortString::try_new(locale.clone()).unwrap(),
            })));
            prop_assert_eq!(parse(&payload), Ok(Method::StartOk {
                client_properties: Table::from_checked(b"\x0cx-max-lengthI\0\0\0\x0a"),
                mechanism: mechanism.as_bytes(),
                response: &response,
                locale: locale.as_bytes(),
            }));
        }
    }
}
