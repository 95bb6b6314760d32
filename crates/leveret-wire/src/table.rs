//! Field tables, arrays and values as raw octets that are looked into when asked.
//!
//! Order, duplicates and types stay as they were sent. The octets are checked once, without
//! recursion and down to a fixed depth; whatever walks them later may rely on that depth.

use std::fmt::{self, Display};

use nom::combinator::map;
use nom::number::complete::{be_f32, be_f64, be_i8, be_i16, be_i32, be_i64, be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use crate::erlang::{ErlangText, Float, Pretty};
use crate::grammar::{long_string, short_string};
use crate::limits::TABLE_DEPTH_MAX;

/// A value of a field table, with the types RabbitMQ reads (AMQP 0-9-1 errata, section 3).
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L`, which RabbitMQ reads as signed too.
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` with `scale` decimal places.
    Decimal {
        /// Decimal places.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// `S`: octets, by custom UTF-8.
    LongStr(&'a [u8]),
    /// `A`
    Array(Array<'a>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `V`
    Void,
    /// `x`: octets.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number, whatever the width of the integer; `None` for all other types.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Value::I8(number) => Some(number.into()),
            Value::U8(number) => Some(number.into()),
            Value::I16(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::I32(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::I64(number) => Some(number),
            _ => None,
        }
    }

    /// The octets of a long string; `None` for all other types.
    pub fn as_long_str(&self) -> Option<&'a [u8]> {
        match *self {
            Value::LongStr(octets) => Some(octets),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, as its reply texts show it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "bool",
            Value::I8(_) => "byte",
            Value::U8(_) => "unsignedbyte",
            Value::I16(_) => "short",
            Value::U16(_) => "unsignedshort",
            Value::I32(_) => "signedint",
            Value::U32(_) => "unsignedint",
            Value::I64(_) => "long",
            Value::F32(_) => "float",
            Value::F64(_) => "double",
            Value::Decimal { .. } => "decimal",
            Value::LongStr(_) => "longstr",
            Value::Array(_) => "array",
            Value::Timestamp(_) => "timestamp",
            Value::Table(_) => "table",
            Value::Void => "void",
            Value::Bytes(_) => "binary",
        }
    }
}

/// Equal in type and value; floats by their bits.
impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Decimal { scale: a, value: b }, Value::Decimal { scale: c, value: d }) => (a, b) == (c, d),
            (Value::LongStr(a), Value::LongStr(b)) | (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Table(a), Value::Table(b)) => a == b,
            (Value::Void, Value::Void) => true,
            (a, b) => a.type_name() == b.type_name() && a.as_integer().is_some() && a.as_integer() == b.as_integer(),
        }
    }
}

impl Eq for Value<'_> {}

/// The value as RabbitMQ shows it in `inequivalent arg` texts: strings bare, everything else as an
/// Erlang term.
impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::LongStr(octets) | Value::Bytes(octets) => ErlangText(octets).fmt(f),
            other => ErlangTerm(*other).fmt(f),
        }
    }
}

/// A value inside a term, where strings are quoted.
struct ErlangTerm<'a>(Value<'a>);

impl Display for ErlangTerm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Bool(truth) => truth.fmt(f),
            Value::F32(number) => Float(number.into()).fmt(f),
            Value::F64(number) => Float(number).fmt(f),
            Value::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Value::LongStr(octets) | Value::Bytes(octets) => Pretty(octets).fmt(f),
            Value::Timestamp(seconds) => seconds.fmt(f),
            Value::Void => f.write_str("undefined"),
            Value::Array(array) => {
                list(f, array.iter(), |f, value| write!(f, "{{{},{}}}", value.type_name(), ErlangTerm(value)))
            }
            Value::Table(table) => list(f, table.iter(), |f, (key, value)| {
                write!(f, "{{{},{},{}}}", Pretty(key), value.type_name(), ErlangTerm(value))
            }),
            integer => integer.as_integer().unwrap_or_default().fmt(f),
        }
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    show: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        show(f, item)?;
    }
    f.write_str("]")
}

/// Why octets are no field table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Truncated, or a type no one knows.
    Malformed,
    /// Nested deeper than [`TABLE_DEPTH_MAX`].
    TooDeep,
}

impl Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Malformed => f.write_str("malformed field table"),
            TableError::TooDeep => write!(f, "field table nested deeper than {TABLE_DEPTH_MAX} levels"),
        }
    }
}

