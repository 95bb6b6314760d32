//! Writes field tables and arrays as raw octets.

use crate::name::clip;
use crate::table::{Array, Table, Value};

/// A field table being written, entry by entry, in the order they shall have. Keys are cut at 255
/// octets.
#[derive(Clone, Default, Debug)]
pub struct TableBuilder(Vec<u8>);

impl TableBuilder {
    /// A table without entries.
    pub fn new() -> TableBuilder {
        TableBuilder::default()
    }

    /// Adds an entry.
    pub fn put(&mut self, key: &[u8], value: Value<'_>) -> &mut TableBuilder {
        put_short_string(&mut self.0, key);
        put_value(&mut self.0, value);
        self
    }

    /// Adds a long string.
    pub fn put_long_str(&mut self, key: &[u8], octets: &[u8]) -> &mut TableBuilder {
        self.put(key, Value::LongStr(octets))
    }

    /// Adds a boolean.
    pub fn put_bool(&mut self, key: &[u8], truth: bool) -> &mut TableBuilder {
        self.put(key, Value::Bool(truth))
    }

    /// Adds a 64 bit integer, RabbitMQ's `long`.
    pub fn put_i64(&mut self, key: &[u8], number: i64) -> &mut TableBuilder {
        self.put(key, Value::I64(number))
    }

    /// Adds a time, in seconds since 1970.
    pub fn put_timestamp(&mut self, key: &[u8], seconds: u64) -> &mut TableBuilder {
        self.put(key, Value::Timestamp(seconds))
    }

    /// Adds a table.
    pub fn put_table(&mut self, key: &[u8], table: Table<'_>) -> &mut TableBuilder {
        self.put(key, Value::Table(table))
    }

    /// Adds an array.
    pub fn put_array(&mut self, key: &[u8], array: Array<'_>) -> &mut TableBuilder {
        self.put(key, Value::Array(array))
    }

    /// Returns what is written so far.
    pub fn as_table(&self) -> Table<'_> {
        Table::from_checked(&self.0)
    }

    /// The octets, without the length in front.
    pub fn into_octets(self) -> Vec<u8> {
        self.0
    }
}

/// A field array being written.
#[derive(Clone, Default, Debug)]
pub struct ArrayBuilder(Vec<u8>);

impl ArrayBuilder {
    /// An array without values.
    pub fn new() -> ArrayBuilder {
        ArrayBuilder::default()
    }

    /// Adds a value at the end.
    pub fn push(&mut self, value: Value<'_>) -> &mut ArrayBuilder {
        put_value(&mut self.0, value);
        self
    }

    /// Returns what is written so far.
    pub fn as_array(&self) -> Array<'_> {
        Array::from_checked(&self.0)
    }
}

/// Appends a short string: its length octet, then at most 255 octets.
pub(super) fn put_short_string(out: &mut Vec<u8>, octets: &[u8]) {
    let octets = clip(octets);
    out.push(octets.len() as u8);
    out.extend_from_slice(octets);
}

/// Appends a long string: its 32 bit length, then the octets.
pub(super) fn put_long_string(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend_from_slice(&(octets.len() as u32).to_be_bytes());
    out.extend_from_slice(octets);
}

/// Appends the type octet and the value.
fn put_value(out: &mut Vec<u8>, value: Value<'_>) {
    let mut put = |kind: u8, octets: &[u8]| {
        out.push(kind);
        out.extend_from_slice(octets);
    };
    let (kind, octets) = match value {
        Value::Bool(truth) => return put(b't', &[truth.into()]),
        Value::I8(number) => return put(b'b', &number.to_be_bytes()),
        Value::U8(number) => return put(b'B', &number.to_be_bytes()),
        Value::I16(number) => return put(b's', &number.to_be_bytes()),
        Value::U16(number) => return put(b'u', &number.to_be_bytes()),
        Value::I32(number) => return put(b'I', &number.to_be_bytes()),
        Value::U32(number) => return put(b'i', &number.to_be_bytes()),
        Value::I64(number) => return put(b'l', &number.to_be_bytes()),
        Value::F32(number) => return put(b'f', &number.to_be_bytes()),
        Value::F64(number) => return put(b'd', &number.to_be_bytes()),
        Value::Decimal { scale, value } => {
            put(b'D', &[scale]);
            return out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Timestamp(seconds) => return put(b'T', &seconds.to_be_bytes()),
        Value::Void => return put(b'V', &[]),
        Value::LongStr(octets) => (b'S', octets),
        Value::Bytes(octets) => (b'x', octets),
        Value::Array(array) => (b'A', array.octets()),
        Value::Table(table) => (b'F', table.octets()),
    };
    out.push(kind);
    put_long_string(out, octets);
}
