//! A raw field table seen the way headers routing wants it. A bridge between two floors that do not know each other.

use crate::routing::headers::{Criteria, HeaderValue, Headers, InvalidMatch};
use crate::wire::table::{Table, Value};

/// The headers of a message.
#[derive(Clone, Copy, Debug)]
pub struct MessageHeaders<'a>(pub Table<'a>);

impl Headers for MessageHeaders<'_> {
    fn get(&self, name: &[u8]) -> Option<HeaderValue<'_>> {
        self.0.iter().filter(|(key, _)| *key == name).last().map(|(_, value)| header_value(value))
    }
}

/// What the arguments of a binding to a headers exchange ask for.
///
/// # Errors
/// `x-match` is none of the four.
pub fn criteria(arguments: Table<'_>) -> Result<Criteria, InvalidMatch> {
    Criteria::new(arguments.iter().map(|(key, value)| (key, header_value(value))))
}

fn header_value(value: Value<'_>) -> HeaderValue<'_> {
    let integer = |value: i64, letter: u8| HeaderValue::Integer { value, letter };
    match value {
        Value::Bool(value) => HeaderValue::Bool(value),
        Value::I8(value) => integer(value.into(), b'b'),
        Value::U8(value) => integer(value.into(), b'B'),
        Value::I16(value) => integer(value.into(), b's'),
        Value::U16(value) => integer(value.into(), b'u'),
        Value::I32(value) => integer(value.into(), b'I'),
        Value::U32(value) => integer(value.into(), b'i'),
        Value::I64(value) => integer(value, b'l'),
        Value::F32(value) => HeaderValue::Float { value: value.into(), letter: b'f' },
        Value::F64(value) => HeaderValue::Float { value, letter: b'd' },
        Value::Decimal { scale, value } => HeaderValue::Decimal(scale, value),
        Value::LongStr(octets) => HeaderValue::Text(octets),
        Value::Bytes(octets) => HeaderValue::Binary(octets),
        Value::Array(array) => HeaderValue::Array(array.octets()),
        Value::Table(table) => HeaderValue::Table(table.octets()),
        Value::Timestamp(seconds) => HeaderValue::Timestamp(seconds),
        Value::Void => HeaderValue::Void,
    }
}
