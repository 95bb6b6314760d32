//! basic.publish: what is checked of a client's publication before `broker::publish` has it, and
//! what the client is told (AMQP 0-9-1, 1.8.3.7; RabbitMQ's confirms, direct reply-to, user-id).

use crate::broker::access::User;
use crate::broker::headers::MessageHeaders;
use crate::broker::publish::{Handed, Publisher, RoutedBy};
use crate::broker::publish_batch::BatchOutcome;
use crate::broker::replies::{REPLY_PREFIX, REPLY_TO};
use crate::broker::resource::Text;
use crate::broker::routing_keys::{self, RoutingKeys};
use crate::broker::vhost::NoRoute;
use crate::limits;
use crate::message::Publication;
use crate::outbox::FlushSet;
use crate::session::channel::{Channel, ChannelMode};
use crate::session::confirming::Confirming;
use crate::session::confirms::ConfirmTag;
use crate::session::content::{Partial, Subject};
use crate::session::turn::Turn;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::method::Publish;
use leveret_wire::properties::Properties;
use leveret_wire::table::Table;

/// The publishing half of a connection: its route cache and its pending publications.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    publisher: Publisher<ConfirmTag>,
}

/// Properties and body of a publication.
#[derive(Clone, Copy)]
pub(super) struct PublishContent<'a> {
    pub(super) properties: Properties<'a>,
    pub(super) body: &'a [u8],
    /// The body's octets as given in the header; `body` is empty if they are too many.
    pub(super) size: u64,
}

/// The channel that publishes, and the connection's pending confirms.
pub(super) struct PublishingChannel<'a> {
    pub(super) number: u16,
    pub(super) channel: &'a mut Channel,
    pub(super) confirming: &'a mut Confirming,
}

impl PublishingChannel<'_> {
    /// Returns how the next publication is to be confirmed.
    fn next_tag(&self) -> ConfirmTag {
        let number = if let ChannelMode::Confirm(confirms) = &self.channel.mode { confirms.next_number() } else { 0 };
        ConfirmTag { channel: self.number, number }
    }

    /// Counts a publication if the channel is in confirm mode; `waits` is whether its confirm waits
    /// for the journal.
    fn confirm(&mut self, waits: bool) {
        if let ChannelMode::Confirm(confirms) = &mut self.channel.mode {
            confirms.published();
            self.confirming.note_published(self.number, waits);
        }
    }
}

impl Publishing {
    /// Sets whether the driver commits inline at the end of the read batch.
    pub(super) fn set_inline_commit(&mut self, inline_commit: bool) {
        self.publisher.set_inline_commit(inline_commit);
    }

    /// Ends a read batch: hands the queues their messages, and returns what became of them.
    pub(super) fn end_batch(&mut self, flush: &mut FlushSet) -> BatchOutcome<ConfirmTag> {
        self.publisher.flush(flush)
    }

