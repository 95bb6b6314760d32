//! The content header: class, body size and properties as raw octets.
//!
//! Properties are never parsed into a struct: a getter walks to the one it wants, and a rewrite
//! copies what is around it. So header order, duplicates and odd types reach the consumer bit for
//! bit.

use std::ops::Range;

use crate::fault::{Code, Fault};
use crate::frame::{self, FrameKind};
use crate::limits::BODY_SIZE_MAX;
use crate::method_id::{BASIC, BASIC_PUBLISH};
use crate::table::Table;
use crate::table_builder::{put_long_string, put_short_string};

/// How a property's value lies on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Octet,
    Timestamp,
    ShortString,
    Table,
}

/// One of the 14 properties of class basic: its flag and the form of its value (AMQP 0-9-1 section
/// 4.2.6.1).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Property(u16, Form);

const CONTENT_TYPE: Property = Property(1 << 15, Form::ShortString);
const CONTENT_ENCODING: Property = Property(1 << 14, Form::ShortString);
const HEADERS: Property = Property(1 << 13, Form::Table);
const DELIVERY_MODE: Property = Property(1 << 12, Form::Octet);
const PRIORITY: Property = Property(1 << 11, Form::Octet);
const CORRELATION_ID: Property = Property(1 << 10, Form::ShortString);
const REPLY_TO: Property = Property(1 << 9, Form::ShortString);
const EXPIRATION: Property = Property(1 << 8, Form::ShortString);
const MESSAGE_ID: Property = Property(1 << 7, Form::ShortString);
const TIMESTAMP: Property = Property(1 << 6, Form::Timestamp);
const KIND: Property = Property(1 << 5, Form::ShortString);
const USER_ID: Property = Property(1 << 4, Form::ShortString);
const APP_ID: Property = Property(1 << 3, Form::ShortString);
const CLUSTER_ID: Property = Property(1 << 2, Form::ShortString);

/// All properties, in the order of their values on the wire.
const IN_ORDER: [Property; 14] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    HEADERS,
    DELIVERY_MODE,
    PRIORITY,
    CORRELATION_ID,
    REPLY_TO,
    EXPIRATION,
    MESSAGE_ID,
    TIMESTAMP,
    KIND,
    USER_ID,
    APP_ID,
    CLUSTER_ID,
];

/// Bit 0 of a flags word says that another one follows; bit 1 means nothing and is let pass, as
/// RabbitMQ does.
const CONTINUED: u16 = 1;

