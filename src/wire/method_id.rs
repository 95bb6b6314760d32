//! Class and method ids (AMQP 0-9-1 section 1.3 and RabbitMQ's extensions), usable in patterns. Nothing else.

/// A class and a method of it.
pub(crate) type Id = (u16, u16);

/// The class whose methods carry content.
pub(crate) const BASIC: u16 = 60;

pub(crate) const CONNECTION_START: Id = (10, 10);
pub(crate) const CONNECTION_START_OK: Id = (10, 11);
pub(crate) const CONNECTION_SECURE: Id = (10, 20);
pub(crate) const CONNECTION_SECURE_OK: Id = (10, 21);
pub(crate) const CONNECTION_TUNE: Id = (10, 30);
pub(crate) const CONNECTION_TUNE_OK: Id = (10, 31);
pub(crate) const CONNECTION_OPEN: Id = (10, 40);
pub(crate) const CONNECTION_OPEN_OK: Id = (10, 41);
pub(crate) const CONNECTION_CLOSE: Id = (10, 50);
pub(crate) const CONNECTION_CLOSE_OK: Id = (10, 51);
pub(crate) const CONNECTION_BLOCKED: Id = (10, 60);
pub(crate) const CONNECTION_UNBLOCKED: Id = (10, 61);
pub(crate) const CONNECTION_UPDATE_SECRET: Id = (10, 70);
pub(crate) const CONNECTION_UPDATE_SECRET_OK: Id = (10, 71);
pub(crate) const CHANNEL_OPEN: Id = (20, 10);
pub(crate) const CHANNEL_OPEN_OK: Id = (20, 11);
pub(crate) const CHANNEL_FLOW: Id = (20, 20);
pub(crate) const CHANNEL_FLOW_OK: Id = (20, 21);
pub(crate) const CHANNEL_CLOSE: Id = (20, 40);
pub(crate) const CHANNEL_CLOSE_OK: Id = (20, 41);
pub(crate) const ACCESS_REQUEST: Id = (30, 10);
pub(crate) const ACCESS_REQUEST_OK: Id = (30, 11);
pub(crate) const EXCHANGE_DECLARE: Id = (40, 10);
pub(crate) const EXCHANGE_DECLARE_OK: Id = (40, 11);
pub(crate) const EXCHANGE_DELETE: Id = (40, 20);
pub(crate) const EXCHANGE_DELETE_OK: Id = (40, 21);
pub(crate) const EXCHANGE_BIND: Id = (40, 30);
pub(crate) const EXCHANGE_BIND_OK: Id = (40, 31);
pub(crate) const EXCHANGE_UNBIND: Id = (40, 40);
pub(crate) const EXCHANGE_UNBIND_OK: Id = (40, 51);
pub(crate) const QUEUE_DECLARE: Id = (50, 10);
pub(crate) const QUEUE_DECLARE_OK: Id = (50, 11);
pub(crate) const QUEUE_BIND: Id = (50, 20);
pub(crate) const QUEUE_BIND_OK: Id = (50, 21);
pub(crate) const QUEUE_PURGE: Id = (50, 30);
pub(crate) const QUEUE_PURGE_OK: Id = (50, 31);
pub(crate) const QUEUE_DELETE: Id = (50, 40);
pub(crate) const QUEUE_DELETE_OK: Id = (50, 41);
pub(crate) const QUEUE_UNBIND: Id = (50, 50);
pub(crate) const QUEUE_UNBIND_OK: Id = (50, 51);
pub(crate) const BASIC_QOS: Id = (BASIC, 10);
pub(crate) const BASIC_QOS_OK: Id = (BASIC, 11);
pub(crate) const BASIC_CONSUME: Id = (BASIC, 20);
pub(crate) const BASIC_CONSUME_OK: Id = (BASIC, 21);
pub(crate) const BASIC_CANCEL: Id = (BASIC, 30);
pub(crate) const BASIC_CANCEL_OK: Id = (BASIC, 31);
pub(crate) const BASIC_PUBLISH: Id = (BASIC, 40);
pub(crate) const BASIC_RETURN: Id = (BASIC, 50);
pub(crate) const BASIC_DELIVER: Id = (BASIC, 60);
pub(crate) const BASIC_GET: Id = (BASIC, 70);
pub(crate) const BASIC_GET_OK: Id = (BASIC, 71);
pub(crate) const BASIC_GET_EMPTY: Id = (BASIC, 72);
pub(crate) const BASIC_ACK: Id = (BASIC, 80);
pub(crate) const BASIC_REJECT: Id = (BASIC, 90);
pub(crate) const BASIC_RECOVER_ASYNC: Id = (BASIC, 100);
pub(crate) const BASIC_RECOVER: Id = (BASIC, 110);
pub(crate) const BASIC_RECOVER_OK: Id = (BASIC, 111);
pub(crate) const BASIC_NACK: Id = (BASIC, 120);
pub(crate) const BASIC_CREDIT: Id = (BASIC, 200);
pub(crate) const BASIC_CREDIT_OK: Id = (BASIC, 201);
pub(crate) const BASIC_CREDIT_DRAINED: Id = (BASIC, 202);
pub(crate) const CONFIRM_SELECT: Id = (85, 10);
pub(crate) const CONFIRM_SELECT_OK: Id = (85, 11);
pub(crate) const TX_SELECT: Id = (90, 10);
pub(crate) const TX_SELECT_OK: Id = (90, 11);
pub(crate) const TX_COMMIT: Id = (90, 20);
pub(crate) const TX_COMMIT_OK: Id = (90, 21);
pub(crate) const TX_ROLLBACK: Id = (90, 30);
pub(crate) const TX_ROLLBACK_OK: Id = (90, 31);

/// Whether a server sends the method and a client must not; class basic's credit methods, which RabbitMQ knows and
/// answers to no client any more, count as such.
pub(super) fn is_for_clients(id: Id) -> bool {
    matches!(
        id,
        CONNECTION_START
            | CONNECTION_SECURE
            | CONNECTION_TUNE
            | CONNECTION_OPEN_OK
            | CONNECTION_UPDATE_SECRET_OK
            | CHANNEL_OPEN_OK
            | ACCESS_REQUEST_OK
            | EXCHANGE_DECLARE_OK
            | EXCHANGE_DELETE_OK
            | EXCHANGE_BIND_OK
            | EXCHANGE_UNBIND_OK
            | QUEUE_DECLARE_OK
            | QUEUE_BIND_OK
            | QUEUE_PURGE_OK
            | QUEUE_DELETE_OK
            | QUEUE_UNBIND_OK
            | BASIC_QOS_OK
            | BASIC_CONSUME_OK
            | BASIC_RETURN
            | BASIC_DELIVER
            | BASIC_GET_OK
            | BASIC_GET_EMPTY
            | BASIC_RECOVER_OK
            | BASIC_CREDIT
            | BASIC_CREDIT_OK
            | BASIC_CREDIT_DRAINED
            | CONFIRM_SELECT_OK
            | TX_SELECT_OK
            | TX_COMMIT_OK
            | TX_ROLLBACK_OK
    )
}
