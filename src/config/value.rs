//! Rules of single values: the TOML values that a key takes, and the expectation in errors.

use crate::config::memory;
use crate::limits::{FRAME_SIZE_MAX, HANDSHAKE_TIMEOUT_MAX_MS, SYNC_INTERVAL_MAX_MS};
use leveret_wire::limits::{BODY_SIZE_MAX, FRAME_SIZE_MIN, SHORT_STRING_MAX};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use tracing_subscriber::filter::Targets;

pub(super) fn bind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let addresses = list::<BindAddress, D, _>(deserializer)?;
    if addresses.is_empty() {
        return Err(D::Error::invalid_length(0, &"at least one address"));
    }
    Ok(addresses)
}

pub(super) fn data_dir<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    text(deserializer, "the path of a directory", |text| (!text.is_empty()).then(|| text.into()))
}

pub(super) fn log<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, "a directive such as \"info\" or \"info,leveret=debug\"", |text| {
        text.parse::<Targets>().ok().map(|_| text.to_owned())
    })
}

pub(super) fn heartbeat<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    whole(deserializer, 0..=u16::MAX, "seconds, 0 for no heartbeats")
}

pub(super) fn channel_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    whole(deserializer, 1..=u16::MAX, "channels of a connection")
}

pub(super) fn frame_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    whole(deserializer, FRAME_SIZE_MIN..=FRAME_SIZE_MAX, "octets")
}

pub(super) fn handshake_timeout_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    whole(deserializer, 1..=HANDSHAKE_TIMEOUT_MAX_MS, "milliseconds")
}

pub(super) fn max_message_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    whole(deserializer, 1..=BODY_SIZE_MAX, "octets")
}

pub(super) fn sync_interval_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    whole(deserializer, 1..=SYNC_INTERVAL_MAX_MS, "milliseconds")
}

/// Deserialises octets of memory: a number, a string with a binary unit, or a percentage of the
/// memory that this process may use.
pub(super) fn memory_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let expected = "a number of octets above 0, or a text such as \"512MiB\", \"2GiB\" or \"50%\"";
    deserializer.deserialize_any(SizeVisitor { expected, least: 1, parse: parse_memory })
}

/// Deserialises octets of a disk: a number, or a string with a decimal or binary unit.
pub(super) fn disk_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let expected = "a number of octets, or a text such as \"50MB\" or \"1GiB\"";
    deserializer.deserialize_any(SizeVisitor { expected, least: 0, parse: parse_disk })
}

/// Deserialises a version in three parts. Clients split it at dots and parse numbers; a patch
/// number may be followed by more, as in `4.2.9-rc.1`.
pub(super) fn server_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, "a version such as \"4.2.9\"", |text| {
        let mut parts = text.splitn(3, '.');
        let number = |part: &str| part.parse::<u32>().ok();
        number(parts.next()?)?;
        number(parts.next()?)?;
        parts.next()?.starts_with(|first: char| first.is_ascii_digit()).then(|| text.to_owned())
    })
}

pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    ShortName::deserialize(deserializer).map(String::from)
}

pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<ShortName, D, _>(deserializer)
}

pub(super) fn anonymous_user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(deserializer, "the name of a user, or \"\" to offer no anonymous login", |text| match text {
        "" => Some(None),
        text => ShortName::new(text).map(|name| Some(name.0)),
    })
}

/// A name that fits a short string and is not empty.
struct ShortName(String);

impl ShortName {
    fn new(text: &str) -> Option<ShortName> {
        (1..=SHORT_STRING_MAX).contains(&text.len()).then(|| ShortName(text.to_owned()))
    }
}

/// A socket address.
struct BindAddress(SocketAddr);

/// An element of a list.
trait Element {
    const EXPECTED: &'static str;
}

impl Element for ShortName {
    const EXPECTED: &'static str = "a name of 1 to 255 octets";
}

impl Element for BindAddress {
    const EXPECTED: &'static str = "an address such as \"127.0.0.1:5672\" or \"[::1]:5672\"";
}

impl<'de> Deserialize<'de> for ShortName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ShortName, D::Error> {
        text(deserializer, ShortName::EXPECTED, ShortName::new)
    }
}

impl<'de> Deserialize<'de> for BindAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BindAddress, D::Error> {
        text(deserializer, BindAddress::EXPECTED, |text| text.parse().ok().map(BindAddress))
    }
}

impl From<ShortName> for String {
    fn from(name: ShortName) -> String {
        name.0
    }
}

impl From<BindAddress> for SocketAddr {
    fn from(address: BindAddress) -> SocketAddr {
        address.0
    }
}

