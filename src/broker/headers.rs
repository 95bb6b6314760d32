//! An adapter from raw field tables to the headers that `routing` matches.

use crate::routing::Kind;
use crate::routing::headers::{Criteria, HeaderValue, Headers, InvalidMatch};
use arrayvec::ArrayVec;
use hashbrown::HashMap;
use leveret_wire::table::{Table, Value};
use std::cell::OnceCell;

/// The headers of a message. They are indexed at the first lookup: an exchange looks up as many as
/// its bindings name, most exchanges none.
#[derive(Clone, Debug)]
pub struct MessageHeaders<'a> {
    table: Table<'a>,
    by_name: OnceCell<ByName<'a>>,
}

/// Most headers that are searched one by one; more are indexed in a map.
const FEW: usize = 16;

/// Headers by name.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time lives on the stack, for which there is no allocation")]
enum ByName<'a> {
    Few(ArrayVec<(&'a [u8], Value<'a>), FEW>),
    Many(HashMap<&'a [u8], Value<'a>>),
}

impl<'a> ByName<'a> {
    fn new(table: Table<'a>) -> Self {
        let mut few = ArrayVec::new();
        for header in table.iter() {
            if few.try_push(header).is_err() {
                return Self::Many(table.iter().collect());
            }
        }
        Self::Few(few)
    }

    /// Returns the header `name`; of several with that name, the last one.
    fn get(&self, name: &[u8]) -> Option<Value<'a>> {
        match self {
            Self::Few(few) => few.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| *value),
            Self::Many(many) => many.get(name).copied(),
        }
    }
}

impl<'a> MessageHeaders<'a> {
    /// Creates a view of the headers in `table`.
    pub fn new(table: Table<'a>) -> Self {
        Self { table, by_name: OnceCell::new() }
    }
}

impl Headers for MessageHeaders<'_> {
    fn get(&self, name: &[u8]) -> Option<HeaderValue<'_>> {
        self.by_name.get_or_init(|| ByName::new(self.table)).get(name).map(header_value)
    }
}

/// Returns the criteria of a binding from an exchange of this type; `None` where headers do not
/// count.
///
/// # Errors
/// `x-match` is none of the four values.
pub fn criteria(kind: Kind, arguments: Table<'_>) -> Result<Option<Criteria>, InvalidMatch> {
    match kind {
        Kind::Headers => Criteria::new(arguments.iter().map(|(key, value)| (key, header_value(value)))).map(Some),
        Kind::Direct | Kind::Fanout | Kind::Topic => Ok(None),
    }
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
        // As many as are searched one by one, and one more, for which there is a map.
        for more in [0, FEW - 3, FEW - 2, 100] {
            let octets = [&b"\x01at\x01\x01bV"[..], &b"\x01xV".repeat(more), b"\x01at\0"].concat();
            let headers = MessageHeaders::new(Table::check(&octets).unwrap());
            assert_eq!(headers.get(b"a"), Some(HeaderValue::Bool(false)), "{more}");
            assert_eq!(headers.get(b"b"), Some(HeaderValue::Void), "{more}");
            assert_eq!(headers.get(b"c"), None, "{more}");
        }
    }
}
