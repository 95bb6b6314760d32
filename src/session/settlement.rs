//! One basic.ack, nack, reject or recover (AMQP 0-9-1, 1.8.3), as received. Settles nothing.

use crate::queue::command::Disposition;
use leveret_wire::method::Method;
use leveret_wire::method_id::{BASIC_ACK, BASIC_NACK, BASIC_RECOVER, BASIC_RECOVER_ASYNC, BASIC_REJECT, Id};

/// The deliveries that a method settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// One delivery.
    One(u64),
    /// Deliveries up to and including this tag; 0: all.
    Through(u64),
    /// All unacked ones, for basic.recover; `answer` is whether recover-ok is sent.
    Outstanding { answer: bool },
    /// The rest of those up to a tag, which is known to exist.
    Rest(u64),
}

impl Tags {
    /// Returns the deliveries that `tag` with the bit `multiple` stands for.
    pub(super) fn new(tag: u64, multiple: bool) -> Self {
        if multiple { Self::Through(tag) } else { Self::One(tag) }
    }
}

/// One basic.ack, nack, reject or recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settlement {
    pub(super) channel: u16,
    /// Class and method id, for the fault of an unknown tag.
    pub(super) method: Id,
    pub(super) disposition: Disposition,
    pub(super) tags: Tags,
    /// The settlement waits for tx.commit.
    pub(super) in_transaction: bool,
}

impl Settlement {
    /// Returns the settlement that a basic.ack on `channel` asks for.
    #[inline]
    pub(super) fn ack(channel: u16, tag: u64, multiple: bool, in_transaction: bool) -> Self {
        let (method, disposition, tags) = (BASIC_ACK, Disposition::Ack, Tags::new(tag, multiple));
        Self { channel, method, disposition, tags, in_transaction }
    }

    /// Returns the settlement that a method on `channel` asks for, if it is one that settles.
    pub(super) fn of(channel: u16, method: &Method<'_>, in_transaction: bool) -> Option<Self> {
        let (method, disposition, tags) = match *method {
            Method::Ack { tag, multiple } => return Some(Self::ack(channel, tag, multiple, in_transaction)),
            Method::Nack { tag, multiple, requeue } => {
                (BASIC_NACK, Disposition::refused(requeue), Tags::new(tag, multiple))
            }
            Method::Reject { tag, requeue } => (BASIC_REJECT, Disposition::refused(requeue), Tags::One(tag)),
            Method::Recover { requeue: true } => {
                (BASIC_RECOVER, Disposition::Requeue, Tags::Outstanding { answer: true })
            }
            Method::RecoverAsync { requeue: true } => {
                (BASIC_RECOVER_ASYNC, Disposition::Requeue, Tags::Outstanding { answer: false })
            }
            _ => return None,
        };
        // As in RabbitMQ, basic.recover takes effect at once, also in a transaction.
        let in_transaction = in_transaction && !matches!(tags, Tags::Outstanding { .. });
        Some(Self { channel, method, disposition, tags, in_transaction })
    }
}