/// The properties of a content: flags and values as they came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// Walks all octets once.
    ///
    /// # Errors
    /// 541 `INTERNAL_ERROR`, as RabbitMQ, if they are truncated or too many, set a flag that has no
    /// property, or hold a bad table.
    pub fn check(octets: &'a [u8]) -> Result<Properties<'a>, Fault> {
        if has_only_fixed_sizes(octets) {
            return Ok(Properties(octets));
        }
        let malformed = || Fault::bare(Code::InternalError);
        let start = values_start(octets).ok_or_else(malformed)?;
        let properties = Properties(octets);
        let mut rest = octets.get(start..).unwrap_or_default();
        for property in IN_ORDER.into_iter().filter(|property| properties.has(*property)) {
            let (value, after) = property.1.split(rest).ok_or_else(malformed)?;
            if property == HEADERS {
                Table::check(value).map_err(|_| malformed())?;
            }
            rest = after;
        }
        if rest.is_empty() { Ok(properties) } else { Err(malformed()) }
    }

    /// Octets that passed [`Properties::check`] before. On others getters find nothing, none
    /// panics.
    pub fn from_checked(octets: &'a [u8]) -> Properties<'a> {
        Properties(octets)
    }

    /// Returns true if nothing in them concerns the broker: no headers, reply-to, expiration or
    /// user-id.
    pub fn is_plain(&self) -> bool {
        [HEADERS, REPLY_TO, EXPIRATION, USER_ID].into_iter().all(|property| !self.has(property))
    }

    /// Flags and values.
    pub fn octets(&self) -> &'a [u8] {
        self.0
    }

    /// MIME content type.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.value(CONTENT_TYPE)
    }

    /// MIME content encoding.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.value(CONTENT_ENCODING)
    }

    /// The headers.
    pub fn headers(&self) -> Option<Table<'a>> {
        self.value(HEADERS).map(Table::from_checked)
    }

    /// 1 is transient, 2 is persistent.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.value(DELIVERY_MODE)?.first().copied()
    }

    /// Message priority.
    pub fn priority(&self) -> Option<u8> {
        self.value(PRIORITY)?.first().copied()
    }

    /// Application correlation id.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.value(CORRELATION_ID)
    }

    /// Address to reply to.
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.value(REPLY_TO)
    }

    /// Time to live as decimal milliseconds; not checked here.
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.value(EXPIRATION)
    }

    /// Application message id.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.value(MESSAGE_ID)
    }

    /// Seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        self.value(TIMESTAMP)?.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// Message type name; `type` on the wire.
    pub fn kind(&self) -> Option<&'a [u8]> {
        self.value(KIND)
    }

    /// Creating user id.
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.value(USER_ID)
    }

    /// Creating application id.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.value(APP_ID)
    }

    /// Deprecated cluster id.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.value(CLUSTER_ID)
    }

    /// Returns true if the delivery mode is 2.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode() == Some(2)
    }

    /// The same with another reply-to, cut at 255 octets.
    pub fn with_reply_to(&self, reply_to: &[u8]) -> Vec<u8> {
        self.with(REPLY_TO, Some(reply_to))
    }

    /// The same without an expiration.
    pub fn without_expiration(&self) -> Vec<u8> {
        self.with(EXPIRATION, None)
    }

    /// The same with other headers (the octets of a table without its length), or without any.
    pub fn with_headers(&self, headers: Option<&[u8]>) -> Vec<u8> {
        self.with(HEADERS, headers)
    }

    fn with(&self, property: Property, value: Option<&[u8]>) -> Vec<u8> {
        let Property(flag, form) = property;
        let place = self.place(property);
        let (before, after) = (self.0.get(..place.start), self.0.get(place.end..));
        let flags = match value {
            Some(_) => self.flags() | flag,
            None => self.flags() & !flag,
        };
        let mut out = Vec::with_capacity(self.0.len() + value.map_or(0, <[u8]>::len) + size_of::<u64>());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(before.and_then(|before| before.get(2..)).unwrap_or_default());
        value.inspect(|value| form.put(&mut out, value));
        out.extend_from_slice(after.unwrap_or_default());
        out
    }

    fn flags(&self) -> u16 {
        self.0.first_chunk().copied().map_or(0, u16::from_be_bytes)
    }

    fn has(&self, property: Property) -> bool {
        self.flags() & property.0 != 0
    }

    /// The value, without a length in front.
    fn value(&self, property: Property) -> Option<&'a [u8]> {
        if !self.has(property) {
            return None;
        }
        let place = self.0.get(self.place(property))?;
        property.1.split(place).map(|(value, _)| value)
    }

    /// Where the value lies, its length included; empty, where it would lie, if there is none.
    fn place(&self, property: Property) -> Range<usize> {
        let mut rest = values_start(self.0).and_then(|start| self.0.get(start..)).unwrap_or_default();
        let offset = |rest: &[u8]| self.0.len() - rest.len();
        for earlier in IN_ORDER.into_iter().take_while(|earlier| *earlier != property) {
            if self.has(earlier) {
                rest = earlier.1.split(rest).map_or(&[][..], |(_, after)| after);
            }
        }
        let start = offset(rest);
        if self.has(property) {
            rest = property.1.split(rest).map_or(&[][..], |(_, after)| after);
        }
        start..offset(rest)
    }
}

impl Form {
    /// Parts the first value, without its length, from what follows.
    fn split(self, octets: &[u8]) -> Option<(&[u8], &[u8])> {
        let (size, values) = match self {
            Form::Octet => (1, octets),
            Form::Timestamp => (size_of::<u64>(), octets),
            Form::ShortString => octets.split_first().map(|(size, rest)| ((*size).into(), rest))?,
            Form::Table => octets.split_first_chunk().map(|(size, rest)| (u32::from_be_bytes(*size) as usize, rest))?,
        };
        values.split_at_checked(size)
    }

    fn put(self, out: &mut Vec<u8>, value: &[u8]) {
        match self {
            Form::Octet | Form::Timestamp => out.extend_from_slice(value),
            Form::ShortString => put_short_string(out, value),
            Form::Table => put_long_string(out, value),
        }
    }
}

/// The cheap way for the most frequent properties: delivery mode, priority, timestamp, or none.
fn has_only_fixed_sizes(octets: &[u8]) -> bool {
    const FIXED: u16 = DELIVERY_MODE.0 | PRIORITY.0 | TIMESTAMP.0;
    let Some((&flags, values)) = octets.split_first_chunk() else { return false };
    let flags = u16::from_be_bytes(flags);
    let size = (flags & (DELIVERY_MODE.0 | PRIORITY.0)).count_ones() + 8 * (flags & TIMESTAMP.0).count_ones();
    flags & !FIXED == 0 && values.len() == size as usize
}

/// Where the values begin: behind the one flags word that 14 properties need.
fn values_start(octets: &[u8]) -> Option<usize> {
    let first = octets.first_chunk::<2>()?;
    (u16::from_be_bytes(*first) & CONTINUED == 0).then_some(2)
}

