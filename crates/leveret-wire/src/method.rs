//! Methods from client to server, borrowed from the octets they were parsed from. Which one is
//! allowed when is the session's to say.
//!
//! basic.publish, ack, nack and reject are parsed by hand over slices; all others come of one
//! table. Class and method are read first, so that no octets reach a parser that is not theirs.

use nom::Parser;
use nom::combinator::all_consuming;

use crate::erlang::Numbers;
use crate::fault::{Code, Fault};
use crate::field::{Flaw, Parsed, read, write};
use crate::frame::{self, FrameKind};
use crate::method_id::*;
use crate::method_table::{field_type, methods, put_method};
use crate::reply::is_reply;

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

methods! {
    /// A method that a client sends. Names that RabbitMQ wants in UTF-8 are; those of a publish are
    /// any octets.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[expect(missing_docs, reason = "methods and arguments are those of AMQP 0-9-1 section 1.4 and RabbitMQ's extensions")]
    pub enum Method<'a>
    by_hand {
        Publish(Publish<'a>),
        Ack { tag: u64, multiple: bool },
        Nack { tag: u64, multiple: bool, requeue: bool },
        Reject { tag: u64, requeue: bool },
        /// A known method that only a server sends; its arguments are not looked at. RabbitMQ
        /// answers 504 on channel 0 and 503 `unimplemented method` elsewhere, the latter after the
        /// content if there is one.
        NotForServer { class: u16, method: u16 },
    }
    ids {
        Method::Publish(_) => BASIC_PUBLISH,
        Method::Ack { .. } => BASIC_ACK,
        Method::Nack { .. } => BASIC_NACK,
        Method::Reject { .. } => BASIC_REJECT,
        Method::NotForServer { class, method } => (*class, *method),
    }
    put(out) {
        Method::Publish(Publish { route, mandatory, immediate, .. }) => {
            write::short(out, 0);
            out.extend_from_slice(route);
            write::bits(out, &[mandatory, immediate]);
        }
        Method::Ack { tag, multiple } => put_settle(out, tag, &[multiple]),
        Method::Nack { tag, multiple, requeue } => put_settle(out, tag, &[multiple, requeue]),
        Method::Reject { tag, requeue } => put_settle(out, tag, &[requeue]),
        Method::NotForServer { .. } => {}
    }
    table {
        StartOk = CONNECTION_START_OK {
            client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr
        };
        SecureOk = CONNECTION_SECURE_OK { response: longstr };
        TuneOk = CONNECTION_TUNE_OK { channel_max: short, frame_max: long, heartbeat: short };
        ConnectionOpen = CONNECTION_OPEN { vhost: shortstr, capabilities: shortstr [insist] };
        ConnectionClose = CONNECTION_CLOSE { code: short, text: shortstr, class: short, method: short };
        ConnectionCloseOk = CONNECTION_CLOSE_OK;
        UpdateSecret = CONNECTION_UPDATE_SECRET { secret: longstr, reason: shortstr };
        Blocked = CONNECTION_BLOCKED { reason: shortstr };
        Unblocked = CONNECTION_UNBLOCKED;

        ChannelOpen = CHANNEL_OPEN (shortstr);
        Flow = CHANNEL_FLOW { [active] };
        FlowOk = CHANNEL_FLOW_OK { [active] };
        ChannelClose = CHANNEL_CLOSE { code: short, text: shortstr, class: short, method: short };
        ChannelCloseOk = CHANNEL_CLOSE_OK;
        AccessRequest = ACCESS_REQUEST (shortstr, bits);

        ExchangeDeclare = EXCHANGE_DECLARE (short) {
            exchange: shortstr, kind: shortstr
            [passive, durable, auto_delete, internal, no_wait]
            arguments: table
        };
        ExchangeDelete = EXCHANGE_DELETE (short) { exchange: shortstr [if_unused, no_wait] };
        ExchangeBind = EXCHANGE_BIND (short) {
            destination: shortstr, source: shortstr, routing_key: shortstr [no_wait] arguments: table
        };
        ExchangeUnbind = EXCHANGE_UNBIND (short) {
            destination: shortstr, source: shortstr, routing_key: shortstr [no_wait] arguments: table
        };

        QueueDeclare = QUEUE_DECLARE (short) {
            queue: shortstr [passive, durable, exclusive, auto_delete, no_wait] arguments: table
        };
        QueueBind = QUEUE_BIND (short) {
            queue: shortstr, exchange: shortstr, routing_key: shortstr [no_wait] arguments: table
        };
        QueueUnbind = QUEUE_UNBIND (short) {
            queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table
        };
        QueuePurge = QUEUE_PURGE (short) { queue: shortstr [no_wait] };
        QueueDelete = QUEUE_DELETE (short) { queue: shortstr [if_unused, if_empty, no_wait] };

        Qos = BASIC_QOS { prefetch_size: long, prefetch_count: short [global] };
        Consume = BASIC_CONSUME (short) {
            queue: shortstr, tag: shortstr [no_local, no_ack, exclusive, no_wait] arguments: table
        };
        Cancel = BASIC_CANCEL { tag: shortstr [no_wait] };
        CancelOk = BASIC_CANCEL_OK { tag: shortstr };
        Get = BASIC_GET (short) { queue: shortstr [no_ack] };
        Recover = BASIC_RECOVER { [requeue] };
        RecoverAsync = BASIC_RECOVER_ASYNC { [requeue] };

        ConfirmSelect = CONFIRM_SELECT { [no_wait] };
        TxSelect = TX_SELECT;
        TxCommit = TX_COMMIT;
        TxRollback = TX_ROLLBACK;
    }
}

impl Method<'_> {
    /// Returns true for methods that a content header follows.
    pub fn has_content(&self) -> bool {
        matches!(self.id(), BASIC_PUBLISH | BASIC_RETURN | BASIC_DELIVER | BASIC_GET_OK)
    }
}

