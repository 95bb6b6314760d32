//! Writes every method a server sends that carries no content. It knows no state that leads to one.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::frame::generation::gen_frame;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx};

use crate::wire::frame::{FRAME_END, METHOD};
use crate::wire::method_id::{
    ACCESS_REQUEST_OK, BASIC_CANCEL, BASIC_CANCEL_OK, BASIC_CONSUME_OK, CHANNEL_CLOSE, CONNECTION_BLOCKED,
    CONNECTION_CLOSE, CONNECTION_SECURE, CONNECTION_START, Id, QUEUE_DECLARE_OK,
};
use crate::wire::table_builder::{put_long_string, put_short_string};

/// A method from server to client. Names and texts are cut at 255 octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "methods and arguments are those of AMQP 0-9-1 section 1.4 and RabbitMQ's extensions")]
pub enum Reply<'a> {
    /// `server_properties` are the octets of a table, without its length. The version is always 0-9.
    Start {
        server_properties: &'a [u8],
        mechanisms: &'a [u8],
        locales: &'a [u8],
    },
    Secure {
        challenge: &'a [u8],
    },
    Tune {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    OpenOk,
    ConnectionClose {
        code: u16,
        text: &'a [u8],
        class: u16,
        method: u16,
    },
    ConnectionCloseOk,
    Blocked {
        reason: &'a [u8],
    },
    Unblocked,
    UpdateSecretOk,
    ChannelOpenOk,
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
    AccessRequestOk {
        ticket: u16,
    },
    ExchangeDeclareOk,
    ExchangeDeleteOk,
    ExchangeBindOk,
    ExchangeUnbindOk,
    QueueDeclareOk {
        queue: &'a [u8],
        message_count: u32,
        consumer_count: u32,
    },
    QueueBindOk,
    QueueUnbindOk,
    QueuePurgeOk {
        message_count: u32,
    },
    QueueDeleteOk {
        message_count: u32,
    },
    QosOk,
    ConsumeOk {
        tag: &'a [u8],
    },
    CancelOk {
        tag: &'a [u8],
    },
    Cancel {
        tag: &'a [u8],
        no_wait: bool,
    },
    GetEmpty,
    RecoverOk,
    ConfirmSelectOk,
    TxSelectOk,
    TxCommitOk,
    TxRollbackOk,
}

/// Appends one method frame.
pub fn reply(out: &mut Vec<u8>, channel: u16, reply: &Reply<'_>) {
    match plain(reply) {
        Some(class) => put_plain(out, channel, class),
        None => put_raw(out, channel, reply),
    }
}

/// Methods whose arguments are neither names nor texts nor tables: the crate's own types write them.
fn plain(reply: &Reply<'_>) -> Option<AMQPClass> {
    use AMQPClass::{Basic, Channel, Confirm, Connection, Exchange, Queue, Tx};
    use connection::AMQPMethod as OfConnection;
    Some(match *reply {
        Reply::Tune { channel_max, frame_max, heartbeat } => {
            Connection(OfConnection::Tune(connection::Tune { channel_max, frame_max, heartbeat }))
        }
        Reply::OpenOk => Connection(OfConnection::OpenOk(connection::OpenOk {})),
        Reply::ConnectionCloseOk => Connection(OfConnection::CloseOk(connection::CloseOk {})),
        Reply::Unblocked => Connection(OfConnection::Unblocked(connection::Unblocked {})),
        Reply::UpdateSecretOk => Connection(OfConnection::UpdateSecretOk(connection::UpdateSecretOk {})),
        Reply::ChannelOpenOk => Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})),
        Reply::FlowOk { active } => Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active })),
        Reply::ChannelCloseOk => Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
        Reply::ExchangeDeclareOk => Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})),
        Reply::ExchangeDeleteOk => Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {})),
        Reply::ExchangeBindOk => Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})),
        Reply::ExchangeUnbindOk => Exchange(exchange::AMQPMethod::UnbindOk(exchange::UnbindOk {})),
        Reply::QueueBindOk => Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
        Reply::QueueUnbindOk => Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})),
        Reply::QueuePurgeOk { message_count } => Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count })),
        Reply::QueueDeleteOk { message_count } => Queue(queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count })),
        Reply::QosOk => Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        Reply::GetEmpty => Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
        Reply::RecoverOk => Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})),
        Reply::ConfirmSelectOk => Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})),
        Reply::TxSelectOk => Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})),
        Reply::TxCommitOk => Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})),
        Reply::TxRollbackOk => Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})),
        _ => return None,
    })
}

