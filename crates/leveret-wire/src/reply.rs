//! Methods from server to client that carry no content. Those that do, and confirms, are in
//! [`crate::encode_content`].

use nom::Parser;
use nom::combinator::all_consuming;

use crate::field::{Flaw, Parsed, read, write};
use crate::method_id::*;
use crate::method_table::{field_type, methods, put_method};

methods! {
    /// A method from server to client. Names and texts are cut at 255 octets when they are written.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[expect(missing_docs, reason = "methods and arguments are those of AMQP 0-9-1 section 1.4 and RabbitMQ's extensions")]
    pub enum Reply<'a>
    table {
        /// `server_properties` are the octets of a table, without its length. The version is always
        /// 0-9.
        Start = CONNECTION_START (version) { server_properties: longstr, mechanisms: longstr, locales: longstr };
        Secure = CONNECTION_SECURE { challenge: longstr };
        Tune = CONNECTION_TUNE { channel_max: short, frame_max: long, heartbeat: short };
        OpenOk = CONNECTION_OPEN_OK (shortstr);
        ConnectionClose = CONNECTION_CLOSE { code: short, text: shortstr, class: short, method: short };
        ConnectionCloseOk = CONNECTION_CLOSE_OK;
        Blocked = CONNECTION_BLOCKED { reason: shortstr };
        Unblocked = CONNECTION_UNBLOCKED;
        UpdateSecretOk = CONNECTION_UPDATE_SECRET_OK;

        ChannelOpenOk = CHANNEL_OPEN_OK (longstr);
        FlowOk = CHANNEL_FLOW_OK { [active] };
        ChannelClose = CHANNEL_CLOSE { code: short, text: shortstr, class: short, method: short };
        ChannelCloseOk = CHANNEL_CLOSE_OK;
        AccessRequestOk = ACCESS_REQUEST_OK { ticket: short };

        ExchangeDeclareOk = EXCHANGE_DECLARE_OK;
        ExchangeDeleteOk = EXCHANGE_DELETE_OK;
        ExchangeBindOk = EXCHANGE_BIND_OK;
        ExchangeUnbindOk = EXCHANGE_UNBIND_OK;

        QueueDeclareOk = QUEUE_DECLARE_OK { queue: shortstr, message_count: long, consumer_count: long };
        QueueBindOk = QUEUE_BIND_OK;
        QueueUnbindOk = QUEUE_UNBIND_OK;
        QueuePurgeOk = QUEUE_PURGE_OK { message_count: long };
        QueueDeleteOk = QUEUE_DELETE_OK { message_count: long };

        QosOk = BASIC_QOS_OK;
        ConsumeOk = BASIC_CONSUME_OK { tag: shortstr };
        CancelOk = BASIC_CANCEL_OK { tag: shortstr };
        Cancel = BASIC_CANCEL { tag: shortstr [no_wait] };
        GetEmpty = BASIC_GET_EMPTY (shortstr);
        RecoverOk = BASIC_RECOVER_OK;

        ConfirmSelectOk = CONFIRM_SELECT_OK;
        TxSelectOk = TX_SELECT_OK;
        TxCommitOk = TX_COMMIT_OK;
        TxRollbackOk = TX_ROLLBACK_OK;
    }
}

/// Returns true for the id of a [`Reply`].
pub(crate) fn is_reply(id: Id) -> bool {
    !matches!(Reply::fields(id, &[]), Err(nom::Err::Failure(Flaw::Unknown)))
}

/// Parses the payload of a method frame that a server sent. `None` if it is malformed or carries
/// content.
pub fn parse(payload: &[u8]) -> Option<Reply<'_>> {
    let (id, fields) = split_id(payload)?;
    all_consuming(|fields| Reply::fields(id, fields)).parse(fields).ok().map(|(_, reply)| reply)
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::AMQPFrame;
    use amq_protocol::frame::parsing::parse_frame;
    use amq_protocol::protocol::{AMQPClass, channel, queue};
    use amq_protocol::types::ShortString;
    use proptest::prelude::*;

    use super::*;

    fn written(sent: &Reply<'_>) -> Vec<u8> {
        let mut out = vec![0xaa];
        sent.put(&mut out, 3);
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
            assert_eq!(parse(payload), Some(sent));
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
            assert_eq!(parse(payload), Some(sent));
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