/// A content header: what comes between a publish and its body (AMQP 0-9-1 section 4.2.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentHead<'a> {
    /// The class; always basic, as only its methods carry content.
    pub class: u16,
    /// Unused, always 0.
    pub weight: u16,
    /// Octets of the body.
    pub body_size: u64,
    /// The properties, checked.
    pub properties: Properties<'a>,
}

/// Parses the payload of a header frame that follows a publish.
///
/// # Errors
/// 501 if it is too short or announces a body above [`BODY_SIZE_MAX`], 505 if it is of another
/// class or has a weight, 502 if the properties are bad.
#[inline]
pub fn content_head(payload: &[u8]) -> Result<ContentHead<'_>, Fault> {
    let Some((&[c1, c2, w1, w2], rest)) = payload.split_first_chunk() else {
        return Err(frame::unknown_frame(FrameKind::Header, payload));
    };
    let Some((&size, properties)) = rest.split_first_chunk() else {
        return Err(frame::unknown_frame(FrameKind::Header, payload));
    };
    let (class, weight) = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([w1, w2]));
    let body_size = u64::from_be_bytes(size);
    if class != BASIC || weight != 0 || body_size > BODY_SIZE_MAX {
        return Err(unfit(class, weight, body_size));
    }
    Ok(ContentHead { class, weight, body_size, properties: Properties::check(properties)? })
}

#[cold]
fn unfit(class: u16, weight: u16, body_size: u64) -> Fault {
    let fault = if weight != 0 {
        let explanation = format!("expected content header for class {BASIC}, got non content header frame instead");
        Fault::new(Code::UnexpectedFrame, explanation)
    } else if class != BASIC {
        let explanation = format!("expected content header for class {BASIC}, got one for class {class} instead");
        Fault::new(Code::UnexpectedFrame, explanation)
    } else {
        let explanation = format!("content body size {body_size} exceeds maximum allowed size {BODY_SIZE_MAX}");
        Fault::new(Code::FrameError, explanation)
    };
    fault.at(BASIC_PUBLISH.0, BASIC_PUBLISH.1)
}

