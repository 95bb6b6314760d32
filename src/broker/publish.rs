//! Publishing for anybody: a session, and whoever else has messages. Finds the queues of a
//! publication and hands it to them; each publication is unroutable, rejected or accepted.

use crate::broker::publish_batch::{BatchOutcome, PublishBatch};
use crate::broker::replies::REPLY_PREFIX;
use crate::broker::resolve::Routed;
use crate::broker::route_cache::{CachedRoute, RouteCache};
use crate::broker::token;
use crate::broker::vhost::{NoRoute, Vhost};
use crate::message::{Message, Publication};
use crate::outbox::FlushSet;
use crate::queue::Queue;
use crate::routing::headers::Headers;
use std::sync::Arc;

/// A publisher: its cached routes, and the publications that its queues do not have yet. `T` is how
/// it knows each of them.
///
/// Each publication takes two calls: [`Publisher::route`] (or [`Publisher::route_all`]), then
/// [`Publisher::hand_over`] or [`Publisher::take_queues`].
#[derive(Debug)]
pub struct Publisher<T> {
    cache: RouteCache,
    /// Queues that were found last without the cache.
    routed: Routed,
    /// The last route is `routed`, not the cache's.
    is_uncached: bool,
    batch: PublishBatch<T>,
}

/// The parts of a publication that decide where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutedBy {
    /// Exchange and routing key: its queues are found.
    Key,
    /// Its headers too: [`Publisher::route_all`] is to find its queues.
    Headers,
}

/// The outcome of a publication as far as it is known at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// No queue gets it.
    Unroutable,
    /// Its queues get it when the batch is flushed; [`BatchOutcome`] tells whether they take it.
    Pending {
        /// The journal has to be durable before the publisher is told.
        is_journaled: bool,
    },
}

impl<T> Default for Publisher<T> {
    fn default() -> Self {
        let (cache, routed, batch) = (RouteCache::default(), Routed::default(), PublishBatch::default());
        Self { cache, routed, is_uncached: false, batch }
    }
}

impl<T: Copy> Publisher<T> {
    /// Finds where a publication with one key goes; `route` is exchange and key as two short
    /// strings.
    ///
    /// # Errors
    /// The exchange does not exist, or is internal.
    pub fn route(&mut self, vhost: &Vhost, route: &[u8], exchange: &[u8], key: &[u8]) -> Result<RoutedBy, NoRoute> {
        self.is_uncached = false;
        match self.cache.find(vhost, route, exchange, key) {
            CachedRoute::Queues(_) => Ok(RoutedBy::Key),
            CachedRoute::ByHeaders => Ok(RoutedBy::Headers),
            CachedRoute::NoExchange => Err(NoRoute::NoExchange),
            CachedRoute::Internal => Err(NoRoute::Internal),
        }
    }

    /// Finds where a publication with all these keys and headers goes.
    ///
    /// # Errors
    /// The exchange does not exist, or is internal.
    pub fn route_all(
        &mut self,
        vhost: &Vhost,
        exchange: &[u8],
        keys: &[&[u8]],
        headers: &dyn Headers,
    ) -> Result<(), NoRoute> {
        self.routed.clear();
        self.is_uncached = true;
        vhost.route_into(exchange, keys, headers, &mut self.routed)
    }

    /// Returns the number of steps that [`Publisher::route_all`] took last.
    pub fn routing_steps(&self) -> usize {
        self.routed.steps
    }

    /// Returns the queues of the publication that was routed last.
    pub fn queues(&self) -> &[Arc<Queue>] {
        if self.is_uncached { &self.routed.queues } else { self.cache.last_queues() }
    }

    /// Takes the queues of the publication that was routed last, to publish it later.
    pub fn take_queues(&mut self) -> Vec<Arc<Queue>> {
        let queues = self.queues().to_vec();
        self.cache.count(queues.len());
        self.routed.clear();
        queues
    }

    /// Adds the publication that was routed last to the batch, unless it goes to no queue; `keep`
    /// makes a message of it, and `origin` is how the publisher knows it.
    pub fn hand_over(&mut self, keep: impl FnOnce() -> Message, origin: T, flush: &mut FlushSet) -> Handed {
        let queues = if self.is_uncached { &self.routed.queues } else { self.cache.last_queues() };
        let count = queues.len();
        if count == 0 {
            self.cache.count(0);
            return Handed::Unroutable;
        }
        let is_journaled = self.batch.add(queues, keep(), origin, flush);
        self.cache.count(count);
        if self.is_uncached {
            // Not to keep deleted queues.
            self.routed.clear();
        }
        Handed::Pending { is_journaled }
    }

    /// Delivers a publication to the default exchange to the direct reply-to consumers among its
    /// keys. Returns true if it counts as routed even where it goes to no queue: there was a
    /// consumer, or (RabbitMQ since 4.2) its channel is gone.
    pub fn deliver_replies(
        &self,
        vhost: &Vhost,
        keys: &[&[u8]],
        publication: Publication<'_>,
        flush: &mut FlushSet,
    ) -> bool {
        let mut message = None;
        let mut is_routed = keys.first().is_some_and(|own| token::is_reply_name(own));
        for key in keys.iter().filter(|key| key.starts_with(REPLY_PREFIX)) {
            let message = message.get_or_insert_with(|| publication.keep(vhost.context().memory()));
            is_routed |= vhost.replies().deliver(key, message, flush);
        }
        is_routed
    }

    /// Sets whether the publisher commits the journal inline when it has flushed.
    pub fn set_inline_commit(&mut self, inline_commit: bool) {
        self.batch.set_inline_commit(inline_commit);
    }

