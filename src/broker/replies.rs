//! The channels that consume `amq.rabbitmq.reply-to` (RabbitMQ's direct reply-to): each has a reply
//! name and no queue.

use crate::escaped::Escaped;
use crate::message::Message;
use crate::outbox::{DeliveryTarget, FlushSet, Outbox};
use hashbrown::HashMap;
use leveret_wire::name::Name;
use parking_lot::RwLock;
use std::sync::Arc;

/// The pseudo-queue that a channel consumes to get replies, and that it puts into `reply-to`.
pub const REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to";
/// The prefix of reply names.
pub const REPLY_PREFIX: &[u8] = b"amq.rabbitmq.reply-to.";

/// The reply consumers of a virtual host by reply name. Lock order: this, then an outbox.
#[derive(Debug, Default)]
pub struct Replies(RwLock<HashMap<Name, Waiting>>);

#[derive(Debug)]
struct Waiting {
    outbox: Arc<Outbox>,
    address: DeliveryTarget,
}

impl Replies {
    /// Adds a channel under its reply name.
    pub fn add(&self, name: Name, outbox: &Arc<Outbox>, address: DeliveryTarget) {
        self.0.write().insert(name, Waiting { outbox: Arc::clone(outbox), address });
    }

    /// Removes the channel under `name`.
    pub fn remove(&self, name: &Name) {
        self.0.write().remove(name.as_octets());
    }

    /// Returns true if a channel has the reply name `name`.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.read().contains_key(name)
    }

    /// Delivers a reply to the channel with the reply name `name`; returns false if there is none.
    pub fn deliver(&self, name: &[u8], message: &Message, flush: &mut FlushSet) -> bool {
        // The lock is held during the delivery: otherwise the channel could be closed, and its
        // number be reused.
        let waiting = self.0.read();
        let Some(waiting) = waiting.get(name) else { return false };
        let mut inner = waiting.outbox.lock();
        if !inner.deliver_reply(&waiting.address, message) {
            tracing::warn!(reply_to = %Escaped::name(name), "direct reply-to: reply dropped, its consumer does not read fast enough");
            return true;
        }
        flush.add(&waiting.outbox, &mut inner);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAccount;
    use crate::message::Publication;

    #[test]
    fn a_reply_reaches_its_channel_until_that_waits_no_more() {
        let (replies, outbox, mut flush) = (Replies::default(), Arc::new(Outbox::default()), FlushSet::default());
        let name = Name::from_static("amq.rabbitmq.reply-to.x");
        let message = Publication { route: b"\0\0", properties: b"\0\0", body: b"pong", persistent: false }
            .keep(MemoryAccount::default());
        let address = DeliveryTarget { channel: 1, slot: u32::MAX, tag: Name::from_static("t"), no_ack: true };
        outbox.lock().open_channel(1);
        replies.add(name.clone(), &outbox, address);
        assert!(replies.contains(name.as_octets()) && replies.deliver(name.as_octets(), &message, &mut flush));
        let mut octets = Vec::new();
        outbox.take_octets(&mut octets);
        assert!(octets.windows(4).any(|four| four == b"pong"));
        replies.remove(&name);
        assert!(!replies.contains(name.as_octets()) && !replies.deliver(name.as_octets(), &message, &mut flush));
    }
}