/// The octets of a table without the entries under `key`, byte for byte otherwise.
pub fn headers_without(table: Table<'_>, key: &[u8]) -> Vec<u8> {
    table.without(key)
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::basic::{AMQPProperties, gen_properties, parse_properties};
    use amq_protocol::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    use super::*;
    use crate::table::Value;

    fn encoded(properties: &AMQPProperties) -> Vec<u8> {
        gen_properties(properties)(WriteContext::from(Vec::new())).unwrap().into_inner().0
    }

    fn decoded(octets: &[u8]) -> AMQPProperties {
        let (rest, properties) = parse_properties(octets).unwrap();
        assert!(rest.is_empty());
        properties
    }

    fn full() -> AMQPProperties {
        let mut headers = FieldTable::default();
        headers.insert("h".into(), AMQPValue::Boolean(true));
        AMQPProperties::default()
            .with_content_type("text/plain".into())
            .with_content_encoding("gzip".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(7)
            .with_correlation_id("corr".into())
            .with_reply_to("reply".into())
            .with_expiration("1000".into())
            .with_message_id("id".into())
            .with_timestamp(1_700_000_000)
            .with_type("type".into())
            .with_user_id("guest".into())
            .with_app_id("app".into())
            .with_cluster_id("cluster".into())
    }

    #[test]
    fn all_fourteen_are_found() {
        let octets = encoded(&full());
        let properties = Properties::check(&octets).unwrap();
        assert_eq!(properties.content_type(), Some(&b"text/plain"[..]));
        assert_eq!(properties.content_encoding(), Some(&b"gzip"[..]));
        assert_eq!(properties.headers().and_then(|table| table.get(b"h")), Some(Value::Bool(true)));
        assert_eq!((properties.delivery_mode(), properties.priority()), (Some(2), Some(7)));
        assert_eq!(properties.correlation_id(), Some(&b"corr"[..]));
        assert_eq!(properties.reply_to(), Some(&b"reply"[..]));
        assert_eq!(properties.expiration(), Some(&b"1000"[..]));
        assert_eq!(properties.message_id(), Some(&b"id"[..]));
        assert_eq!(properties.timestamp(), Some(1_700_000_000));
        assert_eq!(properties.kind(), Some(&b"type"[..]));
        assert_eq!(properties.user_id(), Some(&b"guest"[..]));
        assert_eq!(properties.app_id(), Some(&b"app"[..]));
        assert_eq!(properties.cluster_id(), Some(&b"cluster"[..]));
        assert!(properties.is_persistent());
    }

    #[test]
    fn none_are_found_where_none_are() {
        let properties = Properties::check(&[0, 0]).unwrap();
        assert_eq!((properties.content_type(), properties.timestamp()), (None, None));
        assert!(properties.headers().is_none() && !properties.is_persistent());
    }

    #[test]
    fn every_truncation_and_trailing_octets_are_refused() {
        let octets = encoded(&full());
        for end in 0..octets.len() {
            assert!(Properties::check(&octets[..end]).is_err(), "{end}");
        }
        assert!(Properties::check(&[&octets[..], &[0]].concat()).is_err());
        for bad in [&b""[..], b"\0", b"\0\0\0", b"\x10\0", b"\x10\0\x02\0", b"\x00\x40\0\0"] {
            let fault = Properties::check(bad).unwrap_err();
            assert_eq!(fault.to_string(), "541 INTERNAL_ERROR");
        }
        let deep = Properties::check(b"\x20\0\0\0\0\x03\x01kZ").unwrap_err();
        assert_eq!(deep.to_string(), "541 INTERNAL_ERROR");
    }

    #[test]
    fn flags_are_one_word() {
        assert!(Properties::check(b"\x10\x01\0\0\x02").is_err());
        assert!(Properties::check(b"\0\x01").is_err());
        assert!(Properties::check(b"\0\x02").is_ok());
    }

    #[test]
    fn rewrites_touch_nothing_else() {
        let octets = encoded(&full());
        let properties = Properties::check(&octets).unwrap();
        assert_eq!(decoded(&properties.with_reply_to(b"other")), full().with_reply_to("other".into()));
        let bare = properties.without_expiration();
        assert!(Properties::check(&bare).unwrap().expiration().is_none());
        assert_eq!(decoded(&bare).with_expiration("1000".into()), full());
        let without = properties.with_headers(None);
        assert!(Properties::check(&without).unwrap().headers().is_none());
        let back = Properties::check(&without).unwrap().with_headers(Some(b"\x01ht\x01"));
        assert_eq!(back, octets);
        assert_eq!(Properties::check(&[0, 0]).unwrap().without_expiration(), [0, 0]);
        assert_eq!(Properties::check(&[0, 0]).unwrap().with_reply_to(&[b'r'; 300]).len(), 2 + 1 + 255);
    }

    #[test]
    fn content_heads_are_read_or_refused_as_by_rabbitmq() {
        let head = content_head(b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\x10\0\x02").unwrap();
        assert_eq!((head.class, head.weight, head.body_size), (60, 0, 5));
        assert!(head.properties.is_persistent());
        let text = |payload: &[u8]| content_head(payload).unwrap_err().to_string();
        assert_eq!(text(b"\0\x3c\0"), "501 FRAME_ERROR - type 2, all octets = <<0,60,0>>: unknown_frame");
        assert_eq!(
            text(b"\0\x32\0\0\0\0\0\0\0\0\0\x05\0\0"),
            "505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead"
        );
        assert_eq!(
            text(b"\0\x3c\0\x01\0\0\0\0\0\0\0\x05\0\0"),
            "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"
        );
        assert_eq!(
            text(b"\0\x3c\0\0\0\0\0\0\x20\0\0\x01\0\0"),
            "501 FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912"
        );
    }

    #[test]
    fn carbon_copies_can_be_removed() {
        let table = Table::from_checked(b"\x02CCV\x03BCCV\x01xV");
        assert_eq!(headers_without(table, b"BCC"), b"\x02CCV\x01xV");
    }

    proptest! {
        #[test]
        fn any_octets_are_checked(octets in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80)) {
            let _ = content_head(&octets);
            let checked = Properties::check(&octets).is_ok();
            let properties = Properties::from_checked(&octets);
            let _ = (properties.headers(), properties.cluster_id(), properties.timestamp());
            for rewritten in [properties.with_reply_to(b"r"), properties.without_expiration(), properties.with_headers(None)] {
                prop_assert!(!checked || Properties::check(&rewritten).is_ok());
            }
        }

        #[test]
        fn any_set_of_properties_survives_a_rewrite(set in 0..1u16 << 14, reply_to in "[a-z]{0,20}") {
            let full = encoded(&full());
            let mut octets = (set << 2).to_be_bytes().to_vec();
            for property in IN_ORDER.into_iter().filter(|property| set << 2 & property.0 != 0) {
                octets.extend_from_slice(&full[Properties(&full).place(property)]);
            }
            let properties = Properties::check(&octets).unwrap();
            let rewritten = properties.with_reply_to(reply_to.as_bytes());
            prop_assert_eq!(decoded(&rewritten), decoded(&octets).with_reply_to(reply_to.as_str().into()));
            prop_assert_eq!(properties.with(CORRELATION_ID, properties.correlation_id()), octets);
        }
    }
}