    /// Publishes a message whose content came frame by frame.
    ///
    /// # Errors
    /// As those of [`Publishing::publish`].
    pub(super) fn publish_assembled(
        &mut self,
        publisher: PublishingChannel<'_>,
        content: &Partial,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let Subject::Publish { route, key_at, mandatory, immediate } = &content.subject else { return Ok(()) };
        let publish = Publish {
            exchange: route.get(1..*key_at).unwrap_or_default(),
            routing_key: route.get(key_at + 1..).unwrap_or_default(),
            route,
            mandatory: *mandatory,
            immediate: *immediate,
        };
        let properties = Properties::from_checked(&content.properties);
        let content = PublishContent { properties, body: &content.body, size: content.size };
        self.publish(publisher, &publish, content, turn)
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// 540 for `immediate`; 406 for a body that is too large, a bad expiration, a bad CC or BCC,
    /// another user's user-id, or a reply-to without a reply consumer; 404 for no such exchange;
    /// 403 for an internal exchange.
    pub(super) fn publish(
        &mut self,
        publisher: PublishingChannel<'_>,
        publish: &Publish<'_>,
        content: PublishContent<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        if publish.immediate {
            return Err(Fault::new(Code::NotImplemented, "immediate=true"));
        }
        let PublishContent { properties, body, size } = content;
        let max = turn.node.config().max_message_size;
        if size > max {
            let text = format_args!("message size {size} is larger than configured max size {max}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        // The exchange comes first: its absence is the fault that a client sees.
        let routed = self.publisher.route(turn.vhost, publish.route, publish.exchange, publish.routing_key);
        let routed_by = routed.map_err(|reason| no_route(reason, publish, turn))?;
        let persistent = properties.is_persistent();
        let publication = Publication { route: publish.route, properties: properties.octets(), body, persistent };
        let is_reply = publish.exchange.is_empty() && publish.routing_key.starts_with(REPLY_PREFIX);
        if routed_by == RoutedBy::Headers || is_reply || redirects(properties) {
            return self.publish_checked(publisher, publish, publication, routed_by, turn);
        }
        if !properties.is_plain() {
            check_expiration(properties)?;
            check_user_id(turn.user, properties)?;
        }
        self.enqueue(publisher, publish.mandatory, publication, turn)
    }

    /// Publishes a message whose properties add routing keys, or one to a direct reply-to consumer.
    fn publish_checked(
        &mut self,
        mut publisher: PublishingChannel<'_>,
        publish: &Publish<'_>,
        publication: Publication<'_>,
        routed_by: RoutedBy,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        let properties = Properties::from_checked(publication.properties);
        let headers = properties.headers();
        let mut rewritten = answer_address(publisher.channel, properties)?;
        check_expiration(properties)?;
        let keys = RoutingKeys::new(publish.routing_key, headers)?;
        let octets = rewritten.as_deref().unwrap_or(properties.octets());
        rewritten = keys.without_bcc(Properties::from_checked(octets)).or(rewritten);
        check_user_id(turn.user, properties)?;
        let keys = keys.as_slice();
        // By its key alone its queues are found.
        if routed_by == RoutedBy::Headers || keys.len() > 1 {
            let headers = MessageHeaders::new(headers.unwrap_or(Table::empty()));
            let routed = self.publisher.route_all(turn.vhost, publish.exchange, keys, &headers);
            turn.spend(self.publisher.routing_steps() / limits::ROUTING_STEPS);
            routed.map_err(|reason| no_route(reason, publish, turn))?;
        }
        let properties = rewritten.as_deref().unwrap_or(publication.properties);
        let publication = Publication { properties, ..publication };
        let replied =
            publish.exchange.is_empty() && self.publisher.deliver_replies(turn.vhost, keys, publication, turn.flush);
        if replied && self.publisher.queues().is_empty() {
            publisher.channel.stats.published.add(1);
            publisher.confirm(false);
            return Ok(());
        }
        self.enqueue(publisher, publish.mandatory, publication, turn)
    }

    /// Adds the message that was routed last to the read batch or to the channel's transaction;
    /// without a queue it is returned to the client, if `mandatory`.
    fn enqueue(
        &mut self,
        mut from: PublishingChannel<'_>,
        mandatory: bool,
        publication: Publication<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Fault> {
        turn.spend(self.publisher.queues().len());
        from.channel.stats.published.add(1);
        let account = turn.memory();
        if let ChannelMode::Transaction(transaction) = &mut from.channel.mode {
            let message = publication.keep(account);
            return transaction.publish(message, self.publisher.take_queues(), mandatory, turn);
        }
        let handed = self.publisher.hand_over(|| publication.keep(account), from.next_tag(), turn.flush);
        if handed == Handed::Unroutable && mandatory {
            turn.return_unroutable(from.number, publication);
        }
        from.confirm(handed == Handed::Pending { is_journaled: true });
        Ok(())
    }
}

/// Returns the fault of a publication to an exchange that takes none.
fn no_route(reason: NoRoute, publish: &Publish<'_>, turn: &Turn<'_>) -> Fault {
    match reason {
        NoRoute::NoExchange => turn.vhost.no_exchange(publish.exchange),
        NoRoute::Internal => internal(turn.vhost.describe_exchange(publish.exchange)),
    }
}

/// Returns properties in which the reply-to `amq.rabbitmq.reply-to` is replaced by the channel's
/// reply name.
fn answer_address(channel: &Channel, properties: Properties<'_>) -> Result<Option<Vec<u8>>, Fault> {
    if properties.reply_to() != Some(REPLY_TO) {
        return Ok(None);
    }
    match channel.consuming.reply_name() {
        Some(name) => Ok(Some(properties.with_reply_to(name.as_octets()))),
        None => Err(Fault::new(Code::PreconditionFailed, "fast reply consumer does not exist")),
    }
}

fn check_user_id(user: &User, properties: Properties<'_>) -> Result<(), Fault> {
    match properties.user_id() {
        Some(claimed) if claimed != user.name.as_bytes() && !user.impersonator => {
            let (claimed, actual) = (String::from_utf8_lossy(claimed), &user.name);
            let text = format_args!("user_id property set to '{claimed}' but authenticated user was '{actual}'");
            Err(Fault::new(Code::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}

/// Returns true if properties may add routing keys, or hold a reply-to to be replaced.
fn redirects(properties: Properties<'_>) -> bool {
    !properties.is_plain()
        && (properties.reply_to() == Some(REPLY_TO) || properties.headers().is_some_and(routing_keys::add_keys))
}

fn internal(exchange: impl std::fmt::Display) -> Fault {
    Fault::new(Code::AccessRefused, format_args!("cannot publish to internal {exchange}"))
}

/// Checks a message's expiration: a whole number of milliseconds, as text.
fn check_expiration(properties: Properties<'_>) -> Result<(), Fault> {
    let Some(expiration) = properties.expiration() else { return Ok(()) };
    let refuse = |why: &str| {
        let expiration = Text(expiration);
        Err(Fault::new(Code::PreconditionFailed, format_args!("invalid expiration '{expiration}': {why}")))
    };
    let sign = usize::from(matches!(expiration.first(), Some(b'+' | b'-')));
    let digits = expiration.iter().skip(sign).take_while(|octet| octet.is_ascii_digit()).count();
    let (number, rest) = expiration.split_at(sign + digits);
    let number = std::str::from_utf8(number).unwrap_or_default();
    match number.parse::<i64>() {
        _ if digits == 0 => refuse("no_integer"),
        _ if !rest.is_empty() => refuse(&format!("{{leftover_string,\"{}\"}}", Text(rest))),
        Ok(ms) if ms < 0 => refuse(&format!("{{value_negative,{ms}}}")),
        Ok(ms) if ms <= limits::EXPIRY_MAX_MS => Ok(()),
        // A number that does not parse has too many digits.
        _ => refuse(&format!("{{value_too_large,{number}}}")),
    }
}