fn put_plain(out: &mut Vec<u8>, channel: u16, class: AMQPClass) {
    // Into a buffer of its own: the generator takes what it writes to and would keep it if it failed. It does not fail,
    // since a vector takes every octet and no argument here has a size limit.
    let frame = AMQPFrame::Method(channel, class);
    let written = gen_frame(&frame)(Vec::new().into());
    debug_assert!(written.is_ok(), "{frame:?} was not written");
    if let Ok(context) = written {
        out.extend_from_slice(&context.into_inner().0);
    }
}

/// Methods with names, texts or tables, which stay octets.
fn put_raw(out: &mut Vec<u8>, channel: u16, reply: &Reply<'_>) {
    match *reply {
        Reply::Start { server_properties, mechanisms, locales } => method(out, channel, CONNECTION_START, |out| {
            out.extend_from_slice(&[0, 9]);
            put_long_string(out, server_properties);
            put_long_string(out, mechanisms);
            put_long_string(out, locales);
        }),
        Reply::Secure { challenge } => {
            method(out, channel, CONNECTION_SECURE, |out| put_long_string(out, challenge));
        }
        Reply::ConnectionClose { code, text, class, method } => {
            put_close(out, channel, CONNECTION_CLOSE, code, text, (class, method));
        }
        Reply::ChannelClose { code, text, class, method } => {
            put_close(out, channel, CHANNEL_CLOSE, code, text, (class, method));
        }
        Reply::Blocked { reason } => method(out, channel, CONNECTION_BLOCKED, |out| put_short_string(out, reason)),
        Reply::AccessRequestOk { ticket } => {
            method(out, channel, ACCESS_REQUEST_OK, |out| out.extend_from_slice(&ticket.to_be_bytes()));
        }
        Reply::QueueDeclareOk { queue, message_count, consumer_count } => {
            method(out, channel, QUEUE_DECLARE_OK, |out| {
                put_short_string(out, queue);
                out.extend_from_slice(&message_count.to_be_bytes());
                out.extend_from_slice(&consumer_count.to_be_bytes());
            });
        }
        Reply::ConsumeOk { tag } => method(out, channel, BASIC_CONSUME_OK, |out| put_short_string(out, tag)),
        Reply::CancelOk { tag } => method(out, channel, BASIC_CANCEL_OK, |out| put_short_string(out, tag)),
        Reply::Cancel { tag, no_wait } => method(out, channel, BASIC_CANCEL, |out| {
            put_short_string(out, tag);
            out.push(no_wait.into());
        }),
        _ => debug_assert!(false, "{reply:?} is plain"),
    }
}

fn put_close(out: &mut Vec<u8>, channel: u16, id: Id, code: u16, text: &[u8], blamed: Id) {
    method(out, channel, id, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        put_short_string(out, text);
        out.extend_from_slice(&blamed.0.to_be_bytes());
        out.extend_from_slice(&blamed.1.to_be_bytes());
    });
}

