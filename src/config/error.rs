//! What is wrong with a configuration: where, which key, what was found, what was expected. Knows no key's rules.

use std::fmt::{self, Display};
use std::ops::Range;

/// A configuration that cannot be used. Its text is one line and never holds a password.
///
/// ```text
/// config.toml:12:13: heartbeat: found 70000, expected a whole number from 0 to 65535 (seconds, 0 for no heartbeats)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// File, line and column; or the variable.
    place: String,
    key: Option<String>,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Mismatch {
        found: String,
        expected: String,
    },
    Unknown {
        known: String,
    },
    /// In words that need no more: broken TOML, an unreadable file.
    Said(String),
}

impl ConfigError {
    pub(super) fn mismatch(place: String, key: &str, mismatch: Mismatch) -> Self {
        let key = match mismatch.field {
            Some(field) => format!("{key}.{field}"),
            None => key.to_owned(),
        };
        let Mismatch { found, expected, .. } = mismatch;
        ConfigError { place, key: Some(key), problem: Problem::Mismatch { found, expected } }
    }

    pub(super) fn unknown(place: String, key: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        ConfigError { place, key: Some(key.to_owned()), problem: Problem::Unknown { known } }
    }

    pub(super) fn said(place: String, words: &str) -> Self {
        ConfigError { place, key: None, problem: Problem::Said(words.replace('\n', "; ")) }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        match &self.problem {
            Problem::Mismatch { found, expected } => {
                write!(f, "found {found}, expected {expected}")
            }
            Problem::Unknown { known } => write!(f, "unknown key, expected one of {known}"),
            Problem::Said(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A value that breaks its key's rule; whoever knows the key makes a [`ConfigError`] of it.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) found: String,
    pub(super) expected: String,
    /// Which field of a table, if the value is one.
    pub(super) field: Option<String>,
    /// Octets of the file.
    pub(super) at: Range<usize>,
}

/// `origin:line:column` of an octet of a file; both count from 1, the column in characters.
pub(super) fn place(origin: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{origin}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a\nüb = 1\n";
        assert_eq!(place("f", text, 0), "f:1:1");
        assert_eq!(place("f", text, 2), "f:2:1");
        assert_eq!(place("f", text, text.find('b').unwrap()), "f:2:2");
        assert_eq!(place("f", text, 3), "f:3:1", "inside a character: the end");
        assert_eq!(place("f", text, 99), "f:3:1");
    }
}
