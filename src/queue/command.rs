//! The commands that change a queue. Equal commands to equal queues lead to equal states.

use crate::message::Message;
use crate::queue::admission::Admission;
use crate::queue::consumers::ConsumerKey;
use crate::queue::options::Options;
use std::sync::Arc;

/// The outcome of a delivery (AMQP's word).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Acknowledged: the message leaves the queue (basic.ack).
    Ack,
    /// Requeued: the message goes back to its place in the queue (basic.nack and basic.reject with
    /// requeue, basic.recover, the end of a channel).
    Requeue,
    /// Rejected: the message leaves the queue, to be dead-lettered (basic.nack and basic.reject
    /// without requeue).
    Reject,
}

impl Disposition {
    /// Returns the disposition of basic.nack or basic.reject with this `requeue`.
    pub fn refused(requeue: bool) -> Self {
        if requeue { Self::Requeue } else { Self::Reject }
    }
}

/// A change of a queue.
#[derive(Debug)]
pub enum Command<'a> {
    /// Adds as many messages behind all others as the admission takes, and leaves the rest in
    /// `messages`.
    Enqueue {
        /// The messages, in order.
        messages: &'a mut Vec<Message>,
        /// Where each of them is stored.
        admission: Admission,
    },
    /// Makes messages deliverable that were enqueued with this admission, uncommitted.
    Commit(Admission),
    /// Settles unacked messages; other ids are ignored.
    Settle {
        /// Message ids, best in ascending order.
        ids: &'a [u64],
        /// The disposition of the messages.
        disposition: Disposition,
    },
    /// Adds a consumer that passed
    /// [`Core::check_consume`](crate::queue::core::Core::check_consume).
    Consume {
        /// The consumer's key, never used before in this queue.
        key: ConsumerKey,
        /// The consumer is exclusive: no other one can be added.
        exclusive: bool,
    },
    /// Removes a consumer. Messages delivered to it stay unacked.
    Cancel(ConsumerKey),
    /// Removes the ready messages.
    Purge,
    /// Replaces the options.
    Configure(Arc<Options>),
}
