//! A raw field table seen the way headers routing wants it. A bridge between two floors that do not know each other.

use crate::routing::headers::{Criteria, HeaderValue, Headers, InvalidMatch};
use crate::wire::table::{Table, Value};
use hashbrown::HashMap;
use std::cell::OnceCell;

/// The headers of a message. They are sorted into a map when somebody first asks: an exchange asks for as many as its
/// bindings name, most exchanges for none.
#[derive(Clone, Debug)]
pub struct MessageHeaders<'a> {
    table: Table<'a>,
    by_name: OnceCell<HashMap<&'a [u8], Value<'a>>>,
}

impl<'a> MessageHeaders<'a> {
    /// The headers in `table`.
    pub fn new(table: Table<'a>) -> Self {
        Self { table, by_name: OnceCell::new() }
    }
}

impl Headers for MessageHeaders<'_> {
    fn get(&self, name: &[u8]) -> Option<HeaderValue<'_>> {
        // Of a name that occurs several times the last one stays.
        self.by_name.get_or_init(|| self.table.iter().collect()).get(name).copied().map(header_value)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_that_occurs_twice_the_last_value_counts() {
        let table = Table::check(b"\x01at\x01\x01bV\x01at\0").unwrap();
        let headers = MessageHeaders::new(table);
        assert_eq!(headers.get(b"a"), Some(HeaderValue::Bool(false)));
        assert_eq!(headers.get(b"b"), Some(HeaderValue::Void));
        assert_eq!(headers.get(b"c"), None);
    }
}
