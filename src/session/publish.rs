//! basic.publish: checks, route, and into the batch (AMQP 0-9-1, 1.8.3.7; RabbitMQ's confirms, CC and BCC, direct
//! reply-to, user-id). It takes no queue's lock.

use crate::broker::access::User;
use crate::broker::headers::MessageHeaders;
use crate::broker::replies::{REPLY_PREFIX, REPLY_TO};
use crate::broker::resource::Text;
use crate::broker::token;
use crate::broker::vhost::Route;
use crate::limits;
use crate::message::Publication;
use crate::outbox::Touched;
use crate::queue::Queue;
use crate::routing::headers::Headers;
use crate::session::channel::{Channel, Mode, Pending};
use crate::session::content::{Partial, Subject};
use crate::session::routes::Known;
use crate::session::running::Running;
use crate::wire::encode_content::Content;
use crate::wire::fault::{Code, Fault};
use crate::wire::method::Publish;
use crate::wire::properties::{self, Properties};
use crate::wire::table::{Table, Value};
use std::sync::Arc;

impl Running {
    /// A publish whose content came frame by frame.
    pub(super) fn publish_assembled(
        &mut self,
        number: u16,
        content: &Partial,
        touched: &mut Touched,
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
        self.publish(number, &publish, properties, &content.body, content.size, touched)
    }

