//! Errors of the configuration: the place, the key, and the fault.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

/// An invalid configuration. Displayed as one line that never holds a password.
///
/// ```text
/// config.toml:12:13: heartbeat: found integer `70000`, expected a whole number from 0 to 65535
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that was named and cannot be read.
    Unreadable {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file that is not TOML.
    Syntax {
        /// The place of the first octet that the parser does not accept.
        place: Origin,
        /// The TOML parser's description.
        message: String,
    },
    /// A key, or a variable, that does not exist.
    UnknownKey {
        /// The place of the key.
        place: Origin,
        /// The key with its tables, or the variable's name.
        key: String,
        /// The most similar key, if one is similar.
        nearest: Option<String>,
        /// All keys of the same table, or all variables.
        known: Vec<String>,
    },
    /// A value that its key does not take.
    InvalidValue {
        /// The place of the value.
        place: Origin,
        /// The key with its tables.
        key: String,
        /// The found and the expected value, in words.
        message: String,
    },
    /// An environment variable whose value is not UTF-8.
    NotUnicode {
        /// The variable's name.
        variable: String,
    },
}

/// The origin of a value: a position in a file, or a variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A position in a file.
    File {
        /// The file's path.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
}

impl Origin {
    /// Returns the position of the octet at index `at` of a file's text.
    pub(super) fn in_file(path: &str, text: &str, at: usize) -> Origin {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { path: path.to_owned(), line, column }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Origin::Variable(name) => write!(f, "environment variable {}", name.escape_debug()),
        }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, source } => {
                write!(f, "{}: cannot be read: {source}", path.display())
            }
            ConfigError::Syntax { place, message } => write!(f, "{place}: {message}"),
            ConfigError::UnknownKey { place, key, nearest, known } => {
                write!(f, "{place}: {}: unknown key", key.escape_debug())?;
                match nearest {
                    Some(nearest) => write!(f, ", did you mean {nearest}? Expected")?,
                    None => f.write_str(", expected")?,
                }
                write!(f, " one of {}", known.join(", "))
            }
            ConfigError::InvalidValue { place, key, message } => write!(f, "{place}: {key}: {message}"),
            ConfigError::NotUnicode { variable } => {
                write!(f, "environment variable {variable}: found octets that are not UTF-8, expected text")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a\nüb = 1\n";
        let place = |at| Origin::in_file("f", text, at).to_string();
        assert_eq!(place(0), "f:1:1");
        assert_eq!(place(2), "f:2:1");
        assert_eq!(place(text.find('b').unwrap()), "f:2:2");
        assert_eq!(place(3), "f:3:1", "inside a character: the end");
        assert_eq!(place(99), "f:3:1");
    }
}
