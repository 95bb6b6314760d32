//! Why a store cannot be opened, or has failed. Knows no format.

use std::{fmt, io};

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum StoreError {
    /// The disk refused.
    Io {
        /// What was tried, with the file's name.
        what: String,
        /// The disk's own words.
        error: io::Error,
    },
    /// Octets that had been synced are not what was written.
    Corrupt {
        /// The file's name in the directory.
        file: String,
        /// Where, in octets.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A file that is needed is not there.
    Missing {
        /// The file's name in the directory.
        file: String,
    },
    /// A later version of this program wrote it.
    Newer {
        /// The file's name in the directory.
        file: String,
        /// Where, in octets.
        offset: u64,
    },
}

impl StoreError {
    /// Puts what was tried before the disk's own words.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::Corrupt { file, offset, what } => write!(f, "{file} is damaged at octet {offset}: {what}"),
            Self::Missing { file } => write!(f, "{file} is missing"),
            Self::Newer { file, offset } => {
                write!(f, "{file} was written by a later version of Leveret (octet {offset})")
            }
        }
    }
}

impl std::error::Error for StoreError {}

/// Why nothing becomes durable any more. It never gets better: the process has to end, and to recover when it starts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, and what the disk said.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

/// Why a batch was not written.
pub(super) enum Trouble {
    /// There is no space; it may be tried again.
    NoSpace,
    /// It must not be.
    Failed(Failure),
}

/// What an error of a write means.
pub(super) fn trouble(error: io::Error, what: &str) -> Trouble {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::NoSpace,
        _ => Trouble::Failed(Failure { reason: format!("{what}: {error}") }),
    }
}