impl std::error::Error for TableError {}

/// A field table: the octets behind its length (AMQP 0-9-1 section 4.2.5.5). Equal if entries are,
/// in the same order.
#[derive(Clone, Copy)]
pub struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// Walks the octets once, without recursion.
    ///
    /// # Errors
    /// If they are truncated, hold an unknown type, or nest deeper than [`TABLE_DEPTH_MAX`].
    pub fn check(octets: &'a [u8]) -> Result<Table<'a>, TableError> {
        check_levels(Level::Table(octets))?;
        Ok(Table(octets))
    }

    /// Octets that passed [`Table::check`] before. On others every method ends early, none panics.
    pub fn from_checked(octets: &'a [u8]) -> Table<'a> {
        Table(octets)
    }

    /// The table without entries.
    pub fn empty() -> Table<'static> {
        Table(&[])
    }

    /// The octets behind the length.
    pub fn octets(&self) -> &'a [u8] {
        self.0
    }

    /// Returns true if it has no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values in the order they were sent, duplicates too.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        items(self.0, entry)
    }

    /// The first value under `key`.
    pub fn get(&self, key: &[u8]) -> Option<Value<'a>> {
        self.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The octets of the table without the entries under `key`, byte for byte otherwise.
    pub fn without(&self, key: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.0.len());
        let mut rest = self.0;
        while let Ok((after, (found, _))) = entry(rest) {
            if found != key {
                kept.extend_from_slice(rest.get(..rest.len() - after.len()).unwrap_or_default());
            }
            rest = after;
        }
        kept
    }
}

impl PartialEq for Table<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.iter().eq(other.iter())
    }
}

impl Eq for Table<'_> {}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(key, value)| (String::from_utf8_lossy(key), value))).finish()
    }
}

/// A field array: the octets behind its length. Equal if the values are.
#[derive(Clone, Copy)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Array<'a> {
    /// Octets of an array inside a table that passed [`Table::check`], or that a builder made.
    pub fn from_checked(octets: &'a [u8]) -> Array<'a> {
        Array(octets)
    }

    /// The octets behind the length.
    pub fn octets(&self) -> &'a [u8] {
        self.0
    }

    /// Returns true if it has no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        items(self.0, value)
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.iter().eq(other.iter())
    }
}

impl Eq for Array<'_> {}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A field table that is kept, octet for octet.
#[derive(Clone, Default, Debug)]
pub struct OwnedTable(Box<[u8]>);

impl OwnedTable {
    /// Returns the table, borrowed.
    pub fn as_table(&self) -> Table<'_> {
        Table(&self.0)
    }
}

impl From<Table<'_>> for OwnedTable {
    fn from(table: Table<'_>) -> OwnedTable {
        OwnedTable(table.0.into())
    }
}

fn items<'a, T>(octets: &'a [u8], item: fn(&'a [u8]) -> Parsed<'a, T>) -> impl Iterator<Item = T> + use<'a, T> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let (after, item) = item(rest).ok()?;
        rest = after;
        Some(item)
    })
}