fn put_settle(out: &mut Vec<u8>, tag: u64, bits: &[bool]) {
    out.extend_from_slice(&tag.to_be_bytes());
    write::bits(out, bits);
}

/// Returns class and method id of a method frame's payload; zeros if even they are missing.
pub fn id_of(payload: &[u8]) -> Id {
    split_id(payload).map_or((0, 0), |(id, _)| id)
}

/// Parses the payload of a method frame.
///
/// # Errors
/// As RabbitMQ words them: 501 for a payload without ids, truncated or left-over arguments, and
/// names that are not UTF-8. Where RabbitMQ drops the connection without a word: 540 for an unknown
/// method, 502 for a bad table.
pub fn parse(payload: &[u8]) -> Result<Method<'_>, Fault> {
    let Some((id, fields)) = split_id(payload) else {
        return Err(frame::unknown_frame(FrameKind::Method, payload));
    };
    let hot = match id {
        BASIC_PUBLISH => publish(fields).map(Method::Publish),
        BASIC_ACK => settle(fields).map(|(tag, bits)| Method::Ack { tag, multiple: bits & 1 != 0 }),
        BASIC_NACK => {
            settle(fields).map(|(tag, bits)| Method::Nack { tag, multiple: bits & 1 != 0, requeue: bits & 2 != 0 })
        }
        BASIC_REJECT => settle(fields).map(|(tag, bits)| Method::Reject { tag, requeue: bits & 1 != 0 }),
        _ => return cold(id, fields),
    };
    hot.ok_or_else(|| fault(id, fields, Flaw::Shape))
}

/// Parses the payload of a basic.publish; `None` for any other and for a malformed one, which
/// [`parse`] tells apart. Unlike there, the arguments stay in registers.
#[inline(always)]
pub fn parse_publish(payload: &[u8]) -> Option<Publish<'_>> {
    split_id(payload).filter(|(id, _)| *id == BASIC_PUBLISH).and_then(|(_, fields)| publish(fields))
}

/// Parses the payload of a basic.ack into its tag and `multiple`, as [`parse_publish`].
#[inline(always)]
pub fn parse_ack(payload: &[u8]) -> Option<(u64, bool)> {
    let (_, fields) = split_id(payload).filter(|(id, _)| *id == BASIC_ACK)?;
    settle(fields).map(|(tag, bits)| (tag, bits & 1 != 0))
}

#[inline]
fn publish(fields: &[u8]) -> Option<Publish<'_>> {
    let (_ticket, names_and_bits) = fields.split_first_chunk::<2>()?;
    let (&bits, route) = names_and_bits.split_last()?;
    let (&size, rest) = route.split_first()?;
    let (exchange, rest) = rest.split_at_checked(size.into())?;
    let (&size, routing_key) = rest.split_first()?;
    if routing_key.len() != usize::from(size) {
        return None;
    }
    let (mandatory, immediate) = (bits & 1 != 0, bits & 2 != 0);
    Some(Publish { exchange, routing_key, route, mandatory, immediate })
}

#[inline]
fn settle(fields: &[u8]) -> Option<(u64, u8)> {
    match fields.split_first_chunk()? {
        (tag, &[bits]) => Some((u64::from_be_bytes(*tag), bits)),
        _ => None,
    }
}

fn cold<'a>(id: Id, fields: &'a [u8]) -> Result<Method<'a>, Fault> {
    match all_consuming(|fields| Method::fields(id, fields)).parse(fields) {
        Ok((_, method)) => Ok(method),
        Err(nom::Err::Failure(Flaw::Unknown)) if is_for_clients(id) => {
            Ok(Method::NotForServer { class: id.0, method: id.1 })
        }
        Err(nom::Err::Error(flaw) | nom::Err::Failure(flaw)) => Err(fault(id, fields, flaw)),
        Err(nom::Err::Incomplete(_)) => Err(fault(id, fields, Flaw::Shape)),
    }
}

/// Returns true for methods that a server sends and a client must not. Class basic's credit methods
/// count as such: RabbitMQ knows them and answers them to no client any more.
fn is_for_clients(id: Id) -> bool {
    let has_content = matches!(id, BASIC_RETURN | BASIC_DELIVER | BASIC_GET_OK);
    let is_credit = matches!(id, BASIC_CREDIT | BASIC_CREDIT_OK | BASIC_CREDIT_DRAINED);
    has_content || is_credit || is_reply(id)
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

#[cfg(test)]
mod tests {
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, gen_class, queue, tx};
    use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FrameScan;
    use crate::limits::TABLE_DEPTH_MAX;
    use crate::table::{Table, Value};

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
        let open = Method::ConnectionOpen { vhost: b"/", capabilities: b"", insist: true };
        assert_eq!(parse(b"\0\x0a\0\x28\x01/\0\x01"), Ok(open));
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
                let mut written = Vec::new();
                parsed.put(&mut written, 3);
                let Ok(FrameScan::Frame(frame, used)) = frame::scan(&written, 0) else { panic!("{written:?}") };
                prop_assert_eq!((frame.kind, frame.channel, used), (FrameKind::Method, 3, written.len()));
                prop_assert_eq!(parse(frame.payload), Ok(parsed));
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
