//! What the arguments of methods are made of: names, tables, bits. It knows no method.

use nom::combinator::map;
use nom::error::{ErrorKind, ParseError};
use nom::number::complete::{be_u8, be_u16};
use nom::{IResult, Parser};

use crate::wire::grammar::{long_string, short_string};
use crate::wire::table::{Table, TableError};

/// Why a method is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flaw {
    Shape,
    NotUtf8,
    Table(TableError),
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

pub(super) type Parsed<'a, T> = IResult<&'a [u8], T, Flaw>;

/// Up to eight bits that share an octet, the first one lowest; what is above the last one is let pass.
#[derive(Clone, Copy)]
pub(super) struct Bits(u8);

impl Bits {
    pub(super) fn has(self, position: u8) -> bool {
        self.0 >> position & 1 != 0
    }
}

pub(super) fn bits(octets: &[u8]) -> Parsed<'_, Bits> {
    map(be_u8, Bits).parse(octets)
}

/// A reserved field since 0-9-1; old clients put an access ticket there.
pub(super) fn ticket(octets: &[u8]) -> Parsed<'_, u16> {
    be_u16(octets)
}

/// A short string, UTF-8 as RabbitMQ wants it in all methods but a publish.
pub(super) fn name(octets: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, name) = short_string(octets)?;
    match std::str::from_utf8(name) {
        Ok(_) => Ok((rest, name)),
        Err(_) => Err(nom::Err::Failure(Flaw::NotUtf8)),
    }
}

pub(super) fn table(octets: &[u8]) -> Parsed<'_, Table<'_>> {
    let (rest, table) = long_string(octets)?;
    let table = Table::check(table).map_err(|error| nom::Err::Failure(Flaw::Table(error)))?;
    Ok((rest, table))
}
