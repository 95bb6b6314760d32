//! Who waits for replies on `amq.rabbitmq.reply-to` (RabbitMQ's direct reply-to): a name per waiting channel, no queue.

use crate::message::Message;
use crate::outbox::{Address, Outbox, Touched};
use crate::wire::name::Name;
use hashbrown::HashMap;
use parking_lot::RwLock;
use std::sync::Arc;

/// What a client consumes, and what it may put into `reply-to`.
pub const REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to";
/// What the names of waiting channels begin with.
pub const REPLY_PREFIX: &[u8] = b"amq.rabbitmq.reply-to.";

/// The waiting channels of a virtual host. Lock order: this, then an outbox.
#[derive(Debug, Default)]
pub struct Replies(RwLock<HashMap<Name, Waiting>>);

#[derive(Debug)]
struct Waiting {
    outbox: Arc<Outbox>,
    address: Address,
}

impl Replies {
    /// A channel waits under `name`.
    pub fn add(&self, name: Name, outbox: &Arc<Outbox>, address: Address) {
        self.0.write().insert(name, Waiting { outbox: Arc::clone(outbox), address });
    }

    /// It waits no more.
    pub fn remove(&self, name: &Name) {
        self.0.write().remove(name.as_octets());
    }

    /// Whether a channel waits under `name`.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.read().contains_key(name)
    }

    /// Hands a reply to the channel that waits under `name`. False: nobody does.
    pub fn deliver(&self, name: &[u8], message: &Message, touched: &mut Touched) -> bool {
        // The lock is held until the reply is handed over: its channel could else be closed, and another one have its number.
        let waiting = self.0.read();
        let Some(waiting) = waiting.get(name) else { return false };
        let mut inner = waiting.outbox.lock();
        if !inner.deliver_reply(&waiting.address, message) {
            tracing::warn!(reply_to = %String::from_utf8_lossy(name), "reply dropped: the client does not read");
            return true;
        }
        touched.add(&waiting.outbox, &mut inner);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;

    #[test]
    fn a_reply_reaches_its_channel_until_that_waits_no_more() {
        let (replies, outbox, mut touched) = (Replies::default(), Arc::new(Outbox::default()), Touched::default());
        let name = Name::from_static("amq.rabbitmq.reply-to.x");
        let message = Publication { route: b"\0\0", properties: b"\0\0", body: b"pong", persistent: false }.keep(1);
        let address = Address { channel: 1, slot: u32::MAX, tag: Name::from_static("t"), no_ack: true };
        outbox.lock().open_channel(1);
        replies.add(name.clone(), &outbox, address);
        assert!(replies.contains(name.as_octets()) && replies.deliver(name.as_octets(), &message, &mut touched));
        let mut octets = Vec::new();
        outbox.take(&mut octets);
        assert!(octets.windows(4).any(|four| four == b"pong"));
        replies.remove(&name);
        assert!(!replies.contains(name.as_octets()) && !replies.deliver(name.as_octets(), &message, &mut touched));
    }
}