/// Octets left of one level of nesting.
#[derive(Clone, Copy)]
enum Level<'a> {
    Table(&'a [u8]),
    Array(&'a [u8]),
}

/// Goes down into each table and array as it comes and keeps what is left of the levels above on a
/// list.
fn check_levels(outermost: Level<'_>) -> Result<(), TableError> {
    let mut above = Vec::new();
    let mut level = outermost;
    loop {
        let (after, inside) = match level {
            Level::Table([]) | Level::Array([]) => match above.pop() {
                Some(outer) => {
                    level = outer;
                    continue;
                }
                None => return Ok(()),
            },
            Level::Table(rest) => entry(rest).map(|(rest, (_, value))| (Level::Table(rest), value)),
            Level::Array(rest) => value(rest).map(|(rest, value)| (Level::Array(rest), value)),
        }
        .map_err(|_| TableError::Malformed)?;
        level = match inside {
            Value::Table(Table(octets)) => Level::Table(octets),
            Value::Array(Array(octets)) => Level::Array(octets),
            _ => {
                level = after;
                continue;
            }
        };
        above.push(after);
        if above.len() >= TABLE_DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

fn entry(octets: &[u8]) -> Parsed<'_, (&[u8], Value<'_>)> {
    (short_string, value).parse(octets)
}

/// A type octet and the value behind it. What is inside tables and arrays stays unread.
fn value(octets: &[u8]) -> Parsed<'_, Value<'_>> {
    let (rest, kind) = be_u8(octets)?;
    match kind {
        b'S' => map(long_string, Value::LongStr).parse(rest),
        b't' => map(be_u8, |truth| Value::Bool(truth != 0)).parse(rest),
        b'b' => map(be_i8, Value::I8).parse(rest),
        b'B' => map(be_u8, Value::U8).parse(rest),
        b's' => map(be_i16, Value::I16).parse(rest),
        b'u' => map(be_u16, Value::U16).parse(rest),
        b'I' => map(be_i32, Value::I32).parse(rest),
        b'i' => map(be_u32, Value::U32).parse(rest),
        b'l' | b'L' => map(be_i64, Value::I64).parse(rest),
        b'f' => map(be_f32, Value::F32).parse(rest),
        b'd' => map(be_f64, Value::F64).parse(rest),
        b'D' => map((be_u8, be_u32), |(scale, value)| Value::Decimal { scale, value }).parse(rest),
        b'T' => map(be_u64, Value::Timestamp).parse(rest),
        b'F' => map(long_string, |octets| Value::Table(Table(octets))).parse(rest),
        b'A' => map(long_string, |octets| Value::Array(Array(octets))).parse(rest),
        b'x' => map(long_string, Value::Bytes).parse(rest),
        b'V' => Ok((rest, Value::Void)),
        _ => Err(nom::Err::Error(())),
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::types::parsing::parse_field_table;
    use proptest::prelude::*;

    use super::*;
    use crate::table_builder::{ArrayBuilder, TableBuilder};

    /// One entry of every type there is.
    const ALL: &[u8] = b"\x01at\x02\x01bb\xff\x01cB\xff\x01ds\xff\xff\x01eu\xff\xff\x01fI\xff\xff\xff\xff\
        \x01gi\xff\xff\xff\xff\x01hl\xff\xff\xff\xff\xff\xff\xff\xff\x01iL\0\0\0\0\0\0\0\x05\x01jf\x3f\x80\0\0\
        \x01kd\x3f\xf8\0\0\0\0\0\0\x01lD\x02\0\0\0\x07\x01mS\0\0\0\x02hi\x01nA\0\0\0\x03t\x01V\
        \x01oT\0\0\0\0\0\0\0\x09\x01pF\0\0\0\x03\x01xV\x01qV\x01rx\0\0\0\x01\xff";

    #[test]
    fn reads_every_type() {
        let table = Table::check(ALL).unwrap();
        let shown: Vec<String> = table.iter().map(|(_, value)| format!("{} {value}", value.type_name())).collect();
        assert_eq!(
            shown,
            [
                "bool true",
                "byte -1",
                "unsignedbyte 255",
                "short -1",
                "unsignedshort 65535",
                "signedint -1",
                "unsignedint 4294967295",
                "long -1",
                "long 5",
                "float 1.0",
                "double 1.5",
                "decimal {2,7}",
                "longstr hi",
                "array [{bool,true},{void,undefined}]",
                "timestamp 9",
                "table [{<<\"x\">>,void,undefined}]",
                "void undefined",
                "binary \u{ff}",
            ]
        );
        assert_eq!(table.get(b"g").and_then(|value| value.as_integer()), Some(4_294_967_295));
        assert_eq!(table.get(b"o").and_then(|value| value.as_integer()), None);
        assert_eq!(table.get(b"absent"), None);
    }

    #[test]
    fn every_truncation_and_unknown_types_are_malformed() {
        let boundaries: Vec<usize> = {
            let mut rest = ALL;
            let mut ends = vec![0];
            while let Ok((after, _)) = entry(rest) {
                ends.push(ALL.len() - after.len());
                rest = after;
            }
            ends
        };
        for end in 0..ALL.len() {
            assert_eq!(Table::check(&ALL[..end]).is_ok(), boundaries.contains(&end), "{end}");
        }
        assert_eq!(Table::check(b"\x01kZ").map(|_| ()), Err(TableError::Malformed));
        assert_eq!(Table::check(b"\x01kF\0\0\0\x03\x01xZ").map(|_| ()), Err(TableError::Malformed));
        assert_eq!(Table::check(b"\x01kA\0\0\0\x01Z\x01xV").map(|_| ()), Err(TableError::Malformed));
    }

    /// `levels` tables or arrays in one another, the outermost a table.
    fn nested(levels: usize, kind: u8) -> Vec<u8> {
        let key: &[u8] = if kind == b'F' { b"\x01k" } else { b"" };
        let mut size = 0u32;
        let mut heads = Vec::new();
        for level in 1..levels {
            let key = if level == levels - 1 { &b"\x01k"[..] } else { key };
            heads.push([key, &[kind], &size.to_be_bytes()].concat());
            size += heads.last().map_or(0, Vec::len) as u32;
        }
        heads.iter().rev().flatten().copied().collect()
    }

    #[test]
    fn depth_is_limited_on_a_small_stack() {
        let check = || {
            for kind in [b'F', b'A'] {
                assert!(Table::check(&nested(TABLE_DEPTH_MAX, kind)).is_ok());
                assert_eq!(Table::check(&nested(TABLE_DEPTH_MAX + 1, kind)).map(|_| ()), Err(TableError::TooDeep));
                assert_eq!(Table::check(&nested(100_000, kind)).map(|_| ()), Err(TableError::TooDeep));
                let deepest = nested(TABLE_DEPTH_MAX, kind);
                let table = Table::check(&deepest).unwrap();
                assert!(!format!("{table:?} {}", Value::Table(table)).is_empty());
            }
        };
        // Half of what a worker of the runtime has.
        std::thread::Builder::new().stack_size(1024 * 1024).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn many_siblings_are_not_depth() {
        let mut builder = TableBuilder::new();
        for _ in 0..200 {
            builder.put_table(b"k", Table::empty());
        }
        assert!(Table::check(&builder.into_octets()).is_ok());
    }

    #[test]
    fn first_of_duplicates_is_found_and_all_are_removed() {
        let mut builder = TableBuilder::new();
        builder.put_i64(b"k", 1).put_bool(b"other", true).put_i64(b"k", 2);
        let table = builder.as_table();
        assert_eq!(table.get(b"k"), Some(Value::I64(1)));
        assert_eq!(table.without(b"k"), b"\x05othert\x01");
        assert_eq!(table.without(b"absent"), table.octets());
    }

    #[test]
    fn builders_write_what_is_read() {
        let mut array = ArrayBuilder::new();
        for (_, value) in Table::check(ALL).unwrap().iter() {
            array.push(value);
        }
        let mut builder = TableBuilder::new();
        builder.put_array(b"values", array.as_array()).put_long_str(b"s", b"text").put_timestamp(b"t", 7);
        let octets = builder.into_octets();
        let table = Table::check(&octets).unwrap();
        let Some(Value::Array(read)) = table.get(b"values") else { panic!() };
        assert!(read.iter().eq(Table::check(ALL).unwrap().iter().map(|(_, value)| value)));
        assert_eq!(table.get(b"t"), Some(Value::Timestamp(7)));
    }

    proptest! {
        #[test]
        fn any_octets_are_checked(octets in prop::collection::vec(prop_oneof![Just(0u8), Just(1), prop::sample::select(ALL), any::<u8>()], 0..200)) {
            let _ = Table::check(&octets);
            let table = Table::from_checked(&octets);
            let _ = (format!("{table:?}"), table.without(b"x"), table.get(b"x"), OwnedTable::from(table));
        }

        #[test]
        fn what_is_built_is_read_by_others(entries in prop::collection::vec(("[a-z]{1,9}", any::<i64>()), 0..20)) {
            let mut builder = TableBuilder::new();
            for (key, number) in &entries {
                builder.put_i64(key.as_bytes(), *number);
            }
            let octets = builder.into_octets();
            prop_assert!(Table::check(&octets).is_ok());
            let framed = [&(octets.len() as u32).to_be_bytes()[..], &octets].concat();
            let (rest, read) = parse_field_table(&framed[..]).unwrap();
            prop_assert!(rest.is_empty());
            for (key, _) in &entries {
                let last = entries.iter().rev().find(|(other, _)| other == key).map(|(_, number)| *number);
                prop_assert_eq!(read.inner().get(key.as_str()).and_then(|value| value.as_long_long_int()), last);
            }
        }
    }
}