    /// A whole publish.
    ///
    /// # Errors
    /// 540 immediate; 406 too large, bad expiration, bad CC or BCC, another's user-id, no reply consumer; 404 no such
    /// exchange; 403 internal exchange.
    pub(super) fn publish(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        size: u64,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        self.is_publisher = true;
        if publish.immediate {
            return Err(Fault::new(Code::NotImplemented, "immediate=true"));
        }
        let max = self.node.config().max_message_size;
        if size > max {
            let text = format_args!("message size {size} is larger than configured max size {max}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let persistent = properties.is_persistent();
        let publication = Publication { route: publish.route, properties: properties.octets(), body, persistent };
        let is_reply = publish.exchange.is_empty() && publish.routing_key.starts_with(REPLY_PREFIX);
        if is_reply || redirects(properties) {
            return self.publish_checked(number, publish, properties, publication, touched);
        }
        self.publish_plain(number, publish, properties, publication, touched)
    }

    /// The common case: nothing in the properties sends the message elsewhere, and the route may be cached.
    fn publish_plain(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        publication: Publication<'_>,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        let Self { routes, vhost, batch, channels, user, .. } = self;
        let Some(channel) = channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut) else { return Ok(()) };
        let queues = match routes.find(vhost, publish.route, publish.exchange, publish.routing_key) {
            Known::NoExchange => return Err(vhost.no_exchange(publish.exchange)),
            Known::Internal => return Err(internal(vhost.exchange_words(publish.exchange))),
            Known::ByHeaders => return self.publish_checked(number, publish, properties, publication, touched),
            Known::Queues(queues) => queues,
        };
        if !properties.is_plain() {
            check_expiration(properties)?;
            check_user_id(user, properties)?;
        }
        if queues.is_empty() || matches!(channel.mode, Mode::Transaction(_)) {
            let queues = queues.to_vec();
            self.dispatch(number, publish, publication, queues, touched);
            return Ok(());
        }
        let waits = batch.runs.add(queues, publication.keep(queues.len()), touched);
        if let Mode::Confirm(confirms) = &mut channel.mode {
            confirms.published();
            batch.confirm(number, waits);
        }
        Ok(())
    }

    /// A message whose way its properties decide, or one that goes to a reply consumer.
    fn publish_checked(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        publication: Publication<'_>,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        let headers = properties.headers();
        // The exchange comes first: its absence is the fault that a client sees.
        let known = match self.routes.find(&self.vhost, publish.route, publish.exchange, publish.routing_key) {
            Known::NoExchange => return Err(self.vhost.no_exchange(publish.exchange)),
            Known::Internal => return Err(internal(self.vhost.exchange_words(publish.exchange))),
            known => known.clone(),
        };
        let mut rewritten = self.answer_address(number, properties)?;
        check_expiration(properties)?;
        let (only, mut more) = ([publish.routing_key], Vec::new());
        if let Some(headers) = headers.filter(|headers| names_keys(*headers)) {
            more.push(publish.routing_key);
            for name in ["CC", "BCC"] {
                add_keys(headers, name, &mut more)?;
            }
            if headers.get(b"BCC").is_some() {
                let kept = properties::headers_without(headers, b"BCC");
                let octets = rewritten.as_deref().unwrap_or(properties.octets());
                rewritten = Some(Properties::from_checked(octets).with_headers(Some(&kept)));
            }
        }
        check_user_id(&self.user, properties)?;
        let keys = if more.is_empty() { &only[..] } else { &more };
        let queues = match known {
            // Headers without further keys lead nowhere else.
            Known::Queues(queues) if keys.len() == 1 => queues.to_vec(),
            _ => self.route(publish, keys, &MessageHeaders::new(headers.unwrap_or(Table::empty())))?,
        };
        let properties = rewritten.as_deref().unwrap_or(publication.properties);
        let publication = Publication { properties, ..publication };
        let replied = publish.exchange.is_empty() && self.deliver_replies(keys, publication, touched);
        // A name that was given out once counts as routed, even if nobody waits any more (RabbitMQ since 4.2).
        let replied = replied || publish.exchange.is_empty() && token::is_reply_name(publish.routing_key);
        if replied && queues.is_empty() {
            self.confirm(number, false);
            return Ok(());
        }
        self.dispatch(number, publish, publication, queues, touched);
        Ok(())
    }

    fn route(&self, publish: &Publish<'_>, keys: &[&[u8]], headers: &dyn Headers) -> Result<Vec<Arc<Queue>>, Fault> {
        match self.vhost.route(publish.exchange, keys, headers) {
            Route::NoExchange => Err(self.vhost.no_exchange(publish.exchange)),
            Route::Internal => Err(internal(self.vhost.exchange_words(publish.exchange))),
            Route::Queues(queues) => Ok(queues.to_vec()),
            Route::ByHeaders(queues) => Ok(queues),
        }
    }

    /// Into the queues, or back to the client, or kept for tx.commit.
    pub(super) fn dispatch(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        publication: Publication<'_>,
        queues: Vec<Arc<Queue>>,
        touched: &mut Touched,
    ) {
        if let Some(Channel { mode: Mode::Transaction(transaction), .. }) = self.channel(number) {
            let message = publication.keep(queues.len());
            let pending = Pending { message, queues, mandatory: publish.mandatory };
            let charge = pending.charge();
            transaction.publications.push(pending);
            self.node.counters().book_memory(0, charge);
            return;
        }
        let mut waits = false;
        if queues.is_empty() {
            if publish.mandatory {
                self.give_back(number, publication, touched);
            }
        } else {
            waits = self.batch.runs.add(&queues, publication.keep(queues.len()), touched);
        }
        self.confirm(number, waits);
    }

    /// basic.return with 312: it goes out before the confirm.
    pub(super) fn give_back(&mut self, number: u16, publication: Publication<'_>, touched: &mut Touched) {
        let Publication { route, properties, body, .. } = publication;
        let mut inner = self.outbox.lock();
        let (code, text) = (Code::NoRoute.number(), Code::NoRoute.name().as_bytes());
        inner.give_back(number, code, text, Content { route, properties, body });
        touched.add(&self.outbox, &mut inner);
    }

    fn confirm(&mut self, number: u16, waits: bool) {
        if let Some(Channel { mode: Mode::Confirm(confirms), .. }) = self.channel(number) {
            confirms.published();
            self.batch.confirm(number, waits);
        }
    }

    /// Hands a message to those who wait for replies. True: somebody does.
    fn deliver_replies(&mut self, keys: &[&[u8]], publication: Publication<'_>, touched: &mut Touched) -> bool {
        let mut message = None;
        let mut any = false;
        for key in keys.iter().filter(|key| key.starts_with(REPLY_PREFIX)) {
            let message = message.get_or_insert_with(|| publication.keep(1));
            any |= self.vhost.replies().deliver(key, message, touched);
        }
        any
    }

    /// Replaces the reply-to that stands for this channel's reply consumer by that consumer's name.
    fn answer_address(&mut self, number: u16, properties: Properties<'_>) -> Result<Option<Vec<u8>>, Fault> {
        if properties.reply_to() != Some(REPLY_TO) {
            return Ok(None);
        }
        match self.channel(number).and_then(|channel| channel.reply.as_ref()) {
            Some(reply) => Ok(Some(properties.with_reply_to(reply.name.as_octets()))),
            None => Err(Fault::new(Code::PreconditionFailed, "fast reply consumer does not exist")),
        }
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

/// Whether the properties of a message may send it elsewhere than its routing key does, or are to be rewritten.
fn redirects(properties: Properties<'_>) -> bool {
    !properties.is_plain() && (properties.reply_to() == Some(REPLY_TO) || properties.headers().is_some_and(names_keys))
}

/// Whether headers hold further routing keys.
fn names_keys(headers: Table<'_>) -> bool {
    headers.iter().any(|(name, _)| matches!(name, b"CC" | b"BCC"))
}

fn internal(exchange: impl std::fmt::Display) -> Fault {
    Fault::new(Code::AccessRefused, format_args!("cannot publish to internal {exchange}"))
}

/// Sender-selected distribution: further routing keys in a header (RabbitMQ's `CC` and `BCC`).
fn add_keys<'a>(headers: Table<'a>, name: &str, keys: &mut Vec<&'a [u8]>) -> Result<(), Fault> {
    match headers.get(name.as_bytes()) {
        None => Ok(()),
        Some(Value::Array(array)) => {
            // Elements of other types are passed over, as in RabbitMQ.
            keys.extend(array.iter().filter_map(|value| value.as_long_str()));
            Ok(())
        }
        Some(other) => {
            let kind = other.type_name();
            let text = format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
            Err(Fault::new(Code::PreconditionFailed, text))
        }
    }
}

/// A message's time to live: a whole number of milliseconds, as text.
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
        // More digits than fit are too large as well.
        _ => refuse(&format!("{{value_too_large,{number}}}")),
    }
}
