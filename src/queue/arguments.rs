//! Arguments of queue.declare and basic.consume: the known ones, their valid values, and the
//! equivalence of two declarations. Acts on none of them.
//! Follows RabbitMQ's `rabbit_amqqueue` (declare_args, consume_args, assert_args_equivalence),
//! reply texts included.

use crate::limits;
use leveret_wire::fault::{Code, Fault};
use leveret_wire::table::{Table, Value};
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

/// The queue type: `x-queue-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// A classic queue, the default.
    #[default]
    Classic,
    /// A queue with the contract of a quorum queue.
    Quorum,
    /// A stream.
    Stream,
}

impl QueueType {
    /// Returns the type that `arguments` ask for, classic if none; `None` for an unknown one.
    pub fn of(arguments: Table<'_>) -> Option<Self> {
        match arguments.get(b"x-queue-type") {
            None | Some(Value::LongStr(b"" | b"undefined" | b"classic")) => Some(Self::Classic),
            Some(Value::LongStr(b"quorum")) => Some(Self::Quorum),
            Some(Value::LongStr(b"stream")) => Some(Self::Stream),
            Some(_) => None,
        }
    }

    /// Returns the name, as clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    /// Returns the arguments of this type, in the order in which redeclarations are compared.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &CLASSIC,
            Self::Quorum => &QUORUM,
            Self::Stream => &STREAM,
        }
    }

    fn consumer_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Classic => &["x-priority"],
            Self::Quorum => &["x-priority", "x-consumer-timeout"],
            Self::Stream => &["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"],
        }
    }
}

const ALL_TYPES: [QueueType; 3] = [QueueType::Classic, QueueType::Quorum, QueueType::Stream];

static CLASSIC: [&str; 14] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
];

static QUORUM: [&str; 20] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
];

static STREAM: [&str; 7] = [
    "x-max-length-bytes",
    "x-queue-type",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
];

/// Arguments of queue.declare that have an effect.
const WITH_EFFECT: [&str; 1] = ["x-queue-type"];

/// Largest segment of a stream, in octets.
const STREAM_SEGMENT_MAX: i64 = 3_000_000_000;

