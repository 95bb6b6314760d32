//! The smallest parsers of AMQP over raw octets: strings with their length in front. They know no
//! type and no method.

use nom::error::ParseError;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u32};
use nom::{IResult, Parser};

/// A short string: a length octet, then up to 255 octets (AMQP 0-9-1 section 4.2.5.3).
pub(super) fn short_string<'a, E: ParseError<&'a [u8]>>(octets: &'a [u8]) -> IResult<&'a [u8], &'a [u8], E> {
    length_data(be_u8).parse(octets)
}

/// A long string: a 32 bit length, then as many octets (AMQP 0-9-1 section 4.2.5.3).
pub(super) fn long_string<'a, E: ParseError<&'a [u8]>>(octets: &'a [u8]) -> IResult<&'a [u8], &'a [u8], E> {
    length_data(be_u32).parse(octets)
}