/// Deserialises a string that is not empty; errors name the kind of the value, never the value.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(SecretVisitor)
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a password that is not empty")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        if text.is_empty() {
            return Err(E::invalid_value(Unexpected::Other("an empty text"), &self));
        }
        Ok(text.to_owned())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<String, E> {
        Err(E::invalid_type(Unexpected::Other("a boolean"), &self))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<String, E> {
        self.number()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<String, E> {
        self.number()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<String, E> {
        self.number()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<String, E> {
        self.number()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<String, E> {
        self.number()
    }
}

impl SecretVisitor {
    fn number<E: Error>(self) -> Result<String, E> {
        Err(E::invalid_type(Unexpected::Other("a number"), &self))
    }
}

/// Deserialises a string that `accept` takes.
pub(super) fn text<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    accept: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct TextVisitor<F>(&'static str, F);

    impl<T, F: FnOnce(&str) -> Option<T>> Visitor<'_> for TextVisitor<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let TextVisitor(expected, accept) = self;
            accept(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &expected))
        }
    }

    deserializer.deserialize_str(TextVisitor(expected, accept))
}

/// Deserialises an integer in this range; `unit` is what it counts, for errors.
fn whole<'de, D, N>(deserializer: D, range: RangeInclusive<N>, unit: &'static str) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<i64> + TryFrom<u64> + PartialOrd + Display,
{
    struct WholeVisitor<N>(RangeInclusive<N>, &'static str);

    impl<N: TryFrom<i64> + TryFrom<u64> + PartialOrd + Display> Visitor<'_> for WholeVisitor<N> {
        type Value = N;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let (from, to, unit) = (self.0.start(), self.0.end(), self.1);
            write!(f, "a whole number from {from} to {to} ({unit})")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<N, E> {
            let accepted = N::try_from(number).ok().filter(|number| self.0.contains(number));
            accepted.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<N, E> {
            let accepted = N::try_from(number).ok().filter(|number| self.0.contains(number));
            accepted.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    deserializer.deserialize_u64(WholeVisitor(range, unit))
}

/// Deserialises a list, each element by its own type.
fn list<'de, N, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    N: Deserialize<'de> + Element + Into<T>,
    D: Deserializer<'de>,
{
    struct ListVisitor<N, T>(PhantomData<(N, T)>);

    impl<'de, N: Deserialize<'de> + Element + Into<T>, T> Visitor<'de> for ListVisitor<N, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list, each element {}", N::EXPECTED)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element::<N>()? {
                list.push(element.into());
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(ListVisitor::<N, T>(PhantomData))
}

/// A number of octets, or a string that `parse` takes; at least `least`.
struct SizeVisitor {
    expected: &'static str,
    least: u64,
    parse: fn(&str) -> Option<u64>,
}

impl Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        let size = u64::try_from(number).ok().filter(|size| *size >= self.least);
        size.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        if number < self.least {
            return Err(E::invalid_value(Unexpected::Unsigned(number), &self));
        }
        Ok(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let size = (self.parse)(text).filter(|size| *size >= self.least);
        size.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn parse_memory(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let text = text.trim();
    if let Some(share) = text.strip_suffix('%') {
        return share.trim_end().parse().ok().filter(|share| *share <= 100).map(memory::percent);
    }
    // "1MB" is not accepted here: memory is not counted in thousands.
    let in_unit = |(name, octets)| Some((text.strip_suffix(name)?, octets));
    let (number, octets) = UNITS.into_iter().find_map(in_unit).unwrap_or((text, 1));
    number.trim_end().parse::<u64>().ok()?.checked_mul(octets)
}

fn parse_disk(text: &str) -> Option<u64> {
    const THOUSANDS: [(&str, u64); 3] = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let text = text.trim();
    let in_unit = |(name, octets)| text.strip_suffix(name)?.trim_end().parse::<u64>().ok()?.checked_mul(octets);
    THOUSANDS.into_iter().find_map(in_unit).or_else(|| parse_memory(text).filter(|_| !text.ends_with('%')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("64KiB", 65536), ("1 MiB", 1048576), (" 2GiB ", 1 << 31), ("77", 77)] {
            assert_eq!(parse_memory(text), Some(size), "{text}");
            assert_eq!(parse_disk(text), Some(size), "{text}");
        }
        for text in ["", "MiB", "1MB", "1.5GiB", "-1", "18446744073709551615KiB", "1mib"] {
            assert_eq!(parse_memory(text), None, "{text}");
        }
        assert_eq!(parse_memory("50%"), Some(memory::percent(50)));
        assert_eq!(parse_memory("101%").or(parse_memory("-1%")), None);
        assert_eq!((parse_disk("50MB"), parse_disk("50%"), parse_disk("1Mb")), (Some(50_000_000), None, None));
    }
}
