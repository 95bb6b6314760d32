//! One value of a configuration, from the file or from the environment, read as what its key wants. Knows no key.

use crate::config::error::Mismatch;
use crate::config::memory;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Value<'a> {
    shape: Shape<'a>,
    at: Range<usize>,
}

#[derive(Clone, Debug)]
enum Shape<'a> {
    Toml(&'a DeValue<'a>),
    /// An environment variable's text: a number, a text, or several texts with commas between.
    Variable(&'a str),
}

impl<'a> Value<'a> {
    pub(super) fn toml(value: &'a Spanned<DeValue<'a>>) -> Self {
        Value { shape: Shape::Toml(value.get_ref()), at: value.span() }
    }

    pub(super) fn variable(text: &'a str) -> Self {
        Value { shape: Shape::Variable(text), at: 0..0 }
    }

    /// A text that `accept` takes.
    pub(super) fn text<T>(&self, expected: &str, accept: impl FnOnce(&'a str) -> Option<T>) -> Result<T, Mismatch> {
        self.as_text().and_then(accept).ok_or_else(|| self.mismatch(expected))
    }

    /// As [`Value::text`], but an error does not repeat the text.
    pub(super) fn secret<T>(&self, expected: &str, accept: impl FnOnce(&'a str) -> Option<T>) -> Result<T, Mismatch> {
        let hide = |mismatch| Mismatch { found: self.kind().to_owned(), ..mismatch };
        self.text(expected, accept).map_err(hide)
    }

    /// A whole number in this range; `unit` says what it counts.
    pub(super) fn whole<N>(&self, range: RangeInclusive<N>, unit: &str) -> Result<N, Mismatch>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let number = self.as_whole().and_then(|number| N::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            self.mismatch(&format!("a whole number from {from} to {to} ({unit})"))
        })
    }

    /// Octets, as a whole number, as a text such as "512MiB", or as a share of this process' memory such as "50%"; at least 1.
    pub(super) fn size(&self) -> Result<u64, Mismatch> {
        let size = match self.as_whole() {
            Some(number) => u64::try_from(number).ok(),
            None => self.as_text().and_then(parse_size),
        };
        size.filter(|size| *size > 0).ok_or_else(|| {
            self.mismatch("a number of octets above 0, or a text such as \"512MiB\", \"2GiB\" or \"50%\"")
        })
    }

    /// Octets of a disk, as a whole number or as a text such as "50MB" or "1GiB".
    pub(super) fn disk_size(&self) -> Result<u64, Mismatch> {
        let size = match self.as_whole() {
            Some(number) => u64::try_from(number).ok(),
            None => self.as_text().and_then(|text| with_unit(text.trim())),
        };
        size.ok_or_else(|| self.mismatch("a number of octets, or a text such as \"50MB\" or \"1GiB\""))
    }

    pub(super) fn boolean(&self) -> Result<bool, Mismatch> {
        match self.shape {
            Shape::Toml(DeValue::Boolean(value)) => Ok(*value),
            _ => Err(self.mismatch("true or false")),
        }
    }

    /// A list of texts that `accept` takes, each of them `expected`.
    pub(super) fn list<T>(&self, expected: &str, accept: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Mismatch> {
        match self.shape {
            Shape::Toml(DeValue::Array(elements)) => {
                elements.iter().map(|element| Value::toml(element).text(expected, &accept)).collect()
            }
            Shape::Variable(text) => text
                .split(',')
                .map(str::trim)
                .filter(|element| !element.is_empty())
                .map(|element| Value::variable(element).text(expected, &accept))
                .collect(),
            Shape::Toml(_) => Err(self.mismatch(&format!("a list, each element {expected}"))),
        }
    }

    /// A list of tables, each with its place.
    pub(super) fn tables(&self) -> Result<Vec<(&'a DeTable<'a>, Value<'a>)>, Mismatch> {
        let Shape::Toml(DeValue::Array(elements)) = self.shape else {
            return Err(self.mismatch("a list of tables, in the configuration file"));
        };
        let table = |element| {
            let value = Value::toml(element);
            let table = element.get_ref().as_table().ok_or_else(|| value.mismatch("a table"))?;
            Ok((table, value))
        };
        elements.iter().map(table).collect()
    }

    pub(super) fn mismatch(&self, expected: &str) -> Mismatch {
        Mismatch { found: self.found(), expected: expected.to_owned(), field: None, at: self.at.clone() }
    }

    fn as_text(&self) -> Option<&'a str> {
        match self.shape {
            Shape::Toml(value) => value.as_str(),
            Shape::Variable(text) => Some(text),
        }
    }

    fn as_whole(&self) -> Option<i64> {
        match self.shape {
            Shape::Toml(value) => {
                let number = value.as_integer()?;
                i64::from_str_radix(number.as_str(), number.radix()).ok()
            }
            Shape::Variable(text) => text.trim().parse().ok(),
        }
    }

    fn found(&self) -> String {
        match self.shape {
            Shape::Toml(DeValue::Integer(number)) => number.to_string(),
            Shape::Toml(DeValue::Float(number)) => number.to_string(),
            Shape::Toml(DeValue::Boolean(value)) => value.to_string(),
            _ => self.as_text().map_or_else(|| self.kind().to_owned(), |text| format!("{text:?}")),
        }
    }

    fn kind(&self) -> &'static str {
        match self.shape {
            Shape::Variable(_) | Shape::Toml(DeValue::String(_)) => "a text",
            Shape::Toml(DeValue::Integer(_) | DeValue::Float(_)) => "a number",
            Shape::Toml(DeValue::Boolean(_)) => "a boolean",
            Shape::Toml(DeValue::Datetime(_)) => "a date",
            Shape::Toml(DeValue::Array(_)) => "a list",
            Shape::Toml(DeValue::Table(_)) => "a table",
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let text = text.trim();
    if let Some(share) = text.strip_suffix('%') {
        return share.trim_end().parse().ok().filter(|share| *share <= 100).map(memory::percent);
    }
    // "1MB" is not taken here: memory is not counted in thousands.
    let in_unit = |(name, octets)| Some((text.strip_suffix(name)?, octets));
    let (number, octets) = UNITS.into_iter().find_map(in_unit).unwrap_or((text, 1));
    number.trim_end().parse::<u64>().ok()?.checked_mul(octets)
}

fn with_unit(text: &str) -> Option<u64> {
    const THOUSANDS: [(&str, u64); 3] = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let in_unit = |(name, octets)| text.strip_suffix(name)?.trim_end().parse::<u64>().ok()?.checked_mul(octets);
    THOUSANDS.into_iter().find_map(in_unit).or_else(|| parse_size(text).filter(|_| !text.ends_with('%')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("64KiB", 65536), ("1 MiB", 1048576), (" 2GiB ", 1 << 31), ("77", 77)] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "MiB", "1MB", "1.5GiB", "-1", "18446744073709551615KiB", "1mib"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(parse_size("50%"), Some(memory::percent(50)));
        assert_eq!(parse_size("101%").or(parse_size("-1%")), None);
    }
}
