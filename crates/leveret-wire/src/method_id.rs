//! Class and method ids (AMQP 0-9-1 section 1.3 and RabbitMQ's extensions), usable in patterns.

#![expect(missing_docs, reason = "the names are those of the specification")]

/// Class id and method id.
pub type Id = (u16, u16);

/// Class id of the methods that carry content.
pub const BASIC: u16 = 60;

/// Splits a method frame's payload into the id and the fields.
#[inline]
pub(crate) fn split_id(payload: &[u8]) -> Option<(Id, &[u8])> {
    let (&[c1, c2, m1, m2], fields) = payload.split_first_chunk()?;
    Some(((u16::from_be_bytes([c1, c2]), u16::from_be_bytes([m1, m2])), fields))
}

pub const CONNECTION_START: Id = (10, 10);
pub const CONNECTION_START_OK: Id = (10, 11);
pub const CONNECTION_SECURE: Id = (10, 20);
pub const CONNECTION_SECURE_OK: Id = (10, 21);
pub const CONNECTION_TUNE: Id = (10, 30);
pub const CONNECTION_TUNE_OK: Id = (10, 31);
pub const CONNECTION_OPEN: Id = (10, 40);
pub const CONNECTION_OPEN_OK: Id = (10, 41);
pub const CONNECTION_CLOSE: Id = (10, 50);
pub const CONNECTION_CLOSE_OK: Id = (10, 51);
pub const CONNECTION_BLOCKED: Id = (10, 60);
pub const CONNECTION_UNBLOCKED: Id = (10, 61);
pub const CONNECTION_UPDATE_SECRET: Id = (10, 70);
pub const CONNECTION_UPDATE_SECRET_OK: Id = (10, 71);
pub const CHANNEL_OPEN: Id = (20, 10);
pub const CHANNEL_OPEN_OK: Id = (20, 11);
pub const CHANNEL_FLOW: Id = (20, 20);
pub const CHANNEL_FLOW_OK: Id = (20, 21);
pub const CHANNEL_CLOSE: Id = (20, 40);
pub const CHANNEL_CLOSE_OK: Id = (20, 41);
pub const ACCESS_REQUEST: Id = (30, 10);
pub const ACCESS_REQUEST_OK: Id = (30, 11);
pub const EXCHANGE_DECLARE: Id = (40, 10);
pub const EXCHANGE_DECLARE_OK: Id = (40, 11);
pub const EXCHANGE_DELETE: Id = (40, 20);
pub const EXCHANGE_DELETE_OK: Id = (40, 21);
pub const EXCHANGE_BIND: Id = (40, 30);
pub const EXCHANGE_BIND_OK: Id = (40, 31);
pub const EXCHANGE_UNBIND: Id = (40, 40);
pub const EXCHANGE_UNBIND_OK: Id = (40, 51);
pub const QUEUE_DECLARE: Id = (50, 10);
pub const QUEUE_DECLARE_OK: Id = (50, 11);
pub const QUEUE_BIND: Id = (50, 20);
pub const QUEUE_BIND_OK: Id = (50, 21);
pub const QUEUE_PURGE: Id = (50, 30);
pub const QUEUE_PURGE_OK: Id = (50, 31);
pub const QUEUE_DELETE: Id = (50, 40);
pub const QUEUE_DELETE_OK: Id = (50, 41);
pub const QUEUE_UNBIND: Id = (50, 50);
pub const QUEUE_UNBIND_OK: Id = (50, 51);
pub const BASIC_QOS: Id = (BASIC, 10);
pub const BASIC_QOS_OK: Id = (BASIC, 11);
pub const BASIC_CONSUME: Id = (BASIC, 20);
pub const BASIC_CONSUME_OK: Id = (BASIC, 21);
pub const BASIC_CANCEL: Id = (BASIC, 30);
pub const BASIC_CANCEL_OK: Id = (BASIC, 31);
pub const BASIC_PUBLISH: Id = (BASIC, 40);
pub const BASIC_RETURN: Id = (BASIC, 50);
pub const BASIC_DELIVER: Id = (BASIC, 60);
pub const BASIC_GET: Id = (BASIC, 70);
pub const BASIC_GET_OK: Id = (BASIC, 71);
pub const BASIC_GET_EMPTY: Id = (BASIC, 72);
pub const BASIC_ACK: Id = (BASIC, 80);
pub const BASIC_REJECT: Id = (BASIC, 90);
pub const BASIC_RECOVER_ASYNC: Id = (BASIC, 100);
pub const BASIC_RECOVER: Id = (BASIC, 110);
pub const BASIC_RECOVER_OK: Id = (BASIC, 111);
pub const BASIC_NACK: Id = (BASIC, 120);
pub const BASIC_CREDIT: Id = (BASIC, 200);
pub const BASIC_CREDIT_OK: Id = (BASIC, 201);
pub const BASIC_CREDIT_DRAINED: Id = (BASIC, 202);
pub const CONFIRM_SELECT: Id = (85, 10);
pub const CONFIRM_SELECT_OK: Id = (85, 11);
pub const TX_SELECT: Id = (90, 10);
pub const TX_SELECT_OK: Id = (90, 11);
pub const TX_COMMIT: Id = (90, 20);
pub const TX_COMMIT_OK: Id = (90, 21);
pub const TX_ROLLBACK: Id = (90, 30);
pub const TX_ROLLBACK_OK: Id = (90, 31);