/// The reason why an argument is refused. Displayed as the Erlang term in RabbitMQ's reply text.
#[derive(Debug, PartialEq, Eq)]
enum ArgumentError {
    /// The value's type is not the argument's.
    UnacceptableType(&'static str),
    /// The value's type is no integer.
    NotInteger(&'static str),
    /// A number beyond the bound that the term names.
    OutOfRange(&'static str, i64),
    /// A text or combination that the term names.
    Invalid(&'static str),
    /// A queue version that does not exist.
    UnsupportedVersion(i64),
    /// A queue type that does not exist.
    UnsupportedType(String),
    /// The type and value of an offset that a stream does not have.
    InvalidOffset(&'static str, String),
}

impl Display for ArgumentError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnacceptableType(name) => write!(f, "{{unacceptable_type,{name}}}"),
            Self::NotInteger(name) => write!(f, "\"expected integer, got {name}\""),
            Self::OutOfRange(term, number) => write!(f, "{{{term},{number}}}"),
            Self::Invalid(term) => f.write_str(term),
            Self::UnsupportedVersion(version) => write!(f, "\"unsupported queue version '{version}'\""),
            Self::UnsupportedType(name) => write!(f, "\"unsupported queue type '{name}'\""),
            Self::InvalidOffset(name, value) => write!(f, "{{invalid_stream_offset_arg,{{{name},{value}}}}}"),
        }
    }
}

type Check = fn(&Value<'_>, Table<'_>) -> Result<(), ArgumentError>;

/// Each known argument with its check, in the order in which RabbitMQ checks them.
static DECLARE_RULES: [(&str, Check); 21] = [
    ("x-expires", expires),
    ("x-message-ttl", message_ttl),
    ("x-dead-letter-exchange", text),
    ("x-dead-letter-routing-key", dead_letter_key),
    ("x-dead-letter-strategy", |value, _| one_of(value, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")),
    ("x-max-length", not_negative),
    ("x-max-length-bytes", not_negative),
    ("x-max-in-memory-length", not_negative),
    ("x-max-in-memory-bytes", not_negative),
    ("x-max-priority", max_priority),
    ("x-overflow", |value, _| {
        one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow")
    }),
    ("x-queue-version", queue_version),
    ("x-single-active-consumer", boolean),
    ("x-consumer-timeout", not_negative),
    ("x-consumer-disconnected-timeout", not_negative),
    ("x-quorum-initial-group-size", positive),
    ("x-max-age", max_age),
    ("x-stream-max-segment-size-bytes", not_negative),
    ("x-stream-filter-size-bytes", not_negative),
    ("x-initial-cluster-size", positive),
    ("x-queue-leader-locator", leader_locator),
];

/// Checks the arguments of a new queue. `queue` is its display name, as in `queue 'q' in vhost
/// '/'`.
///
/// # Errors
/// 406 with RabbitMQ's text: a known argument has an invalid value or type, or does not belong to
/// the queue's type.
pub fn check_declare(queue: &dyn Display, arguments: Table<'_>) -> Result<QueueType, Fault> {
    let kind = queue_type(queue, arguments)?;
    for (key, check) in &DECLARE_RULES {
        if kind.arguments().contains(key)
            && let Some(value) = arguments.get(key.as_bytes())
        {
            check(&value, arguments).map_err(|reason| invalid(key, queue, &reason))?;
        }
    }
    refuse_foreign(queue, kind, arguments, QueueType::arguments)?;
    if kind == QueueType::Stream {
        check_stream_sizes(arguments)?;
    }
    Ok(kind)
}

/// Checks sizes that RabbitMQ checks when it creates the stream; these texts do not name the queue.
fn check_stream_sizes(arguments: Table<'_>) -> Result<(), Fault> {
    let size = |key: &str| arguments.get(key.as_bytes()).and_then(|value| value.as_integer());
    if size("x-stream-max-segment-size-bytes").is_some_and(|size| size > STREAM_SEGMENT_MAX) {
        return Err(Fault::new(Code::PreconditionFailed, "Exceeded max value for x-stream-max-segment-size-bytes"));
    }
    if size("x-stream-filter-size-bytes").is_some_and(|size| !(16..=255).contains(&size)) {
        return Err(Fault::new(Code::PreconditionFailed, "Invalid value for x-stream-filter-size-bytes"));
    }
    Ok(())
}

/// Returns the known arguments among these that are stored without an effect, each once.
pub fn without_effect(arguments: Table<'_>) -> BTreeSet<&'static str> {
    let known = ALL_TYPES.iter().flat_map(|kind| kind.arguments()).copied();
    known.filter(|name| !WITH_EFFECT.contains(name) && arguments.get(name.as_bytes()).is_some()).collect()
}

/// Checks the arguments of a consumer; returns its priority.
///
/// # Errors
/// 406, as for [`check_declare`].
pub fn check_consume(queue: &dyn Display, kind: QueueType, arguments: Table<'_>) -> Result<i64, Fault> {
    let mut priority = 0;
    for key in kind.consumer_arguments() {
        let Some(value) = arguments.get(key.as_bytes()) else { continue };
        let checked = match *key {
            "x-priority" => integer(&value, arguments),
            "x-consumer-timeout" => not_negative(&value, arguments),
            "x-stream-offset" => stream_offset(&value),
            _ => Ok(()),
        };
        checked.map_err(|reason| invalid(key, queue, &reason))?;
        if *key == "x-priority" {
            priority = value.as_integer().unwrap_or(0);
        }
    }
    refuse_foreign(queue, kind, arguments, QueueType::consumer_arguments)?;
    Ok(priority)
}

/// Compares a redeclaration with the existing queue.
///
/// # Errors
/// 406 `inequivalent arg ...`: an argument of the queue's type differs.
pub fn check_equivalent(
    queue: &dyn Display,
    kind: QueueType,
    current: Table<'_>,
    received: Table<'_>,
) -> Result<(), Fault> {
    kind.arguments().iter().try_for_each(|key| {
        let (old, new) = (current.get(key.as_bytes()), received.get(key.as_bytes()));
        if *key == "x-queue-type" {
            return same_type(queue, kind, new);
        }
        compare(key, queue, old, new)
    })
}

/// Compares one argument of two declarations; `whose` is the display name for errors.
///
/// # Errors
/// 406 `inequivalent arg ...`.
pub fn compare(key: &str, whose: &dyn Display, old: Option<Value<'_>>, new: Option<Value<'_>>) -> Result<(), Fault> {
    let (received, current) = match (&old, &new) {
        (None, None) => return Ok(()),
        (Some(old), Some(new)) if equivalent(old, new) => return Ok(()),
        (Some(old), Some(new)) => (format!("'{new}'"), format!("'{old}'")),
        _ => (described(new.as_ref()), described(old.as_ref())),
    };
    Err(inequivalent(key, whose, &received, &current))
}

/// Returns the 406 of a redeclaration that differs.
pub fn inequivalent(key: &str, whose: &dyn Display, received: &str, current: &str) -> Fault {
    Fault::new(
        Code::PreconditionFailed,
        format_args!("inequivalent arg '{key}' for {whose}: received {received} but current is {current}"),
    )
}

fn same_type(queue: &dyn Display, kind: QueueType, received: Option<Value<'_>>) -> Result<(), Fault> {
    let received = match received {
        None | Some(Value::LongStr(b"" | b"undefined")) => "classic".to_owned(),
        Some(value) => value.to_string(),
    };
    if received == kind.name() {
        return Ok(());
    }
    Err(inequivalent("x-queue-type", queue, &format!("'{received}'"), &format!("'{}'", kind.name())))
}

fn equivalent(old: &Value<'_>, new: &Value<'_>) -> bool {
    match (old.as_integer(), new.as_integer()) {
        (Some(old), Some(new)) => old == new,
        (None, None) => old.type_name() == new.type_name() && old.to_string() == new.to_string() || floats(old, new),
        _ => false,
    }
}

fn floats(old: &Value<'_>, new: &Value<'_>) -> bool {
    let float = |value: &Value<'_>| match value {
        Value::F32(value) => Some(f64::from(*value)),
        Value::F64(value) => Some(*value),
        _ => None,
    };
    matches!((float(old), float(new)), (Some(old), Some(new)) if old == new)
}

fn described(value: Option<&Value<'_>>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("the value '{value}' of type '{}'", value.type_name()))
}

fn invalid(key: &str, whose: &dyn Display, reason: &ArgumentError) -> Fault {
    Fault::new(Code::PreconditionFailed, format_args!("invalid arg '{key}' for {whose}: {reason}"))
}

fn queue_type(queue: &dyn Display, arguments: Table<'_>) -> Result<QueueType, Fault> {
    QueueType::of(arguments).ok_or_else(|| {
        let reason = match arguments.get(b"x-queue-type") {
            Some(value @ Value::LongStr(_)) => ArgumentError::UnsupportedType(value.to_string()),
            Some(value) => unacceptable(&value),
            None => ArgumentError::UnsupportedType(String::new()),
        };
        invalid("x-queue-type", queue, &reason)
    })
}

fn refuse_foreign(
    queue: &dyn Display,
    kind: QueueType,
    arguments: Table<'_>,
    known: fn(QueueType) -> &'static [&'static str],
) -> Result<(), Fault> {
    let has = |kind: QueueType, key: &[u8]| known(kind).iter().any(|name| name.as_bytes() == key);
    match arguments.iter().find(|(key, _)| !has(kind, key) && ALL_TYPES.iter().any(|other| has(*other, key))) {
        None => Ok(()),
        Some((key, _)) => Err(Fault::new(
            Code::PreconditionFailed,
            format_args!("invalid arg '{}' for {queue} of queue type {}", String::from_utf8_lossy(key), kind.module()),
        )),
    }
}

fn unacceptable(value: &Value<'_>) -> ArgumentError {
    ArgumentError::UnacceptableType(value.type_name())
}

fn number(value: &Value<'_>) -> Result<i64, ArgumentError> {
    match value {
        Value::Decimal { .. } => Err(not_an_integer(value)),
        _ => value.as_integer().ok_or_else(|| not_an_integer(value)),
    }
}

fn not_an_integer(value: &Value<'_>) -> ArgumentError {
    ArgumentError::NotInteger(value.type_name())
}

fn integer(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    number(value).map(drop)
}

fn not_negative(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    match number(value)? {
        n if n < 0 => Err(ArgumentError::OutOfRange("value_negative", n)),
        _ => Ok(()),
    }
}

fn positive(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    not_negative(value, arguments)?;
    if number(value)? == 0 { Err(ArgumentError::OutOfRange("value_zero", 0)) } else { Ok(()) }
}

fn message_ttl(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    not_negative(value, arguments)?;
    match number(value)? {
        n if n > limits::EXPIRY_MAX_MS => Err(ArgumentError::OutOfRange("value_too_large", n)),
        _ => Ok(()),
    }
}

fn expires(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    if number(value)? == 0 {
        return Err(ArgumentError::OutOfRange("value_zero", 0));
    }
    message_ttl(value, arguments)
}

fn max_priority(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    not_negative(value, arguments)?;
    match number(value)? {
        n if n > 255 => Err(ArgumentError::OutOfRange("max_value_exceeded", n)),
        _ => Ok(()),
    }
}

fn queue_version(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    not_negative(value, arguments)?;
    match number(value)? {
        1 | 2 => Ok(()),
        n => Err(ArgumentError::UnsupportedVersion(n)),
    }
}

fn boolean(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    if matches!(value, Value::Bool(_)) { Ok(()) } else { Err(unacceptable(value)) }
}

fn text(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    if matches!(value, Value::LongStr(_)) { Ok(()) } else { Err(unacceptable(value)) }
}

fn dead_letter_key(value: &Value<'_>, arguments: Table<'_>) -> Result<(), ArgumentError> {
    text(value, arguments)?;
    match arguments.get(b"x-dead-letter-exchange") {
        None => Err(ArgumentError::Invalid("routing_key_but_no_dlx_defined")),
        Some(_) => Ok(()),
    }
}

fn one_of(value: &Value<'_>, choices: &[&str], otherwise: &'static str) -> Result<(), ArgumentError> {
    match value {
        Value::LongStr(text) if choices.iter().any(|choice| choice.as_bytes() == *text) => Ok(()),
        Value::LongStr(_) => Err(ArgumentError::Invalid(otherwise)),
        _ => Err(unacceptable(value)),
    }
}

fn leader_locator(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    let known = ["client-local", "balanced", "random", "least-leaders", "min-masters"];
    one_of(value, &known, "invalid_queue_locator_arg")
}

fn max_age(value: &Value<'_>, _: Table<'_>) -> Result<(), ArgumentError> {
    match value {
        Value::LongStr(age) if is_age(age) => Ok(()),
        Value::LongStr(_) => Err(ArgumentError::Invalid("invalid_max_age")),
        _ => Err(unacceptable(value)),
    }
}

/// Returns true for a positive number with one of the units Y, M, D, h, m, s.
fn is_age(age: &[u8]) -> bool {
    let digits = age.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let (number, unit) = age.split_at(digits);
    number.iter().any(|digit| *digit != b'0') && matches!(unit, b"Y" | b"M" | b"D" | b"h" | b"m" | b"s")
}

fn stream_offset(value: &Value<'_>) -> Result<(), ArgumentError> {
    match value {
        Value::LongStr(b"first" | b"last" | b"next") | Value::Timestamp(_) => Ok(()),
        Value::LongStr(age) if is_age(age) => Ok(()),
        Value::LongStr(text) => {
            Err(ArgumentError::InvalidOffset("longstr", format!("<<\"{}\">>", String::from_utf8_lossy(text))))
        }
        _ if value.as_integer().is_some_and(|offset| offset >= 0) => Ok(()),
        _ => Err(ArgumentError::InvalidOffset(value.type_name(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_wire::table_builder::TableBuilder;

    fn with(key: &[u8], value: Value<'_>) -> Vec<u8> {
        let mut table = TableBuilder::new();
        table.put(key, value);
        table.into_octets()
    }

    fn checked(key: &str, value: Value<'_>) -> String {
        let octets = with(key.as_bytes(), value);
        match check_declare(&"queue 'q'", Table::from_checked(&octets)) {
            Ok(kind) => kind.name().to_owned(),
            Err(fault) => fault.text.as_str().to_owned(),
        }
    }

    #[test]
    fn known_arguments_are_checked_and_unknown_ones_are_not() {
        for (key, value, expected) in [
            ("x-expires", Value::I64(0), "invalid arg 'x-expires' for queue 'q': {value_zero,0}"),
            ("x-expires", Value::I32(1), "classic"),
            ("x-message-ttl", Value::I64(-1), "invalid arg 'x-message-ttl' for queue 'q': {value_negative,-1}"),
            ("x-message-ttl", Value::I64(0), "classic"),
            ("x-max-priority", Value::U16(256), "invalid arg 'x-max-priority' for queue 'q': {max_value_exceeded,256}"),
            ("x-max-length", Value::Bool(true), "expected integer, got bool"),
            ("x-overflow", Value::LongStr(b"reject-publish"), "classic"),
            ("x-overflow", Value::LongStr(b"no"), "invalid_overflow"),
            ("x-dead-letter-routing-key", Value::LongStr(b"k"), "routing_key_but_no_dlx_defined"),
            ("x-queue-type", Value::LongStr(b"quorum"), "quorum"),
            ("x-queue-type", Value::LongStr(b"no"), "unsupported queue type 'no'"),
            (
                "x-delivery-limit",
                Value::I64(1),
                "invalid arg 'x-delivery-limit' for queue 'q' of queue type rabbit_classic",
            ),
            ("x-mine", Value::Void, "classic"),
        ] {
            let found = checked(key, value);
            assert!(found.contains(expected), "{key} {value:?}: {found}");
        }
    }

    #[test]
    fn integers_are_equivalent_whatever_their_width() {
        let octets = |value| with(b"x-max-length", value);
        let same = |one: &[u8], other: &[u8]| {
            check_equivalent(&"q", QueueType::Classic, Table::from_checked(one), Table::from_checked(other)).is_ok()
        };
        assert!(same(&octets(Value::I64(5)), &octets(Value::U8(5))));
        assert!(!same(&octets(Value::I64(5)), &octets(Value::I64(6))));
        assert!(!same(&octets(Value::I64(5)), b""));
        assert!(same(&with(b"x-mine", Value::I64(5)), b""));
    }

    #[test]
    fn each_argument_without_effect_is_named_once() {
        let mut table = TableBuilder::new();
        for _ in 0..3 {
            table.put_i64(b"x-expires", 1).put_i64(b"x-mine", 1).put_long_str(b"x-queue-type", b"classic");
        }
        assert_eq!(without_effect(table.as_table()).into_iter().collect::<Vec<_>>(), ["x-expires"]);
    }

    #[test]
    fn a_consumer_has_a_priority_of_any_integer_type() {
        let priority =
            |value| check_consume(&"q", QueueType::Classic, Table::from_checked(&with(b"x-priority", value)));
        assert_eq!(priority(Value::I8(-3)), Ok(-3));
        assert!(priority(Value::LongStr(b"3")).is_err());
        assert_eq!(check_consume(&"q", QueueType::Classic, Table::empty()), Ok(0));
        assert!(
            check_consume(&"q", QueueType::Stream, Table::from_checked(&with(b"x-priority", Value::I8(1)))).is_err()
        );
    }
}
