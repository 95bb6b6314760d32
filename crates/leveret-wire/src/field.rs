//! Fields of methods, read and written: integers, strings, tables and bits.
//!
//! [`read`] and [`write`] have a function for each type, of one name: `short` and `long` are AMQP's
//! integers of 16 and 32 bits, `shortstr` and `longstr` its strings (AMQP 0-9-1 section 4.2.5).

use nom::IResult;
use nom::error::{ErrorKind, ParseError};

use crate::table::TableError;

/// Reason why octets are not a method's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// Too few octets, or too many.
    Shape,
    /// A short string that is not UTF-8.
    NotUtf8,
    /// A malformed field table.
    Table(TableError),
    /// No such method.
    Unknown,
}

impl ParseError<&[u8]> for Flaw {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Flaw {
        Flaw::Shape
    }

    fn append(_: &[u8], _: ErrorKind, other: Flaw) -> Flaw {
        other
    }
}

pub(crate) type Parsed<'a, T> = IResult<&'a [u8], T, Flaw>;

/// Up to eight bits that share an octet, the first one lowest. The bits above the last one are
/// ignored.
#[derive(Clone, Copy)]
pub(crate) struct Bits(u8);

impl Bits {
    /// Takes the next bit.
    pub(crate) fn take(&mut self) -> bool {
        let bit = self.0 & 1 != 0;
        self.0 >>= 1;
        bit
    }
}

/// Parsers.
pub(crate) mod read {
    use crate::field::{Bits, Flaw, Parsed};
    use crate::grammar::{long_string, short_string};
    use crate::table::Table;
    use nom::Parser;
    use nom::bytes::complete::take;
    use nom::combinator::map;
    use nom::number::complete::{be_u8, be_u16, be_u32};

    pub(crate) fn short(octets: &[u8]) -> Parsed<'_, u16> {
        be_u16(octets)
    }

    pub(crate) fn long(octets: &[u8]) -> Parsed<'_, u32> {
        be_u32(octets)
    }

    /// Reads a short string, UTF-8 as RabbitMQ wants it in all methods but a publish.
    pub(crate) fn shortstr(octets: &[u8]) -> Parsed<'_, &[u8]> {
        let (rest, name) = short_string(octets)?;
        match std::str::from_utf8(name) {
            Ok(_) => Ok((rest, name)),
            Err(_) => Err(nom::Err::Failure(Flaw::NotUtf8)),
        }
    }

    pub(crate) fn longstr(octets: &[u8]) -> Parsed<'_, &[u8]> {
        long_string(octets)
    }

    pub(crate) fn table(octets: &[u8]) -> Parsed<'_, Table<'_>> {
        let (rest, table) = long_string(octets)?;
        let table = Table::check(table).map_err(|error| nom::Err::Failure(Flaw::Table(error)))?;
        Ok((rest, table))
    }

    pub(crate) fn bits(octets: &[u8]) -> Parsed<'_, Bits> {
        map(be_u8, Bits).parse(octets)
    }

    /// Reads the protocol version of connection.start, whatever it is.
    pub(crate) fn version(octets: &[u8]) -> Parsed<'_, ()> {
        map(take(2usize), |_| ()).parse(octets)
    }
}

/// Writers. They append; strings that are too long are cut.
pub(crate) mod write {
    use crate::table::Table;
    use crate::table_builder::{put_long_string, put_short_string};

    pub(crate) fn short(out: &mut Vec<u8>, number: u16) {
        out.extend_from_slice(&number.to_be_bytes());
    }

    pub(crate) fn long(out: &mut Vec<u8>, number: u32) {
        out.extend_from_slice(&number.to_be_bytes());
    }

    pub(crate) fn shortstr(out: &mut Vec<u8>, octets: &[u8]) {
        put_short_string(out, octets);
    }

    pub(crate) fn longstr(out: &mut Vec<u8>, octets: &[u8]) {
        put_long_string(out, octets);
    }

    pub(crate) fn table(out: &mut Vec<u8>, table: Table<'_>) {
        put_long_string(out, table.octets());
    }

    /// Appends up to eight bits, the first one lowest.
    pub(crate) fn bits(out: &mut Vec<u8>, bits: &[bool]) {
        out.push(bits.iter().rev().fold(0, |octet, bit| octet << 1 | u8::from(*bit)));
    }

    /// Appends the version 0-9, which is that of 0-9-1 in connection.start.
    pub(crate) fn version(out: &mut Vec<u8>, (): ()) {
        out.extend_from_slice(&[0, 9]);
    }
}