    /// Hands all queues their messages, and returns the outcome of all publications since the last
    /// call.
    pub fn flush(&mut self, flush: &mut FlushSet) -> BatchOutcome<T> {
        self.batch.flush(flush);
        self.cache.end_batch();
        self.batch.take_outcome()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::exchanges::Bind;
    use crate::broker::headers::MessageHeaders;
    use crate::broker::queues::QueueDeclare;
    use crate::broker::routing_keys::RoutingKeys;
    use crate::memory::MemoryAccount;
    use crate::outbox::{DeliveryTarget, Outbox};
    use crate::queue::context::QueueContext;
    use crate::routing::headers::NoHeaders;
    use leveret_wire::name::Name;
    use leveret_wire::table::Table;

    fn message(body: u8) -> Message {
        Publication { route: b"\0\0", properties: b"\0\0", body: &[body], persistent: false }
            .keep(MemoryAccount::default())
    }

    fn bodies(vhost: &Vhost, queue: &[u8]) -> Vec<u8> {
        let queue = vhost.names().queue(queue).cloned().unwrap();
        std::iter::from_fn(|| queue.get(true)).map(|fetched| fetched.message.body()[0]).collect()
    }

    /// Somebody without a connection, a channel or a tag gets an outcome for each message.
    #[test]
    fn each_publication_is_unroutable_rejected_or_accepted() {
        let vhost = Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()));
        for name in [&b"full"[..], b"large"] {
            let arguments = Table::empty();
            let declare = QueueDeclare { name, durable: false, exclusive: false, auto_delete: false, arguments };
            vhost.declare_queue(declare, 1).unwrap();
        }
        vhost.names().queue(b"full").unwrap().limit_length(2);
        let (mut publisher, mut flush) = (Publisher::default(), FlushSet::default());
        for number in 0..5 {
            let pending = Handed::Pending { is_journaled: false };
            assert_eq!(publisher.route(&vhost, b"\0\x04full", b"", b"full"), Ok(RoutedBy::Key));
            assert_eq!(publisher.hand_over(|| message(number), ("one", number), &mut flush), pending);
            assert_eq!(publisher.route_all(&vhost, b"", &[b"large", b"full"], &NoHeaders), Ok(()));
            assert_eq!(publisher.hand_over(|| message(number), ("both", number), &mut flush), pending);
            assert_eq!(publisher.route(&vhost, b"\0\x04none", b"", b"none"), Ok(RoutedBy::Key));
            assert_eq!(publisher.hand_over(|| panic!(), ("none", number), &mut flush), Handed::Unroutable);
        }
        assert_eq!(publisher.route(&vhost, b"\x01x\0", b"x", b""), Err(NoRoute::NoExchange));
        let BatchOutcome { index, mut rejected } = publisher.flush(&mut flush);
        rejected.sort_by_key(|(whose, number)| (*number, *whose != "one"));
        let expected: Vec<_> = (1..5).flat_map(|number| [("one", number), ("both", number)]).collect();
        assert_eq!((index, rejected), (None, expected));
        assert_eq!((bodies(&vhost, b"full"), bodies(&vhost, b"large")), (vec![0, 0], vec![0, 1, 2, 3, 4]));
        assert_eq!(publisher.flush(&mut flush), BatchOutcome::default());
    }

    /// Keys that headers add, an exchange that looks at headers, and replies are no matter of a
    /// session.
    #[test]
    fn keys_of_headers_headers_and_replies_need_no_session() {
        let vhost = Vhost::new(Name::from_static("/"), Arc::new(QueueContext::default()));
        for name in [&b"a"[..], b"b", b"c"] {
            let arguments = Table::empty();
            let declare = QueueDeclare { name, durable: false, exclusive: false, auto_delete: false, arguments };
            vhost.declare_queue(declare, 1).unwrap();
        }
        let arguments = Table::check(b"\x01nI\0\0\0\x07").unwrap();
        let (destination, key) = (&b"c"[..], &b""[..]);
        vhost.bind(Bind { source: b"amq.headers", destination, to_queue: true, key, arguments }, 1).unwrap();
        let (mut publisher, mut flush) = (Publisher::default(), FlushSet::default());
        let headers = Table::check(b"\x02CCA\0\0\0\x06S\0\0\0\x01b\x01nI\0\0\0\x07").unwrap();
        let keys = RoutingKeys::new(b"a", Some(headers)).unwrap();
        for (exchange, number) in [(&b""[..], 1), (b"amq.headers", 2)] {
            publisher.route_all(&vhost, exchange, keys.as_slice(), &MessageHeaders::new(headers)).unwrap();
            publisher.hand_over(|| message(number), (), &mut flush);
        }
        publisher.flush(&mut flush);
        let found = [&b"a"[..], b"b", b"c"].map(|queue| bodies(&vhost, queue));
        assert_eq!(found, [vec![1], vec![1], vec![2]]);

        let (outbox, name) = (Arc::new(Outbox::default()), token::reply_name());
        outbox.lock().open_channel(1);
        let target = DeliveryTarget { channel: 1, slot: u32::MAX, tag: Name::from_static("t"), no_ack: true };
        vhost.replies().add(name.clone(), &outbox, target);
        let (reply, mut heard) = (message(9), Vec::new());
        let gone = token::reply_name();
        for (keys, is_routed, is_heard) in [
            (&[name.as_octets()][..], true, true),
            (&[b"other", name.as_octets()], true, true),
            (&[gone.as_octets()], true, false),
            (&[b"other", gone.as_octets()], false, false),
        ] {
            assert_eq!(publisher.deliver_replies(&vhost, keys, reply.publication(), &mut flush), is_routed);
            heard.clear();
            outbox.take_octets(&mut heard);
            assert_eq!(!heard.is_empty(), is_heard);
        }
    }
}