/// A method frame around the arguments that `put` writes.
fn method(out: &mut Vec<u8>, channel: u16, id: Id, put: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::with_capacity(64);
    payload.extend_from_slice(&id.0.to_be_bytes());
    payload.extend_from_slice(&id.1.to_be_bytes());
    put(&mut payload);
    out.push(METHOD);
    out.extend_from_slice(&channel.to_be_bytes());
    put_long_string(out, &payload);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::parsing::parse_frame;
    use amq_protocol::types::ShortString;
    use proptest::prelude::*;

    use super::*;

    fn written(sent: &Reply<'_>) -> Vec<u8> {
        let mut out = vec![0xaa];
        reply(&mut out, 3, sent);
        assert_eq!(out.remove(0), 0xaa);
        out
    }

    fn read(octets: &[u8]) -> AMQPClass {
        match parse_frame(octets) {
            Ok(([], AMQPFrame::Method(3, class))) => class,
            other => panic!("{other:?}"),
        }
    }

    /// A frame on channel 3 around a payload, written out.
    fn frame(payload: &[u8]) -> Vec<u8> {
        [&[1, 0, 3], &(payload.len() as u32).to_be_bytes()[..], payload, &[206]].concat()
    }

    #[test]
    fn plain_replies_are_those_of_rabbitmq() {
        for (sent, payload) in [
            (
                Reply::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 },
                &b"\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c"[..],
            ),
            (Reply::OpenOk, b"\0\x0a\0\x29\0"),
            (Reply::ConnectionCloseOk, b"\0\x0a\0\x33"),
            (Reply::Unblocked, b"\0\x0a\0\x3d"),
            (Reply::UpdateSecretOk, b"\0\x0a\0\x47"),
            (Reply::ChannelOpenOk, b"\0\x14\0\x0b\0\0\0\0"),
            (Reply::FlowOk { active: true }, b"\0\x14\0\x15\x01"),
            (Reply::ChannelCloseOk, b"\0\x14\0\x29"),
            (Reply::ExchangeDeclareOk, b"\0\x28\0\x0b"),
            (Reply::ExchangeDeleteOk, b"\0\x28\0\x15"),
            (Reply::ExchangeBindOk, b"\0\x28\0\x1f"),
            (Reply::ExchangeUnbindOk, b"\0\x28\0\x33"),
            (Reply::QueueBindOk, b"\0\x32\0\x15"),
            (Reply::QueueUnbindOk, b"\0\x32\0\x33"),
            (Reply::QueuePurgeOk { message_count: 5 }, b"\0\x32\0\x1f\0\0\0\x05"),
            (Reply::QueueDeleteOk { message_count: 5 }, b"\0\x32\0\x29\0\0\0\x05"),
            (Reply::QosOk, b"\0\x3c\0\x0b"),
            (Reply::GetEmpty, b"\0\x3c\0\x48\0"),
            (Reply::RecoverOk, b"\0\x3c\0\x6f"),
            (Reply::ConfirmSelectOk, b"\0\x55\0\x0b"),
            (Reply::TxSelectOk, b"\0\x5a\0\x0b"),
            (Reply::TxCommitOk, b"\0\x5a\0\x15"),
            (Reply::TxRollbackOk, b"\0\x5a\0\x1f"),
        ] {
            assert_eq!(written(&sent), frame(payload), "{sent:?}");
        }
    }

    #[test]
    fn replies_with_names_and_texts_are_those_of_rabbitmq() {
        let start = Reply::Start { server_properties: b"\x01kV", mechanisms: b"PLAIN", locales: b"en_US" };
        let close = (404, &b"NOT_FOUND"[..], 50, 10);
        for (sent, payload) in [
            (start, &b"\0\x0a\0\x0a\0\x09\0\0\0\x03\x01kV\0\0\0\x05PLAIN\0\0\0\x05en_US"[..]),
            (Reply::Secure { challenge: b"?" }, b"\0\x0a\0\x14\0\0\0\x01?"),
            (
                Reply::ConnectionClose { code: close.0, text: close.1, class: close.2, method: close.3 },
                b"\0\x0a\0\x32\x01\x94\x09NOT_FOUND\0\x32\0\x0a",
            ),
            (
                Reply::ChannelClose { code: close.0, text: close.1, class: close.2, method: close.3 },
                b"\0\x14\0\x28\x01\x94\x09NOT_FOUND\0\x32\0\x0a",
            ),
            (Reply::Blocked { reason: b"low" }, b"\0\x0a\0\x3c\x03low"),
            (Reply::AccessRequestOk { ticket: 1 }, b"\0\x1e\0\x0b\0\x01"),
            (
                Reply::QueueDeclareOk { queue: b"q", message_count: 2, consumer_count: 3 },
                b"\0\x32\0\x0b\x01q\0\0\0\x02\0\0\0\x03",
            ),
            (Reply::ConsumeOk { tag: b"t" }, b"\0\x3c\0\x15\x01t"),
            (Reply::CancelOk { tag: b"t" }, b"\0\x3c\0\x1f\x01t"),
            (Reply::Cancel { tag: b"t", no_wait: true }, b"\0\x3c\0\x1e\x01t\x01"),
        ] {
            assert_eq!(written(&sent), frame(payload), "{sent:?}");
            read(&written(&sent));
        }
    }

    proptest! {
        #[test]
        fn names_survive_the_way(name in "\\PC{0,60}", message_count: u32, consumer_count: u32) {
            let octets = written(&Reply::QueueDeclareOk { queue: name.as_bytes(), message_count, consumer_count });
            let queue = ShortString::try_new(name).unwrap();
            let expected = queue::DeclareOk { queue, message_count, consumer_count };
            prop_assert_eq!(read(&octets), AMQPClass::Queue(queue::AMQPMethod::DeclareOk(expected)));
        }

        #[test]
        fn over_long_texts_are_cut(length in 0..600usize, code: u16) {
            let text = "x".repeat(length);
            let octets = written(&Reply::ChannelClose { code, text: text.as_bytes(), class: 0, method: 0 });
            let AMQPClass::Channel(channel::AMQPMethod::Close(close)) = read(&octets) else { panic!() };
            prop_assert_eq!(close.reply_text.as_str().len(), length.min(255));
        }
    }
}
